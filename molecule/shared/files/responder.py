# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""responder.py PORT…: answers every line (TCP) and every datagram (UDP), over IPv4 and IPv6, with the source port it came from.

Runs as a unit of Type=notify.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys


async def answer_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one TCP connection until the other side closes it."""
    port = writer.get_extra_info("peername")[1]
    while await reader.readline():
        writer.write(f"{port}\n".encode("ascii"))
        await writer.drain()
    writer.close()


class AnswerDatagrams(asyncio.DatagramProtocol):
    """Serve UDP."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the socket to answer with."""
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple) -> None:
        """Answer one datagram."""
        self.transport.sendto(f"{addr[1]}\n".encode("ascii"), addr)


async def main() -> None:
    """Listen on every address until stopped."""
    loop = asyncio.get_running_loop()
    servers = []
    for port in map(int, sys.argv[1:]):
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            sock = socket.socket(family, socket.SOCK_DGRAM)
            if family == socket.AF_INET6:
                # As asyncio does it for TCP: IPv4 has a socket of its own.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address, port))
            await loop.create_datagram_endpoint(AnswerDatagrams, sock=sock)
        servers.append(await asyncio.start_server(answer_lines, host=["0.0.0.0", "::"], port=port))
    # systemd (Type=notify) holds back what comes after this unit until here.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect(os.environ["NOTIFY_SOCKET"])
        notify.send(b"READY=1")
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main())
