# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""iptables, of either variant, as the backend of the fence."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._backend import Backend, Boot, Change, Plan
from ansible_collections.portfence.egress.plugins.module_utils._boot_lock import locked
from ansible_collections.portfence.egress.plugins.module_utils._counters import Counters
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._iptables import FAMILIES, compile_fence, unsupported
from ansible_collections.portfence.egress.plugins.module_utils._iptables_boot import boot_text
from ansible_collections.portfence.egress.plugins.module_utils._iptables_listing import (
    Listing,
    Part,
    counting_chains,
    unmarked,
)
from ansible_collections.portfence.egress.plugins.module_utils._iptables_plan import removal, transaction
from ansible_collections.portfence.egress.plugins.module_utils._iptables_tool import Iptables, as_text
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import Ruleset
from ansible_collections.portfence.egress.plugins.module_utils._store import IPTABLES_FILE

_PROGRAMS = {4: "iptables", 6: "ip6tables"}
# Whoever restores rules of others at boot or flushes them. The last one takes the rules of iptables-nft with it.
# firewalld is none of them: "firewall-cmd --reload" flushes without systemd, so nothing could follow it.
_FOLLOWS = ("netfilter-persistent.service", "iptables.service", "ip6tables.service", "nftables.service")


class IptablesBackend(Backend):
    """Chains of our own in the tables that everybody shares."""

    name = "iptables"

    def __init__(self, host: Host, *, variant: Optional[str] = None) -> None:
        """Raises HostError when a program is missing.

        :param variant: "nft" or "legacy"; without it, the one that the host calls iptables.
        """
        self._host = host
        self._tool = Iptables(host, variant=variant)
        self.boot = Boot(file=IPTABLES_FILE, command=locked(f"exec /bin/sh {IPTABLES_FILE}"), follows=_FOLLOWS)

    @property
    def variant(self) -> str:
        """Either nft or legacy."""
        return self._tool.variant

    @property
    def label(self) -> str:
        """See Backend."""
        return f"iptables-{self.variant}"

    def versions(self) -> Dict[str, Optional[str]]:
        """See Backend."""
        return {"nft_version": None, "iptables_version": self._tool.version, "iptables_variant": self._tool.variant}

    def live(self) -> Dict[int, Dict[str, Part]]:
        """Our chains and the jumps to them, by family and table."""
        found = self._tool.live()
        for family, listing in found.items():
            for table in unmarked(listing):
                program = _PROGRAMS[family]
                raise PortFenceError(
                    f"{program}: table {table} has a chain that is named like one of this collection, and was not written by"
                    f" it; look at it with '{program}-save -t {table}', then rename or remove that chain"
                )
        return found

    def live_text(self) -> str:
        """See Backend."""
        return self._tool.live_text()

    def counted(self, _live: Any) -> Counters:
        """See Backend."""
        return Counters(self._tool.counters())

    def unsupported(self, ruleset: Ruleset) -> List[Tuple[str, str, str]]:
        """See Backend."""
        return unsupported(ruleset)

    def plan(self, ruleset: Ruleset, *, live: Any) -> Plan:
        """See Backend."""
        self._check_firewalld()
        self._tool.check_tables()
        self._tool.check_other_variant()
        fence = compile_fence(ruleset, counted=counting_chains(live))
        wanted = self._tool.canonical(fence)
        load = {
            _PROGRAMS[family]: transaction(live=live.get(family, {}), wanted=wanted[family])
            for family in FAMILIES
            if live.get(family) != wanted[family]
        }
        return Plan(boot_text(fence), load or None, not live, wanted)

    def _check_firewalld(self) -> None:
        """Raises HostError beside firewalld.

        When it starts, reloads or stops, it flushes the tables of iptables, whoever wrote to them: seen of firewalld 0.9
        and 1.3 whatever their FirewallBackend= says, and of 2.3 with FirewallBackend=iptables.
        """
        if not self._host.runs_systemd():
            return
        for question in ("is-active", "is-enabled"):
            if self._host.run(["systemctl", question, "--quiet", "firewalld.service"], check=False).rc == 0:
                raise HostError(
                    f"firewalld.service is {question[3:]} on this host: it takes the rules of everybody out of the tables"
                    " of iptables when it starts, reloads or stops, so the backend iptables can't keep the fence; use"
                    " the backend nftables, or disable and stop firewalld"
                )

    def planned_text(self, plan: Plan) -> str:
        """See Backend."""
        return "".join(as_text(family, listing) for family, listing in plan.compiled.items())

    def removal(self, live: Any) -> Change:
        """See Backend."""
        return {_PROGRAMS[family]: removal(listing) for family, listing in live.items()}

    def load(self, change: Change) -> None:
        """Every table at once, one after the other. When one of them is refused, those that had gone before are put back."""
        before = self._tool.live()
        for family in FAMILIES:
            text = change.get(_PROGRAMS[family])
            if text is None:
                continue
            try:
                self._tool.load(family, text)
            except HostError:
                self._put_back(before)
                raise

    def _put_back(self, before: Mapping[int, Listing]) -> None:
        now = self._tool.live()
        for family in FAMILIES:
            old, new = before.get(family, {}), now.get(family, {})
            if old != new:
                self._tool.load(family, transaction(live=new, wanted=old) if "mangle" in old else removal(new))
