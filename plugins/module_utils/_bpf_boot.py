# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the eBPF programs get into the kernel: a script that the module runs, and a unit that runs it at boot.

bpffs is empty after a boot. The script loads the object beside what is there, fills the maps, attaches the new programs
and only then detaches the old ones: at every moment one of the two gives ports, and a socket that has one keeps it.
"""

from __future__ import annotations

import os
from typing import Dict, List, Mapping

from ansible_collections.portfence.egress.plugins.module_utils._bpf import NAME_BYTES
from ansible_collections.portfence.egress.plugins.module_utils._boot_lock import locked, take
from ansible_collections.portfence.egress.plugins.module_utils._bpf_plan import (
    BATCH_NAME,
    DROP_IN,
    OBJECT_NAME,
    PINS,
    SCRIPT_PATH,
    UNIT,
    UNIT_LINK,
    UNIT_PATH,
    unit_present,
)
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._store import BASE
from ansible_collections.portfence.egress.plugins.module_utils._unit import FOLDER, WANTS

BPFFS = os.path.dirname(PINS)
MAPS = f"{PINS}/maps"
NEW_MAPS = f"{BPFFS}/portfence_new/maps"
# Name of a program in the kernel, 15 bytes at most → its hook, as bpftool calls it and as it is pinned.
HOOKS = {
    "portfence_conn4": "connect4",
    "portfence_conn6": "connect6",
    "portfence_bind4": "bind4",
    "portfence_bind6": "bind6",
}

# Of join and leave.
LOCK = "/run/portfence-bpf.lock"

_HEADER = "# Written by the Ansible collection portfence.egress. Changes are overwritten.\n"

# libbpf before 1.0 pins a program by its section (cgroup_connect4), later ones by its name (portfence_conn4).
# bpffs takes no names with a dot.
SCRIPT = f"""#!/bin/sh
{_HEADER}#
# bpf-load load FOLDER CGROUP: attach the programs of FOLDER to CGROUP in the place of those of ours that are there.
# bpf-load unload CGROUP: take ours away.
# bpf-load join CGROUP SERVICE: called by a unit in its own cgroup, below CGROUP: from now on it belongs to the service.
# bpf-load leave CGROUP: called by a unit that has stopped.
# The module holds the lock of join and leave while it changes the maps.
set -eu

now={PINS} new={PINS}_new old={PINS}_old

# Hook and id of every program of ours.
attached() {{
    shown=$(bpftool cgroup show "$cgroup")
    printf '%s\\n' "$shown" | while read -r id _type _flags name _rest; do
        case $name in
            portfence_conn[46]) echo "connect${{name#portfence_conn}} $id" ;;
            portfence_bind[46]) echo "bind${{name#portfence_bind}} $id" ;;
        esac
    done
}}

# Whether what is pinned is root's.
ours() {{ [ -O "$now" ] && [ ! -L "$now" ]; }}

detach() {{
    while read -r hook id; do
        bpftool cgroup detach "$cgroup" "$hook" id "$id"
    done
}}

load() {{
    grep -q ' {BPFFS} bpf ' /proc/self/mounts || mount -t bpf -o mode=0700 bpf {BPFFS}
    rm -rf "$new" "$old"
    # bpftool would take a folder that somebody else has made meanwhile, where bpffs is not root's alone.
    mkdir -m 700 "$new"
    bpftool prog loadall "$folder/{OBJECT_NAME}" "$new" pinmaps "$new/maps" >/dev/null
    for family in 4 6; do
        mv "$new"/*conn*"$family" "$new/connect$family"
        mv "$new"/*_bind"$family" "$new/bind$family"
    done
    bpftool batch file "$folder/{BATCH_NAME}" >/dev/null
    before=$(attached)
    for hook in connect4 connect6 bind4 bind6; do
        bpftool cgroup attach "$cgroup" "$hook" pinned "$new/$hook" multi
    done
    [ ! -e "$now" ] && [ ! -L "$now" ] || mv -T "$now" "$old"
    mv -T "$new" "$now"
    [ -z "$before" ] || printf '%s\\n' "$before" | detach
    rm -rf "$old"
}}

# Run commands of bpftool when nobody else changes the maps.
locked() {{
    {take(path=LOCK, otherwise="exit 1")}
    bpftool batch file - >/dev/null
}}

# Bytes of standard input as bpftool takes them.
bytes() {{ od -An -v -tu1 | tr '\\n' ' '; }}

# The id of the cgroup of this process, which is its inode, as the 8 bytes of a key.
key() {{
    own=$(sed -n 's/^0:://p' /proc/self/cgroup)
    id=$(stat -c %i "$cgroup${{own%/.control}}")
    for _byte in 1 2 3 4 5 6 7 8; do
        printf '%s ' "$((id % 256))"
        id=$((id / 256))
    done
}}

case $1 in
    load) folder=$2 cgroup=$3 && load ;;
    unload)
        cgroup=$2
        before=$(attached)
        [ -z "$before" ] || printf '%s\\n' "$before" | detach
        rm -rf "$now" "$new" "$old"
        ;;
    join)
        cgroup=$2
        ours || exit 0
        name=$({{ printf '%s' "$3"; head -c {NAME_BYTES} /dev/zero; }} | head -c {NAME_BYTES} | bytes)
        echo "map update pinned $now/maps/by_cgroup key $(key) value $name" | locked
        ;;
    leave)
        cgroup=$2
        ours || exit 0
        echo "map delete pinned $now/maps/by_cgroup key $(key)" | locked
        ;;
esac
"""


def unit_text(*, cgroup: str) -> str:
    """The unit file: before the network and every ordinary service, like the fence.

    :param cgroup: where cgroup v2 is mounted.
    """
    return f"""{_HEADER}
[Unit]
Description=Source ports that eBPF gives to services when they connect
Documentation=https://github.com/portfence/portfence.egress
DefaultDependencies=no
RequiresMountsFor={BASE}
After=local-fs.target sys-fs-bpf.mount
Before=sysinit.target network-pre.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={locked(f"exec /bin/sh {SCRIPT_PATH} load {BASE} {cgroup}")}

[Install]
WantedBy=sysinit.target
"""


def drop_ins(units: Mapping[str, str], *, cgroup: str) -> Dict[str, str]:
    """Path to text of the drop-ins by which units tell their cgroups, which are new ones whenever they start.

    A unit starts without that as well: the fence, which knows it by a drop-in of its own, rewrites its ports then.

    :param units: name of a unit → name of its service.
    """
    return {
        f"{FOLDER}/{unit}.d/{DROP_IN}": f"""{_HEADER}
[Unit]
After={UNIT}

[Service]
ExecStartPre=-+/bin/sh {SCRIPT_PATH} join {cgroup} {service}
ExecStopPost=-+/bin/sh {SCRIPT_PATH} leave {cgroup}
"""
        for unit, service in units.items()
    }


class BpfUnit:
    """The unit on this machine."""

    def __init__(self, *, host: Host, cgroup: str) -> None:
        self._host = host
        self._text = unit_text(cgroup=cgroup)

    def check_owner(self) -> None:
        """Raises HostError when somebody else wrote a unit of our name."""
        found = self._host.read(UNIT_PATH)
        if found is not None and not found.startswith(_HEADER):
            raise HostError(f"{UNIT_PATH} exists and was not written by this collection; rename or remove that unit")

    def missing(self) -> List[str]:
        """What has to be done so that the programs are loaded at boot, as a list for humans; empty when nothing."""
        found = []
        if self._host.read_own(UNIT_PATH) != self._text:
            found.append(f"write {UNIT_PATH}")
        if not self._enabled():
            found.append(f"enable {UNIT}")
        return found

    def install(self) -> None:
        """Write the unit and enable it. Its files must be in place. It is not started: the module has done its work."""
        self._host.write(UNIT_PATH, self._text)
        self._host.make_directory(WANTS)
        if not self._enabled():
            self._host.link(UNIT_LINK, f"../{UNIT}")
        self._host.read_units()

    def remove(self) -> None:
        """Disable the unit and take its file away, if it is there."""
        if not unit_present():
            return
        self._host.remove(UNIT_LINK)
        self._host.remove(UNIT_PATH)
        self._host.read_units()
        if self._host.runs_systemd():
            self._host.run(["systemctl", "reset-failed", UNIT], check=False)

    def _enabled(self) -> bool:
        return os.path.islink(UNIT_LINK) and os.path.realpath(UNIT_LINK) == UNIT_PATH
