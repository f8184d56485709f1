# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""wire.py: connects over the only network of this host, and complains about every port that breaks the policy of molecule.yml.

Where there is a container, it has to get out as well: forwarded traffic is not ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import List

PEER = {4: "203.0.113.2", 6: "2001:db8:1::2"}
WAYS = [(protocol, family) for protocol in ("tcp", "udp") for family in (4, 6)]
MYAPP = range(50000, 51000)


def connect(prefix: List[str], protocol: str, family: int, port: int, bind: int = 0) -> dict:
    """Let connect.py ask the peer once."""
    command = [*prefix, "/usr/bin/python3", "/usr/local/lib/test-host/connect.py", protocol, PEER[family], str(port)]
    done = subprocess.run([*command, str(bind)], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def main() -> None:
    """Try every way of every account."""
    wrong = []

    def expect(what: str, outcome: dict, good: bool) -> None:
        if not good:
            wrong.append(f"{what}: {outcome}")

    myapp, otel, nobody = (["runuser", "-u", name, "--"] for name in ("myapp", "otel", "nobody"))
    for protocol, family in WAYS:
        way = f"{protocol} over IPv{family}"
        outcome = connect(myapp, protocol, family, 9000)
        expect(f"myapp, {way}", outcome, outcome["seen"] in MYAPP)
        outcome = connect(otel, protocol, family, 9001, 52999)
        expect(f"otel from its port 52999, {way}", outcome, outcome["seen"] == 52999)
        outcome = connect(otel, protocol, family, 9001, 40002)
        expect(f"otel from 40002, {way}", outcome, outcome == {"seen": None, "error": {"tcp": "ECONNREFUSED", "udp": "EPERM"}[protocol]})
        outcome = connect(nobody, protocol, family, 9000)
        expect(f"nobody, {way}", outcome, outcome["seen"] is not None and outcome["seen"] not in MYAPP)
    if os.path.exists("/run/netns/box"):
        for protocol in ("tcp", "udp"):
            outcome = connect(["ip", "netns", "exec", "box"], protocol, 4, 9000)
            expect(f"the container, {protocol}", outcome, outcome["seen"] is not None)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
