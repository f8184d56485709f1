# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The eBPF programs of this machine: whether they work here, what is loaded, and the steps to what is wanted.

The fence stands behind them and translates what they leave, so that nothing is open while they are not there.
"""

from __future__ import annotations

import base64
import os
import signal
from dataclasses import replace
from typing import Dict, List, Mapping, Optional, Sequence, Tuple, Union

from ansible_collections.portfence.egress.plugins.module_utils import _bpf, _json
from ansible_collections.portfence.egress.plugins.module_utils._bpf_boot import BPFFS, HOOKS, LOCK, MAPS, NEW_MAPS, SCRIPT, BpfUnit, drop_ins
from ansible_collections.portfence.egress.plugins.module_utils._bpf_object import bpf_object
from ansible_collections.portfence.egress.plugins.module_utils._bpf_plan import (
    ASSIGNMENTS,
    BATCH_NAME,
    BATCH_PATH,
    FILES,
    OBJECT_NAME,
    OBJECT_PATH,
    PINS,
    SCRIPT_NAME,
    SCRIPT_PATH,
    BpfPlan,
    drop_ins_present,
    persisted,
)
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, KilledError, PortFenceError, Problem
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._program import failure
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Resolved
from ansible_collections.portfence.egress.plugins.module_utils._store import BASE, RUN

# Where cgroup v2 is mounted: on a host that has nothing else, and on one that has v1 as well.
_CGROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
# bpf_setsockopt() takes SO_REUSEADDR since Linux 6.1; 5.10 answers with an error that the program can't pass on.
_SHARES_SINCE = (6, 1)

# A mount namespace of its own goes away with the shell in it, and so do the programs. The object comes as base64.
_DRY_RUN = """set -e
mount -t tmpfs tmpfs /mnt
base64 -d >/mnt/bpf.o
mkdir /mnt/bpf
mount -t bpf bpf /mnt/bpf
"$1" prog loadall /mnt/bpf.o /mnt/bpf/programs pinmaps /mnt/bpf/maps >/dev/null
for program in /mnt/bpf/programs/*[46]; do
    "$1" -j prog show pinned "$program"
    echo
done
"""


class BpfOfHost:
    """The programs of this machine."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def complete(self, plan: BpfPlan, resolved: Sequence[Resolved], *, paths: Mapping[str, str], persist: bool) -> None:
        """Work out the steps of a plan; see :func:`_bpf_plan.plan_bpf`."""
        asking = [item for item in resolved if item.service.assignment in ASSIGNMENTS]
        plan.cgroup = self._cgroup() or plan.cgroup
        BpfUnit(host=self._host, cgroup=plan.cgroup).check_owner()
        served: List[Resolved] = []
        tags: Dict[str, str] = {}
        if asking:
            served, tags = self._serve(asking, plan, paths)
        if served:
            self._plan_load(served, tags, plan, persist=persist)
        else:
            self._plan_removal(plan, persist=persist)

    def run(self, plan: BpfPlan) -> None:
        """Do the steps of a plan; see :func:`_bpf_plan.run_bpf`."""
        if plan.remove_files:
            # First, so that a boot gives all of it or nothing.
            BpfUnit(host=self._host, cgroup=plan.cgroup).remove()
        if plan.unload:
            self._script("unload", plan.cgroup)
        if plan.load is not None:
            with self._host.lock(path=LOCK):
                self._load(plan.load, plan.served, plan.cgroup)
        if plan.update is not None:
            self._host.run([self._bpftool(), "batch", "file", "-"], data=_text(plan.update))
        if plan.batch_file is not None or plan.object_file or plan.script_file:
            self._host.make_directory(BASE)
        if plan.object_file:
            self._host.write(OBJECT_PATH, bpf_object())
        if plan.script_file:
            self._host.write(SCRIPT_PATH, SCRIPT)
        if plan.batch_file is not None:
            self._host.write(BATCH_PATH, plan.batch_file)
        self._run_drop_ins(plan)
        if plan.install_unit:
            BpfUnit(host=self._host, cgroup=plan.cgroup).install()
        if plan.remove_files:
            for path in FILES:
                for leftover in (path, f"{path}.portfence-new"):
                    self._host.remove(leftover)
            self._host.remove(LOCK)

    def _serve(
        self, asking: Sequence[Resolved], plan: BpfPlan, paths: Mapping[str, str]
    ) -> Tuple[List[Resolved], Dict[str, str]]:
        """The services that get bpf, and the tags that the kernel gives to the programs. Raises InputError."""
        here, tags = self._try()
        here = here or _bpf.too_many(asking)
        served: List[Resolved] = []
        problems: List[Problem] = []
        for item in asking:
            service = item.service
            why = here or _bpf.limit(service)
            if why is None and service.share_ports and _kernel() < _SHARES_SINCE:
                why = f"share_ports needs Linux 6.1, and this is {os.uname().release}"
            if why is None:
                plan.assignments[service.name] = "bpf"
                served.append(item)
            elif service.assignment == "auto":
                plan.assignments[service.name] = "rewrite"
                plan.fallbacks[service.name] = why
            else:
                message = f"eBPF can't assign ports to {service.name}: {why}; use assignment: rewrite, or auto"
                problems.append(Problem(f"{paths[service.name]}.assignment", message))
        if problems:
            raise InputError(what="the policy of this host", problems=problems)
        return served, tags

    def _plan_load(
        self, served: Sequence[Resolved], tags: Dict[str, str], plan: BpfPlan, *, persist: bool
    ) -> None:
        wanted = _bpf.maps_of(served, cgroups=self._cgroups(served, plan.cgroup))
        live, healthy = self._live(tags, plan.cgroup)
        if not healthy:
            plan.load, plan.served = wanted, served
            plan.changes.append(f"attach the eBPF programs to {plan.cgroup}")
        else:
            plan.update = _bpf.changes(live, wanted, folder=MAPS) or None
            if plan.update is not None:
                plan.changes.append("change the maps of the eBPF programs")
        if not persist:
            return
        batch = _text(_bpf.fill(replace(wanted, by_cgroup={}), folder=NEW_MAPS))
        if self._host.read_bytes(OBJECT_PATH) != bpf_object():
            plan.object_file = True
            plan.changes.append(f"write {OBJECT_PATH}")
        if self._host.read_own(SCRIPT_PATH) != SCRIPT:
            plan.script_file = True
            plan.changes.append(f"write {SCRIPT_PATH}")
        if self._host.read_own(BATCH_PATH) != batch:
            plan.batch_file = batch
            plan.changes.append(f"write {BATCH_PATH}")
        units = {unit: item.service.name for item in served for unit in item.service.units}
        self._plan_drop_ins(drop_ins(units, cgroup=plan.cgroup), plan)
        unit = BpfUnit(host=self._host, cgroup=plan.cgroup).missing()
        plan.install_unit = bool(unit)
        plan.changes.extend(unit)

    def _plan_drop_ins(self, wanted: Dict[str, str], plan: BpfPlan) -> None:
        for path in drop_ins_present():
            if path not in wanted:
                plan.drop_ins[path] = None
                plan.changes.append(f"remove {path}")
        for path, text in sorted(wanted.items()):
            if self._host.read_own(path) != text:
                plan.drop_ins[path] = text
                plan.changes.append(f"write {path}")

    def _run_drop_ins(self, plan: BpfPlan) -> None:
        for path, text in plan.drop_ins.items():
            if text is None:
                self._host.remove(path)
                self._host.remove_directory(os.path.dirname(path))
            else:
                self._host.make_directory(os.path.dirname(path))
                self._host.write(path, text)
        self._host.read_units()

    def _plan_removal(self, plan: BpfPlan, *, persist: bool) -> None:
        if os.path.lexists(PINS):
            plan.unload = True
            plan.changes.append("take the eBPF programs away")
        if persist and persisted():
            self._plan_drop_ins({}, plan)
            plan.remove_files = True
            plan.changes.append("remove what loads the eBPF programs at boot")

    @staticmethod
    def _cgroup() -> Optional[str]:
        return next((path for path in _CGROUPS if os.path.exists(f"{path}/cgroup.controllers")), None)

    def _cgroups(self, served: Sequence[Resolved], root: str) -> Dict[int, str]:
        """The cgroups that units of these services have now: their ids, each with the name of the service."""
        found: Dict[int, str] = {}
        for item in served:
            for place in item.units:
                folder = os.path.join(root, place.parent)
                for name in filter(place.matches, self._host.list(folder)):
                    try:
                        found[os.stat(os.path.join(folder, name)).st_ino] = item.service.name
                    except FileNotFoundError:
                        pass  # the unit has just stopped
        return found

    def _bpftool(self) -> str:
        return self._host.program("bpftool", package="bpftool")

    def _try(self) -> Tuple[Optional[str], Dict[str, str]]:
        """Load the programs where nobody else sees them: why they don't work here, or else the tag of each."""
        bpftool = self._host.find("bpftool")
        if bpftool is None:
            return "the program bpftool is missing (package bpftool)", {}
        if self._cgroup() is None:
            return f"cgroup v2 is mounted neither at {_CGROUPS[0]} nor at {_CGROUPS[1]}", {}
        if not os.path.isdir(BPFFS):
            return f"this kernel ({os.uname().release}) has no {BPFFS}", {}
        unshare = self._host.program("unshare", package="util-linux")
        result = self._host.run(
            [unshare, "--mount", "--propagation", "private", "/bin/sh", "-c", _DRY_RUN, "sh", bpftool],
            data=base64.b64encode(bpf_object()).decode("ascii"),
            check=False,
            killed=True,
        )
        # A crash (a bug of bpftool) tells something of this host.
        if result.rc == 128 + signal.SIGKILL:
            raise KilledError(failure(["bpftool"], result))
        if result.rc != 0:
            said = " ".join((result.err.strip() or result.out.strip()).split())[-600:]
            return f"this kernel ({os.uname().release}) does not take the programs: {said}", {}
        return None, _tags(result.out)

    def _live(self, tags: Dict[str, str], cgroup: str) -> Tuple[_bpf.Maps, bool]:
        """What the maps hold, and whether the programs are these, pinned and attached once, and nothing else of ours."""
        if self._host.danger(PINS) or not all(os.path.lexists(f"{PINS}/{hook}") for hook in HOOKS.values()):
            return _bpf.Maps(), False
        commands = [f"prog show pinned {PINS}/{hook}" for hook in HOOKS.values()]
        commands.extend(f"map dump pinned {MAPS}/{name}" for name in _bpf.NAMES)
        result = self._host.run([self._bpftool(), "-j", "batch", "file", "-"], data=_text(commands), check=False)
        outputs = _bpf.parse_outputs(result.out)
        if len(outputs) != len(commands):
            return _bpf.Maps(), False
        maps = _bpf.Maps(**dict(zip(_bpf.NAMES, map(_bpf.parse_dump, outputs[len(HOOKS) :]))))
        pinned = {HOOKS.get(program.get("name")): program for program in outputs[: len(HOOKS)]}
        shown = self._host.run([self._bpftool(), "-j", "cgroup", "show", cgroup]).out
        attached = sorted(_bpf.parse_attached(shown, HOOKS))
        same = {HOOKS[name]: tag for name, tag in tags.items()} == {hook: program.get("tag") for hook, program in pinned.items()}
        return maps, same and attached == sorted((str(hook), program.get("id")) for hook, program in pinned.items())

    def _load(self, wanted: _bpf.Maps, served: Sequence[Resolved], cgroup: str) -> None:
        # A unit that has started since the plan was made is in the old maps alone.
        now = _bpf.maps_of(served, cgroups=self._cgroups(served, cgroup)).by_cgroup
        batch = _bpf.fill(replace(wanted, by_cgroup=now), folder=NEW_MAPS)
        files = {OBJECT_NAME: bpf_object(), BATCH_NAME: _text(batch)}
        self._script("load", RUN, cgroup, files=files)

    def _script(self, *args: str, files: Optional[Mapping[str, Union[str, bytes]]] = None) -> None:
        """Run the script that boot runs, which need not have one; its files are gone afterwards."""
        written = {SCRIPT_NAME: SCRIPT, **(files or {})}
        self._host.make_directory(RUN)
        try:
            for name, content in written.items():
                self._host.write(f"{RUN}/{name}", content)
            self._host.run(["/bin/sh", f"{RUN}/{SCRIPT_NAME}", *args])
        finally:
            for name in written:
                self._host.remove(f"{RUN}/{name}")
            self._host.remove_directory(RUN)


def _tags(text: str) -> Dict[str, str]:
    try:
        programs = [_json.load(line) for line in text.split("\n") if line.strip()]
        return {program["name"]: program["tag"] for program in programs}
    except (ValueError, KeyError, TypeError) as error:
        raise PortFenceError(f"bpftool -j prog show printed something that is no program: {text[:200]!r}") from error


def _text(commands: Sequence[str]) -> str:
    return "".join(f"{command}\n" for command in commands)


def _kernel() -> Tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(char for char in minor if char.isdigit()) or 0)
