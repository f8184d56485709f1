# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The only writer of network namespaces: plan those of this host, make them, keep them for boot, take them away.

Order of the effects: first new files are written beside their places, which shows whether they can be; what joins a
namespace that goes is released; then the files are in place, the host's side is made, and each namespace behind it.
A run that is cut short leaves files from which the next run, or a boot, goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils import _namespace_text as text
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, InputError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._namespace import interface_of
from ansible_collections.portfence.egress.plugins.module_utils._namespace_files import (
    UNITS,
    Files,
    Folder,
    Kept,
    host_base,
    host_rules,
    names_in,
    units_in,
    unreadable_record,
    wanted_files,
)
from ansible_collections.portfence.egress.plugins.module_utils._nft_names import INNER_TABLE
from ansible_collections.portfence.egress.plugins.module_utils._nft_tables import Tables, removal, transaction
from ansible_collections.portfence.egress.plugins.module_utils._namespace_spec import Request, conflicts
from ansible_collections.portfence.egress.plugins.module_utils._namespace_state import State, joined
from ansible_collections.portfence.egress.plugins.module_utils._namespace_text import Forwarding
from ansible_collections.portfence.egress.plugins.module_utils._namespace_units import Units
from ansible_collections.portfence.egress.plugins.module_utils._nft import Nft
from ansible_collections.portfence.egress.plugins.module_utils._nft_listing import Listing
from ansible_collections.portfence.egress.plugins.module_utils._program import failure
from ansible_collections.portfence.egress.plugins.module_utils._staged import TEMPORARY, StagedFiles
from ansible_collections.portfence.egress.plugins.module_utils._store import BASE, RUN


@dataclass
class Outcome:
    """What was found, and what was done or, in check mode, would be."""

    changes: List[str] = field(default_factory=list)
    warnings: List[str] = field(default_factory=list)
    target: Dict[str, Kept] = field(default_factory=dict)
    before: Dict[str, Kept] = field(default_factory=dict)
    forwarding: Forwarding = Forwarding()
    units_to_restart: List[str] = field(default_factory=list)
    files_before: Files = Files()
    files_after: Files = Files()


@dataclass
class _Steps:
    """The effects, in the order in which :meth:`Namespaces._run` has them."""

    leave: List[str] = field(default_factory=list)
    close: Optional[Forwarding] = None
    remove: List[str] = field(default_factory=list)
    write: List[str] = field(default_factory=list)
    host_tables: str = ""
    host_script: str = ""
    inner_tables: Dict[str, str] = field(default_factory=dict)
    unjoin: List[str] = field(default_factory=list)
    scripts: List[str] = field(default_factory=list)


class Namespaces:
    """The network namespaces of the services of this machine.

    :ivar begun: what a run that failed had begun to do, once it had changed something.
    """

    def __init__(self, host: Host) -> None:
        """Raises HostError when a program is missing."""
        self._host = host
        self._state = State(host)
        self._nft = Nft(host)
        self._folder = Folder(host)
        self._units = Units(host)
        self.begun: Optional[Outcome] = None

    def apply(self, request: Request, *, persist: bool, restart: bool, check_mode: bool) -> Outcome:
        """Make the namespaces of the host what is asked. Raises PortFenceError.

        :param persist: whether those of the request are kept for boot.
        :param restart: whether units that are in another network namespace than they should be are restarted.
        """
        if check_mode:
            outcome, _steps = self._plan(request, persist=persist)
            outcome.changes[:0] = self._host.read_units(check_mode=True)
            # What is not made yet, nobody can be in.
            outcome.units_to_restart = self._to_restart(outcome)
            return outcome
        with self._host.change_lock():
            read = self._host.read_units()
            outcome, steps = self._plan(request, persist=persist)
            outcome.changes[:0] = read
            leaving = outcome.units_to_restart = self._leaving(outcome, steps.leave)
            self._run(steps, outcome)
            if not outcome.target:
                self._host.remove_lock()
            outcome.units_to_restart = sorted({*leaving, *self._to_restart(outcome)})
        # They take the lock.
        self._units.start(self._units.to_start(list(outcome.target)))
        if restart and outcome.units_to_restart:
            self.begun = outcome
            self._units.restart(outcome.units_to_restart)
            outcome.changes.extend(f"restart {unit}" for unit in outcome.units_to_restart)
            outcome.units_to_restart = []
        return outcome

    def _plan(self, request: Request, *, persist: bool) -> Tuple[Outcome, _Steps]:
        before = self._stored(request)
        target = merge(before, request, base=BASE if persist else RUN)
        outcome, steps = Outcome(before=before, target=target), _Steps()
        present = self._folder.present()
        names = self._names(present)
        families = self._state.families()
        live = self._host_tables().live()
        record = self._record(names, families=families, live=live)
        self._check(request, outcome, names=names)
        if target:
            outcome.forwarding = self._state.forwarding(record, families)
        wanted = wanted_files(target, families=families, forwarding=outcome.forwarding)
        if not self._units.running:
            # sd_booted(3): the folder itself says that systemd runs.
            wanted = Files({path: content for path, content in wanted.texts.items() if not path.startswith(f"{UNITS[RUN]}/")}, wanted.links)
        outcome.files_before, outcome.files_after = present, wanted
        self._folder.check_owners(wanted)
        self._plan_leaving(names, request, outcome, steps)
        steps.write, steps.remove = self._folder.steps(wanted, present)
        outcome.changes.extend(f"write {path}" for path in steps.write)
        outcome.changes.extend(f"remove {path}" for path in steps.remove)
        self._plan_host(outcome, steps, families=families, record=record, live=live)
        for item in target.values():
            self._plan_namespace(item, outcome, steps, families=families)
        outcome.changes.extend(f"start {unit}" for unit in self._units.to_start(list(target)))
        self._warn(outcome, record)
        return outcome, steps

    def _stored(self, request: Request) -> Dict[str, Kept]:
        """The namespaces of the host; whoever takes all of them away need not be able to read them."""
        try:
            return self._folder.stored()
        except InputError:
            if request.purge and not request.wanted:
                return {}
            raise

    def _names(self, present: Files) -> List[str]:
        """Names of the namespaces of ours that there are or that a boot makes, with or without the file that declares them."""
        known = names_in(present)
        orphans = [name for name in joined(self._host) if name not in known and self._state.exists(name) and self._inner(name).live()]
        return sorted([*known, *orphans])

    def _record(self, names: Sequence[str], *, families: Sequence[str], live: Mapping[str, Listing]) -> Forwarding:
        """What the host did not forward before. Where the file is gone the rules say it: they refuse what was opened.

        Raises HostError when neither is there, and the host forwards.
        """
        found = self._folder.record()
        if found is None and any(item["rule"]["chain"] == "forward" for item in live.get("inet", ()) if "rule" in item):
            return text.forwarding_of(live["inet"])
        if found is None and names and self._state.may_be_opened(families, own=map(interface_of, names)):
            raise unreadable_record()
        return found or Forwarding()

    def _check(self, request: Request, outcome: Outcome, *, names: Sequence[str]) -> None:
        """Raises InputError when a wanted namespace is in the way of another one, or of something that is not ours."""
        paths = {name: request.paths.get(name, item.path) for name, item in outcome.target.items()}
        # What the host has goes first, so that a new one is told to be in its way.
        order = sorted(outcome.target, key=lambda name: name in request.wanted)
        problems = conflicts({name: outcome.target[name].namespace for name in order}, paths)
        own = set(map(interface_of, (*names, *outcome.target)))
        for name, namespace in request.wanted.items():
            known = outcome.before.get(name)
            # Somebody may have removed the files of one of ours.
            ours = known is not None or (self._state.exists(name) and bool(self._inner(name).live()))
            if not ours and self._state.exists(name):
                raise HostError(f"{namespace.path} exists and was not made by this collection; rename or remove that network namespace")
            if not ours and self._state.has_interface(namespace.interface):
                raise HostError(f"the interface {namespace.interface} exists and was not made by this collection; rename or remove it")
            if known is None or known.namespace.pairs != namespace.pairs:
                problems.extend(self._state.collisions(namespace, path=paths[name], own=own))
        if problems:
            raise InputError(what="the list of namespaces", problems=problems)

    def _plan_leaving(self, names: Sequence[str], request: Request, outcome: Outcome, steps: _Steps) -> None:
        for name in names:
            if name not in outcome.target:
                if not (request.purge or name in request.unwanted or name in outcome.before):
                    outcome.warnings.append(
                        f"network namespace {name}: the file that declares it is gone, and it is in no list; declare it, name it with state: absent, or purge"
                    )
                    continue
                steps.leave.append(name)
                if self._state.exists(name) or self._state.has_interface(interface_of(name)):
                    outcome.changes.append(f"remove the network namespace {name}")

    def _plan_host(
        self, outcome: Outcome, steps: _Steps, *, families: Sequence[str], record: Forwarding, live: Mapping[str, Listing]
    ) -> None:
        tables = self._host_tables()
        if not outcome.target:
            if record.opened:
                steps.close = record
                outcome.changes.append("put back the forwarding of before")
            if live:
                steps.host_tables = removal(name=tables.name, live=live)
                outcome.changes.append("remove the rules for forwarding")
            return
        body = host_rules(outcome.target, families=families, forwarding=outcome.forwarding)
        canonical = tables.wanted(body)
        if live != canonical:
            steps.host_tables = transaction(name=tables.name, live=live, wanted=canonical, bodies=body)
            outcome.changes.append("load the rules for forwarding")
        forwards = self._state.forwards(outcome.forwarding)
        if not forwards:
            outcome.changes.append("turn on forwarding for the network namespaces")
        if steps.host_tables or not forwards:
            steps.host_script = f"{host_base(outcome.target)}/namespaces.sh"

    def _plan_namespace(self, item: Kept, outcome: Outcome, steps: _Steps, *, families: Sequence[str]) -> None:
        name = item.namespace.name
        body = item.rules
        before = len(outcome.changes)
        if not self._state.exists(name):
            # Tried in a throwaway namespace, so that what nft refuses is refused before anything is made.
            self._nft.canonical(body)
            outcome.changes.append(f"make the network namespace {name}")
            if self._state.has_interface(item.namespace.interface):
                steps.unjoin.append(item.namespace.interface)
        else:
            tables = self._inner(name)
            live, canonical = tables.live(), tables.wanted(body)
            if live != canonical:
                steps.inner_tables[name] = transaction(name=tables.name, live=live, wanted=canonical, bodies=body)
                outcome.changes.append(f"network namespace {name}: load its rules")
            lacks, anew = self._state.wrong(item.namespace, families)
            outcome.changes.extend(f"network namespace {name}: {lack}" for lack in lacks)
            if anew:
                steps.unjoin.append(item.namespace.interface)
        if len(outcome.changes) > before:
            steps.scripts.append(item.script)

    def _host_tables(self) -> Tables:
        return Tables(host=self._host, nft=self._nft, name=text.HOST_TABLE)

    def _inner(self, name: str) -> Tables:
        return Tables(host=self._host, nft=self._nft, name=INNER_TABLE, enter=self._state.enter(name))

    def _warn(self, outcome: Outcome, record: Forwarding) -> None:
        for family in outcome.forwarding.opened:
            if family not in record.opened:
                title = family.replace("ip", "IP")
                outcome.warnings.append(
                    f"{title} was not forwarded on this host; it is now, for the network namespaces alone: the chain forward of"
                    f" table inet {text.HOST_TABLE} drops whatever else would be forwarded"
                )
        if self._state.local_resolver():
            blind = [name for name, item in outcome.target.items() if not item.namespace.dns and name not in outcome.before]
            outcome.warnings.extend(
                f"network namespace {name}: /etc/resolv.conf names a loopback address, where nobody answers inside; set dns"
                for name in blind
            )

    def _run(self, steps: _Steps, outcome: Outcome) -> None:
        self._host.check_changeable([*steps.write, *steps.remove])
        # Left by a run that was killed; this one may write files of the same names.
        self._folder.remove([path for path in steps.remove if path.endswith(TEMPORARY)])
        steps.remove = [path for path in steps.remove if not path.endswith(TEMPORARY)]
        staged = self._folder.stage(outcome.files_after, steps.write)
        try:
            self._run_staged(steps, outcome, staged)
        except BaseException:
            staged.discard()
            raise

    def _run_staged(self, steps: _Steps, outcome: Outcome, staged: StagedFiles) -> None:
        if outcome.changes:
            self.begun = outcome
        stopped = [text.unit_of(name) for name in steps.leave] + ([] if outcome.target else [text.HOST_UNIT])
        # As long as something is forwarded, whoever flushes the rules is followed.
        units_before = [path for path in steps.remove if path.startswith(tuple(UNITS.values())) and not path.endswith(text.NFTABLES_DROP_IN)]
        self._folder.remove(units_before)
        self._host.read_units()
        if units_before:
            self._units.stop(stopped)
        for name in steps.leave:
            self._leave(name)
        if steps.close is not None:
            self._state.close(steps.close)
        self._folder.write(outcome.files_after, steps.write, staged)
        # Before anything is forwarded, for the same reason.
        self._host.read_units()
        if steps.host_tables:
            self._host_tables().load(steps.host_tables)
        if steps.host_script:
            self._host.run(["/bin/sh", steps.host_script])
        for name, change in steps.inner_tables.items():
            self._inner(name).load(change)
        for interface in steps.unjoin:
            self._delete_interface(interface)
        for script in steps.scripts:
            self._host.run(["/bin/sh", script])
        # What the plan starts from goes last: a run that is cut short can be repeated.
        self._folder.remove([path for path in steps.remove if path not in units_before])
        self._host.read_units()

    def _leave(self, name: str) -> None:
        self._delete_interface(interface_of(name))
        if self._state.exists(name):
            self._host.run([self._host.program("ip", package="iproute2"), "netns", "delete", name])

    def _delete_interface(self, interface: str) -> None:
        if not self._state.has_interface(interface):
            return
        args = [self._host.program("ip", package="iproute2"), "link", "delete", interface]
        done = self._host.run(args, check=False)
        # The kernel removes it by itself some time after its namespace.
        if done.rc != 0 and self._state.has_interface(interface):
            raise HostError(failure(args, done))

    def _to_restart(self, outcome: Outcome) -> List[str]:
        """Running units that have to be started anew to be where they should be."""
        staying = {name: item.namespace for name, item in outcome.target.items()}
        inodes = {name: self._state.identity(name) for name in staying}
        released = {
            name: [unit for unit in item.namespace.units if unit not in staying[name].units]
            for name, item in outcome.before.items()
            if name in staying
        }
        return sorted({*self._units.outside(staying, inodes), *self._units.inside(released, inodes)})

    def _leaving(self, outcome: Outcome, names: Sequence[str]) -> List[str]:
        """Running units that are in a namespace which goes."""
        declared = {name: item.namespace.units for name, item in outcome.before.items()}
        joining = units_in(outcome.files_before)
        going = {name: sorted({*declared.get(name, ()), *joining.get(name, ())}) for name in names}
        return self._units.inside(going, {name: self._state.identity(name) for name in going})


def is_untouched(host: Host) -> bool:
    """Whether this host has no file of ours, nor anything that could be a namespace of ours, so that there is nothing to take away."""
    return Folder(host).present() == Files() and not joined(host)


def merge(before: Mapping[str, Kept], request: Request, *, base: str) -> Dict[str, Kept]:
    """The namespaces that the host shall have afterwards. Pure.

    :param base: where those of the request are kept.
    """
    kept = {} if request.purge else {name: item for name, item in before.items() if name not in request.unwanted}
    given = {name: Kept(namespace, base) for name, namespace in request.wanted.items()}
    return dict(sorted({**kept, **given}.items()))


def way_back(outcome: Outcome) -> Dict[str, Any]:
    """What whoever puts back the namespaces of before has to know. Pure."""
    return {
        "namespaces_before": [item.namespace.to_dict() for item in outcome.before.values()],
        "units_to_restart": outcome.units_to_restart,
    }


def result_of(outcome: Outcome) -> Dict[str, Any]:
    """What the module returns, without its diff. Pure."""
    return {
        "changed": bool(outcome.changes),
        "changes": outcome.changes,
        "namespaces": [
            {
                **item.namespace.to_dict(),
                "path": item.namespace.path,
                "interface": item.namespace.interface,
                "addresses": {family: pair.inner for family, pair in item.namespace.pairs.items()},
                "host_addresses": {family: pair.host for family, pair in item.namespace.pairs.items()},
            }
            for item in outcome.target.values()
        ],
        "forwarding_opened": list(outcome.forwarding.opened),
        **way_back(outcome),
    }


def diff_of(outcome: Outcome) -> Dict[str, str]:
    """The files before and after, and what the kernel lacks in between. Pure."""
    return {"before": _listing(outcome.files_before), "after": _listing(outcome.files_after)}


def _listing(files: Files) -> str:
    parts = [f"== {path}\n{content}" for path, content in sorted(files.texts.items())]
    return "\n".join([*parts, *(f"== {path} -> {target}\n" for path, target in sorted(files.links.items()))])
