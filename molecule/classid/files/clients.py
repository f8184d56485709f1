# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""clients.py FOLDER: a service of several programs. It asks the peer again and again which source ports it sees.

The first question of the main process is the first thing that it does. FOLDER/seen has the answers of the latest round as JSON;
null is no answer.
"""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

PEER = {4: "203.0.113.2", 6: "2001:db8:1::2"}
PORT = 9000


def ask() -> int | None:
    """Ask over TCP from this very process."""
    try:
        with socket.create_connection((PEER[4], PORT), timeout=5) as sock:
            sock.send(b"?\n")
            return int(sock.recv(64))
    except OSError:
        return None


def program(command: str) -> int | None:
    """Let another program ask."""
    lines = subprocess.run(["/bin/sh", "-c", command], stdout=subprocess.PIPE, encoding="ascii", check=False).stdout.split()
    return int(lines[0]) if lines else None


def main() -> None:
    """Ask, write, again."""
    first = ask()
    folder = pathlib.Path(sys.argv[1])
    connect = f"/usr/bin/python3 {pathlib.Path(__file__).with_name('connect.py')}"
    rounds = 0
    while True:
        seen: dict[str, int | None] = {"rounds": rounds, "first": first, "main": ask()}
        seen["nc"] = program(f"echo | nc -N -w 5 {PEER[4]} {PORT}")
        seen["curl"] = program(f"curl --silent --no-buffer --http0.9 --max-time 1 http://{PEER[4]}:{PORT}/")
        for protocol in ("tcp", "udp"):
            for family, address in PEER.items():
                answer = subprocess.run([*connect.split(), protocol, address, str(PORT)], stdout=subprocess.PIPE, encoding="ascii", check=True)
                seen[f"{protocol}{family}"] = json.loads(answer.stdout)["seen"]
        (folder / "new").write_text(json.dumps(seen), encoding="ascii")
        os.replace(folder / "new", folder / "seen")
        rounds += 1
        time.sleep(1)


if __name__ == "__main__":
    main()
