# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file that gives the host its fence at boot: a shell script that holds the rules of both families. Pure.

Rules alone would not do: loaded over themselves, as by a reload of the unit, they would add a second jump and take the
counts away. One file holds both families, so that a crash leaves the old fence or the new one, whole.
"""

from __future__ import annotations

from ansible_collections.portfence.egress.plugins.module_utils._iptables import (
    CHAIN,
    EVENTS,
    KINDS,
    LOOPBACK,
    MARKER,
    Fence,
)
from ansible_collections.portfence.egress.plugins.module_utils._store import PROBE_COUNTS_FILE

_END = "END_OF_RULES"
_HEAD = """# The fence of this host: which source ports its services may use for outbound connections.
# Written by the Ansible collection portfence.egress, run by portfence.service. Changes are overwritten.

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL

# Reads what iptables-save prints, then the rules of the fence. Prints the rules together with what has to go: older
# jumps, and chains that are no longer needed. Chains that hold counts stay. Where one is missing, counts begin anew: then
# what probes have made the fence count is forgotten.
merge='
function ours(name) { return name ~ /^(@CHAIN@|@LOOPBACK@|@MARKER@)$/ || name ~ /^pf-(@KINDS@)-/ }
function counts(name) { return name ~ /^pf-(@EVENTS@)-/ }
function stale(command,    key, part) {
    for (key in live) {
        split(key, part, " ")
        if (part[1] == table && !(key in wanted)) print command, part[2]
    }
}
$0 == "@END@" { fence = 1; next }
/^\\*/ { table = substr($0, 2); known[table] }
fence && /^\\*/ { done[table] }
!fence && /^:/ && ours(substr($1, 2)) { live[table " " substr($1, 2)] }
!fence && /^-A / {
    if (ours($2)) { gsub(/"/, ""); rules[table " " $2] = rules[table " " $2] $0 "\\n"; next }
    for (i = 3; i < NF; i++) if (($i == "-j" || $i == "-g") && ours($(i + 1))) jumps[table] = jumps[table] "-D " substr($0, 4) "\\n"
}
!fence { next }
/^:/ {
    key = table " " substr($1, 2)
    wanted[key]
    if (counts(substr($1, 2))) {
        if (key in live) next
        anew = 1
    }
}
/^-A / && counts($2) && ((table " " $2) in live) {
    if (rules[table " " $2] == $0 "\\n") next
    print "-F", $2
}
/^-I / { printf "%s", jumps[table] }
/^COMMIT/ { stale("-F"); stale("-X") }
{ print }
END {
    if (anew) system("rm -f @PROBES@")
    for (table in known) if (!(table in done)) {
        print "*" table
        printf "%s", jumps[table]
        stale("-F")
        stale("-X")
        print "COMMIT"
    }
}
'

load() {
    kernel=$("$1-save") || exit
    rules=$({ printf '%s\\n@END@\\n' "$kernel"; cat; } | awk "$merge") || exit
    printf '%s\\n' "$rules" | "$1-restore" --noflush --wait=60 || exit
}
"""


def boot_text(fence: Fence) -> str:
    """The script, for ``/bin/sh``."""
    head = _HEAD
    for name, value in (
        ("CHAIN", CHAIN),
        ("LOOPBACK", LOOPBACK),
        ("MARKER", MARKER),
        ("PROBES", PROBE_COUNTS_FILE),
        ("KINDS", "|".join(KINDS)),
        ("EVENTS", "|".join(EVENTS)),
        ("END", _END),
    ):
        head = head.replace(f"@{name}@", value)
    loads = (
        f"\nload {program} <<'{_END}'\n{fence.rules(family)}{_END}\n"
        for family, program in ((4, "iptables"), (6, "ip6tables"))
    )
    return head + "".join(loads)
