# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What systemd says of units whose processes belong in a cgroup of net_cls, and whether the PAM session can put them in."""

from __future__ import annotations

import glob
import os
import re
from typing import Dict, List, Mapping, Optional, Sequence, Set, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._classid_files import DROP_IN, value_of
from ansible_collections.portfence.egress.plugins.module_utils._classid_plan import UnitFacts
from ansible_collections.portfence.egress.plugins.module_utils._folder import foreign_step
from ansible_collections.portfence.egress.plugins.module_utils._host import Host

_COMMANDS = ("ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost")
_PROPERTIES = (
    "Id,LoadState,FragmentPath,DropInPaths,User,DynamicUser,PAMName,ControlGroup,EnvironmentFiles,"
    + ",".join(f"{name}Ex" for name in _COMMANDS)
)
# Prefixes + and ! of systemd.service(5): neither opens a session. With !! (ambient) the kernel's ambient capabilities do.
_WITHOUT_SESSION = {"privileged", "no-setuid"}
_FLAGS = re.compile(r".* ; flags=([a-z -]*) ; start_time=")
_PF_EXITING = 0x4  # <linux/sched.h>
# A template is looked at as an instance that nobody has.
_EXAMPLE = "portfence-check"
_PAM_EXEC = ("/lib*/security/pam_exec.so", "/lib/*/security/pam_exec.so", "/usr/lib*/security/pam_exec.so", "/usr/lib/*/security/pam_exec.so")


def look(host: Host, units: Sequence[str]) -> Dict[str, UnitFacts]:
    """The facts of units, templates among them. Raises HostError."""
    if not units:
        return {}
    if not host.runs_systemd():
        return {unit: UnitFacts(problems=("needs systemd, which is not running here",)) for unit in units}
    problems = _session_problems(host)
    instances = {unit: _instances(host, unit) for unit in units}
    asked = {unit: unit.replace("@.", f"@{_EXAMPLE}.") for unit in units}
    names = sorted({*asked.values(), *(name for group in instances.values() for name in group)})
    shown = _show(host, names)
    processes = _processes(host)
    found = {}
    for unit in units:
        groups = [_one(shown[name], "ControlGroup") for name in (asked[unit], *instances[unit])]
        found[unit] = _facts(host, asked[unit], shown[asked[unit]], problems, _below(processes, groups))
    return found


def _session_problems(host: Host) -> Tuple[str, ...]:
    version = host.run(["systemctl", "--version"]).out
    if "+PAM" not in version.split():
        return ("can't be put in at every start: this systemd was built without PAM; give the processes in pids instead",)
    if not any(glob.glob(pattern) for pattern in _PAM_EXEC):
        return ("can't be put in at every start: there is no pam_exec.so; install the package libpam-modules (Debian) or pam",)
    return ()


def _instances(host: Host, unit: str) -> List[str]:
    if "@." not in unit:
        return []
    # Running or not, but known to systemd, which takes a backslash in a pattern for itself (FNM_NOESCAPE in strv_fnmatch()).
    pattern = unit.replace("@.", "@*.")
    listed = host.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "--full", pattern]).out
    return [line.split()[0] for line in listed.split("\n") if line.strip()]


def _show(host: Host, names: Sequence[str]) -> Dict[str, Dict[str, List[str]]]:
    """Properties by unit; systemctl prints a block for each, in the order in which they were named."""
    text = host.run(["systemctl", "show", f"--property={_PROPERTIES}", "--", *names]).out
    blocks = text.strip("\n").split("\n\n")
    found: Dict[str, Dict[str, List[str]]] = {}
    for name, block in zip(names, blocks):
        properties: Dict[str, List[str]] = {}
        for line in block.split("\n"):
            key, _equals, value = line.partition("=")
            properties.setdefault(key, []).append(value)
        found[name] = properties
    return found


def _one(properties: Mapping[str, List[str]], key: str) -> str:
    return properties.get(key, [""])[-1]


def _facts(
    host: Host, name: str, properties: Mapping[str, List[str]], problems: Tuple[str, ...], processes: Mapping[int, str]
) -> UnitFacts:
    state = _one(properties, "LoadState")
    if state != "loaded":
        return UnitFacts(problems=(f"can't be put in: systemd says that it is {state}",), processes=processes)
    if _one(properties, "Id") != name:
        return UnitFacts(problems=(f"is another name of {_one(properties, 'Id')}; give that one",), processes=processes)
    paths = [_one(properties, "FragmentPath"), *_one(properties, "DropInPaths").split()]
    texts = [host.read(path) or "" for path in paths if path and os.path.basename(path) != DROP_IN]
    pam_name = value_of(texts, "PAMName")
    found = list(problems)
    if pam_name:
        found.append(f"has a PAM session of its own (PAMName={pam_name}), and a unit can't have two; give its processes in pids")
    flags = {command: _flags(properties.get(f"{command}Ex", [])) for command in _COMMANDS}
    if flags["ExecStart"] & _WITHOUT_SESSION:
        found.append("starts its program with + or ! in ExecStart=, which opens no session; take the prefix away, or give its processes in pids")
    for entry in properties.get("EnvironmentFiles", []):
        why = _writable(entry.rpartition(" (")[0] or entry)
        if why:
            found.append(f"reads an EnvironmentFile= that root alone must be able to write, because a session's variables reach root: {why}")
    user = "dynamic" if _one(properties, "DynamicUser") == "yes" else value_of(texts, "User")
    return UnitFacts(
        problems=tuple(found),
        user=user,
        pam_name=_one(properties, "PAMName"),
        processes=processes,
        outside=tuple(command for command in _COMMANDS if command != "ExecStart" and flags[command] & _WITHOUT_SESSION),
    )


def _flags(commands: Sequence[str]) -> set[str]:
    found: Set[str] = set()
    for command in commands:
        match = _FLAGS.match(command)
        if match:
            found.update(match[1].split())
    return found


def _writable(path: str) -> Optional[str]:
    """Why somebody else than root can write to a file, create it, or put another one in its place; None when nobody can.

    pam_exec(8) hands the variables of the session to its program, and systemd hands those of the unit to the session.
    With LD_PRELOAD among them, whoever writes such a file is root.
    """
    step = foreign_step(path)
    if step:
        return step
    folder = os.path.dirname(os.path.realpath(path))
    return None if os.path.isdir(folder) else f"{folder} is not there, so nobody knows who will write to it"


def _processes(host: Host) -> Dict[int, Tuple[List[str], str]]:
    """The cgroups by which systemd knows each process, those of v2 and of its own v1 hierarchy, and the one of net_cls.

    All of a process at one moment (cgroups(7): /proc/[pid]/cgroup), so that what starts and ends meanwhile is not taken for
    something that is outside.
    """
    found: Dict[int, Tuple[List[str], str]] = {}
    for name in host.list("/proc"):
        if not name.isdigit():
            continue
        groups: List[str] = []
        net_cls = ""
        # A name can have any character in it but a line feed, and users give names to cgroups below their own.
        for line in filter(None, (host.read(f"/proc/{name}/cgroup") or "").split("\n")):
            _number, kind, path = line.split(":", 2)
            if kind in ("", "name=systemd"):
                groups.append(path)
            elif "net_cls" in kind.split(","):
                net_cls = path
        if not _is_exiting(host.read(f"/proc/{name}/stat")):
            found[int(name)] = groups, net_cls
    return found


def _is_exiting(stat_line: Optional[str]) -> bool:
    """Whether a process is on its way out: it sends nothing more, and v1 hierarchies show it in their root (proc_cgroup_show())."""
    # proc(5): the flags are the seventh field after the name, which can have any character in it.
    return stat_line is None or bool(int(stat_line.rpartition(")")[2].split()[6]) & _PF_EXITING)


def _below(processes: Mapping[int, Tuple[List[str], str]], groups: Sequence[str]) -> Dict[int, str]:
    """The processes of these cgroups of systemd and what is below them, each with its cgroup of net_cls."""
    roots = [group for group in groups if group not in ("", "/")]
    return {
        pid: net_cls
        for pid, (paths, net_cls) in sorted(processes.items())
        if any(path == root or path.startswith(f"{root}/") for path in paths for root in roots)
    }
