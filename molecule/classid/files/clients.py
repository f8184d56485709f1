# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""clients.py FOLDER: a service of several programs, which ask the peer which source ports it sees.

The first question of the main process is the first thing that it does. FOLDER/seen has the answers of the latest round as JSON;
null is no answer. Whoever removes that file asks for another round.
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
    """Let another program ask, until its first answer."""
    with subprocess.Popen(command.split(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="ascii") as process:
        assert process.stdin and process.stdout
        process.stdin.write("?\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        process.kill()
    return int(answer) if answer else None


def main() -> None:
    """Ask, write, again on request."""
    first = ask()
    folder = pathlib.Path(sys.argv[1])
    answers = folder / "seen"
    connect = f"/usr/bin/python3 {pathlib.Path(__file__).with_name('connect.py')}"
    while True:
        if answers.exists():
            time.sleep(0.2)
            continue
        seen: dict[str, int | None] = {"first": first, "main": ask()}
        seen["nc"] = program(f"nc -w 5 {PEER[4]} {PORT}")
        seen["curl"] = program(f"curl --silent --no-buffer --http0.9 --max-time 5 http://{PEER[4]}:{PORT}/")
        for protocol in ("tcp", "udp"):
            for family, address in PEER.items():
                answer = subprocess.run([*connect.split(), protocol, address, str(PORT)], stdout=subprocess.PIPE, encoding="ascii", check=True)
                seen[f"{protocol}{family}"] = json.loads(answer.stdout)["seen"]
        (folder / "new").write_text(json.dumps(seen), encoding="ascii")
        os.replace(folder / "new", answers)


if __name__ == "__main__":
    main()
