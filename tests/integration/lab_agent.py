# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What answers inside a lab, at either end of its cable: requests of the tests, and clients from the other end."""

from __future__ import annotations

import json
import os
import pwd
import selectors
import socket
from typing import Any, Callable, Dict, List, Optional, Tuple

PROTOCOLS = {
    "icmp": socket.IPPROTO_ICMP,
    "tcp": socket.IPPROTO_TCP,
    "udp": socket.IPPROTO_UDP,
    "dccp": 33,
    "icmpv6": socket.IPPROTO_ICMPV6,
    "sctp": 132,
    "udplite": 136,
}

# <linux/if_ether.h>, <linux/if_packet.h>, <asm-generic/socket.h>
_ETH_P_ALL, _PACKET_OUTGOING, _SOL_PACKET, _PACKET_STATISTICS = 0x0003, 4, 263, 6
_SO_RCVBUFFORCE = 33


class Agent:
    """Answers requests, echoes what TCP and UDP clients send, and keeps a list of the packets that arrived."""

    def __init__(self, *, control: Optional[socket.socket]) -> None:
        self._selector = selectors.DefaultSelector()
        self._control = control
        self._pending = b""
        self._capture: Optional[socket.socket] = None
        self._packets: List[Dict[str, Any]] = []
        self._commands: Dict[str, Callable[..., Any]] = {
            "account": self._account,
            "packets": self._take_packets,
            "serve": self._serve,
            "socket": self._socket,
        }
        if control is not None:
            self._selector.register(control, selectors.EVENT_READ, self._request)

    def command(self, name: str, function: Callable[..., Any]) -> None:
        """Add a request."""
        self._commands[name] = function

    def listen(self, port: int) -> None:
        """Answer on a port over TCP and UDP, IPv4 and IPv6.

        A client is first told its source port as decimal text; whatever it sends after that comes back (TCP).
        Each datagram is answered with its source port (UDP).
        """
        for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            for kind, ready in ((socket.SOCK_STREAM, self._accept), (socket.SOCK_DGRAM, self._datagram)):
                sock = socket.socket(family, kind)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((anywhere, port))
                if kind == socket.SOCK_STREAM:
                    sock.listen(4096)
                sock.setblocking(False)
                self._selector.register(sock, selectors.EVENT_READ, ready)

    def capture(self) -> None:
        """Keep a list of what arrives on the wire, before any rule of the receiver."""
        self._capture = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self._capture.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 * 1024 * 1024)
        self._capture.setblocking(False)
        self._selector.register(self._capture, selectors.EVENT_READ, lambda sock: self._drain())

    def run(self) -> None:
        """Work until the control socket is closed (for ever when there is none)."""
        while True:
            for key, _mask in self._selector.select():
                if key.data(key.fileobj) is False:
                    return

    def _request(self, sock: socket.socket) -> Optional[bool]:
        data = sock.recv(1 << 20)
        if not data:
            return False
        self._pending += data
        while b"\n" in self._pending:
            line, self._pending = self._pending.split(b"\n", 1)
            self._reply(sock, json.loads(line))
        return None

    def _reply(self, sock: socket.socket, request: Dict[str, Any]) -> None:
        passed: List[socket.socket] = []
        try:
            value = self._commands[request.pop("command")](**request)
            if isinstance(value, socket.socket):
                passed.append(value)
                value = None
            reply = {"value": value}
        except (OSError, KeyError) as error:
            reply = {"error": str(error), "errno": getattr(error, "errno", None)}
        data = json.dumps(reply).encode() + b"\n"
        sock.setblocking(True)
        sent = socket.send_fds(sock, [data], [one.fileno() for one in passed]) if passed else 0
        sock.sendall(data[sent:])
        for one in passed:
            one.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, address = listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        try:
            sock.send(b"%d\n" % address[1])
        except OSError:
            sock.close()
            return
        self._selector.register(sock, selectors.EVENT_READ, self._echo)

    def _echo(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(65536)
            if data:
                sock.send(data)
                return
        except OSError:
            pass
        self._selector.unregister(sock)
        sock.close()

    def _datagram(self, sock: socket.socket) -> None:
        try:
            _data, address = sock.recvfrom(65536)
            sock.sendto(b"%d\n" % address[1], address)
        except OSError:
            pass  # the asker sees that no answer comes

    def _drain(self) -> None:
        if self._capture is None:
            return
        while True:
            try:
                data, address = self._capture.recvfrom(128)
            except BlockingIOError:
                return
            if address[2] != _PACKET_OUTGOING and address[0] == "eth0":
                packet = _parse_packet(data)
                if packet is not None:
                    self._packets.append(packet)

    def _take_packets(self) -> List[Dict[str, Any]]:
        """What arrived since the last request."""
        self._drain()
        if self._capture is not None:
            lost = self._capture.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)[4:]
            if any(lost):
                raise OSError("packets were lost before they were looked at; ask more often")
        packets, self._packets = self._packets, []
        return packets

    @staticmethod
    def _account(user: str) -> Dict[str, Any]:
        entry = pwd.getpwnam(user)
        return {"uid": entry.pw_uid, "gid": entry.pw_gid, "groups": os.getgrouplist(user, entry.pw_gid)}

    @staticmethod
    def _socket(family: int, kind: int, protocol: int, uid: int, gid: int) -> socket.socket:
        """A socket that belongs to an account: rules look at who called socket() (the file's fsuid and fsgid)."""
        os.setegid(gid)
        os.seteuid(uid)
        try:
            return socket.socket(family, kind, protocol)
        finally:
            os.seteuid(0)
            os.setegid(0)

    def _serve(self, port: int, uid: int, gid: int) -> int:
        """A server process of an account; its PID outside of the lab."""
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(ready)
                if self._control is not None:
                    self._control.close()
                os.setgroups([])
                os.setresgid(gid, gid, gid)
                os.setresuid(uid, uid, uid)
                server = Agent(control=None)
                server.listen(port)
                os.write(tell, b"+")
                os.close(tell)
                server.run()
            except OSError as error:
                os.write(tell, str(error).encode())
            finally:
                os._exit(status)
        os.close(tell)
        said = os.read(ready, 1000)
        os.close(ready)
        if said != b"+":
            os.waitpid(pid, 0)
            raise OSError(f"no server on port {port}: {said.decode()}")
        return pid


def _behind_extensions(data: bytes) -> Tuple[int, int, bool]:
    """What stands behind the extension headers of an IPv6 packet (RFC 8200, 4): the protocol, where it begins, and whether this is its begin."""
    protocol, start, begins = data[6], 40, True
    while protocol in (socket.IPPROTO_HOPOPTS, socket.IPPROTO_ROUTING, socket.IPPROTO_FRAGMENT, socket.IPPROTO_DSTOPTS) and len(data) >= start + 8:
        length = 8 if protocol == socket.IPPROTO_FRAGMENT else 8 * (data[start + 1] + 1)
        begins = begins and (protocol != socket.IPPROTO_FRAGMENT or not int.from_bytes(data[start + 2 : start + 4], "big") >> 3)
        protocol, start = data[start], start + length
    return protocol, start, begins


def _parse_packet(data: bytes) -> Optional[Dict[str, Any]]:
    """The addresses and ports of an IP packet; None for what a network says without being asked (ARP, discovery)."""
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= 20:
        protocol, start = data[9], (data[0] & 15) * 4
        source, destination = data[12:16], data[16:20]
        begins = not int.from_bytes(data[6:8], "big") & 0x1FFF
    elif version == 6 and len(data) >= 40:
        protocol, start, begins = _behind_extensions(data)
        source, destination = data[8:24], data[24:40]
    else:
        return None
    body = data[start:]
    if protocol == socket.IPPROTO_ICMPV6 and body[:1] in (b"\x85", b"\x86", b"\x87", b"\x88", b"\x8f"):
        return None
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    names = {number: name for name, number in PROTOCOLS.items()}
    with_ports = begins and protocol not in (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6) and protocol in names and len(body) >= 4
    return {
        "family": version,
        "protocol": names.get(protocol, str(protocol)),
        "source": socket.inet_ntop(family, source),
        "destination": socket.inet_ntop(family, destination),
        "source_port": int.from_bytes(body[:2], "big") if with_ports else None,
        "destination_port": int.from_bytes(body[2:4], "big") if with_ports else None,
        # RFC 9293: FIN 1, SYN 2, RST 4, ACK 16
        "flags": body[13] if protocol == socket.IPPROTO_TCP and len(body) >= 14 else 0,
    }
