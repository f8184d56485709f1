# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attempts with other namespaces, programs, accounts and groups, and with what is older than the policy."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from typing import List, Tuple

from attempt import (
    ANY,
    FAMILIES,
    FEW,
    KINDS,
    NO_FENCE,
    OWN_PORTS,
    PEER,
    TARGET,
    UNTOUCHED,
    Noted,
    attempt,
    become,
    bind_outside,
    by_program,
    each,
    fresh,
    met,
    ready,
    send,
    use_passed_on,
    wait,
)


_OF_ROOT = ("transparent", "mark", "raw")


@attempt("a user namespace, in which it is root")
def user_namespace() -> None:
    _in_namespaces("--user", "--map-root-user")


@attempt(
    "as root of such a namespace: `IP_TRANSPARENT`, `IPV6_TRANSPARENT`, `SO_MARK`, raw and packet sockets",
    "what it may do there does not count in the network namespace of the host. ALLOWED would stand here otherwise, as in the next line",
)
def user_namespace_as_root() -> None:
    _in_namespaces("--user", "--map-root-user", names=_OF_ROOT)


@attempt("a user and a network namespace: the same, and binds ports", "it has no way out of there: no interface of the host can be moved in")
def network_namespace() -> None:
    _in_namespaces("--user", "--map-root-user", "--net", names=(*_OF_ROOT, "bind"))


def _in_namespaces(*which: str, names: Tuple[str, ...] = ("bind",)) -> None:
    for name in names:
        by_program("unshare", *which, sys.executable, name=name)


@attempt("double fork, a new session, another program", "children are the same account")
def double_fork() -> None:
    by_program("setsid", "--fork", "--wait", sys.executable)


@attempt("other UIDs and GIDs by `setuid`, `setgid`, `setfsuid`")
def other_ids() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for call in (libc.setuid, libc.setgid, libc.setregid, libc.setreuid):
        if call(20002, 20002) < 0:
            met.append(errno.errorcode[ctypes.get_errno()])
    libc.setfsuid(20002)
    libc.setfsgid(20002)
    each(bind_outside)


@attempt("a program that is setgid to a supplementary group of its own", account="root")
def other_group() -> None:
    become(20001, groups=[20003])
    # Unlike /run, /var is a place where setgid counts.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        python = shutil.copy(sys.executable, directory)
        os.chown(python, -1, 20003)
        os.chmod(python, 0o2755)
        assert subprocess.run([python, "-I", "-c", "import os; print(os.getegid())"], capture_output=True, check=True).stdout == b"20003\n"
        by_program(python)


@attempt(
    "the same, where the service is a `group`",
    "its sockets are in the other group then, and each account with a second group can do so. Fence the accounts where that matters",
    account="root",
    service={"user": None, "group": "20001"},
    without=("bpf",),
)
def leave_group() -> None:
    other_group()


@attempt(
    "has the `group` of a service as a supplementary group",
    "is not in the service: the group of a socket is the primary one of its process",
    account="root",
    service={"user": None, "group": "20003"},
    without=("bpf",),
)
def supplementary() -> None:
    become(20001, groups=[20003])
    each(bind_outside)


@attempt("a socket that another account opened and passed on", "it is the other's: what that account may do, no more", account="root")
def passed_on() -> None:
    use_passed_on(20001, lambda: become(20002, groups=[]))


@attempt(
    "answers who connected to it",
    "replies are not judged: whoever may be reached from outside can answer. With `bpf`, it can listen on its own ports only",
    account="root",
)
def replies() -> None:
    # The test's own server is left alone: the peer asks, and the answer leaves from the server's port.
    become(20001, groups=[])
    with Noted(), socket.socket() as listener, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        port = fresh()
        listener.bind(("", port))
        listener.listen()
        datagrams.bind(("", port))
        ready(str(port))
        listener.settimeout(10)
        datagrams.settimeout(10)
        sock, _address = listener.accept()
        sock.sendall(b"%d\n" % port)
        _data, address = datagrams.recvfrom(100)
        datagrams.sendto(b"%d\n" % port, address)
        sock.close()


def _outside(kind: socket.SocketKind, held: ExitStack) -> List[Tuple[socket.socket, str]]:
    """A socket for each family that is bound outside, and the address of the peer. All of them are closed with `held`."""
    opened = []
    for family in FAMILIES:
        sock = held.enter_context(socket.socket(family, kind))
        bind_outside(sock, family)
        sock.settimeout(10)
        opened.append((sock, PEER[family]))
    return opened


@attempt("a TCP connection from outside that was open before the fence", "what is open is not cut, nor judged. Restart what has to be judged", before=NO_FENCE)
def old_connection() -> None:
    with ExitStack() as held:
        opened = _outside(socket.SOCK_STREAM, held)
        for sock, to in opened:
            sock.connect((to, TARGET))
            sock.recv(100)
        wait()
        for sock, _to in opened:
            sock.sendall(b"still there?")
            if sock.recv(100) != b"still there?":
                met.append("CUT")


@attempt("a UDP socket outside that was in use before the fence", before=NO_FENCE)
def old_datagrams() -> None:
    with ExitStack() as held:
        opened = _outside(socket.SOCK_DGRAM, held)
        for sock, to in opened:
            sock.connect((to, TARGET))
            sock.send(b"before")
            sock.recv(100)
        wait()
        for sock, _to in opened:
            with Noted():
                sock.send(b"after")


@attempt("the same with `sendto` on a socket that was never connected", before=NO_FENCE)
def old_unconnected() -> None:
    with ExitStack() as held:
        opened = _outside(socket.SOCK_DGRAM, held)
        for sock, to in opened:
            sock.sendto(b"before", (to, TARGET))
            sock.recv(100)
        wait()
        for sock, to in opened:
            with Noted():
                sock.sendto(b"after", (to, TARGET))


@attempt("a TCP socket that was bound before the fence, and connects after it", before=NO_FENCE)
def old_socket() -> None:
    with ExitStack() as held:
        opened = _outside(socket.SOCK_STREAM, held)
        wait()
        for sock, to in opened:
            with Noted():
                send(sock, to)


@attempt("a TCP connection of its range, after the range has moved", "as above", before=OWN_PORTS)
def moved_connection() -> None:
    old_connection()


@attempt("a UDP socket of its range, in use, after the range has moved", before=OWN_PORTS)
def moved_datagrams() -> None:
    old_datagrams()


@attempt("the same with `sendto` on a socket that was never connected", before=OWN_PORTS)
def moved_unconnected() -> None:
    old_unconnected()


@attempt("a TCP socket that was bound in its range, and connects after the range has moved", before=OWN_PORTS)
def moved_socket() -> None:
    old_socket()


@attempt("uses up its ports, and goes on", "it harms itself only, see [its own ports](#its-own-ports)", service={"source_ports": f"{FEW.start}-{FEW.stop - 1}"})
def exhaust() -> None:
    """A socket of each kind is connected from every port when the next ones come, with a port of the kernel's choice and one outside."""
    for family in FAMILIES:
        for kind in KINDS:
            with ExitStack() as held:
                for port in FEW:
                    sock = held.enter_context(socket.socket(family, kind))
                    if kind == socket.SOCK_STREAM:
                        # Ends with a reset, so that the port is free at once.
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.bind((ANY[family], port))
                    send(sock, PEER[family])
                    sock.settimeout(10)
                    sock.recv(100)
                for port in (0, fresh()):
                    with Noted(), socket.socket(family, kind) as sock:
                        if port:
                            sock.bind((ANY[family], port))
                        send(sock, PEER[family])


@attempt("sends thousands of datagrams from outside", "what is logged of it: [a flood](#a-flood)")
def flood() -> None:
    ports = [fresh() for _number in range(30)]
    for number in range(1000):
        for family in FAMILIES:
            with Noted(), socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.bind((ANY[family], ports[number % len(ports)]))
                send(sock, PEER[family])


@attempt("another account uses the service's ports", "with `host`, they are everybody's", account="other")
def intruder() -> None:
    """From ports inside the range of the service."""
    ports = iter(range(50100, 50200))
    for family in FAMILIES:
        for kind in KINDS:
            with Noted(), socket.socket(family, kind) as sock:
                sock.bind((ANY[family], next(ports)))
                send(sock, PEER[family], port=UNTOUCHED)
