# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cgroups of net_cls on the machine: what there is, and the order in which it changes.

First the files that make the cgroups at boot, then the cgroups, by the very script that the boot runs; then the drop-ins of
units, then processes move. What goes away goes in the opposite order, the record last, so that a run that was cut short
leaves nothing that the next one does not know of.
"""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils import _classid_units as units
from ansible_collections.portfence.egress.plugins.module_utils._classid import format_classid
from ansible_collections.portfence.egress.plugins.module_utils._classid_files import (
    DROP_IN,
    HEADER,
    LINK,
    MOUNT,
    PAM,
    PAM_PREFIX,
    PARENT,
    RECORD,
    SCRIPT,
    SYSTEM,
    UNIT,
    UNIT_PATH,
    WANTS,
    Cgroup,
    parse_record,
)
from ansible_collections.portfence.egress.plugins.module_utils._classid_plan import (
    Facts,
    Plan,
    Wanted,
    check,
    describe,
    heir,
    make_plan,
    merge,
    parse_list,
)
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, InputError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._staged import TEMPORARY, StagedFiles
from ansible_collections.portfence.egress.plugins.module_utils._store import BASE, RUN

_ROUNDS = 100  # more than enough to catch the children of what is being moved


class HalfDone(HostError):
    """A task that failed after it had changed something. :ivar previous: what was there before, as the module returns it."""

    def __init__(self, message: str, *, previous: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.previous = previous


class Cgroups:
    """The cgroups of net_cls of this machine, and the files that keep them.

    :ivar begun: the plan that is carried out, once it is not taken back any more when something fails.
    """

    def __init__(self, *, host: Host) -> None:
        self._host = host
        self.begun: Optional[Plan] = None

    def record(self) -> Dict[str, Cgroup]:
        """The cgroups that the host was told of. Raises HostError."""
        try:
            return parse_record(self._host.read(RECORD) or "")
        except ValueError as error:
            raise HostError(f"{RECORD}: {error}") from error

    def unrecorded(self, record: Mapping[str, Cgroup]) -> Dict[str, Cgroup]:
        """Cgroups beside ours that the record does not have, by name: somebody may have changed or removed it. Each of ours has a classid."""
        names = self._host.list(PARENT) if self._classid(PARENT) is not None else []
        found = {name: self._classid(f"{PARENT}/{name}") for name in names if name not in record}
        return {name: Cgroup(name, classid) for name, classid in found.items() if classid}

    def facts(self, before: Mapping[str, Cgroup], after: Mapping[str, Cgroup], pids: Sequence[int]) -> Facts:
        """What there is. Raises HostError."""
        names = sorted({*before, *after})
        members = {name: self._members(f"{PARENT}/{name}") for name in names}
        live = {name: self._classid(f"{PARENT}/{name}") for name in names}
        files = {path: text for path, text in ((path, self._host.read(path)) for path in self._files()) if text is not None}
        for path in files:
            self._host.require_own(path)
        wanted_units = sorted({unit for item in (*before.values(), *after.values()) for unit in item.units})
        mounted = self._classid(MOUNT) is not None
        return Facts(
            supported=self._supported(),
            mounted=mounted,
            live={name: classid for name, classid in live.items() if classid is not None},
            members=members,
            pids=frozenset(pid for pid in pids if os.path.isdir(f"/proc/{pid}")),
            files=files,
            units=units.look(self._host, wanted_units),
            enabled=os.path.islink(LINK) and os.path.realpath(LINK) == UNIT_PATH,
            active=not self._host.runs_systemd() or self._is_active(),
            shared=mounted and self._others_need_mount(),
            legacy_kernel=_release() < (5, 15),
        )

    def _supported(self) -> bool:
        lines = (line.split() for line in (self._host.read("/proc/cgroups") or "").split("\n"))
        return any(words[0] == "net_cls" and words[-1] == "1" for words in lines if words)

    def _files(self) -> List[str]:
        """Where a file of ours is, or would be."""
        drop_ins = [os.path.join(SYSTEM, folder, DROP_IN) for folder in self._host.list(SYSTEM) if folder.endswith(".service.d")]
        sessions = [os.path.join(PAM, name) for name in self._host.list(PAM) if name.startswith(PAM_PREFIX) and not name.endswith(TEMPORARY)]
        return [RECORD, SCRIPT, UNIT_PATH, *sessions, *drop_ins]

    def _classid(self, folder: str) -> Optional[int]:
        """The classid of a cgroup; None when the folder is none."""
        text = self._host.read(f"{folder}/net_cls.classid")
        return None if text is None else int(text)

    def _members(self, folder: str) -> FrozenSet[int]:
        """The processes in a cgroup. Those of another PID namespace show as 0, and are not ours to move."""
        return frozenset(int(pid) for pid in (self._host.read(f"{folder}/cgroup.procs") or "").split() if pid != "0")

    def _is_active(self) -> bool:
        return self._host.run(["systemctl", "is-active", "--quiet", UNIT], check=False).rc == 0

    def check_owners(self, facts: Facts) -> None:
        """Raises HostError when somebody else wrote a file of our name."""
        for path, text in facts.files.items():
            if HEADER not in text[:200]:
                raise HostError(f"{path} exists and was not written by this collection; rename or remove it")

    def apply(self, plan: Plan, facts: Facts) -> None:
        """Do what the plan says. Raises HostError, with files and cgroups as they were before unless processes move already."""
        self._host.check_changeable([*plan.files, *plan.drop_ins, *([LINK] if plan.enable or not plan.after else [])])
        undo: List[Callable[[], None]] = []
        for name in self._host.list(PAM):
            if name.startswith(PAM_PREFIX) and name.endswith(TEMPORARY):
                self._host.remove(os.path.join(PAM, name))  # left by a run that was killed
        files = {path: text for path, text in plan.files.items() if text is not None}
        staged = self._host.stage_all({**files, **{path: text for path, text in plan.drop_ins.items() if text is not None}})
        try:
            if plan.reload and self._host.runs_systemd():
                undo.append(self._host.reload_units)
            self._write(files, staged, facts, undo)
            if plan.enable:
                undo.append(partial(self._host.remove, LINK))
                self._enable()
            if plan.make:
                undo.append(partial(self._take_back_cgroups, plan, facts))
                self._host.run(["/bin/sh", SCRIPT, "up"])
            self._write(plan.drop_ins, staged, facts, undo)
            if self._host.runs_systemd():
                if plan.reload:
                    self._host.reload_units()
                self._check_sessions(plan)
        except HostError as error:
            message = f"{error}; {_take_back(undo)}"
            staged.discard()
            raise HostError(message) from error
        self.begun = plan
        self._move(plan)
        self._remove(plan)

    def start(self, plan: Plan) -> None:
        """Start the unit, if the plan says so. Raises HostError."""
        if plan.start and self._host.runs_systemd():
            self._host.run(["systemctl", "start", UNIT])

    def _write(self, files: Mapping[str, Optional[str]], staged: StagedFiles, facts: Facts, undo: List[Callable[[], None]]) -> None:
        for path, text in files.items():
            undo.append(partial(self._put, path, facts.files.get(path)))
            if text is None:
                self._put(path, None)
            else:
                staged.promote([path])

    def _put(self, path: str, text: Optional[str]) -> None:
        folder = os.path.dirname(path)
        if text is not None and text == self._host.read(path):
            return
        if text is None:
            self._host.remove(path)
            if folder == BASE or path.endswith(f".d/{DROP_IN}"):
                self._host.remove_directory(folder)  # unless there is more in it
            return
        self._host.make_directory(folder)
        self._host.write(path, text)

    def _enable(self) -> None:
        self._host.make_directory(WANTS)
        self._host.link(LINK, f"../{UNIT}")

    def _take_back_cgroups(self, plan: Plan, facts: Facts) -> None:
        for name in plan.after:
            if name in facts.live:
                self._poke(f"{PARENT}/{name}/net_cls.classid", format_classid(facts.live[name]))
            else:
                _rmdir(f"{PARENT}/{name}")
        if not facts.mounted and self._classid(MOUNT) is not None:
            self._unmount()
            self._host.remove_directory(RUN)

    def _check_sessions(self, plan: Plan) -> None:
        """Whether systemd will do what the drop-ins say: files that are read after them can say otherwise."""
        wanted = {unit: item.pam_name for item in plan.after.values() for unit in item.units}
        for unit, found in units.look(self._host, sorted(wanted)).items():
            if not found.problems and found.pam_name != wanted[unit]:
                raise HostError(f"{unit} still has PAMName={found.pam_name} after its drop-in; see systemctl cat {unit}")

    def _move(self, plan: Plan) -> None:
        for pid, target in plan.moves:
            self._join(pid, _folder(target))
        # A process has the cgroup of its parent at its birth, so those that were born meanwhile may be where that one was.
        wanted = {unit: name for name, item in plan.after.items() for unit in item.units}
        for _round in range(_ROUNDS if plan.moves else 0):
            found = units.look(self._host, sorted(wanted))
            late = [(pid, wanted[unit]) for unit, item in found.items() for pid in item.strangers(wanted[unit])]
            if not late:
                return
            for pid, name in late:
                self._join(pid, f"{PARENT}/{name}")

    def _join(self, pid: int, folder: str) -> None:
        """Put a process with all its threads into a cgroup. One that ended meanwhile is none."""
        self._poke(f"{folder}/cgroup.procs", str(pid), gone=(errno.ESRCH,))

    def _poke(self, path: str, text: str, *, gone: Tuple[int, ...] = ()) -> None:
        """Write to a file of the kernel, in place."""
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(handle, f"{text}\n".encode("ascii"))
            finally:
                os.close(handle)
        except OSError as error:
            if error.errno not in gone:
                raise HostError(f"can't write {text} to {path}: {error.strerror}") from error

    def _remove(self, plan: Plan) -> None:
        for name in plan.remove:
            self._remove_cgroup(name, to=_folder(heir(plan.before[name], plan.after)))
        if not plan.after:
            _rmdir(PARENT)
        if plan.unmount:
            self._unmount()
        gone = [path for path, text in plan.files.items() if text is None]
        if not plan.after and UNIT_PATH in gone:
            if self._host.runs_systemd():
                self._host.run(["systemctl", "stop", UNIT], check=False)
            self._host.remove(LINK)
        for path in sorted(gone, key=lambda path: path == RECORD):
            self._put(path, None)
        if not plan.after:
            self._host.remove_directory(RUN)
            if self._host.runs_systemd() and UNIT_PATH in gone:
                self._host.reload_units()
                self._host.run(["systemctl", "reset-failed", UNIT], check=False)

    def _remove_cgroup(self, name: str, *, to: str) -> None:
        folder = f"{PARENT}/{name}"
        for _round in range(_ROUNDS):
            members = self._members(folder)
            for pid in members:
                self._join(pid, to)
            try:
                os.rmdir(folder)
                return
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno != errno.EBUSY or not self._members(folder):
                    raise HostError(
                        f"can't remove the cgroup {folder}: {error.strerror}; it has cgroups, or processes of a container, in it that are not ours"
                    ) from error
        raise HostError(f"can't remove the cgroup {folder}: processes keep coming into it")

    def _unmount(self) -> None:
        _rmdir(PARENT)
        self._host.run(["umount", MOUNT])
        self._host.remove_directory(MOUNT)

    def _others_need_mount(self) -> bool:
        """Whether somebody else has cgroups of net_cls, and no other place to see them (proc(5): mountinfo)."""
        mounts = [line.split() for line in (self._host.read("/proc/self/mountinfo") or "").split("\n")]
        for words in filter(None, mounts):
            kind = words.index("-") + 1
            if words[kind] == "cgroup" and "net_cls" in words[kind + 2].split(",") and words[4] != MOUNT:
                return False
        names = (name for name in self._host.list(MOUNT) if os.path.isdir(f"{MOUNT}/{name}"))
        return any(name != os.path.basename(PARENT) for name in names)


def _take_back(undo: List[Callable[[], None]]) -> str:
    failed = []
    for step in reversed(undo):
        try:
            step()
        except HostError as error:
            failed.append(str(error))
    return f"what was changed before could not be put back: {'; '.join(failed)}" if failed else "nothing was changed"


def _folder(name: Optional[str]) -> str:
    """Where the processes of one of our cgroups are, or those without one."""
    return MOUNT if name is None else f"{PARENT}/{name}"


def _rmdir(folder: str) -> None:
    """Remove a cgroup, unless somebody else has something in it. Raises HostError."""
    try:
        os.rmdir(folder)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EBUSY, errno.ENOTEMPTY):
            raise HostError(f"can't remove the cgroup {folder}: {error.strerror}") from error


def _release() -> Tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)


def converge(host: Host, params: Mapping[str, Any], *, check_mode: bool, diff: bool) -> Tuple[Dict[str, Any], Sequence[str]]:
    """Carry out a task, or in check mode plan it. Raises PortFenceError.

    :return: what the module returns, and warnings.
    """
    wanted, problems = parse_list(params["cgroups"], state=params["state"])
    if problems:
        raise InputError(what="cgroup_classid", problems=problems)
    cgroups = Cgroups(host=host)
    if check_mode:
        read = host.read_units(check_mode=True)
        facts, plan = _plan(cgroups, wanted, purge=params["purge"])
    else:
        try:
            with host.change_lock():
                read = host.read_units()
                facts, plan = _plan(cgroups, wanted, purge=params["purge"])
                if plan.changed:
                    cgroups.apply(plan, facts)
            # The unit takes the lock.
            cgroups.start(plan)
        except HostError as error:
            if cgroups.begun is None:
                raise
            raise HalfDone(str(error), previous=_previous(cgroups.begun)) from error
    result = _report(plan, facts, diff=diff)
    return {**result, "changed": result["changed"] or bool(read)}, plan.warnings


def _plan(cgroups: Cgroups, wanted: Sequence[Wanted], *, purge: bool) -> Tuple[Facts, Plan]:
    before = _before(cgroups, wanted, purge=purge)
    after, problems = merge(before, wanted, purge=purge)
    facts = cgroups.facts(before, after, [pid for item in wanted for pid in item.pids])
    more, warnings = check(facts, after, wanted)
    if problems or more:
        raise InputError(what="cgroup_classid", problems=[*problems, *more])
    cgroups.check_owners(facts)
    return facts, make_plan(facts, before, after, wanted, warnings, purge=purge)


def _before(cgroups: Cgroups, wanted: Sequence[Wanted], *, purge: bool) -> Dict[str, Cgroup]:
    """The cgroups that the task starts from. Raises HostError.

    Whoever takes all of them away need not be able to read the record, nor have one.
    """
    if not purge or any(item.present for item in wanted):
        return cgroups.record()
    try:
        record = cgroups.record()
    except HostError:
        record = {}
    return {**cgroups.unrecorded(record), **record}


def _report(plan: Plan, facts: Facts, *, diff: bool) -> Dict[str, Any]:
    result: Dict[str, Any] = {
        "changed": plan.changed,
        "mount": MOUNT if plan.after else None,
        "cgroups": [{**_shown(item), "path": item.path} for _name, item in sorted(plan.after.items())],
        "previous": _previous(plan),
    }
    if diff:
        result["diff"] = {
            "before": describe(plan.before, facts=facts, plan=plan, done=False),
            "after": describe(plan.after, facts=facts, plan=plan, done=True),
        }
    return result


def _previous(plan: Plan) -> Dict[str, Any]:
    return {"cgroups": [_shown(item) for _name, item in sorted(plan.before.items())]}


def _shown(item: Cgroup) -> Dict[str, Any]:
    return {"name": item.name, "classid": format_classid(item.classid), "units": list(item.units)}
