# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sockets and tracked connections → how much of its source ports a service uses. Pure."""

from __future__ import annotations

import re
import socket as sockets_api
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass
from typing import Any, Callable, Dict, FrozenSet, Iterable, List, Match, Optional, Sequence

from ansible_collections.portfence.egress.plugins.module_utils._addresses import holds
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Resolved
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import origin

# What both ss and connection tracking can tell apart; other protocols are fenced, but not counted here.
COUNTED = ("tcp", "udp")
_FIELD = re.compile(r"(?:(src|dst)=([^ ]+)|(sport|dport)=([0-9]{1,5})(?![0-9]))")
_PORT = re.compile(r"[0-9]{1,5}")
# What ss -p shows of the programs that hold a socket. Each chose its name, of at most 15 bytes, which can have a line feed in it.
_PROGRAM = '\\("([^\\0]{0,15}?)",pid=[0-9]+,fd=[0-9]+\\)'
_PROGRAMS = re.compile(rf"users:\({_PROGRAM}(?:,{_PROGRAM})*\)")


@dataclass(frozen=True)
class Socket:
    """A line of ``ss -tunaeH``. No UID means root's, or one that nobody holds any more (TIME-WAIT).

    :ivar peer: address of the other end; None where there is none.
    :ivar program: name of a program that holds it, where ``ss -p`` was asked.
    :ivar cgroup: path of its cgroup v2 without slashes at the ends, where ``ss --cgroup`` was asked; empty for the root.
    """

    protocol: str
    state: str
    port: int
    uid: int
    peer: Optional[str] = None
    peer_port: int = 0
    program: Optional[str] = None
    cgroup: Optional[str] = None


@dataclass(frozen=True)
class Flow:
    """A tracked connection: who opened it to where, and the source port that the other end sees."""

    protocol: str
    source: str
    destination: str
    destination_port: int
    wire_port: int


def parse_sockets(text: str) -> List[Socket]:
    """Read ``ss -tunaeH`` (ss(8)); lines of other shape are passed over.

    What programs call themselves is taken out first, then what cgroups are called: it could look like any other part of a line.
    """
    found = []
    for whole in _PROGRAMS.sub(_hidden, text).split("\n"):
        line, shows_cgroup, cgroup = whole.partition(" cgroup:/")
        columns = line.split()
        if len(columns) < 6 or columns[0] not in COUNTED:
            continue
        port = columns[4].rpartition(":")[2]
        uid = re.search(r" uid:([0-9]{1,10})(?![0-9])", line)
        if not _PORT.fullmatch(port):
            continue
        peer, _colon, peer_port = columns[5].rpartition(":")
        program = re.search(r" program:((?:[0-9a-f]{2})*)(?![0-9a-f])", line)
        found.append(
            Socket(
                columns[0],
                columns[1],
                int(port),
                int(uid.group(1)) if uid else 0,
                peer=address(peer.strip("[]").partition("%")[0]) if _PORT.fullmatch(peer_port) else None,
                peer_port=int(peer_port) if _PORT.fullmatch(peer_port) else 0,
                program=_printable(program.group(1)) if program else None,
                cgroup=cgroup.partition(" ")[0] if shows_cgroup else None,
            )
        )
    return found


def _hidden(programs: Match[str]) -> str:
    """The name of the first program in digits."""
    return f"program:{programs[1].encode('utf-8', 'surrogatepass').hex()}"


def _printable(digits: str) -> str:
    """The name again, for a terminal."""
    name = bytes.fromhex(digits).decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "?" for char in name)


def parse_flows(text: str) -> List[Flow]:
    """Read ``/proc/net/nf_conntrack`` or ``conntrack -L``; lines of other shape are passed over."""
    found = []
    for line in text.split("\n"):
        protocol = next((word for word in line.split()[:3] if word in COUNTED), None)
        fields = [(part[1] or part[3], part[2] or part[4]) for part in _FIELD.finditer(line)]
        if protocol is None or [key for key, _value in fields] != ["src", "dst", "sport", "dport"] * 2:
            continue
        values = [value for _key, value in fields]
        found.append(
            Flow(
                protocol=protocol,
                source=address(values[0]),
                destination=address(values[1]),
                destination_port=int(values[3]),
                wire_port=int(values[7]),
            )
        )
    return found


def address(text: str) -> str:
    """An address in its usual spelling: the kernel writes IPv6 in full in /proc."""
    family = sockets_api.AF_INET6 if ":" in text else sockets_api.AF_INET
    try:
        return sockets_api.inet_ntop(family, sockets_api.inet_pton(family, text))
    except (OSError, ValueError):
        return text


class SocketIndex:
    """Sockets by owner and by port: with thousands of both, a look for one service costs what it finds."""

    def __init__(self, sockets: Iterable[Socket]) -> None:
        self._by_uid: Dict[int, List[Socket]] = {}
        self._by_cgroup: Dict[str, List[Socket]] = {}
        self._by_port = sorted(sockets, key=lambda socket: socket.port)
        self._ports = [socket.port for socket in self._by_port]
        for socket in self._by_port:
            self._by_uid.setdefault(socket.uid, []).append(socket)
            self._by_cgroup.setdefault(socket.cgroup or "", []).append(socket)

    def of_uids(self, uids: Iterable[int]) -> List[Socket]:
        """Those of some accounts."""
        return [socket for uid in uids for socket in self._by_uid.get(uid, ())]

    def of_cgroups(self, wanted: Callable[[str], bool]) -> List[Socket]:
        """Those in cgroups that are wanted, each of which is asked about once."""
        return [socket for path, sockets in self._by_cgroup.items() if wanted(path) for socket in sockets]

    def inside(self, ports: PortSet) -> List[Socket]:
        """Those with one of these local ports, in their order."""
        return [
            socket
            for part in ports
            for socket in self._by_port[bisect_left(self._ports, part.low) : bisect_right(self._ports, part.high)]
        ]


class Traffic:
    """What is open on a host, for :func:`usage`.

    :param flows: tracked connections, or None when they can't be read.
    :param addresses: the host's own addresses, as the flows spell them.
    """

    def __init__(self, *, sockets: Sequence[Socket], flows: Optional[Sequence[Flow]], addresses: FrozenSet[str]) -> None:
        self.sockets = SocketIndex(sockets)
        self.tracked = flows is not None
        self._flows = sorted(flows or (), key=lambda flow: flow.wire_port)
        self._ports = [flow.wire_port for flow in self._flows]
        self._addresses = addresses

    def flows(self, ports: PortSet, *, networks: Sequence[str] = ()) -> List[Flow]:
        """The connections that others see with one of these source ports: those of the host itself, or what it forwards from networks (CIDR)."""
        found = [flow for part in ports for flow in self._flows[bisect_left(self._ports, part.low) : bisect_right(self._ports, part.high)]]
        return [flow for flow in found if (holds(networks, flow.source) if networks else flow.source in self._addresses)]


def usage(item: Resolved, traffic: Traffic) -> Dict[str, Any]:
    """How much of its ports a service uses.

    A port that the program binds is taken on the whole host while a socket holds it. A port given by source NAT is
    taken towards one destination only, so there the busiest destination is what comes near the capacity. Sockets of containers and
    network namespaces are not the host's, so that connection tracking alone tells which ports are in use there.

    :returns: ``sockets`` and ``ports_in_use`` by protocol (the latter None when not known), ``busiest_destination``
        or None, ``capacity`` in ports, and ``use`` as a share of it between 0 and 1, or None.
    """
    service = item.service
    protocols = [protocol for protocol in COUNTED if protocol in service.protocols]
    networks = origin(service)["addresses"]
    owned = Counter(socket.protocol for socket in traffic.sockets.of_uids(item.uids) if socket.state != "LISTEN")
    result: Dict[str, Any] = {
        "capacity": service.source_ports.size,
        "sockets": {protocol: owned[protocol] for protocol in protocols} if item.uids and not networks else None,
        "ports_in_use": None,
        "busiest_destination": None,
        "use": None,
    }
    flows: List[Flow] = []
    if service.assignment != "rewrite" and not networks:
        held = {(socket.protocol, socket.port) for socket in traffic.sockets.inside(service.source_ports)}
    elif traffic.tracked:
        flows = [flow for flow in traffic.flows(service.source_ports, networks=networks) if flow.protocol in protocols]
        held = {(flow.protocol, flow.wire_port) for flow in flows}
    else:
        return result
    used = Counter(protocol for protocol, _port in held)
    result["ports_in_use"] = {protocol: used[protocol] for protocol in protocols}
    most = max(result["ports_in_use"].values(), default=0)
    busiest = Counter((flow.protocol, flow.destination, flow.destination_port) for flow in flows).most_common(1)
    if service.assignment == "rewrite" and busiest:
        keys = ("protocol", "address", "port")
        most = busiest[0][1]
        result["busiest_destination"] = {**dict(zip(keys, busiest[0][0])), "connections": most}
    result["use"] = most / service.source_ports.size
    return result
