# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attempts with a socket of the account's own: options, protocols, addresses."""

from __future__ import annotations

import socket
import struct

from attempt import ALLOWED, ANY, FAMILIES, KINDS, PEER, TARGET, Noted, attempt, bind_outside, each, fresh, from_strange, met, send

# <linux/in.h>, <linux/in6.h>, <linux/socket.h>, <linux/sched.h>
IP_OPTIONS, IP_FREEBIND, IP_TRANSPARENT, IP_LOCAL_PORT_RANGE, IPV6_DSTOPTS, MSG_FASTOPEN = 4, 15, 19, 51, 59, 0x20000000
IPV6_TRANSPARENT, IPV6_FREEBIND = 75, 78  # <linux/in6.h>
FREEBIND = {socket.AF_INET: (socket.IPPROTO_IP, IP_FREEBIND), socket.AF_INET6: (socket.IPPROTO_IPV6, IPV6_FREEBIND)}
IPPROTO_MPTCP, IPPROTO_UDPLITE, IPPROTO_SCTP = 262, 136, 132


@attempt("connects, and lets the kernel choose the port")
def choose() -> None:
    """The kernel's range is narrowed to ports outside."""
    each(lambda _sock, _family: None)


@attempt("binds a port outside")
def bind() -> None:
    each(bind_outside)


@attempt("binds a port outside with `SO_REUSEADDR` and `SO_REUSEPORT`")
def reuse() -> None:
    def prepare(sock: socket.socket, family: socket.AddressFamily) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bind_outside(sock, family)

    each(prepare)


@attempt("ties the socket to an interface (`SO_BINDTODEVICE`)")
def device() -> None:
    def prepare(sock: socket.socket, family: socket.AddressFamily) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
        bind_outside(sock, family)

    each(prepare)


@attempt("ties the socket to `lo`, which is not fenced", "what is sent there goes nowhere")
def loopback_device() -> None:
    """The kernel takes every address for a neighbour of the interface that is asked for."""

    def prepare(sock: socket.socket, family: socket.AddressFamily) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
        bind_outside(sock, family)

    each(prepare)


@attempt("asks for ports outside with `IP_LOCAL_PORT_RANGE`")
def local_range() -> None:
    def prepare(sock: socket.socket, _family: socket.AddressFamily) -> None:
        low = fresh()
        sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("=I", low | (low + 20) << 16))

    each(prepare)


@attempt("`sendto` on a UDP socket that was never connected")
def unconnected() -> None:
    for family in FAMILIES:
        for port in (0, fresh()):
            with Noted(), socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.bind((ANY[family], port))
                sock.sendto(b"anybody there?", (PEER[family], TARGET))


@attempt("IPv4 through an IPv6 socket (`::ffff:192.0.2.1`)")
def mapped() -> None:
    for kind in KINDS:
        with Noted(), socket.socket(socket.AF_INET6, kind) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(("::", fresh()))
            send(sock, "::ffff:192.0.2.1")


@attempt("sends with IP options")
def options() -> None:
    for kind in KINDS:
        with Noted(), socket.socket(socket.AF_INET, kind) as sock:
            # Record route: room for one address.
            sock.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, bytes([7, 7, 4, 0, 0, 0, 0, 0]))
            bind_outside(sock, socket.AF_INET)
            send(sock, PEER[socket.AF_INET])


@attempt("has the host forward to itself first (source routing)", "needs CAP_NET_RAW")
def source_route() -> None:
    for kind in KINDS:
        with Noted(), socket.socket(socket.AF_INET, kind) as sock:
            # Loose source route: the address that comes first, then the destination.
            sock.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, bytes([131, 7, 4]) + socket.inet_aton("192.0.2.2") + bytes(1))
            bind_outside(sock, socket.AF_INET)
            send(sock, PEER[socket.AF_INET])


@attempt("sends with IPv6 extension headers", "needs CAP_NET_RAW")
def extension() -> None:
    for kind in KINDS:
        with Noted(), socket.socket(socket.AF_INET6, kind) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_DSTOPTS, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
            bind_outside(sock, socket.AF_INET6)
            send(sock, PEER[socket.AF_INET6])


@attempt("sends a datagram in fragments")
def fragments() -> None:
    for family in FAMILIES:
        with Noted(), socket.socket(family, socket.SOCK_DGRAM) as sock:
            bind_outside(sock, family)
            sock.sendto(bytes(6000), (PEER[family], TARGET))


@attempt("TCP Fast Open, data with the SYN")
def fast_open() -> None:
    for family in FAMILIES:
        with Noted(), socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(0.25)
            bind_outside(sock, family)
            sock.sendto(b"anybody there?", MSG_FASTOPEN, (PEER[family], TARGET))
            sock.recv(100)


@attempt("MPTCP", "further subflows need an administrator's `ip mptcp endpoint`, and carry no owner")
def mptcp() -> None:
    each(bind_outside, protocol=IPPROTO_MPTCP, kinds=(socket.SOCK_STREAM,))


@attempt("UDP-Lite", "fenced where the service lists it in `protocols`; so are sctp and dccp", service={"protocols": ["tcp", "udp", "udplite"]})
def udplite() -> None:
    each(bind_outside, protocol=IPPROTO_UDPLITE, kinds=(socket.SOCK_DGRAM,))


@attempt("UDP-Lite, where the service does not list it", "list what the kernel has, or keep the module away")
def udplite_unlisted() -> None:
    each(bind_outside, protocol=IPPROTO_UDPLITE, kinds=(socket.SOCK_DGRAM,))


@attempt("SCTP", "listed by the service here. The kernel of this table has none; that of [a boot](#a-boot) has", service={"protocols": ["tcp", "udp", "sctp"]})
def sctp() -> None:
    each(bind_outside, protocol=IPPROTO_SCTP, kinds=(socket.SOCK_STREAM,))


@attempt("ping sockets", "ICMP has no ports, and passes. `net.ipv4.ping_group_range` says who may send it", icmp=True)
def ping() -> None:
    for family, protocol, request in ((socket.AF_INET, socket.IPPROTO_ICMP, 8), (socket.AF_INET6, socket.IPPROTO_ICMPV6, 128)):
        with Noted(), socket.socket(family, socket.SOCK_DGRAM, protocol) as sock:
            # Where others have a port, there is an identifier.
            sock.bind((ANY[family], fresh()))
            sock.sendto(struct.pack("!BBHHH", request, 0, 0, 0, 1), (PEER[family], 0))


@attempt("broadcasts from a port outside", "NAT leaves broadcasts alone: with `rewrite`, they have to be sent from a port inside")
def broadcast() -> None:
    for to in ("192.0.2.255", "255.255.255.255"):
        with Noted(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
            bind_outside(sock, socket.AF_INET)
            sock.sendto(b"anybody there?", (to, TARGET))


@attempt("multicast from a port outside")
def multicast() -> None:
    for family, to in ((socket.AF_INET, "239.1.2.3"), (socket.AF_INET6, "ff02::123")):
        with Noted(), socket.socket(family, socket.SOCK_DGRAM) as sock:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("eth0"))
            else:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), socket.if_nametoindex("eth0")))
            bind_outside(sock, family)
            sock.sendto(b"anybody there?", (to, TARGET))


@attempt("an address that is not the host's (`IP_FREEBIND`), and a port outside", "IPv4 has no route for it, IPv6 has")
def free_bind() -> None:
    addresses = {socket.AF_INET: "192.0.2.77", socket.AF_INET6: "2001:db8:0:1::77"}
    from_strange(addresses, FREEBIND)


@attempt("`IP_TRANSPARENT`, `IPV6_TRANSPARENT`", "need CAP_NET_ADMIN or CAP_NET_RAW")
def transparent() -> None:
    addresses = {socket.AF_INET: "192.0.2.77", socket.AF_INET6: "2001:db8:0:1::77"}
    options = {socket.AF_INET: (socket.IPPROTO_IP, IP_TRANSPARENT), socket.AF_INET6: (socket.IPPROTO_IPV6, IPV6_TRANSPARENT)}
    from_strange(addresses, options, privileged=True)


@attempt("marks its packets itself (`SO_MARK`)", "needs CAP_NET_ADMIN or CAP_NET_RAW")
def mark() -> None:
    def prepare(sock: socket.socket, family: socket.AddressFamily) -> None:
        with Noted():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1)
            met.append(ALLOWED)
        bind_outside(sock, family)

    each(prepare)


@attempt("raw and packet sockets", "need CAP_NET_RAW. With it, a program writes past every rule: a service must not have it")
def raw() -> None:
    for family, kind, protocol in ((socket.AF_INET, socket.SOCK_RAW, 17), (socket.AF_INET6, socket.SOCK_RAW, 17), (socket.AF_PACKET, socket.SOCK_RAW, 0)):
        with Noted():
            socket.socket(family, kind, protocol).close()
            met.append(ALLOWED)
