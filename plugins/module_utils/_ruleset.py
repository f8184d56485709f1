# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resolved services → what has to happen to packets, in terms of no particular backend. Pure.

A packet that leaves the host is treated in this order:

1. Assign: the connection of an owner with assignment ``rewrite`` gets a source port out of the service's ranges.
2. Check: a packet of an owner with any other source port is a violation.
3. Guard: a packet of anyone else with a port of an exclusive service is an intrusion.

A packet that the host made belongs to the service of its socket's unit, class, user or group, the first of these that
there is. A packet that the host forwards has no owner; it belongs to the service with its address, and is no intrusion. What comes
from the namespace of a service was translated by the rules of that namespace (module network_namespace); here it is checked.

TCP is looked at when a connection opens (SYN without ACK); other protocols per packet, in the direction of the
connection that was opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._addresses import holds
from ansible_collections.portfence.egress.plugins.module_utils._cgroups import UnitCgroup
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Resolved
from ansible_collections.portfence.egress.plugins.module_utils._service import Log, Service


@dataclass(frozen=True)
class ServiceRules:
    """What the fence knows of one service. Ids are numbers, ports inclusive ranges, addresses networks in CIDR notation."""

    name: str
    uids: Tuple[int, ...]
    gids: Tuple[int, ...]
    ports: PortSet
    protocols: Tuple[str, ...]
    assignment: str
    on_violation: str
    exclusive: bool
    loopback: bool
    log: Log
    allow_admin: bool = False
    classids: Tuple[int, ...] = ()
    units: Tuple[UnitCgroup, ...] = ()
    addresses: Tuple[str, ...] = ()
    interface: Optional[str] = None
    masquerade: bool = True

    @property
    def rewritten(self) -> Tuple[str, ...]:
        """Protocols of which the host translates the source port."""
        # What eBPF leaves is rewritten as well: a bind() to port 0, UDP that does not connect, other protocols. A port
        # inside stays as it is.
        return self.protocols if self.assignment in ("rewrite", "bpf", "auto") else ()

    @property
    def rewrite(self) -> bool:
        """Whether the host translates any source port of the service."""
        return bool(self.rewritten)

    @property
    def spares_root(self) -> bool:
        """Whether root is left alone when it runs with a group of the service. As a user it is named or not there."""
        return bool(self.gids) and not self.allow_admin

    @property
    def refused(self) -> Tuple[str, ...]:
        """Protocols of which a violation is answered at once, on the way out: the port must be final there."""
        if self.on_violation != "reject":
            return ()
        return tuple(protocol for protocol in self.protocols if protocol not in self.rewritten)

    @property
    def refuse(self) -> bool:
        """Whether any violation is answered at once."""
        return bool(self.refused)

    @property
    def blocks(self) -> bool:
        """Whether violations and intrusions are stopped, not only counted and logged."""
        return self.on_violation != "log"


@dataclass(frozen=True)
class Packet:
    """The opening packet of a connection as it leaves, as far as a fence looks at it.

    A forwarded packet has the address that it came from, and no uid.
    """

    protocol: str
    source_port: int
    uid: Optional[int]
    gid: Optional[int] = None
    loopback: bool = False
    classid: Optional[int] = None
    unit: Optional[str] = None
    address: Optional[str] = None
    interface: Optional[str] = None


@dataclass(frozen=True)
class Ruleset:
    """The fence of one host."""

    services: Tuple[ServiceRules, ...]

    def owner(self, packet: Packet) -> Optional[ServiceRules]:
        """The service that a packet belongs to: unit, class, user and group decide in this order."""
        eligible = [
            rules
            for rules in self.services
            if packet.protocol in rules.protocols and (rules.loopback or not packet.loopback)
        ]
        if packet.uid is None:
            return next((rules for rules in eligible if _comes_from(packet, rules)), None)
        for belongs in (_in_unit, _in_class, _of_user, _of_group):
            for rules in eligible:
                if belongs(packet, rules):
                    return rules
        return None

    def judge(self, packet: Packet) -> Tuple[str, Optional[str]]:
        """What the check makes of a packet that has its final source port.

        :returns: ``("pass", None)``, or ``("violation", name)`` or ``("intrusion", name)`` of the service.
        """
        own = self.owner(packet)
        if own is not None and own.spares_root and packet.uid == 0:
            return ("pass", None)
        if own is not None:
            return ("pass", None) if packet.source_port in own.ports else ("violation", own.name)
        if packet.uid is not None:
            for rules in self.services:
                guarded = rules.exclusive and packet.protocol in rules.protocols
                if guarded and (rules.loopback or not packet.loopback) and packet.source_port in rules.ports:
                    return ("intrusion", rules.name)
        return ("pass", None)


def _in_unit(packet: Packet, rules: ServiceRules) -> bool:
    return packet.unit is not None and any(place.matches(packet.unit) for place in rules.units)


def _in_class(packet: Packet, rules: ServiceRules) -> bool:
    return packet.classid in rules.classids


def _of_user(packet: Packet, rules: ServiceRules) -> bool:
    return packet.uid in rules.uids


def _of_group(packet: Packet, rules: ServiceRules) -> bool:
    return packet.gid in rules.gids


def _comes_from(packet: Packet, rules: ServiceRules) -> bool:
    if packet.address is None or not rules.addresses or rules.interface not in (None, packet.interface):
        return False
    return holds(rules.addresses, packet.address)


def origin(service: Service) -> Dict[str, Any]:
    """Where forwarded packets of a service come from: what it says, or the namespace that it has."""
    if service.assignment != "namespace":
        return {"addresses": tuple(sorted(service.addresses)), "interface": service.interface}
    from ansible_collections.portfence.egress.plugins.module_utils import _namespace  # few services need it

    first = service.source_ports.ranges[0].low
    given = service.namespace
    networks = (given.ipv4 or _namespace.default_ipv4(first), given.ipv6 or _namespace.default_ipv6(first))
    addresses = tuple(f"{_namespace.pair(network).inner}/{length}" for network, length in zip(networks, (32, 128)))
    return {"addresses": addresses, "interface": _namespace.interface_of(service.name)}


def build(resolved: Sequence[Resolved]) -> Ruleset:
    """The ruleset of all services of a host, sorted by name so that equal policies give equal text."""
    return Ruleset(
        tuple(
            ServiceRules(
                name=item.service.name,
                uids=item.uids,
                gids=item.gids,
                ports=item.service.source_ports,
                protocols=item.service.protocols,
                assignment=item.service.assignment,
                on_violation=item.service.on_violation,
                exclusive=item.service.exclusive,
                loopback=item.service.loopback,
                log=item.service.log,
                allow_admin=item.service.allow_admin,
                classids=item.classids,
                units=item.units,
                **origin(item.service),
                masquerade=item.service.masquerade,
            )
            for item in sorted(resolved, key=lambda item: item.service.name)
        )
    )
