# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers every connection and every datagram with the source port that it sees.

This is the peer of a port probe. It is also a program of its own, for a machine that probed hosts take as target;
it needs Python 3.9 or newer, nothing else, and no privileges::

    python3 portfence_responder.py --ports 40000-40063

Protocol: over TCP, the source port in decimal digits and a newline, then the connection is closed; over UDP, the same
text in answer to each datagram that is at least as long as the answer.
"""

from __future__ import annotations

import selectors
import socket
import sys
from typing import Dict, List, Sequence

FAMILIES: Dict[str, socket.AddressFamily] = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
_ANY = {"ipv4": "0.0.0.0", "ipv6": "::"}
_BACKLOG = 256


def answer(port: int) -> bytes:
    """What the responder says to a client that came from this port."""
    return b"%d\n" % port


class Responder:
    """TCP and UDP sockets on all addresses, for some ports and families."""

    def __init__(self, *, selector: selectors.BaseSelector, families: Sequence[str], ports: Sequence[int]) -> None:
        """Open the sockets, and register each with a function to call when it is readable. Raises OSError."""
        self._sockets: List[socket.socket] = []
        for family in families:
            for port in ports:
                for kind, serve in ((socket.SOCK_STREAM, _accept), (socket.SOCK_DGRAM, _reply)):
                    sock = socket.socket(FAMILIES[family], kind)
                    self._sockets.append(sock)
                    sock.setblocking(False)
                    if family == "ipv6":
                        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    if kind == socket.SOCK_STREAM:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    sock.bind((_ANY[family], port))
                    if kind == socket.SOCK_STREAM:
                        sock.listen(_BACKLOG)
                    selector.register(sock, selectors.EVENT_READ, serve)

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets:
            sock.close()


def _accept(listener: socket.socket) -> None:
    while True:
        try:
            connection, address = listener.accept()
        except OSError:
            return  # nobody left who waits
        with connection:
            try:
                connection.send(answer(address[1]))
            except OSError:
                pass  # the client has gone already


def _reply(sock: socket.socket) -> None:
    while True:
        try:
            data, address = sock.recvfrom(2048)
            text = answer(address[1])
            # Never more than came in, so that a forged sender gains nothing.
            if len(data) >= len(text):
                sock.sendto(text, address)
        except BlockingIOError:
            return
        except OSError:
            pass  # an ICMP error for an earlier answer, or a full send buffer


def main() -> None:
    """Run on the command line until interrupted."""
    import argparse

    parser = argparse.ArgumentParser(description="Answers TCP and UDP clients with the source port that it sees.")
    parser.add_argument("--ports", default="40000-40063", help="a port or a range of ports (default: %(default)s)")
    low, _dash, high = parser.parse_args().ports.partition("-")
    try:
        ports = range(int(low), int(high or low) + 1)
        if not 1 <= ports.start < ports.stop <= 65536:
            raise ValueError
    except ValueError:
        parser.error("--ports takes 40000 or 40000-40063")
    selector = selectors.DefaultSelector()
    families = [family for family in FAMILIES if family == "ipv4" or socket.has_dualstack_ipv6()]
    try:
        responder = Responder(selector=selector, families=families, ports=ports)
    except OSError as error:
        parser.exit(1, f"can't listen: {error.strerror}\n")
    sys.stdout.write(f"answering on the ports {ports.start} to {ports.stop - 1}, TCP and UDP, {' and '.join(families)}\n")
    sys.stdout.flush()
    try:
        while True:
            for key, _events in selector.select():
                key.data(key.fileobj)
    except KeyboardInterrupt:
        responder.close()


if __name__ == "__main__":
    main()
