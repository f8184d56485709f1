# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets of connections, written as a capture by hand. Checksums are left out."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import List, Sequence

FIN, SYN, PSH, ACK = 1, 2, 8, 16
PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}
_ETHERNET = 1


def packet(source: str, destination: str, protocol: str, payload: bytes) -> bytes:
    """A frame (RFC 894, 2464) with a packet (RFC 791, 8200)."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, destination)
    number = PROTOCOLS[protocol]
    if family == socket.AF_INET6:
        return b"\x02" * 12 + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(payload), number, 64) + ends + payload
    return b"\x02" * 12 + b"\x08\x00" + struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, number, 0) + ends + payload


def segment(source: str, destination: str, ports: Sequence[int], flags: int, numbers: Sequence[int], data: bytes = b"") -> bytes:
    """One of TCP (RFC 9293), with sequence and acknowledgement numbers."""
    return packet(source, destination, "tcp", struct.pack("!HHIIBBHHH", *ports, *numbers, 0x50, flags, 65535, 0, 0) + data)


def connection(protocol: str, source: str, port: int, destination: str, *, to: int = 9000, opening: bool = True) -> List[bytes]:
    """All packets, from the first to the last.

    :param opening: without, the capture began in the middle, with an answer.
    """
    there, back = (source, destination, (port, to)), (destination, source, (to, port))
    if protocol == "udp":
        datagram = struct.pack("!HH", 9, 0) + b"x"
        packets = [packet(*way[:2], "udp", struct.pack("!HH", *way[2]) + datagram) for way in (there, back) * 2]
    elif protocol == "sctp":
        # INIT and INIT ACK (RFC 9260).
        packets = [
            packet(*way[:2], "sctp", struct.pack("!HHIIBBHIIHHI", *way[2], tag, 0, kind, 0, 20, 1, 65535, 1, 1, 1))
            for way, tag, kind in ((there, 0, 1), (back, 1, 2))
        ]
    else:
        packets = [
            segment(*there, SYN, (100, 0)),
            segment(*back, SYN | ACK, (500, 101)),
            segment(*there, ACK, (101, 501)),
            segment(*there, PSH | ACK, (101, 501), b"hello"),
            segment(*back, PSH | ACK, (501, 106), b"world"),
            segment(*there, PSH | ACK, (106, 506), b"again"),
            segment(*back, ACK, (506, 111)),
            segment(*there, FIN | ACK, (111, 506)),
            segment(*back, FIN | ACK, (506, 112)),
            segment(*there, ACK, (112, 507)),
        ]
    return packets if opening else packets[-6:]


def write(path: Path, packets: Sequence[bytes]) -> None:
    """A file in the classic format of libpcap, a millisecond between packets."""
    with path.open("wb") as file:
        file.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, _ETHERNET))
        for index, data in enumerate(packets):
            seconds, rest = divmod(index, 1000)
            file.write(struct.pack("=IIII", 1_790_000_000 + seconds, rest * 1000, len(data), len(data)) + data)
