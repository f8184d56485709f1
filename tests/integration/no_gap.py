# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in a lab, for test_no_gap.py.

no_gap.py apply COUNT BACKEND   gives the host policies of standard input (a list of lists of services), one after the other, COUNT times.
no_gap.py press STOP LOW HIGH   as the account that calls it, opens connections and sends datagrams from these ports, which it must not use, and
                                from ports of the kernel's choice, until the file STOP is there. Datagrams also come from sockets that stay.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import socket
import sys
from contextlib import suppress
from typing import Tuple

PEER = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8:0:1::1"}
# Ports that no policy of the test allows.
OUTSIDE = range(40000, 45000)
# What a fence says.
_NO = (errno.EPERM, errno.ECONNREFUSED)
# A port whose last connection to the peer is not over yet can't be used again, nor one that the kernel has given to somebody meanwhile.
_TAKEN = (errno.EADDRNOTAVAIL, errno.EADDRINUSE)


def apply(count: int, backend: str) -> None:
    """Every policy that comes is another than the one in force."""
    from ansible_collections.portfence.egress.plugins.module_utils._apply import FenceOfHost, Request
    from ansible_collections.portfence.egress.plugins.module_utils._host import Host
    from ansible_collections.portfence.egress.plugins.module_utils._names import lookup_on
    from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_list

    policies = json.load(sys.stdin)
    for number, services in zip(range(count), itertools.cycle(policies)):
        fence = FenceOfHost(host=Host(), lookup=lookup_on(Host()), admin_uids={}, backend=backend)
        outcome = fence.apply(Request(services=parse_list(services), purge=True), check_mode=False, diff=False)
        assert outcome.changes, f"change {number} changed nothing"
    print(count)


def press(stop: str, low: int, high: int) -> None:
    """Prints how often it tried, and how often the fence said no at once."""
    tried = refused = 0
    staying = [_Staying(family, low + number) for number in range(10) for family in PEER]
    for port in itertools.cycle(range(low, high + 1)):
        for family, kind, source in itertools.product(PEER, (socket.SOCK_STREAM, socket.SOCK_DGRAM), (port, 0)):
            tried += 1
            refused += _try(family, kind, source)
        if port % 50 == 0:
            tried += len(staying)
            refused += sum(sock.try_again() for sock in staying)
            if os.path.exists(stop):
                break
    print(json.dumps({"tried": tried, "refused": refused}))


class _Staying:
    """A socket for datagrams that stays bound and connected, unless it may not be."""

    def __init__(self, family: socket.AddressFamily, port: int) -> None:
        self._sock = socket.socket(family, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(PermissionError):
            self._sock.bind(("", port))
            self._sock.connect((PEER[family], 7000))

    def try_again(self) -> int:
        """How often the fence said no."""
        try:
            self._sock.send(b"anybody there?")
        except OSError as error:
            if error.errno not in (*_NO, *_TAKEN, errno.EDESTADDRREQ):
                raise
            return int(error.errno in _NO)
        return 0


def _try(family: socket.AddressFamily, kind: socket.SocketKind, port: int) -> int:
    with socket.socket(family, kind) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        where: Tuple[str, int] = (PEER[family], 7000)
        try:
            if port:
                sock.bind(("", port))
            sock.connect(where)
            if kind == socket.SOCK_DGRAM:
                sock.send(b"anybody there?")
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno not in (*_NO, *_TAKEN):
                raise
            return int(error.errno in _NO)
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "apply":
        apply(int(sys.argv[2]), sys.argv[3])
    else:
        press(sys.argv[2], *map(int, sys.argv[3:]))
