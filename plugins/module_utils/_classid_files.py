# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that keep cgroups of net_cls over a reboot, and units in them over a restart: their places and texts. Pure.

How a unit gets in. A process has the net_cls cgroup of its parent, and the parent of a unit's main process is PID 1, so
somebody has to move the process after it was forked and before it runs the service's program. A command in ExecStartPre=
is another process; one in ExecStartPost= comes when packets may be out already. A launcher in front of ExecStart= is in
time, but needs a copy of the command, which the next update of the package makes wrong, and needs cgroup.procs open
for the service's account, all of whose processes could take the identity then; inside a strict sandbox it can't write.

So the drop-in gives the unit a PAM session: systemd opens it in the very process that becomes the service, with all
rights and before the sandbox is built (setup_pam() in exec_child(), systemd.exec(5): PAMName=), and pam_exec(8) runs the
script below as a child of it, which moves its parent. cgroup.procs stays root's. If the script fails, the session does, and
systemd ends the process with status 224 (PAM) instead of running the program. Measured with systemd 247, 252 and 257.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Mapping, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._boot_lock import locked
from ansible_collections.portfence.egress.plugins.module_utils._classid import format_classid, parse_classid
from ansible_collections.portfence.egress.plugins.module_utils._store import BASE, RUN

MOUNT = f"{RUN}/net_cls"
PARENT = f"{MOUNT}/portfence"
RECORD = f"{BASE}/classids"
SCRIPT = f"{BASE}/classid.sh"
SYSTEM = "/etc/systemd/system"
UNIT = "portfence-classid.service"
UNIT_PATH = f"{SYSTEM}/{UNIT}"
WANTS = f"{SYSTEM}/sysinit.target.wants"
LINK = f"{WANTS}/{UNIT}"
PAM = "/etc/pam.d"
PAM_PREFIX = "portfence-0x"
DROP_IN = "50-portfence-classid.conf"

HEADER = "# Written by the Ansible collection portfence.egress. Changes are overwritten.\n"


@dataclass(frozen=True)
class Cgroup:
    """One cgroup as the record has it. :ivar units: sorted names of the units whose processes belong in it."""

    name: str
    classid: int
    units: Tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Its directory."""
        return f"{PARENT}/{self.name}"

    @property
    def pam_name(self) -> str:
        """The PAM service that puts a process in. libpam folds names to lower case, so it is called by the classid."""
        return f"portfence-{format_classid(self.classid)}"


def drop_in_path(unit: str) -> str:
    """The drop-in file of a unit."""
    return f"{SYSTEM}/{unit}.d/{DROP_IN}"


def format_record(cgroups: Mapping[str, Cgroup]) -> str:
    """The text of the record: a line for each cgroup, with name, classid and units."""
    lines = [" ".join([item.name, format_classid(item.classid), *item.units]) for _name, item in sorted(cgroups.items())]
    return HEADER + "".join(f"{line}\n" for line in lines)


def parse_record(text: str) -> Dict[str, Cgroup]:
    """The cgroups in the text of the record, by name. Raises ValueError with the line that can't be read."""
    found: Dict[str, Cgroup] = {}
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            name, classid = words[0], parse_classid(words[1])
        except (IndexError, ValueError) as error:
            raise ValueError(f"line {number} is not NAME CLASSID UNIT…; mend or remove the file") from error
        found[name] = Cgroup(name, classid, tuple(words[2:]))
    return found


def files_of(cgroups: Mapping[str, Cgroup], drop_ins: Mapping[str, str]) -> Dict[str, str]:
    """All files that belong to these cgroups, by path; none without cgroups.

    :param drop_ins: text of the drop-in by unit.
    """
    if not cgroups:
        return {}
    files = {RECORD: format_record(cgroups), SCRIPT: _SCRIPT, UNIT_PATH: _UNIT}
    for item in cgroups.values():
        files[f"{PAM}/{item.pam_name}"] = _pam_text(item)
    files.update({drop_in_path(unit): text for unit, text in drop_ins.items()})
    return files


def drop_in_text(cgroup: Cgroup, *, as_root: bool) -> str:
    """The drop-in of a unit.

    :param as_root: the unit has no User=, without which systemd opens no PAM session.
    """
    user = "# The unit has no User= of its own, without which there is no PAM session.\nUser=root\n" if as_root else ""
    return (
        f"{HEADER}\n[Unit]\nWants={UNIT}\nAfter={UNIT}\n"
        f"# Without its file libpam takes that of other, which puts nothing in.\nAssertPathExists={PAM}/{cgroup.pam_name}\n\n[Service]\n"
        f"# The session puts the main process into the cgroup {cgroup.name} of net_cls before it runs anything.\n"
        f"PAMName={cgroup.pam_name}\n{user}"
    )


def value_of(texts: List[str], key: str) -> str:
    """What unit files say of a setting in [Service] that has one value; the last one counts, as in systemd.unit(5)."""
    value = ""
    for text in texts:
        section = ""
        for line in text.split("\n"):
            line = line.strip()
            if line.startswith("["):
                section = line
            name, equals, given = line.partition("=")
            if section == "[Service]" and equals and name.strip() == key:
                value = given.strip()
    return value


def _pam_text(cgroup: Cgroup) -> str:
    """Nobody can log in with it: systemd asks for the session alone (and ignores that pam_setcred() fails)."""
    return f"""{HEADER}# Puts a process into the cgroup {cgroup.name} of net_cls, or fails: for PAMName= of systemd units.
auth     required pam_deny.so
account  required pam_permit.so
password required pam_deny.so
session  required pam_exec.so quiet type=open_session /bin/sh {SCRIPT} join {cgroup.name} {format_classid(cgroup.classid)}
"""


# Before every ordinary service, like the fence.
_UNIT = f"""{HEADER}
[Unit]
Description=Cgroups of net_cls for the source port fence
Documentation=https://github.com/portfence/portfence.egress
DefaultDependencies=no
RequiresMountsFor={RECORD}
After=local-fs.target
Before=sysinit.target network-pre.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={locked(f"exec /bin/sh {SCRIPT} up")}
ExecReload={locked(f"exec /bin/sh {SCRIPT} up")}

[Install]
WantedBy=sysinit.target
"""

# Controllers of one v1 hierarchy can only be mounted together, and a hierarchy that is mounted elsewhere shows the same
# cgroups at a second place (cgroup1_root_to_use()). So ours is always there, under one name, whatever others mount and unmount.
# A missing mount must never be taken for a directory where anything can be written: hence the looks at net_cls.classid.
_SCRIPT = f"""#!/bin/sh
{HEADER}#
# up: mount net_cls, and make every cgroup of the record with its classid.
# join NAME CLASSID: put the parent of this process into the cgroup NAME, or fail. For pam_exec(8).

set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
root={MOUNT}
record={RECORD}
verb=${{1-}}

fail() {{
    echo "portfence-classid: $*" >&2
    [ "$verb" != join ] || logger -t portfence-classid -p daemon.err -- "$*" || :
    exit 1
}}

# net_cls, and the controllers that share its hierarchy.
controllers() {{
    shared=
    while read -r name hierarchy _; do
        [ "$name" != net_cls ] || shared=$hierarchy
    done </proc/cgroups
    [ -n "$shared" ] || fail "this kernel has no net_cls"
    list=net_cls
    while [ "$shared" != 0 ] && read -r name hierarchy _; do
        [ "$hierarchy" != "$shared" ] || [ "$name" = net_cls ] || list=$list,$name
    done </proc/cgroups
    echo "$list"
}}

# The cgroup $1 with the classid $2.
ensure() {{
    folder=$root/portfence/$1
    [ -e "$root/net_cls.classid" ] || fail "net_cls is not mounted at $root"
    mkdir -p "$folder" || fail "can't make $folder"
    read -r live <"$folder/net_cls.classid" || fail "can't read $folder/net_cls.classid"
    [ "$((live))" -eq "$(($2))" ] || echo "$2" >"$folder/net_cls.classid" || fail "can't give $folder the classid $2"
}}

case $verb in
up)
    if [ ! -e "$root/net_cls.classid" ]; then
        options=$(controllers)
        mkdir -p "$root"
        mount -t cgroup -o "nosuid,nodev,noexec,$options" portfence "$root" || fail "can't mount net_cls at $root"
    fi
    while read -r name classid _; do
        case $name in '' | '#'*) continue ;; esac
        ensure "$name" "$classid"
    done <"$record"
    ;;
join)
    ensure "$2" "$3"
    echo "$PPID" >"$folder/cgroup.procs" || fail "can't put process $PPID into $folder"
    while IFS=: read -r _ list path; do
        case ,$list, in *,net_cls,*) [ "$path" != "/portfence/$2" ] || exit 0 ;; esac
    done <"/proc/$PPID/cgroup"
    fail "process $PPID is not in $folder"
    ;;
*)
    fail "usage: up | join NAME CLASSID"
    ;;
esac
"""
