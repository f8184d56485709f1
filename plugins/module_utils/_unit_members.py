# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the fence keeps knowing the cgroups of units: the texts of a script, its list and drop-ins. Pure.

An element of a map of cgroups stands for a directory of the cgroup v2 file system, by its inode, and no longer matches
when systemd makes the directory anew, which it does whenever the unit starts. So the unit itself adds it, before any other
program of it runs: ``ExecCondition=`` comes before ``ExecStartPre=`` (systemd.service(5), since 243), in the cgroup of
the unit. A unit that can't be added does not start.

Its drop-in is there before the fence that knows the unit, and after it: in between, the unit has nothing to add, and starts as if it
had none.

``NFTSet=`` of systemd 255 is not used: it goes on when the element can't be added, and it knows sets only, of which each
service would need its own, and each packet a look into all of them.

A slice has no commands. It is started with the fence and can't be stopped by hand after that, so its cgroup stays.
"""

from __future__ import annotations

from typing import Dict, List, Mapping, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._boot_lock import PATH, take
from ansible_collections.portfence.egress.plugins.module_utils._nft_table import Member
from ansible_collections.portfence.egress.plugins.module_utils._service import Service

SCRIPT = "/etc/portfence/units.sh"
# Before each line of the list, which is a part of the file of the fence, so that a boot has both old or both new.
LISTED = "# unit: "
# Where the list was once.
OLD_LIST = "/etc/portfence/units.list"
# What the script hands to nft.
LOADED = "/run/portfence-units.nft"
# There while the kernel may have another fence than the file. A boot, which loads the file, empties /run.
LOADING = "/run/portfence-loading"
DROP_IN = "50-portfence.conf"
# nft looks cgroups up below this path and no other.
CGROUPS = "/sys/fs/cgroup"

_HEADER = "# Written by the Ansible collection portfence.egress. Changes are overwritten.\n"


def script_text(*, nft: str, fence_file: str, other_file: str, boot_unit: str) -> str:
    """The script that loads the fence along with the cgroups of units, and adds or removes that of one unit.

    :param nft: path of the nft program.
    :param other_file: the file of a fence that knows no units, of another backend.
    :param boot_unit: path of the unit that loads the fence at boot.
    """
    return f"""#!/bin/sh
{_HEADER}#
# units.sh load               the fence, with the cgroups that its units have now; for portfence.service, which holds the lock
# units.sh join UNIT PATTERN  called by a unit in its own cgroup, before its other programs: adds the cgroup to the fence, if that knows the unit
# units.sh leave UNIT         called by a unit that has stopped: takes the cgroup out again, unless a process stays in it
set -u
cgroups={CGROUPS}

# What becomes of the cgroups of the unit or units that $2 matches; $1 is "add" or "delete".
commands() {{
    sed -n 's/^{LISTED}//p' {fence_file} | while read -r map chain parent pattern; do
        # The pattern is one, and stays unquoted.
        case $2 in '' | $pattern) ;; *) continue ;; esac
        for folder in "$cgroups/$parent"/$pattern/; do
            [ -d "$folder" ] || continue
            name=${{folder%/}}
            name=${{name##*/}}
            [ -z "$2" ] || [ "$name" = "$2" ] || continue
            printf '%s element inet portfence %s {{ "%s" : jump %s }}\\n' "$1" "$map" "${{parent#.}}${{parent:+/}}$name" "$chain"
        done
    done | sed 's,"/,",'
}}

# Nobody else reads the list and the cgroups and changes the fence meanwhile.
lock() {{ {take(otherwise=f'echo "portfence: {PATH} is held by another program, or can not be opened" >&2; exit 255')}; }}

# No pipe: nft would act on half of the text if its writer were killed.
write() {{ {{ cat {fence_file} && commands add ''; }} >{LOADED}; }}

load() {{
    {nft} -f {LOADED}
    status=$?
    rm -f {LOADED}
    [ "$status" -ne 0 ] || rm -f {LOADING}
    return "$status"
}}

# Whether this host has no fence of nftables: nothing loads one at boot, and there is none. It is about to have its first one, or had its last.
none() {{
    [ ! -e {boot_unit} ] || {{ [ -e {other_file} ] && [ ! -e {fence_file} ]; }} || return
    tables=$({nft} list tables) || return
    case "$tables
" in *"table inet portfence
"*) return 1 ;; esac
}}

case $1 in
    load)
        if write; then
            load
            exit
        fi
        rm -f {LOADED}
        echo "portfence: can't write {LOADED}; the fence is loaded without the cgroups of units that run already" >&2
        exec {nft} -f {fence_file}
        ;;
    join)
        lock
        if none; then
            exit 0
        fi
        # A run did not get from the kernel to the file. What this one says is not for the fence of the other.
        if [ -e {LOADING} ] && ! {{ write && load; }}; then
            rm -f {LOADED}
            echo "portfence: the run that changed the fence did not end, and {fence_file} can't be loaded; run the play again" >&2
            exit 255
        fi
        # A drop-in that is there before its fence, or after it, has nothing to add: nobody else knows the unit either, such as by its template.
        list=$(sed -n 's/^{LISTED}//p' {fence_file}) || exit 255
        known=$(printf '%s\\n' "$list" | while read -r map chain parent pattern; do
            [ "$pattern" != "${{3-}}" ] || echo yes
            case $2 in $pattern) echo yes ;; esac
        done)
        [ -z "${{3-}}" ] || [ -n "$known" ] || exit 0
        text=$(commands add "$2")
        own=$(sed -n 's/^0:://p' /proc/self/cgroup)/
        case $text in
            *'{{ "'*) ;;
            *) echo "portfence: the fence knows no cgroup of $2; run the play again" >&2; exit 255 ;;
        esac
        path=${{text#*'{{ "'}}
        case $own in
            "/${{path%%'" '*}}/"*) ;;
            *) echo "portfence: $2 is in the cgroup $own, not in ${{path%%'" '*}} as the fence expects; run the play again" >&2; exit 255 ;;
        esac
        # systemd takes any other status for a condition that is not met, and keeps quiet about it.
        printf '%s\\n' "$text" | {nft} -f - || {{
            echo "portfence: the fence does not take $2, which may not start without it; see systemctl status portfence" >&2
            exit 255
        }}
        ;;
    leave)
        lock
        own=$(sed -n 's/^0:://p' /proc/self/cgroup)
        case $own in */.control) exit 0 ;; esac
        while read -r pid; do [ "$pid" = "$$" ] || others=$pid; done <"$cgroups$own/cgroup.procs"
        [ -z "${{others-}}" ] || exit 0
        commands delete "$2" | {nft} -f -
        ;;
esac
"""


def fence_text(fence: str, members: Sequence[Member]) -> str:
    """The file of the fence: its rules, and the list in comments."""
    return fence + "".join(f"{LISTED}{line}\n" for line in list_text(members).splitlines())


def list_text(members: Sequence[Member]) -> str:
    """What the script reads: map, chain, directory and a shell pattern for names in it, one member a line."""
    lines = [
        f"{member.map} {member.verdict.partition(' ')[2]} {member.place.parent or '.'} {_pattern(member)}"
        for member in members
    ]
    return "".join(f"{line}\n" for line in sorted(lines))


def _pattern(member: Member) -> str:
    unit = member.place.unit
    return unit.replace("@.service", "@?*.service") if member.place.is_template else unit


def drop_ins(members: Sequence[Member], walls: Mapping[str, str]) -> Dict[str, str]:
    """Path to text of every drop-in.

    :param walls: unit to further settings of its section, see :func:`socket_bind`.
    """
    texts: Dict[str, str] = {}
    patterns = {member.place.unit: _pattern(member) for member in members}
    for unit, pattern in sorted(patterns.items()):
        if unit.endswith(".slice"):
            wall = f"\n[Slice]\n{walls[unit]}" if unit in walls else ""
            texts[drop_in_path(unit)] = f"{_HEADER}\n[Unit]\nRefuseManualStop=yes\n{wall}"
        else:
            texts[drop_in_path(unit)] = f"""{_HEADER}
[Unit]
Wants=portfence.service
After=portfence.service

[Service]
ExecCondition=+/bin/sh {SCRIPT} join %n {pattern}
ExecStopPost=-+/bin/sh {SCRIPT} leave %n
{walls.get(unit, "")}"""
    if slices_of(members):
        texts[BEFORE_FENCE] = before_fence_text(slices_of(members))
    return texts


def before_fence_text(slices: Sequence[str]) -> str:
    """The drop-in by which slices are there before the fence is loaded at boot."""
    names = " ".join(slices)
    return f"{_HEADER}\n[Unit]\nWants={names}\nAfter={names}\n"


def slices_before_fence(text: str) -> List[str]:
    """The slices that such a drop-in names."""
    return [name for line in text.split("\n") if line.startswith("Wants=") for name in line.partition("=")[2].split()]


def drop_in_path(unit: str) -> str:
    """Where the drop-in of a unit is."""
    return f"/etc/systemd/system/{unit}.d/{DROP_IN}"


BEFORE_FENCE = drop_in_path("portfence.service")


def socket_bind(service: Service) -> str:
    """Settings that keep a unit from binding to any port but its own (systemd.resource-control(5), SocketBindAllow=, 249)."""
    if service.wall is None:
        return ""
    allowed = service.source_ports | service.wall
    return "".join(f"SocketBindAllow={part}\n" for part in allowed) + "SocketBindDeny=any\n"


def slices_of(members: Sequence[Member]) -> Tuple[str, ...]:
    """The slices among the units."""
    return tuple(sorted({member.place.unit for member in members if member.place.unit.endswith(".slice")}))
