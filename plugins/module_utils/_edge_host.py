# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of a gateway on this machine: compared, loaded in one transaction, kept for boot, taken away."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Sequence

from ansible_collections.portfence.egress.plugins.module_utils import _edge
from ansible_collections.portfence.egress.plugins.module_utils._backend import Boot
from ansible_collections.portfence.egress.plugins.module_utils._boot_lock import locked
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._identity import Identity
from ansible_collections.portfence.egress.plugins.module_utils._nft_tables import Tables, removal, transaction
from ansible_collections.portfence.egress.plugins.module_utils._nft import Nft
from ansible_collections.portfence.egress.plugins.module_utils._store import BASE
from ansible_collections.portfence.egress.plugins.module_utils._unit import EDGE, Unit

FILE = f"{BASE}/edge.nft"


@dataclass
class Outcome:
    """What was done or would be, and the file before and after."""

    changes: List[str] = field(default_factory=list)
    before: str = ""
    after: str = ""


class EdgeOfHost:
    """The rules on this machine."""

    def __init__(self, host: Host) -> None:
        """Raises HostError when nft is missing or too old."""
        self._host = host
        self._nft = Nft(host)
        self._tables = Tables(host=host, nft=self._nft, name=_edge.TABLE)
        boot = Boot(file=FILE, command=locked(f"exec {self._nft.path} -f {FILE}"), follows=("nftables.service",))
        self._unit = Unit(host=host, boot=boot, rules=EDGE)

    def apply(self, entries: Sequence[Identity], *, unknown: str, check_mode: bool) -> Outcome:
        """Have these rules. Raises HostError; the kernel then has the old rules or the new ones, whole."""
        with self._host.change_lock():
            text = _edge.nftables_file(entries, unknown=unknown)
            body = _edge.nftables(entries, unknown=unknown)
            outcome = Outcome(before=self._host.read(FILE) or "", after=text)
            self._unit.check_owner()
            outcome.changes.extend(self._host.read_units(check_mode=check_mode))
            live, wanted = self._tables.live(), self._tables.wanted(body)
            if live != wanted:
                outcome.changes.append("load the rules into the kernel")
            if self._host.read_own(FILE) != text:
                outcome.changes.append(f"write {FILE}")
            unit = self._unit.missing()
            outcome.changes.extend(unit)
            if check_mode or not outcome.changes:
                return outcome
            self._host.check_changeable([FILE, *self._unit.paths()])
            files = {FILE: text, **self._unit.unwritten()}
            staged = self._host.stage_all(files)
            try:
                if live != wanted:
                    self._tables.load(transaction(name=_edge.TABLE, live=live, wanted=wanted, bodies=body))
                staged.promote(files)
            except BaseException:
                staged.discard()
                raise
            if unit:
                self._unit.install()
        if unit:
            self._unit.start()
        return outcome

    def remove(self, *, check_mode: bool) -> Outcome:
        """Have none. Raises HostError."""
        with self._host.change_lock():
            outcome = Outcome(before=self._host.read(FILE) or "")
            outcome.changes.extend(self._host.read_units(check_mode=check_mode))
            live = self._tables.live()
            if live:
                outcome.changes.append("remove the rules from the kernel")
            if self._unit.present():
                outcome.changes.append(f"remove {EDGE.unit}")
            if outcome.before:
                outcome.changes.append(f"remove {FILE}")
            if check_mode:
                return outcome
            self._host.check_changeable([FILE, *self._unit.paths()] if outcome.changes else [])
            self._unit.remove()
            if live:
                self._tables.load(removal(name=_edge.TABLE, live=live))
            self._host.remove(FILE)
            self._host.remove_directory(BASE)
        return outcome
