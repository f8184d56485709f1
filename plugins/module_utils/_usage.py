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
from typing import Any, Dict, FrozenSet, List, Optional, Sequence

from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Resolved

# What both ss and connection tracking can tell apart; other protocols are fenced, but not counted here.
COUNTED = ("tcp", "udp")
_FIELD = re.compile(r"(src|dst|sport|dport)=(\S+)")


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
    """Read ``ss -tunaeH`` (ss(8)); lines of other shape are passed over."""
    found = []
    for line in text.splitlines():
        columns = line.split()
        if len(columns) < 6 or columns[0] not in COUNTED:
            continue
        port = columns[4].rpartition(":")[2]
        uid = re.search(r"\buid:([0-9]+)", line)
        if not port.isdigit():
            continue
        peer, _colon, peer_port = columns[5].rpartition(":")
        program = re.search(r'users:\(\("((?:[^"\\]|\\.)*)"', line)
        cgroup = re.search(r" cgroup:/(\S*)", line)
        found.append(
            Socket(
                columns[0],
                columns[1],
                int(port),
                int(uid.group(1)) if uid else 0,
                peer=address(peer.strip("[]").partition("%")[0]) if peer_port.isdigit() else None,
                peer_port=int(peer_port) if peer_port.isdigit() else 0,
                program=program.group(1) if program else None,
                cgroup=cgroup.group(1) if cgroup else None,
            )
        )
    return found


def parse_flows(text: str) -> List[Flow]:
    """Read ``/proc/net/nf_conntrack`` or ``conntrack -L``; lines of other shape are passed over."""
    found = []
    for line in text.splitlines():
        protocol = next((word for word in line.split()[:3] if word in COUNTED), None)
        fields = _FIELD.findall(line)
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


class Flows:
    """Tracked connections, of which each service looks at few."""

    def __init__(self, flows: Sequence[Flow]) -> None:
        self._flows = sorted(flows, key=lambda flow: flow.wire_port)
        self._ports = [flow.wire_port for flow in self._flows]

    def of(self, ports: PortSet) -> List[Flow]:
        """Those with one of these source ports on the wire."""
        return [
            flow
            for part in ports
            for flow in self._flows[bisect_left(self._ports, part.low) : bisect_right(self._ports, part.high)]
        ]


def address(text: str) -> str:
    """An address in its usual spelling: the kernel writes IPv6 in full in /proc."""
    family = sockets_api.AF_INET6 if ":" in text else sockets_api.AF_INET
    try:
        return sockets_api.inet_ntop(family, sockets_api.inet_pton(family, text))
    except OSError:
        return text


def usage(
    item: Resolved, *, sockets: Sequence[Socket], flows: Optional[Flows], addresses: FrozenSet[str]
) -> Dict[str, Any]:
    """How much of its ports a service uses.

    A port that the program binds is taken on the whole host while a socket holds it. A port given by source NAT is
    taken towards one destination only, so there the busiest destination is what comes near the capacity.

    :param flows: tracked connections, or None when they can't be read.
    :param addresses: the host's own addresses, as the flows spell them.
    :returns: ``sockets`` and ``ports_in_use`` by protocol (the latter None when not known), ``busiest_destination``
        or None, ``capacity`` in ports, and ``use`` as a share of it between 0 and 1, or None.
    """
    service = item.service
    protocols = [protocol for protocol in COUNTED if protocol in service.protocols]
    owned = Counter(socket.protocol for socket in sockets if socket.uid in item.uids and socket.state != "LISTEN")
    result: Dict[str, Any] = {
        "capacity": service.source_ports.size,
        "sockets": {protocol: owned[protocol] for protocol in protocols} if item.uids else None,
        "ports_in_use": None,
        "busiest_destination": None,
        "use": None,
    }
    if service.assignment != "rewrite":
        held = {(socket.protocol, socket.port) for socket in sockets if socket.port in service.source_ports}
        used = Counter(protocol for protocol, _port in held)
        result["ports_in_use"] = {protocol: used[protocol] for protocol in protocols}
        result["use"] = max((used[protocol] for protocol in protocols), default=0) / service.source_ports.size
    elif flows is not None:
        mine = [flow for flow in flows.of(service.source_ports) if flow.protocol in protocols and flow.source in addresses]
        used = Counter(protocol for protocol, _port in {(flow.protocol, flow.wire_port) for flow in mine})
        result["ports_in_use"] = {protocol: used[protocol] for protocol in protocols}
        busiest = Counter((flow.protocol, flow.destination, flow.destination_port) for flow in mine).most_common(1)
        if busiest:
            (protocol, address, port), count = busiest[0]
            result["busiest_destination"] = {
                "protocol": protocol,
                "address": address,
                "port": port,
                "connections": count,
            }
        result["use"] = (busiest[0][1] if busiest else 0) / service.source_ports.size
    return result
