# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every attempt needs: its line of the table, ports that nobody has used, and sockets. Runs in a lab, see attacks.py."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

PEER = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8:0:1::1"}
ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
FAMILIES = (socket.AF_INET, socket.AF_INET6)
KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
# The second one is for an attempt that must not meet what translation remembers of others: it would get another port.
TARGET, UNTOUCHED = 7000, 7001
READY, GO = "/run/attack/ready", "/run/attack/go"
# What an attempt can find at its begin, beside the fence that it is about.
NO_FENCE, OWN_PORTS = "no fence", "own ports"
# The range of an account that uses it up; no other attempt has left a connection there.
FEW = range(60000, 60016)

# What is met where the kernel gives what only an administrator has.
ALLOWED = "ALLOWED"

_port = 0
met: List[str] = []


class Attempt(NamedTuple):
    """One line of the table.

    :ivar words: what is tried.
    :ivar note: what there is to know about the outcome.
    :ivar account: who runs it: ``fenced``, ``other``, or ``root`` where it is staged with several accounts.
    :ivar service: keys of the service that are not the usual ones.
    :ivar before: what there is when it begins, if that is not the fence: NO_FENCE, or one whose range is the ports of the attempt
        (OWN_PORTS) and moves away from there. It waits for GO after it has made READY.
    :ivar without: assignments that don't go with the service.
    :ivar icmp: whether it sends ICMP.
    """

    run: Callable[[], None]
    words: str
    note: str = ""
    account: str = "fenced"
    service: Optional[Dict[str, object]] = None
    before: str = ""
    without: Tuple[str, ...] = ()
    icmp: bool = False


ATTEMPTS: Dict[str, Attempt] = {}


def attempt(
    words: str,
    note: str = "",
    *,
    account: str = "fenced",
    service: Optional[Dict[str, object]] = None,
    before: str = "",
    without: Tuple[str, ...] = (),
    icmp: bool = False,
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Puts a function into ATTEMPTS."""

    def keep(function: Callable[[], None]) -> Callable[[], None]:
        ATTEMPTS[function.__name__] = Attempt(function, words, note, account, service, before, without, icmp)
        return function

    return keep


def begin(port: int) -> None:
    """Take ports from this one on."""
    global _port
    _port = port


def fresh() -> int:
    """A port outside that this attempt has not used yet."""
    global _port
    _port += 1
    return _port


class Noted:
    """Notes the error that ends the block."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: Optional[BaseException], _trace: object) -> bool:
        if isinstance(error, socket.timeout):
            return True
        if isinstance(error, OSError):
            met.append(errno.errorcode.get(error.errno or 0, str(error)))
            return True
        return False


def send(sock: socket.socket, to: str, *, port: int = TARGET) -> None:
    """Opens a connection, or sends a datagram."""
    sock.settimeout(0.25)
    sock.connect((to, port))
    if sock.type == socket.SOCK_DGRAM:
        sock.send(b"anybody there?")


def each(prepare: Callable[[socket.socket, socket.AddressFamily], None], *, protocol: int = 0, kinds: Tuple[int, ...] = KINDS) -> None:
    """TCP and UDP over IPv4 and IPv6, each with a fresh socket."""
    for family in FAMILIES:
        for kind in kinds:
            with Noted(), socket.socket(family, kind, protocol) as sock:
                prepare(sock, family)
                send(sock, PEER[family])


def from_strange(
    addresses: Dict[socket.AddressFamily, str], options: Dict[socket.AddressFamily, Tuple[int, int]], *, privileged: bool = False
) -> None:
    """TCP and UDP from addresses that are not this host's, and fresh ports, with the options that let a socket have these.

    :param privileged: whether only an administrator may have the options, so that it is noted who gets one.
    """
    for family, address in addresses.items():
        for kind in KINDS:
            with Noted(), socket.socket(family, kind) as sock:
                sock.setsockopt(*options[family], 1)
                if privileged:
                    met.append(ALLOWED)
                sock.bind((address, fresh()))
                send(sock, PEER[family])


def bind_outside(sock: socket.socket, family: socket.AddressFamily) -> None:
    sock.bind((ANY[family], fresh()))


def become(uid: int, *, groups: List[int]) -> None:
    os.setgroups(groups)
    os.setgid(uid)
    os.setuid(uid)


def use_passed_on(uid: int, elsewhere: Callable[[], None]) -> None:
    """This account binds and connects sockets of every kind that were opened elsewhere: by a process that begins with this."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        elsewhere()
        for family in FAMILIES:
            for kind in KINDS:
                with socket.socket(family, kind) as opened:
                    socket.send_fds(theirs, [b"x"], [opened.fileno()])
        os._exit(0)
    theirs.close()
    os.wait()
    become(uid, groups=[])
    for family in FAMILIES:
        for _kind in KINDS:
            _data, handles, _flags, _address = socket.recv_fds(ours, 1, 1)
            with Noted(), socket.socket(fileno=handles[0]) as sock:
                bind_outside(sock, family)
                send(sock, PEER[family])


def by_program(*python: str, name: str = "bind") -> None:
    """Have a Python that is started like this make another attempt: bind ports outside."""
    program = Path(__file__).with_name("attacks.py")
    done = subprocess.run([*python, "-EsB", program, name, str(_port)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    met.extend(done.stdout.split())


def ready(text: str = "") -> None:
    with open(f"{READY}.new", "w", encoding="ascii") as file:
        file.write(text)
    os.rename(f"{READY}.new", READY)


def wait() -> None:
    ready()
    while not os.path.exists(GO):
        time.sleep(0.01)
