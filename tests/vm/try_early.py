# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""try_early.py UID PORT…: before the machine has a network, make one, and let an account send from each port.

Prints a line for each port and protocol: the name of the error, or "sent".
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys

PEER = "192.0.2.1"


def attempt(kind: socket.SocketKind, port: int) -> str:
    """What became of it."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.setblocking(False)
        sock.bind(("", port))
        try:
            sock.connect((PEER, 7000))
            if kind == socket.SOCK_DGRAM:
                sock.send(b"anybody there?")
        except BlockingIOError:
            return "sent"
        except OSError as error:
            return errno.errorcode[error.errno or 0]
    return "sent"


for command in (
    "link add early type dummy",
    "addr add 192.0.2.2/24 dev early",
    "link set early up",
    f"neigh replace {PEER} lladdr 02:00:00:00:00:01 dev early nud permanent",
):
    subprocess.run(["ip", *command.split()], check=True)
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
for number in map(int, sys.argv[2:]):
    for name, protocol in (("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)):
        print(f"{name} {number}: {attempt(protocol, number)}", flush=True)
