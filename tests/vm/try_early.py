# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""try_early.py UID PORT…: before the machine has a network, make one, and let an account send from each port.

Prints a line for each port, protocol and family: "sent" when a packet with that source port left, else "held". Errors don't tell: a
client of TCP whose SYN was dropped waits.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Tuple

PEERS = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
PROTOCOLS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
ANY_PROTOCOL = 0x0003  # ETH_P_ALL in <linux/if_ether.h>
PATIENCE = 1.0  # seconds


def source(packet: bytes) -> Tuple[int, int, int]:
    """IP version, protocol and source port. A packet of IPv6 has no extension headers here."""
    version = packet[0] >> 4
    start, protocol = (40, packet[6]) if version == 6 else ((packet[0] & 15) * 4, packet[9])
    return version, protocol, int.from_bytes(packet[start : start + 2], "big")


def left(version: int, protocol: int, port: int) -> bool:
    """Whether the network device gets a packet from this port."""
    end = time.monotonic() + PATIENCE
    while select.select([wire], [], [], max(0.0, end - time.monotonic()))[0]:
        if source(wire.recv(128)) == (version, protocol, port):
            return True
    return False


def attempt(family: socket.AddressFamily, name: str, port: int) -> str:
    """What became of it."""
    kind, protocol = PROTOCOLS[name]
    with socket.socket(family, kind, protocol) as sock:
        sock.setblocking(False)
        sock.bind(("", port))
        with suppress(BlockingIOError, PermissionError):
            sock.connect((PEERS[family], 7000))
            if kind == socket.SOCK_DGRAM:
                sock.send(b"anybody there?")
        return "sent" if left(6 if family == socket.AF_INET6 else 4, protocol, port) else "held"


for command in (
    "link add early type dummy",
    "addr add 192.0.2.2/24 dev early",
    "addr add 2001:db8::2/64 dev early nodad",
    "link set early up",
    *(f"neigh replace {peer} lladdr 02:00:00:00:00:01 dev early nud permanent" for peer in PEERS.values()),
):
    subprocess.run(["ip", *command.split()], check=True)
# Packets on their way out are seen by a socket for every protocol only.
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ANY_PROTOCOL))
wire.bind(("early", ANY_PROTOCOL))
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
for number in map(int, sys.argv[2:]):
    for address_family in PEERS:
        for protocol_name in PROTOCOLS:
            told = attempt(address_family, protocol_name, number)
            print(f"{protocol_name} {number} over IPv{6 if address_family == socket.AF_INET6 else 4}: {told}", flush=True)
