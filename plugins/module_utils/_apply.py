# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The only writer of firewall state: plan the fence of this host, load it, keep it for boot, take it away.

Order of the effects: everything that can be refused is tried first (directories, the text in a throwaway
namespace, the staged file), then the kernel changes in one transaction, then the file for boot is put in place.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Collection, Dict, List, Mapping, Optional, Tuple

from ansible_collections.portfence.egress.plugins.module_utils import _plan
from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_boot import RANGE_KEY, RESERVED_KEY
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._nft import Nft
from ansible_collections.portfence.egress.plugins.module_utils._nft_listing import Listing
from ansible_collections.portfence.egress.plugins.module_utils._nftables import (
    CHECK_FAMILY,
    NAT_FAMILIES,
    Fence,
    compile_fence,
    needs_nat,
)
from ansible_collections.portfence.egress.plugins.module_utils._policy import conflicts
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Lookup, Resolved, resolve
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import build
from ansible_collections.portfence.egress.plugins.module_utils._service import Declared, Service
from ansible_collections.portfence.egress.plugins.module_utils._store import BASE, FENCE_FILE, Store, path_of
from ansible_collections.portfence.egress.plugins.module_utils._sysctl import kernel_ports, kernel_range
from ansible_collections.portfence.egress.plugins.module_utils._unit import Unit


@dataclass(frozen=True)
class Request:
    """What is asked of the fence of this host; see :func:`_plan.merge` for state and purge."""

    services: Tuple[Declared, ...]
    state: str = "present"
    purge: bool = False
    persist: bool = True
    planned_accounts: Collection[str] = ()


@dataclass
class Outcome:
    """What was found, and what was done or, in check mode, would be."""

    changes: List[str] = field(default_factory=list)
    services: Tuple[Resolved, ...] = ()
    services_before: Tuple[Service, ...] = ()
    fence: str = ""
    before: str = ""
    after: str = ""
    warnings: List[str] = field(default_factory=list)


@dataclass
class _Steps:
    """The effects, in the order in which :meth:`FenceOfHost._run` has them."""

    load: Optional[str] = None
    fence_file: Optional[str] = None
    write: List[Service] = field(default_factory=list)
    forget: List[str] = field(default_factory=list)
    install_unit: bool = False
    remove_files: bool = False
    counters_restart: bool = False


class FenceOfHost:
    """The fence of this machine."""

    def __init__(self, *, host: Host, lookup: Lookup, admin_uids: Mapping[int, str]) -> None:
        """Raises HostError when nft is missing or too old."""
        self._host = host
        self._nft = Nft(host)
        self._lookup = lookup
        self._admin_uids = admin_uids
        self._store = Store(host)
        self._unit = Unit(host=host, nft=self._nft.path)

    @property
    def nft_version(self) -> str:
        """Version of the nft program, such as "1.0.6"."""
        return self._nft.version

    def counters(self) -> Dict[str, Tuple[int, int]]:
        """Counter name to packets and bytes. Raises HostError."""
        return self._nft.counters()

    def apply(self, request: Request, *, check_mode: bool, diff: bool) -> Outcome:
        """Make the fence of the host what is asked.

        Raises PortFenceError; the kernel then has the old fence or the new one, whole.
        """
        if check_mode:
            return self._plan(request, diff=diff)[0]
        with self._host.lock():
            outcome, steps = self._plan(request, diff=diff)
            self._run(steps)
        outcome.warnings.extend(unreserved(outcome.services, automatic_ports(self._host)))
        if steps.install_unit:
            self._unit.start()
        return outcome

    def _plan(self, request: Request, *, diff: bool) -> Tuple[Outcome, _Steps]:
        stored = self._stored(request)
        target = _plan.merge(stored, request.services, state=request.state, purge=request.purge)
        resolved = self._resolve(request, target)
        live = self._nft.live()
        _plan.check_owner(live)
        self._unit.check_owner()
        outcome = Outcome(services_before=tuple(item.service for item in stored.values()))
        if diff:
            outcome.before = self._nft.live_text()
        if not target:
            return outcome, self._plan_removal(request, live, outcome)
        outcome.services = resolved
        steps = self._plan_fence(request, target, live, outcome)
        if diff:
            outcome.after = self._nft.canonical_text(outcome.fence)
        return outcome, steps

    def _stored(self, request: Request) -> Dict[str, Declared]:
        """The services of the host; whoever takes all of them away need not be able to read them."""
        try:
            return self._store.read()
        except InputError:
            if request.state == "absent" and request.purge:
                return {}
            raise

    def _resolve(self, request: Request, target: Mapping[str, Declared]) -> Tuple[Resolved, ...]:
        declared = tuple(target.values())
        resolved, problems = resolve(
            declared, lookup=self._lookup, admin_uids=self._admin_uids, planned_accounts=request.planned_accounts
        )
        problems = [*conflicts(declared), *problems]
        if problems:
            raise InputError(what="the policy of this host", problems=problems)
        return resolved

    def _plan_fence(
        self, request: Request, target: Mapping[str, Declared], live: Mapping[str, Listing], outcome: Outcome
    ) -> _Steps:
        steps = _Steps()
        fence = compile_for(outcome.services, live)
        outcome.fence = fence.text
        canonical = self._nft.canonical(fence.text)
        if not _plan.equal(live=live, wanted=canonical, fence=fence, cgroups={}):
            steps.load = _plan.transaction(live=live, wanted=canonical, fence=fence, cgroups={})
            steps.counters_restart = CHECK_FAMILY not in live
            outcome.changes.append("load the fence into the kernel")
        if not request.persist:
            return steps
        if self._host.read(FENCE_FILE) != fence.text:
            steps.fence_file = fence.text
            outcome.changes.append(f"write {FENCE_FILE}")
        for item in target.values():
            if self._store.differs(item.service):
                steps.write.append(item.service)
                outcome.changes.append(f"write {path_of(item.service.name)}")
        for service in outcome.services_before:
            if service.name not in target:
                steps.forget.append(service.name)
                outcome.changes.append(f"remove {path_of(service.name)}")
        unit = self._unit.missing()
        steps.install_unit = bool(unit)
        outcome.changes.extend(unit)
        return steps

    def _plan_removal(self, request: Request, live: Mapping[str, Listing], outcome: Outcome) -> _Steps:
        steps = _Steps()
        if live:
            steps.load = _plan.removal(live)
            outcome.changes.append("remove the fence from the kernel")
        if request.persist:
            steps.remove_files = True
            if self._unit.present():
                outcome.changes.append("remove portfence.service")
            if os.path.isdir(BASE):
                outcome.changes.append(f"remove {BASE}")
        return steps

    def _run(self, steps: _Steps) -> None:
        if steps.remove_files:
            # The unit goes first: from then on a boot gives no fence, until then the whole old one.
            self._unit.remove()
        persisting = steps.fence_file is not None or steps.write or steps.forget
        if persisting:
            self._store.prepare()
        staged = None if steps.fence_file is None else self._host.stage(FENCE_FILE, steps.fence_file)
        try:
            if steps.load is not None:
                self._nft.load(steps.load)
            if staged is not None:
                staged.promote()
        except BaseException:
            if staged is not None:
                staged.discard()
            raise
        for service in steps.write:
            self._store.write(service)
        for name in steps.forget:
            self._store.remove(name)
        if steps.counters_restart:
            self._store.forget_probes()
        if steps.install_unit:
            self._unit.install()
        if steps.remove_files:
            self._store.remove_all()
            self._host.remove_lock()


def is_untouched(host: Host) -> bool:
    """Whether there is nothing of ours on the host, nor nft, without which there can't be a fence."""
    return host.find("nft") is None and not os.path.isdir(BASE)


def compile_for(services: Tuple[Resolved, ...], live: Mapping[str, Listing]) -> Fence:
    """The fence of these services. NAT tables that are live stay: connections that they rewrote need them."""
    ruleset = build(services)
    return compile_fence(ruleset, nat=needs_nat(ruleset) or any(family in live for family in NAT_FAMILIES))


def automatic_ports(host: Host) -> PortSet:
    """The ports that the kernel chooses from when a program does not bind: ip_local_port_range without the reserved ones."""
    chosen = kernel_range(host.sysctl(RANGE_KEY))
    return PortSet((chosen,)) - kernel_ports(host.sysctl(RESERVED_KEY))


def unreserved(services: Tuple[Resolved, ...], automatic: PortSet) -> List[str]:
    """Warnings about exclusive ports that the kernel may still choose for other programs, whose connections then fail."""
    found = []
    for item in services:
        shared = automatic & item.service.source_ports
        if item.service.exclusive and shared:
            share = 100 * shared.size / automatic.size
            found.append(
                f"{item.service.name}: the ports {shared} are exclusive, but the kernel may choose them for other programs:"
                f" about {share:.1f} % of their connections would be dropped; reserve the ports with the module ephemeral_ports"
            )
    return found
