# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cgroups of net_cls as a task wants them, against the record and the host: mistakes, and what has to be done. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._cgroups import LONGEST_UNIT
from ansible_collections.portfence.egress.plugins.module_utils._classid import format_classid, parse_classid
from ansible_collections.portfence.egress.plugins.module_utils._classid_files import (
    MOUNT,
    Cgroup,
    drop_in_path,
    drop_in_text,
    files_of,
)
from ansible_collections.portfence.egress.plugins.module_utils._errors import Problem, shown

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\Z")
_UNIT = re.compile(r"[A-Za-z0-9:_][A-Za-z0-9:_.\\-]*(?:@[A-Za-z0-9:_.@\\-]*)?\.service\Z")


@dataclass(frozen=True)
class Wanted:
    """One item of the list, as the user wrote it. :ivar path: where, such as ``cgroups[2]``."""

    path: str
    cgroup: Cgroup
    present: bool = True
    pids: Tuple[int, ...] = ()


@dataclass(frozen=True)
class UnitFacts:
    """What systemd says of a unit.

    :ivar problems: why its processes can't be put in at every start.
    :ivar user: what its files say of User=, without our drop-in; "dynamic" stands for DynamicUser=.
    :ivar pam_name: the PAM service that systemd will use, with our drop-in if it has read that.
    :ivar processes: its processes, each with the path of its cgroup of net_cls.
    :ivar outside: its commands that systemd runs with all rights and without a session, such as ``ExecStartPre``.
    """

    problems: Tuple[str, ...] = ()
    user: str = ""
    pam_name: str = ""
    processes: Mapping[int, str] = field(default_factory=dict)
    outside: Tuple[str, ...] = ()

    def strangers(self, name: str) -> Tuple[int, ...]:
        """Its processes that are not in the cgroup of this name."""
        return tuple(pid for pid, path in self.processes.items() if not path.endswith(f"/portfence/{name}"))


@dataclass(frozen=True)
class Facts:
    """What a host has, as far as the task needs it.

    :ivar supported: the kernel has net_cls, and it is not switched off. :ivar mounted: at our place.
    :ivar shared: others have cgroups in it, and no other place to see them.
    :ivar live: the classid of each cgroup that exists. :ivar members: the processes in it.
    :ivar pids: those that the task names and that exist.
    :ivar files: the text of each file of ours that exists, by path.
    :ivar enabled: the unit is started at boot. :ivar active: it is running, or there is no systemd to run it.
    :ivar legacy_kernel: older than 5.15, where net_cls switches the selector unit off (cgroup_sk_alloc_disable()).
    """

    supported: bool = True
    mounted: bool = False
    shared: bool = False
    live: Mapping[str, int] = field(default_factory=dict)
    members: Mapping[str, FrozenSet[int]] = field(default_factory=dict)
    pids: FrozenSet[int] = frozenset()
    files: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, UnitFacts] = field(default_factory=dict)
    enabled: bool = False
    active: bool = True
    legacy_kernel: bool = False


@dataclass(frozen=True)
class Plan:
    """What has to be done, in the order in which it is done.

    :ivar files: what files change to; None to remove. :ivar drop_ins: likewise, of units.
    :ivar make: cgroups are missing or have another classid. :ivar reload: systemd has to read its files again.
    :ivar moves: processes, with the name of their new cgroup, or None for the root. :ivar remove: names of cgroups.
    """

    before: Mapping[str, Cgroup]
    after: Mapping[str, Cgroup]
    files: Mapping[str, Optional[str]]
    drop_ins: Mapping[str, Optional[str]]
    make: bool
    enable: bool
    start: bool
    reload: bool
    moves: Tuple[Tuple[int, Optional[str]], ...]
    remove: Tuple[str, ...]
    unmount: bool
    warnings: Tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        doing = (self.files, self.drop_ins, self.make, self.enable, self.start, self.reload, self.moves, self.remove, self.unmount)
        return any(doing)


def parse_list(items: Sequence[Mapping[str, Any]], *, state: str) -> Tuple[List[Wanted], List[Problem]]:
    """Read the parameter ``cgroups``: the items that could be read, and every mistake.

    :param state: what an item without ``state`` gets.
    """
    wanted: List[Wanted] = []
    problems: List[Problem] = []
    names: Dict[str, str] = {}
    for index, item in enumerate(items):
        path = f"cgroups[{index}]"
        name = item["name"]
        present = (item.get("state") or state) == "present"
        found: List[Problem] = []
        if not _NAME.match(name):
            found.append(Problem(f"{path}.name", f"found {shown(name)}; accepted: 1 to 32 letters, digits, _, - or ., not starting with - or ."))
        elif name in names:
            found.append(Problem(f"{path}.name", f"{name} is named in {names[name]} already; name it once"))
        names.setdefault(name, path)
        classid = 0
        if present:
            try:
                classid = parse_classid(item.get("classid"))
            except ValueError as error:
                found.append(Problem(f"{path}.classid", str(error)))
        units = _units(path, item.get("units") or [], found)
        pids = tuple(item.get("pids") or [])
        for position, pid in enumerate(pids):
            if pid < 1:
                found.append(Problem(f"{path}.pids[{position}]", f"found {pid}; accepted: the number of a process, above 0"))
        problems.extend(found)
        if not found:
            wanted.append(Wanted(path, Cgroup(name, classid, tuple(sorted(units))), present, pids))
    return wanted, problems


def _units(path: str, names: Sequence[str], problems: List[Problem]) -> Dict[str, str]:
    units: Dict[str, str] = {}
    for position, name in enumerate(names):
        where = f"{path}.units[{position}]"
        full = name if name.rpartition("@")[2].count(".") else f"{name}.service"
        if len(full) > LONGEST_UNIT or not _UNIT.match(full):
            accepted = "accepted: the name of a systemd service, such as myapp.service, or worker@.service for all instances"
            problems.append(Problem(where, f"found {shown(name)}; {accepted}"))
        units.setdefault(full, where)
    return units


def merge(before: Mapping[str, Cgroup], wanted: Sequence[Wanted], *, purge: bool) -> Tuple[Dict[str, Cgroup], List[Problem]]:
    """The record as it has to become, and what contradicts itself in it.

    :param purge: leave nothing that the list does not have.
    """
    after = {} if purge else dict(before)
    for item in wanted:
        after.pop(item.cgroup.name, None)
        if item.present:
            after[item.cgroup.name] = item.cgroup
    paths = {item.cgroup.name: item.path for item in wanted if item.present}
    problems: List[Problem] = []
    classids: Dict[int, str] = {}
    units: Dict[str, str] = {}
    # Those that the task names come last, so that they are what is wrong.
    for name in sorted(after, key=lambda name: (name in paths, paths.get(name, ""), name)):
        item = after[name]
        where = paths.get(name, name)
        other = classids.setdefault(item.classid, name)
        if other != name:
            problems.append(
                Problem(f"{where}.classid", f"{format_classid(item.classid)} belongs to the cgroup {other}; give each cgroup a classid of its own")
            )
        for unit in item.units:
            for rival, owner in units.items():
                if owner != name and overlap(unit, rival):
                    problems.append(Problem(f"{where}.units", f"{unit} can't be in {name} because {rival} is in {owner}; take it out of one of them"))
            units[unit] = name
    pids: Dict[int, str] = {}
    for entry in wanted:
        for position, pid in enumerate(entry.pids):
            if not entry.present:
                problems.append(Problem(f"{entry.path}.pids", "can't be given with state absent, which takes every process out"))
                break
            if pids.setdefault(pid, entry.cgroup.name) != entry.cgroup.name:
                problems.append(Problem(f"{entry.path}.pids[{position}]", f"process {pid} can't be in {pids[pid]} as well"))
    return after, problems


def overlap(unit: str, other: str) -> bool:
    """Whether two names mean the same unit: one is the other's template."""
    names = {unit, other}
    return len(names) == 1 or any(re.sub(r"@.*\.service\Z", "@.service", name) in names - {name} for name in names)


def check(facts: Facts, after: Mapping[str, Cgroup], wanted: Sequence[Wanted]) -> Tuple[List[Problem], List[str]]:
    """What the host can't do of it, and warnings: of units, too, that other tasks put into their cgroups."""
    problems: List[Problem] = []
    warnings: List[str] = []
    paths = {item.cgroup.name: item.path for item in wanted if item.present}
    if after and not facts.supported:
        names = ", ".join(sorted(paths or after))
        problems.append(
            Problem(
                "cgroups",
                f"this kernel has no net_cls (see /proc/cgroups), so {names} can't have a classid, and a rule for it would never match;"
                " select the service by unit instead, or boot a kernel with CONFIG_CGROUP_NET_CLASSID",
            )
        )
    if after and facts.legacy_kernel:
        warnings.append(
            "before Linux 5.15 a classid switches the matching of cgroup v2 off on the whole host: services that are selected by unit are not recognised"
        )
    for name, item in sorted(after.items()):
        for unit in item.units:
            found = facts.units.get(unit, UnitFacts())
            if name in paths:
                problems.extend(Problem(f"{paths[name]}.units", f"{unit} {why}") for why in found.problems)
            else:
                warnings.extend(f"{unit} of the cgroup {name} {why}" for why in found.problems)
            if found.outside:
                warnings.append(f"{', '.join(found.outside)} of {unit} has commands with + or !, which run outside of the cgroup {name}")
    for entry in wanted:
        for position, pid in enumerate(entry.pids):
            if pid not in facts.pids:
                problems.append(Problem(f"{entry.path}.pids[{position}]", f"found {pid}, which is no process of this host"))
    return problems, warnings


def make_plan(
    facts: Facts, before: Mapping[str, Cgroup], after: Mapping[str, Cgroup], wanted: Sequence[Wanted], warnings: Sequence[str], *, purge: bool
) -> Plan:
    """The steps from what there is to what is wanted.

    :param purge: leave nothing that the list does not have, as for :func:`merge`: not even a mount that nobody remembers.
    """
    usable = {unit: facts.units[unit] for item in after.values() for unit in item.units if not facts.units[unit].problems}
    drop_ins = {
        unit: drop_in_text(item, as_root=not usable[unit].user) for item in after.values() for unit in item.units if unit in usable
    }
    # A drop-in of a unit that can't be looked at is left as it is: it fails closed.
    kept = {drop_in_path(unit) for item in after.values() for unit in item.units if unit not in usable}
    goal = files_of(after, drop_ins)
    changes: Dict[str, Optional[str]] = {path: text for path, text in sorted(goal.items()) if facts.files.get(path) != text}
    changes.update({path: None for path in sorted(facts.files) if path not in goal and path not in kept})
    ours = {path for path in changes if path.endswith(".conf")}
    pam_names = {unit: item.pam_name for item in after.values() for unit in item.units if unit in usable}
    stale = any(usable[unit].pam_name != pam_name for unit, pam_name in pam_names.items())
    system = any(path.startswith("/etc/systemd/") for path in changes)
    unmount = (purge or bool(before)) and not after and facts.mounted
    if unmount and facts.shared:
        warnings = [*warnings, f"{MOUNT} stays mounted, because somebody else has cgroups in net_cls and it is mounted nowhere else"]
    gone = tuple(sorted(name for name in before if name not in after and name in facts.live))
    return Plan(
        before=before,
        after=after,
        files={path: text for path, text in changes.items() if path not in ours},
        drop_ins={path: changes[path] for path in sorted(ours)},
        make=bool(after) and (not facts.mounted or any(facts.live.get(name) != item.classid for name, item in after.items())),
        enable=bool(after) and not facts.enabled,
        start=bool(after) and not facts.active,
        reload=stale or system or (bool(after) and not facts.enabled),
        moves=_moves(facts, before, after, wanted),
        remove=gone,
        unmount=unmount and not facts.shared,
        warnings=tuple(warnings),
    )


def heir(gone: Cgroup, after: Mapping[str, Cgroup]) -> Optional[str]:
    """The cgroup that has the class of one that goes. Pure. None: nobody has it, and its processes get none."""
    return next((name for name, item in after.items() if item.classid == gone.classid), None)


def _moves(
    facts: Facts, before: Mapping[str, Cgroup], after: Mapping[str, Cgroup], wanted: Sequence[Wanted]
) -> Tuple[Tuple[int, Optional[str]], ...]:
    goal: Dict[int, Optional[str]] = {}
    for name, item in before.items():
        members = facts.members.get(name, frozenset())
        if name not in after:
            goal.update(dict.fromkeys(members, heir(item, after)))
        else:
            for unit in set(item.units) - set(after[name].units):
                found = facts.units.get(unit, UnitFacts())
                goal.update(dict.fromkeys(set(found.processes) - set(found.strangers(name))))
    for name, item in after.items():
        own = {pid for unit in item.units for pid in facts.units[unit].processes}
        own.update(pid for entry in wanted if entry.cgroup.name == name for pid in entry.pids)
        outside = {pid for unit in item.units for pid in facts.units[unit].strangers(name)}
        outside.update(pid for entry in wanted if entry.cgroup.name == name for pid in entry.pids if pid not in facts.members.get(name, frozenset()))
        for pid in own:
            goal.pop(pid, None)
        goal.update(dict.fromkeys(outside, name))
    return tuple(sorted(goal.items()))


def describe(cgroups: Mapping[str, Cgroup], *, facts: Facts, plan: Plan, done: bool) -> str:
    """The host as lines for a diff.

    :param done: as it is after the plan, in place of before.
    """
    lines: List[str] = []
    for name, item in sorted(cgroups.items()):
        classid = item.classid if done else facts.live.get(name)
        lines.append(f"{name}: {'no cgroup' if classid is None else f'{item.path} with classid {format_classid(classid)}'}")
        lines.extend(f"{name}: {unit}" for unit in item.units)
        members = set(facts.members.get(name, frozenset()))
        if done:
            members -= {pid for pid, target in plan.moves if target != name}
            members |= {pid for pid, target in plan.moves if target == name}
        lines.extend(f"{name}: process {pid}" for pid in sorted(members))
    mounted = (facts.mounted or plan.make) and not plan.unmount if done else facts.mounted
    lines.append(f"{MOUNT}: {'mounted' if mounted else 'not mounted'}")
    for path in sorted({*plan.files, *plan.drop_ins}):
        text = {**plan.files, **plan.drop_ins}[path] if done else facts.files.get(path)
        if text is not None:
            lines.extend([f"== {path}", *text.splitlines()])
    return "\n".join(lines) + "\n"
