# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The only writer of firewall state: plan the fence of this host, load it, keep it for boot, take it away.

Order of the effects: everything that can be refused is tried first (directories, the text in a throwaway
namespace, the staged file), then the kernel changes in one transaction, then the file for boot is put in place. What units need to tell
either fence about their cgroups is there from before the first of these until after the last one.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Collection, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils import _plan
from ansible_collections.portfence.egress.plugins.module_utils._backend import Backend, Change, Plan
from ansible_collections.portfence.egress.plugins.module_utils._backends import AUTO, BACKENDS, choose, is_absent, kept, others
from ansible_collections.portfence.egress.plugins.module_utils._bpf_plan import BpfPlan, plan_bpf, run_bpf
from ansible_collections.portfence.egress.plugins.module_utils._counters import Counters
from ansible_collections.portfence.egress.plugins.module_utils._counts import forget_services
from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_boot import RANGE_KEY, RESERVED_KEY
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, InputError, PortFenceError, Problem
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._launcher_host import PATH as LAUNCHER_PATH
from ansible_collections.portfence.egress.plugins.module_utils._launcher_host import Launcher
from ansible_collections.portfence.egress.plugins.module_utils._policy import conflicts
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Lookup, Resolved, resolve
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import Ruleset, build
from ansible_collections.portfence.egress.plugins.module_utils._service import Declared, Service
from ansible_collections.portfence.egress.plugins.module_utils._staged import Staged
from ansible_collections.portfence.egress.plugins.module_utils._store import (
    BASE,
    FENCE_FILE,
    IPTABLES_FILE,
    PREVIOUS_FILE,
    Store,
    path_of,
)
from ansible_collections.portfence.egress.plugins.module_utils._sysctl import kernel_ports, kernel_range
from ansible_collections.portfence.egress.plugins.module_utils._unit import Unit
from ansible_collections.portfence.egress.plugins.module_utils._unit_host import UnitsOfHost, UnitSteps
from ansible_collections.portfence.egress.plugins.module_utils._unit_members import fence_text


@dataclass(frozen=True)
class Request:
    """What is asked of the fence of this host; see :func:`_plan.merge` for state and purge.

    :ivar remember: whether other services than those of before leave these behind, for one way back.
    :ivar by: the account that asks, to be remembered along with them.
    """

    services: Tuple[Declared, ...]
    state: str = "present"
    purge: bool = False
    persist: bool = True
    remember: bool = True
    by: str = "root"
    planned_accounts: Collection[str] = ()


@dataclass
class Outcome:
    """What was found, and what was done or, in check mode, would be.

    :ivar live: what the backend had in force; None where it was not asked.
    """

    changes: List[str] = field(default_factory=list)
    services: Tuple[Resolved, ...] = ()
    services_before: Tuple[Service, ...] = ()
    backend_before: Optional[str] = None
    fence: str = ""
    before: str = ""
    after: str = ""
    warnings: List[str] = field(default_factory=list)
    assignments: Dict[str, str] = field(default_factory=dict)
    fallbacks: Dict[str, str] = field(default_factory=dict)
    live: Any = None


@dataclass
class _Steps:
    """The effects, in the order in which :meth:`FenceOfHost._run` has them."""

    load: Optional[Change] = None
    plan: Optional[Plan] = None
    fence_file: Optional[str] = None
    remember_by: Optional[str] = None
    write: List[Service] = field(default_factory=list)
    forget: List[str] = field(default_factory=list)
    launcher: Optional[str] = None
    install_unit: bool = False
    remove_fences: List[Tuple[Backend, Change]] = field(default_factory=list)
    remove_boot_files: List[str] = field(default_factory=list)
    remove_files: bool = False
    counters_restart: bool = False
    units: UnitSteps = field(default_factory=UnitSteps)
    bpf: BpfPlan = field(default_factory=BpfPlan)


class FenceOfHost:
    """The fence of this machine.

    :ivar loaded: the outcome of an apply from when the kernel has its fence, even if the rest of it fails; of the first, as that one knows
        what was there before.
    """

    def __init__(self, *, host: Host, lookup: Lookup, admin_uids: Mapping[int, str], backend: str = AUTO) -> None:
        """Raises HostError when the backend can't be used.

        :param backend: one of :data:`_backends.CHOICES`.
        """
        self._host = host
        self._backend = choose(host, backend)
        self._lookup = lookup
        self._admin_uids = admin_uids
        self._store = Store(host)
        self._unit = Unit(host=host, boot=self._backend.boot)
        self._units = UnitsOfHost(host)
        self._launcher = Launcher(host)
        self.loaded: Optional[Outcome] = None

    def facts(self) -> Dict[str, Optional[str]]:
        """What modules return of the backend: its name and the versions of its programs."""
        return {"backend": self._backend.name, **self._backend.versions()}

    def counters(self, outcome: Outcome) -> Counters:
        """Those of the fence that was found; none where there is none. Raises HostError."""
        return self._backend.counted(outcome.live) if outcome.live else Counters()

    def survey(self) -> Outcome:
        """What is known of a fence whose stored services are refused: what is in force, and those of them that nothing is wrong with by itself.

        Raises HostError.
        """
        outcome = Outcome()
        with suppress(PortFenceError):
            outcome.live = self._backend.live()
        stored = self._store.readable()
        alone = [resolve((item,), lookup=self._lookup, admin_uids=self._admin_uids) for item in stored.values()]
        outcome.services = tuple(item for resolved, problems in alone if not problems for item in resolved)
        try:
            bpf = plan_bpf(self._host, outcome.services, paths={name: item.path for name, item in stored.items()}, persist=True)
        except InputError:
            outcome.assignments = {item.service.name: item.service.assignment for item in outcome.services}
        else:
            outcome.assignments, outcome.fallbacks = bpf.assignments, bpf.fallbacks
        return outcome

    def apply(self, request: Request, *, check_mode: bool, diff: bool) -> Outcome:
        """Make the fence of the host what is asked.

        Raises PortFenceError; the kernel then has the old fence or the new one, whole.
        """
        if check_mode:
            outcome, _steps = self._plan(request, diff=diff)
            outcome.changes[:0] = self._host.read_units(check_mode=True)
            return outcome
        with self._host.change_lock():
            # First, as a unit that starts before that does not join.
            read = self._host.read_units()
            outcome, steps = self._plan(request, diff=diff)
            outcome.changes[:0] = read
            if steps.units.before or steps.units.start:
                self._units.prepare(steps.units)
                # A unit that started before its drop-in was there has not joined; its cgroup is found now.
                _outcome, steps = self._plan(request, diff=False)
            self._run(outcome, steps)
        outcome.warnings.extend(unreserved(outcome.services, automatic_ports(self._host)))
        if steps.install_unit:
            self._unit.start()
        return outcome

    def _plan(self, request: Request, *, diff: bool) -> Tuple[Outcome, _Steps]:
        finish = self._backend.begin()
        try:
            stored = self._stored(request)
            target = _plan.merge(stored, request.services, state=request.state, purge=request.purge)
            resolved = self._resolve(request, target)
            strays = others(self._host, self._backend)
        except BaseException:
            with suppress(PortFenceError):
                finish()  # what reads has the locks until it ends
            raise
        live = finish()
        self._unit.check_owner()
        self._launcher.check_owner()
        holding = {backend.name for backend, found in ((self._backend, live), *strays) if found}
        outcome = Outcome(
            services_before=tuple(item.service for item in stored.values()),
            backend_before=kept() or next((name for name in BACKENDS if name in holding), None),
            live=live,
        )
        if diff:
            outcome.before = "".join(backend.live_text() for backend in (self._backend, *(stray for stray, _live in strays)))
        paths = {name: item.path for name, item in target.items()}
        bpf = plan_bpf(self._host, resolved, paths=paths, persist=request.persist)
        outcome.assignments, outcome.fallbacks = bpf.assignments, bpf.fallbacks
        if target:
            outcome.services = resolved
            steps = self._plan_fence(request, target, live, outcome, diff=diff)
            self._plan_move(request, strays, steps, outcome)
        else:
            steps = self._plan_removal(request, [(self._backend, live), *strays], outcome)
        steps.bpf = bpf
        outcome.changes.extend(bpf.changes)
        return outcome, steps

    def _stored(self, request: Request) -> Dict[str, Declared]:
        """The services of the host; whoever takes all of them away need not be able to read them."""
        try:
            return self._store.read({item.service.name: item.service for item in request.services})
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
        problems.extend(self._left_over(request, target, problems))
        if problems:
            raise InputError(what="the policy of this host", problems=problems)
        return resolved

    @staticmethod
    def _left_over(request: Request, target: Mapping[str, Declared], problems: Sequence[Problem]) -> List[Problem]:
        """What to do about services of the host that are not given, and stand in the way of one that is: it may have a new name."""
        given = {item.service.name for item in request.services}
        told = "\n".join(map(str, problems))
        return [
            Problem(
                item.path,
                f"{name} is on this host and not among the services that are given; accepted: the same name as before, {name} with"
                " state: absent, or purge (egress_purge: true) to remove every service that is not given",
            )
            for name, item in target.items()
            if name not in given and item.path in told
        ]

    def _plan_fence(
        self, request: Request, target: Mapping[str, Declared], live: Any, outcome: Outcome, *, diff: bool
    ) -> _Steps:
        steps = _Steps()
        ruleset = build(outcome.services)
        self._check_support(ruleset, target)
        plan = self._backend.plan(ruleset, live=live)
        outcome.fence = plan.text
        steps.plan = plan
        if diff:
            outcome.after = self._backend.planned_text(plan)
        if plan.load is not None:
            steps.load = plan.load
            steps.counters_restart = plan.counters_restart
            outcome.changes.append("load the fence into the kernel")
        if not request.persist:
            if plan.members:
                raise HostError(
                    f"{plan.members[0].place.unit}: the selector unit needs persist: true; without its drop-in, the unit would not be"
                    " fenced any more once it starts again"
                )
            return steps
        steps.units = self._units.plan(plan.members, [item.service for item in target.values()], outcome.changes)
        text = outcome.fence = fence_text(plan.text, plan.members)
        if self._host.read_own(self._backend.boot.file) != text:
            steps.fence_file = text
            outcome.changes.append(f"write {self._backend.boot.file}")
        for item in target.values():
            if self._store.differs(item.service):
                steps.write.append(item.service)
                outcome.changes.append(f"write {path_of(item.service.name)}")
        for service in outcome.services_before:
            if service.name not in target:
                steps.forget.append(service.name)
                outcome.changes.append(f"remove {path_of(service.name)}")
        services_after = {item.service.name: item.service for item in target.values()}
        changed = services_after != {service.name: service for service in outcome.services_before}
        if request.remember and (changed or outcome.backend_before != self._backend.name):
            steps.remember_by = request.by
            outcome.changes.append(f"write {PREVIOUS_FILE}")
        unit = self._unit.missing()
        steps.install_unit = bool(unit)
        outcome.changes.extend(unit)
        steps.launcher = self._launcher.missing()
        if steps.launcher is not None:
            outcome.changes.append(f"write {LAUNCHER_PATH}")
        return steps

    def _check_support(self, ruleset: Ruleset, target: Mapping[str, Declared]) -> None:
        """Raises InputError with everything that the backend can't express."""
        problems = [
            Problem(f"{target[name].path}.{key}", message) for name, key, message in self._backend.unsupported(ruleset)
        ]
        if problems:
            raise InputError(what="the policy of this host", problems=problems)

    def _plan_move(
        self, request: Request, strays: Sequence[Tuple[Backend, Any]], steps: _Steps, outcome: Outcome
    ) -> None:
        """A host keeps no two fences: once this one stands, those of other backends go."""
        for backend, live in strays:
            steps.remove_fences.append((backend, backend.removal(live)))
            outcome.changes.append(f"remove the fence of {backend.label} from the kernel")
        if request.persist:
            for path in (FENCE_FILE, IPTABLES_FILE):
                if path != self._backend.boot.file and os.path.exists(path):
                    steps.remove_boot_files.append(path)
                    outcome.changes.append(f"remove {path}")

    def _plan_removal(
        self, request: Request, fences: Sequence[Tuple[Backend, Any]], outcome: Outcome
    ) -> _Steps:
        steps = _Steps()
        steps.remove_fences = [(backend, backend.removal(live)) for backend, live in fences if live]
        if steps.remove_fences:
            outcome.changes.append("remove the fence from the kernel")
        if request.persist:
            steps.units = self._units.plan((), (), outcome.changes)
            steps.remove_files = True
            if self._unit.present():
                outcome.changes.append("remove portfence.service")
            if self._launcher.present():
                outcome.changes.append(f"remove {LAUNCHER_PATH}")
            if self._store.present():
                outcome.changes.append(f"remove {BASE}")
        return steps

    def _run(self, outcome: Outcome, steps: _Steps) -> None:
        if not steps.bpf.assignments:
            run_bpf(self._host, steps.bpf)
        if steps.remove_files:
            # The unit goes first: from then on a boot gives no fence, and its drop-ins have nothing to do; until then the whole old one.
            self._unit.remove()
            self._units.finish(steps.units)
        persisting = steps.fence_file is not None or steps.write or steps.forget or steps.remember_by is not None
        if persisting:
            self._store.prepare()
        staged = None if steps.fence_file is None else self._host.stage(self._backend.boot.file, steps.fence_file)
        try:
            if steps.load is not None:
                if staged is not None:
                    self._units.loading(steps.units)
                self._backend.load(steps.load)
                self.loaded = self.loaded or outcome
            if staged is not None:
                self._promote(staged, loaded=steps.load is not None)
        except BaseException:
            if staged is not None:
                staged.discard()
            raise
        if steps.units.concerned:
            self._units.loaded()
        try:
            self._record(outcome, steps)
        except HostError as error:
            if not steps.install_unit:
                raise
            raise HostError(f"{error}; the kernel has the fence, and not all is there that loads it at boot: mend that, and run again") from error
        if steps.launcher is not None:
            self._launcher.write(steps.launcher)
        for backend, change in steps.remove_fences:
            backend.load(change)
            self.loaded = self.loaded or outcome
        for path in steps.remove_boot_files:
            self._host.remove(path)
        if not steps.remove_files:
            self._units.finish(steps.units)
        if steps.plan is not None:
            self._backend.remember(steps.plan)
        if steps.remove_files:
            self._launcher.remove()
            self._store.remove_all()
            self._host.remove_lock()

    def _record(self, outcome: Outcome, steps: _Steps) -> None:
        """Store what the fence is made of, and have a boot load it."""
        if steps.remember_by is not None:
            self._store.remember(outcome.services_before, backend=outcome.backend_before, by=steps.remember_by)
        if steps.bpf.assignments:
            # The fence translates what these leave, so it has to be there before they change.
            run_bpf(self._host, steps.bpf)
        for service in steps.write:
            self._store.write(service)
        for name in steps.forget:
            self._store.remove(name)
        if steps.forget:
            forget_services(self._host, steps.forget)
        if steps.counters_restart:
            self._store.forget_probes()
        if steps.install_unit:
            self._unit.install()

    @staticmethod
    def _promote(staged: Staged, *, loaded: bool) -> None:
        try:
            staged.promote()
        except HostError as error:
            if not loaded:
                raise
            raise HostError(f"{error}; the kernel has the new fence, and the next boot loads the old one: mend that, and run again") from error


def is_untouched(host: Host) -> bool:
    """Whether there is nothing of ours on the host, nor a firewall, without which there can't be a fence."""
    return is_absent(host) and not Store(host).present()


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
