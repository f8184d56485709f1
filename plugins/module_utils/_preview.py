# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Open sockets and a policy → who would be hit by its fence. Pure.

What is not to be seen from sockets: services of a group, a class or addresses (ss tells neither), and what a program
does between two looks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._resolve import Resolved
from ansible_collections.portfence.egress.plugins.module_utils._usage import COUNTED, Socket, SocketIndex

# Share of the ports beyond which a range is called small.
NARROW = 0.8
# What a program has closed stays for a while; without one, ss has no owner for it, or root in place of the one that it had.
_CLOSING = ("FIN-WAIT-1", "FIN-WAIT-2", "CLOSING", "LAST-ACK")
_BLOCKED = {"drop": "would be dropped", "reject": "would be refused", "log": "would be counted and logged"}


@dataclass(frozen=True)
class Finding:
    """Something that the fence would change.

    :ivar kind: ``outside`` (a service's own connections), ``udp_server``, ``intruder``, ``listener``, ``capacity`` or ``unseen``.
    :ivar ports: source ports that were seen, in order, at most 20; none for capacity.
    :ivar sockets: how many were seen.
    :ivar who: programs and UIDs.
    :ivar effect: what would happen, in words.
    """

    service: str
    kind: str
    protocol: Optional[str]
    ports: Tuple[int, ...]
    sockets: int
    who: Tuple[str, ...]
    effect: str

    def to_dict(self) -> Dict[str, Any]:
        """Plain data."""
        return {
            "service": self.service,
            "kind": self.kind,
            "protocol": self.protocol,
            "ports": list(self.ports),
            "sockets": self.sockets,
            "who": list(self.who),
            "effect": self.effect,
        }


class Preview(NamedTuple):
    """What was found, how often was looked, and how many different sockets were seen."""

    findings: List[Finding]
    looks: int
    sockets: int


def preview(services: Sequence[Resolved], looks: Iterable[Sequence[Socket]]) -> Preview:
    """Everything that would change for somebody, in order of services.

    :param looks: the sockets that there were, each time.
    """
    # A connection is the same one in whatever state it is seen.
    seen: Dict[Socket, Socket] = {}
    peaks: Dict[Tuple[str, str], Finding] = {}
    count = 0
    for sockets in looks:
        count += 1
        seen.update((replace(socket, state=""), socket) for socket in sockets)
        for finding in _capacities(services, SocketIndex(_opened(sockets))):
            key = finding.service, finding.protocol or ""
            if key not in peaks or finding.sockets > peaks[key].sockets:
                peaks[key] = finding
    held = [socket for socket in seen.values() if _is_held(socket)]
    connections, holders = SocketIndex(_opened(held)), SocketIndex(held)
    found: List[Finding] = []
    for item in services:
        if not item.uids and not item.units:
            found.append(_unseen(item))
        for protocol in COUNTED:
            if protocol in item.service.protocols:
                found.extend(_outside(item, protocol, _leaving(item, protocol, connections)))
                if (item.service.name, protocol) in peaks:
                    found.append(peaks[item.service.name, protocol])
                found.extend(_intruders(item, protocol, connections))
                found.extend(_servers(item, protocol, holders))
    return Preview(found, count, len(seen))


def _is_held(socket: Socket) -> bool:
    """Whether a program has it. Nobody has a socket in TIME-WAIT any more."""
    return socket.state != "TIME-WAIT" and not (socket.state in _CLOSING and socket.program is None and socket.uid == 0)


def _opened(sockets: Sequence[Socket]) -> List[Socket]:
    """Connections that a program has opened. One that was accepted has the port of the socket that listens: the fence lets replies pass."""
    listening = {(socket.protocol, socket.port) for socket in sockets if socket.state == "LISTEN"}
    return [
        socket
        for socket in sockets
        if _is_held(socket) and socket.state not in ("LISTEN", "UNCONN") and (socket.protocol, socket.port) not in listening
    ]


def _capacities(services: Sequence[Resolved], connections: SocketIndex) -> List[Finding]:
    """Services whose range is small for the connections that are open at once."""
    found: List[Finding] = []
    for item in services:
        for protocol in COUNTED:
            if protocol in item.service.protocols:
                found.extend(_capacity(item, protocol, _leaving(item, protocol, connections)))
    return found


def _leaving(item: Resolved, protocol: str, connections: SocketIndex) -> List[Socket]:
    """The connections of a service that the fence looks at."""
    return [socket for socket in _own(item, connections) if socket.protocol == protocol and _leaves(socket, item)]


def _own(item: Resolved, sockets: SocketIndex) -> List[Socket]:
    if item.units:
        return sockets.of_cgroups(lambda cgroup: any(place.holds(cgroup) for place in item.units))
    return sockets.of_uids(item.uids)


def _owns(item: Resolved, socket: Socket) -> bool:
    if item.units:
        return any(place.holds(socket.cgroup or "") for place in item.units)
    return socket.uid in item.uids


def _leaves(socket: Socket, item: Resolved) -> bool:
    """Whether a connection is one that the fence looks at."""
    on_host = socket.peer is None or socket.peer.startswith(("127.", "::ffff:127.")) or socket.peer == "::1"
    return item.service.loopback or not on_host


def _outside(item: Resolved, protocol: str, own: Sequence[Socket]) -> List[Finding]:
    outside = [socket for socket in own if socket.port not in item.service.source_ports]
    if not outside:
        return []
    assignment = item.service.assignment
    if assignment in ("rewrite", "auto"):
        effect = "new connections would get a port inside"
    elif assignment in ("bpf", "namespace", "host"):
        effect = f"new connections get a port inside ({assignment}); those that bind outside {_BLOCKED[item.service.on_violation]}"
    else:
        effect = f"new connections from such ports {_BLOCKED[item.service.on_violation]}"
    return [_finding(item, "outside", protocol, outside, effect)]


def _intruders(item: Resolved, protocol: str, connections: SocketIndex) -> List[Finding]:
    inside = [
        socket
        for socket in connections.inside(item.service.source_ports)
        if socket.protocol == protocol and _leaves(socket, item) and not _owns(item, socket)
    ]
    if not inside or not item.service.exclusive:
        return []
    effect = "would be counted and logged" if item.service.on_violation == "log" else "would be dropped"
    return [_finding(item, "intruder", protocol, inside, f"new connections of others from these ports {effect}")]


def _servers(item: Resolved, protocol: str, holders: SocketIndex) -> List[Finding]:
    """Servers in the range, and UDP servers of the service outside of it."""
    found = []
    inside = [socket for socket in holders.inside(item.service.source_ports) if _serves(socket, protocol) and not _owns(item, socket)]
    if inside:
        found.append(
            _finding(item, "listener", protocol, inside, "may go on to answer; what it opens itself from there is that of others")
        )
    own = [socket for socket in _own(item, holders) if _serves(socket, "udp") and socket.port not in item.service.source_ports]
    if own and protocol == "udp":
        fate = "would get a port inside" if item.service.assignment in ("rewrite", "auto") else _BLOCKED[item.service.on_violation]
        found.append(_finding(item, "udp_server", protocol, own, f"may go on to answer; what it sends first {fate}"))
    return found


def _serves(socket: Socket, protocol: str) -> bool:
    return socket.protocol == protocol and socket.state in ("LISTEN", "UNCONN") and socket.port > 0


def _capacity(item: Resolved, protocol: str, own: Sequence[Socket]) -> List[Finding]:
    size = item.service.source_ports.size
    if item.service.assignment in ("rewrite", "auto"):
        # A port can be used towards each destination once.
        busiest = Counter((socket.peer, socket.peer_port) for socket in own).most_common(1)
        count, where = (busiest[0][1], f" to {busiest[0][0][0]} port {busiest[0][0][1]}") if busiest else (0, "")
    else:
        count, where = len({socket.port for socket in own}), ""
    if count <= NARROW * size:
        return []
    effect = f"{count} connections{where} are open, and {size} ports would be there for them"
    return [Finding(item.service.name, "capacity", protocol, (), count, _who(own), effect)]


def _unseen(item: Resolved) -> Finding:
    # An account that is still to be created has no sockets either.
    what = {"user": "the account does not exist yet", "unit": "the unit does not exist yet"}.get(
        item.service.selector, f"sockets don't show the selector {item.service.selector}"
    )
    return Finding(item.service.name, "unseen", None, (), 0, (), f"not looked at: {what}")


def _finding(item: Resolved, kind: str, protocol: str, sockets: Sequence[Socket], effect: str) -> Finding:
    ports: Set[int] = {socket.port for socket in sockets}
    return Finding(item.service.name, kind, protocol, tuple(sorted(ports))[:20], len(sockets), _who(sockets), effect)


def _who(sockets: Sequence[Socket]) -> Tuple[str, ...]:
    return tuple(sorted({f"{socket.program or 'a program'} (UID {socket.uid})" for socket in sockets})[:20])
