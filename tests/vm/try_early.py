# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""try_early.py UID PORT…: before the machine has a network, make one, and let an account send from each port.

Prints a line for each port and protocol: "sent" when a packet with that source port left, else "held". Errors don't tell: a client
of TCP whose SYN was dropped waits.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from contextlib import suppress

PEER = "192.0.2.1"
ANY_PROTOCOL = 0x0003  # ETH_P_ALL in <linux/if_ether.h>
PATIENCE = 1.0  # seconds


def left(port: int, protocol: int) -> bool:
    """Whether the network device gets a packet from this port."""
    end = time.monotonic() + PATIENCE
    while select.select([wire], [], [], max(0.0, end - time.monotonic()))[0]:
        packet = wire.recv(128)
        start = (packet[0] & 15) * 4
        if packet[9] == protocol and int.from_bytes(packet[start : start + 2], "big") == port:
            return True
    return False


def attempt(kind: socket.SocketKind, protocol: int, port: int) -> str:
    """What became of it."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.setblocking(False)
        sock.bind(("", port))
        with suppress(BlockingIOError, PermissionError):
            sock.connect((PEER, 7000))
            if kind == socket.SOCK_DGRAM:
                sock.send(b"anybody there?")
        return "sent" if left(port, protocol) else "held"


for command in (
    "link add early type dummy",
    "addr add 192.0.2.2/24 dev early",
    "link set early up",
    f"neigh replace {PEER} lladdr 02:00:00:00:00:01 dev early nud permanent",
):
    subprocess.run(["ip", *command.split()], check=True)
# Packets on their way out are seen by a socket for every protocol only.
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ANY_PROTOCOL))
wire.bind(("early", ANY_PROTOCOL))
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
for number in map(int, sys.argv[2:]):
    print(f"tcp {number}: {attempt(socket.SOCK_STREAM, socket.IPPROTO_TCP, number)}", flush=True)
    print(f"udp {number}: {attempt(socket.SOCK_DGRAM, socket.IPPROTO_UDP, number)}", flush=True)
