# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""wire.py: connects over the only network of this host, and complains about every port that breaks the policy of molecule.yml.

Where there is a container (a network namespace called box), it has to get out as well: forwarded traffic is not ours.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from typing import Dict, List, Tuple

PEER = {4: "203.0.113.2", 6: "2001:db8:1::2"}
WAYS = [(protocol, family) for protocol in ("tcp", "udp") for family in (4, 6)]
MYAPP = range(50000, 51000)
REFUSED = {"tcp": "ECONNREFUSED", "udp": "EPERM"}


def start(prefix: List[str], way: Tuple[str, int], bind: int = 0, user: str = "root") -> subprocess.Popen:
    """Let connect.py ask the peer once: on its port 9001, which nothing is translated to, if it binds."""
    protocol, family = way
    command = ["/usr/bin/python3", "-IS", "/usr/local/lib/test-host/connect.py", protocol, PEER[family], "9001" if bind else "9000", str(bind)]
    account = pwd.getpwnam(user)

    def become() -> None:
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)

    return subprocess.Popen([*prefix, *command], stdout=subprocess.PIPE, preexec_fn=become)


def main() -> None:
    """Try every way of every account, all at the same time."""
    running: Dict[Tuple[str, Tuple[str, int]], subprocess.Popen] = {}
    for way in WAYS:
        running["myapp", way] = start([], way, user="myapp")
        running["otel inside", way] = start([], way, 52999, user="otel")
        running["otel outside", way] = start([], way, 40002, user="otel")
        running["nobody", way] = start([], way, user="nobody")
        if os.path.exists("/run/netns/box") and way[1] == 4:
            running["container", way] = start(["ip", "netns", "exec", "box"], way)
    wrong = []
    for (who, way), process in running.items():
        outcome = json.loads(process.communicate()[0])
        seen = outcome["seen"]
        good = {
            "myapp": seen in MYAPP,
            "otel inside": seen == 52999,
            "otel outside": seen is None and outcome["error"] == REFUSED[way[0]],
            "nobody": seen is not None and seen not in MYAPP,
            "container": seen is not None,
        }
        if not good[who]:
            wrong.append(f"{who}, {way[0]} over IPv{way[1]}: {outcome}")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
