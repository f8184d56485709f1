# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an account without rights can try to send from a port outside its range. Runs in a lab: attacks.py NAME PORT.

Every attempt sends to port 7000 of the peer, from PORT and those above, and prints the names of the errors that it met. Whether
anything left is for the peer to say. ATTEMPTS gives each attempt the line that docs/threat-model.md has for it.
"""

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
import time
from contextlib import ExitStack
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

PEER = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8:0:1::1"}
ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
FAMILIES = (socket.AF_INET, socket.AF_INET6)
KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
TARGET = 7000
# <linux/in.h>, <linux/in6.h>, <linux/socket.h>, <linux/sched.h>
IP_OPTIONS, IP_FREEBIND, IP_TRANSPARENT, IP_LOCAL_PORT_RANGE, IPV6_DSTOPTS, MSG_FASTOPEN = 4, 15, 19, 51, 59, 0x20000000
IPPROTO_MPTCP, IPPROTO_UDPLITE, IPPROTO_SCTP = 262, 136, 132
READY, GO = "/run/attack/ready", "/run/attack/go"
# What an attempt can find at its begin, beside the fence that it is about.
NO_FENCE, OWN_PORTS = "no fence", "own ports"
# The range of an account that uses it up; no other attempt has left a connection there.
FEW = range(60000, 60016)

_port = 0
_met: List[str] = []


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


def _fresh() -> int:
    """A port outside that this attempt has not used yet."""
    global _port
    _port += 1
    return _port


class _Noted:
    """Notes the error that ends the block."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: Optional[BaseException], _trace: object) -> bool:
        if isinstance(error, socket.timeout):
            return True
        if isinstance(error, OSError):
            _met.append(errno.errorcode.get(error.errno or 0, str(error)))
            return True
        return False


def _send(sock: socket.socket, to: str) -> None:
    """Opens a connection, or sends a datagram."""
    sock.settimeout(0.25)
    sock.connect((to, TARGET))
    if sock.type == socket.SOCK_DGRAM:
        sock.send(b"anybody there?")


def _each(prepare: Callable[[socket.socket, socket.AddressFamily], None], *, protocol: int = 0, kinds: Tuple[int, ...] = KINDS) -> None:
    """TCP and UDP over IPv4 and IPv6, each with a fresh socket."""
    for family in FAMILIES:
        for kind in kinds:
            with _Noted(), socket.socket(family, kind, protocol) as sock:
                prepare(sock, family)
                _send(sock, PEER[family])


def _bind(sock: socket.socket, family: socket.AddressFamily) -> None:
    sock.bind((ANY[family], _fresh()))


@attempt("connects, and lets the kernel choose the port")
def choose() -> None:
    """The kernel's range is narrowed to ports outside."""
    _each(lambda _sock, _family: None)


@attempt("binds a port outside")
def bind() -> None:
    _each(_bind)


@attempt("binds a port outside with `SO_REUSEADDR` and `SO_REUSEPORT`")
def reuse() -> None:
    def prepare(sock: socket.socket, family: socket.AddressFamily) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bind(sock, family)

    _each(prepare)


@attempt("ties the socket to an interface (`SO_BINDTODEVICE`)")
def device() -> None:
    def prepare(sock: socket.socket, family: socket.AddressFamily) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
        _bind(sock, family)

    _each(prepare)


@attempt("ties the socket to `lo`, which is not fenced", "what is sent there goes nowhere")
def loopback_device() -> None:
    """The kernel takes every address for a neighbour of the interface that is asked for."""

    def prepare(sock: socket.socket, family: socket.AddressFamily) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
        _bind(sock, family)

    _each(prepare)


@attempt("asks for ports outside with `IP_LOCAL_PORT_RANGE`")
def local_range() -> None:
    def prepare(sock: socket.socket, _family: socket.AddressFamily) -> None:
        low = _fresh()
        sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("=I", low | (low + 20) << 16))

    _each(prepare)


@attempt("`sendto` on a UDP socket that was never connected")
def unconnected() -> None:
    for family in FAMILIES:
        for port in (0, _fresh()):
            with _Noted(), socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.bind((ANY[family], port))
                sock.sendto(b"anybody there?", (PEER[family], TARGET))


@attempt("IPv4 through an IPv6 socket (`::ffff:192.0.2.1`)")
def mapped() -> None:
    for kind in KINDS:
        with _Noted(), socket.socket(socket.AF_INET6, kind) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(("::", _fresh()))
            _send(sock, "::ffff:192.0.2.1")


@attempt("sends with IP options")
def options() -> None:
    for kind in KINDS:
        with _Noted(), socket.socket(socket.AF_INET, kind) as sock:
            # Record route: room for one address.
            sock.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, bytes([7, 7, 4, 0, 0, 0, 0, 0]))
            _bind(sock, socket.AF_INET)
            _send(sock, PEER[socket.AF_INET])


@attempt("has the host forward to itself first (source routing)", "needs CAP_NET_RAW")
def source_route() -> None:
    for kind in KINDS:
        with _Noted(), socket.socket(socket.AF_INET, kind) as sock:
            # Loose source route: the address that comes first, then the destination.
            sock.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, bytes([131, 7, 4]) + socket.inet_aton("192.0.2.2") + bytes(1))
            _bind(sock, socket.AF_INET)
            _send(sock, PEER[socket.AF_INET])


@attempt("sends with IPv6 extension headers", "needs CAP_NET_RAW")
def extension() -> None:
    for kind in KINDS:
        with _Noted(), socket.socket(socket.AF_INET6, kind) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_DSTOPTS, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
            _bind(sock, socket.AF_INET6)
            _send(sock, PEER[socket.AF_INET6])


@attempt("sends a datagram in fragments")
def fragments() -> None:
    for family in FAMILIES:
        with _Noted(), socket.socket(family, socket.SOCK_DGRAM) as sock:
            _bind(sock, family)
            sock.sendto(bytes(6000), (PEER[family], TARGET))


@attempt("TCP Fast Open, data with the SYN")
def fast_open() -> None:
    for family in FAMILIES:
        with _Noted(), socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(0.25)
            _bind(sock, family)
            sock.sendto(b"anybody there?", MSG_FASTOPEN, (PEER[family], TARGET))
            sock.recv(100)


@attempt("MPTCP", "further subflows need an administrator's `ip mptcp endpoint`, and carry no owner")
def mptcp() -> None:
    _each(_bind, protocol=IPPROTO_MPTCP, kinds=(socket.SOCK_STREAM,))


@attempt("UDP-Lite", "fenced where the service lists it in `protocols`; so are sctp and dccp", service={"protocols": ["tcp", "udp", "udplite"]})
def udplite() -> None:
    _each(_bind, protocol=IPPROTO_UDPLITE, kinds=(socket.SOCK_DGRAM,))


@attempt("UDP-Lite, where the service does not list it", "list what the kernel has, or keep the module away")
def udplite_unlisted() -> None:
    _each(_bind, protocol=IPPROTO_UDPLITE, kinds=(socket.SOCK_DGRAM,))


@attempt("SCTP", "listed by the service here. The kernel of this table has none", service={"protocols": ["tcp", "udp", "sctp"]})
def sctp() -> None:
    _each(_bind, protocol=IPPROTO_SCTP, kinds=(socket.SOCK_STREAM,))


@attempt("ping sockets", "ICMP has no ports, and passes. `net.ipv4.ping_group_range` says who may send it", icmp=True)
def ping() -> None:
    for family, protocol, request in ((socket.AF_INET, socket.IPPROTO_ICMP, 8), (socket.AF_INET6, socket.IPPROTO_ICMPV6, 128)):
        with _Noted(), socket.socket(family, socket.SOCK_DGRAM, protocol) as sock:
            # Where others have a port, there is an identifier.
            sock.bind((ANY[family], _fresh()))
            sock.sendto(struct.pack("!BBHHH", request, 0, 0, 0, 1), (PEER[family], 0))


@attempt("broadcasts from a port outside", "NAT leaves broadcasts alone: with `rewrite`, they have to be sent from a port inside")
def broadcast() -> None:
    for to in ("192.0.2.255", "255.255.255.255"):
        with _Noted(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
            _bind(sock, socket.AF_INET)
            sock.sendto(b"anybody there?", (to, TARGET))


@attempt("multicast from a port outside")
def multicast() -> None:
    for family, to in ((socket.AF_INET, "239.1.2.3"), (socket.AF_INET6, "ff02::123")):
        with _Noted(), socket.socket(family, socket.SOCK_DGRAM) as sock:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("eth0"))
            else:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), socket.if_nametoindex("eth0")))
            _bind(sock, family)
            sock.sendto(b"anybody there?", (to, TARGET))


@attempt("an address that is not the host's (`IP_FREEBIND`), and a port outside", "IPv4 has no route for it")
def free_bind() -> None:
    for kind in KINDS:
        with _Noted(), socket.socket(socket.AF_INET, kind) as sock:
            sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
            sock.bind(("192.0.2.77", _fresh()))
            _send(sock, PEER[socket.AF_INET])


@attempt("`IP_TRANSPARENT`", "needs CAP_NET_ADMIN or CAP_NET_RAW")
def transparent() -> None:
    for kind in KINDS:
        with _Noted(), socket.socket(socket.AF_INET, kind) as sock:
            sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
            sock.bind(("192.0.2.77", _fresh()))
            _send(sock, PEER[socket.AF_INET])


@attempt("raw and packet sockets", "need CAP_NET_RAW. With it, a program writes past every rule: a service must not have it")
def raw() -> None:
    for family, kind, protocol in ((socket.AF_INET, socket.SOCK_RAW, 17), (socket.AF_INET6, socket.SOCK_RAW, 17), (socket.AF_PACKET, socket.SOCK_RAW, 0)):
        with _Noted():
            socket.socket(family, kind, protocol).close()


@attempt("a user namespace, in which it is root")
def user_namespace() -> None:
    _in_namespaces("--user", "--map-root-user")


@attempt("a user and a network namespace", "it has no way out of there: no interface of the host can be moved in")
def network_namespace() -> None:
    _in_namespaces("--user", "--map-root-user", "--net")


def _in_namespaces(*which: str) -> None:
    _by_program("unshare", *which, sys.executable)


def _by_program(*python: str) -> None:
    """Have a Python that is started like this bind ports outside."""
    code = f"import sys; sys.argv[1:] = ['bind', '{_port}']; exec(open({__file__!r}).read())"
    done = subprocess.run([*python, "-I", "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    _met.extend(done.stdout.split())


@attempt("double fork, a new session, another program", "children are the same account")
def double_fork() -> None:
    _by_program("setsid", "--fork", "--wait", sys.executable)


@attempt("other UIDs and GIDs by `setuid`, `setgid`, `setfsuid`")
def other_ids() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for call in (libc.setuid, libc.setgid, libc.setregid, libc.setreuid):
        if call(20002, 20002) < 0:
            _met.append(errno.errorcode[ctypes.get_errno()])
    libc.setfsuid(20002)
    libc.setfsgid(20002)
    _each(_bind)


def _become(uid: int, *, groups: List[int]) -> None:
    os.setgroups(groups)
    os.setgid(uid)
    os.setuid(uid)


@attempt("a program that is setgid to a supplementary group of its own", account="root")
def other_group() -> None:
    _become(20001, groups=[20003])
    # Unlike /run, /var is a place where setgid counts.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        python = shutil.copy(sys.executable, directory)
        os.chown(python, -1, 20003)
        os.chmod(python, 0o2755)
        assert subprocess.run([python, "-I", "-c", "import os; print(os.getegid())"], capture_output=True, check=True).stdout == b"20003\n"
        _by_program(python)


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
    _become(20001, groups=[20003])
    _each(_bind)


@attempt("a socket that another account opened and passed on", "it is the other's: what that account may do, no more", account="root")
def passed_on() -> None:
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        _become(20002, groups=[])
        for family in FAMILIES:
            for kind in KINDS:
                sock = socket.socket(family, kind)
                socket.send_fds(theirs, [b"x"], [sock.fileno()])
        os._exit(0)
    os.wait()
    _become(20001, groups=[])
    for family in FAMILIES:
        for _kind in KINDS:
            _data, handles, _flags, _address = socket.recv_fds(ours, 1, 1)
            with _Noted(), socket.socket(fileno=handles[0]) as sock:
                _bind(sock, family)
                _send(sock, PEER[family])


@attempt(
    "answers who connected to it",
    "replies are not judged: whoever may be reached from outside can answer. With `bpf`, it can listen on its own ports only",
    account="root",
)
def replies() -> None:
    # The test's own server is left alone: the peer asks, and the answer leaves from the server's port.
    _become(20001, groups=[])
    with _Noted(), socket.socket() as listener, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        port = _fresh()
        listener.bind(("", port))
        listener.listen()
        datagrams.bind(("", port))
        _ready(str(port))
        listener.settimeout(10)
        datagrams.settimeout(10)
        sock, _address = listener.accept()
        sock.sendall(b"%d\n" % port)
        _data, address = datagrams.recvfrom(100)
        datagrams.sendto(b"%d\n" % port, address)
        sock.close()


@attempt("a TCP connection from outside that was open before the fence", "what is open is not cut, nor judged. Restart what has to be judged", before=NO_FENCE)
def old_connection() -> None:
    with socket.socket() as sock:
        _bind(sock, socket.AF_INET)
        sock.settimeout(10)
        sock.connect((PEER[socket.AF_INET], TARGET))
        sock.recv(100)
        _wait()
        sock.sendall(b"still there?")
        if sock.recv(100) != b"still there?":
            _met.append("CUT")


@attempt("a UDP socket outside that was in use before the fence", before=NO_FENCE)
def old_datagrams() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        _bind(sock, socket.AF_INET)
        sock.settimeout(10)
        sock.connect((PEER[socket.AF_INET], TARGET))
        sock.send(b"before")
        sock.recv(100)
        _wait()
        with _Noted():
            sock.send(b"after")


@attempt("a TCP socket that was bound before the fence, and connects after it", before=NO_FENCE)
def old_socket() -> None:
    with socket.socket() as sock:
        _bind(sock, socket.AF_INET)
        _wait()
        with _Noted():
            _send(sock, PEER[socket.AF_INET])


@attempt("a TCP connection of its range, after the range has moved", "as above", before=OWN_PORTS)
def moved_connection() -> None:
    old_connection()


@attempt("a UDP socket of its range, in use, after the range has moved", before=OWN_PORTS)
def moved_datagrams() -> None:
    old_datagrams()


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
                    _send(sock, PEER[family])
                    sock.settimeout(10)
                    sock.recv(100)
                for port in (0, _fresh()):
                    with _Noted(), socket.socket(family, kind) as sock:
                        if port:
                            sock.bind((ANY[family], port))
                        _send(sock, PEER[family])


@attempt("sends thousands of datagrams from outside", "what is logged of it: [a flood](#a-flood)")
def flood() -> None:
    for _number in range(1000):
        for family in FAMILIES:
            with _Noted(), socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.bind((ANY[family], _port + 1 + _number % 30))
                _send(sock, PEER[family])


@attempt("another account uses the service's ports", "with `host`, they are everybody's", account="other")
def intruder() -> None:
    """From ports inside the range of the service."""
    ports = iter(range(50100, 50200))
    for family in FAMILIES:
        for kind in KINDS:
            with _Noted(), socket.socket(family, kind) as sock:
                sock.bind((ANY[family], next(ports)))
                _send(sock, PEER[family])


def _ready(text: str = "") -> None:
    with open(f"{READY}.new", "w", encoding="ascii") as file:
        file.write(text)
    os.rename(f"{READY}.new", READY)


def _wait() -> None:
    _ready()
    while not os.path.exists(GO):
        time.sleep(0.01)


if __name__ == "__main__":
    _port = int(sys.argv[2])
    ATTEMPTS[sys.argv[1]].run()
    print(" ".join(dict.fromkeys(_met)))
