# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resolved services → what has to happen to packets, in terms of no particular backend. Pure.

A packet that leaves the host is treated in this order:

1. Assign: the connection of an owner with assignment ``rewrite`` gets a source port out of the service's ranges.
2. Check: a packet of an owner with any other source port is a violation.
3. Guard: a packet of anyone else with a port of an exclusive service is an intrusion.

TCP is looked at when a connection opens (SYN without ACK); other protocols per packet, in the direction of the
connection that the host opened. Packets without an owner (forwarded, or made by the kernel) are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._policy import Log
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Resolved


@dataclass(frozen=True)
class ServiceRules:
    """What the fence knows of one service. Ids are numbers, ports inclusive ranges."""

    name: str
    uids: Tuple[int, ...]
    gids: Tuple[int, ...]
    ports: PortSet
    protocols: Tuple[str, ...]
    rewrite: bool
    on_violation: str
    exclusive: bool
    loopback: bool
    log: Log
    allow_admin: bool = False

    @property
    def spares_root(self) -> bool:
        """Whether root is left alone when it runs with a group of the service. As a user it is named or not there."""
        return bool(self.gids) and not self.allow_admin

    @property
    def refuse(self) -> bool:
        """Whether a violation can be answered at once, on the way out: the port must be final there."""
        return self.on_violation == "reject" and not self.rewrite

    @property
    def blocks(self) -> bool:
        """Whether violations and intrusions are stopped, not only counted and logged."""
        return self.on_violation != "log"


@dataclass(frozen=True)
class Packet:
    """The opening packet of a connection as it leaves, as far as a fence looks at it."""

    protocol: str
    source_port: int
    uid: Optional[int]
    gid: Optional[int] = None
    loopback: bool = False


@dataclass(frozen=True)
class Ruleset:
    """The fence of one host."""

    services: Tuple[ServiceRules, ...]

    def owner(self, packet: Packet) -> Optional[ServiceRules]:
        """The service that a packet belongs to. The user decides before the group."""
        eligible = [
            rules
            for rules in self.services
            if packet.protocol in rules.protocols and (rules.loopback or not packet.loopback)
        ]
        for rules in eligible:
            if packet.uid in rules.uids:
                return rules
        for rules in eligible:
            if packet.gid in rules.gids:
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
                rewrite=item.service.assignment == "rewrite",
                on_violation=item.service.on_violation,
                exclusive=item.service.exclusive,
                loopback=item.service.loopback,
                log=item.service.log,
                allow_admin=item.service.allow_admin,
            )
            for item in sorted(resolved, key=lambda item: item.service.name)
        )
    )
