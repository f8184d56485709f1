# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text of nftables tables, and the look-up of the service that a packet belongs to. Pure.

A packet finds its service through verdict maps, so that its cost does not grow with the number of services. Which
maps there are depends on what the kernel can see at a hook:

- user and group of the socket: everywhere on the way out;
- the class of its net_cls cgroup likewise (nft 0.9.8 knows no named map of classes, so that map stands in the rule);
- its cgroup v2 at output only. There a packet is marked, in the upper half of its mark, with the first port of its
  service, which no other service has. Postrouting finds the service by the mark and clears it.
- the address that forwarded traffic comes from: everywhere, as connection tracking first saw it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Collection, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._addresses import is_ipv6
from ansible_collections.portfence.egress.plugins.module_utils._cgroups import UnitCgroup
from ansible_collections.portfence.egress.plugins.module_utils._nft_listing import MARKER
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import ServiceRules
from ansible_collections.portfence.egress.plugins.module_utils._service import PROTOCOLS

# True for every packet that has an owner: (uid_t) -1 is no UID, and a packet without a socket does not match at all.
HAS_OWNER = "meta skuid != 4294967295"
_MARK_BITS = "0xffff0000"
_OTHER_BITS = "0x0000ffff"
_UNIT_MAP = "type cgroupsv2 : verdict;"
_KEY_TYPES = {"skuid": "uid", "skgid": "gid"}


@dataclass(frozen=True)
class Member:
    """An element that a map of cgroups has while a unit has processes.

    :ivar map: name of the map, in the table of the checks.
    :ivar verdict: ``jump NAME``.
    """

    map: str
    place: UnitCgroup
    verdict: str


class Dispatch(NamedTuple):
    """How packets are led to the chains of their services.

    :ivar prefix: ``goto PREFIXNAME`` is the verdict of a service.
    :ivar name: beginning of the names of the maps.
    :ivar sockets: whether the hook is output, where sockets show their cgroup.
    :ivar only: services that are concerned; packets of others are accepted. None for all.
    :ivar protocols: protocols that are concerned, by service; None for all that a service lists.
    """

    prefix: str
    name: str
    sockets: bool
    only: Optional[Collection[str]] = None
    protocols: Optional[Dict[str, Tuple[str, ...]]] = None

    def verdict(self, rules: ServiceRules) -> str:
        """What happens to the packets of a service."""
        return f"goto {self.prefix}{rules.name}" if self.only is None or rules.name in self.only else "accept"

    def of(self, rules: ServiceRules) -> Tuple[str, ...]:
        """The protocols of a service that are concerned."""
        if self.protocols is None or rules.name not in self.protocols:
            return rules.protocols
        return self.protocols[rules.name]


class Table:
    """Text of one table, in the order in which nft 1.0.6 can resolve it: counters, limits, chains, maps, base chains."""

    def __init__(self) -> None:
        self.counters: List[str] = []
        self.limits: List[str] = []
        self.chains: List[str] = [chain(MARKER, [])]
        self.maps: List[str] = []
        self.base: List[str] = []
        self.specs: Dict[str, str] = {}
        self.members: List[Member] = []

    def add_map(self, name: str, spec: str, elements: Sequence[str]) -> None:
        """A verdict map. Maps of ranges only load where map and elements come in one declaration (nft 1.0.6)."""
        self.specs[name] = spec
        body = ",\n\t\t\t".join(elements)
        self.maps.append(f"\tmap {name} {{\n\t\t{spec}\n\t\telements = {{\n\t\t\t{body}\n\t\t}}\n\t}}\n")

    def add_members(self, members: Sequence[Member]) -> None:
        """Elements that come and go with units, and the maps that hold them."""
        for name in sorted({member.map for member in members}):
            self.maps.append(f"\tmap {name} {{\n\t\t{_UNIT_MAP}\n\t}}\n")
        self.members.extend(members)

    @property
    def text(self) -> str:
        """All that stands between the table's braces."""
        return "".join([*self.counters, *self.limits, *self.chains, *self.maps, *self.base])


def chain(name: str, lines: Iterable[str]) -> str:
    """A chain of a table."""
    return "".join([f"\tchain {name} {{\n", *(f"\t\t{line}\n" for line in lines), "\t}\n"])


def concerned(services: Sequence[ServiceRules], names: Collection[str]) -> List[ServiceRules]:
    """The services with these names, and those that a packet of theirs may belong to in the first place."""
    last = max((_rank(rules) for rules in services if rules.name in names and _rank(rules) >= 0), default=-1)
    return [rules for rules in services if rules.name in names or 0 <= _rank(rules) < last]


def _rank(rules: ServiceRules) -> int:
    """Unit, class, user and group decide in this order. -1 for a service that owns no socket of this host."""
    given = (rules.units, rules.classids, rules.uids, rules.gids)
    return next((index for index, selector in enumerate(given) if selector), -1)


def owned(table: Table, services: Sequence[ServiceRules], way: Dispatch) -> List[str]:
    """Rules that lead the packets of this host's sockets to their services."""
    if way.only is not None:
        services = concerned(services, way.only)
    return [
        *(_by_cgroup(table, services, way) if way.sockets else _by_mark(table, services, way)),
        *_by_class(services, way),
        *_by_owner(table, services, way),
    ]


def _by_cgroup(table: Table, services: Sequence[ServiceRules], way: Dispatch) -> List[str]:
    members: List[Member] = []
    for rules in services:
        if not rules.units:
            continue
        # The key is the cgroup alone: the protocol is looked at by a chain that returns for any other.
        name = f"{way.name}_unit_{rules.name}"
        table.chains.append(chain(name, [f"meta l4proto {protocol} {way.verdict(rules)}" for protocol in way.of(rules)]))
        members.extend(Member(f"{way.name}_units_{place.level}", place, f"jump {name}") for place in rules.units)
    table.add_members(members)
    return [
        f"socket cgroupv2 level {level} vmap @{way.name}_units_{level}"
        for level in sorted({member.place.level for member in members})
    ]


def mark(rules: ServiceRules) -> int:
    """The mark of a service, without the bits that are not ours."""
    return rules.ports.ranges[0].low << 16


def set_mark(rules: ServiceRules) -> str:
    """The statement that marks a packet. The lower half of the mark, which others may use, stays as it is."""
    return f"meta mark set meta mark and {_OTHER_BITS} or {mark(rules):#010x}"


CLEAR_MARK = f"meta mark set meta mark and {_OTHER_BITS}"


def _by_mark(table: Table, services: Sequence[ServiceRules], way: Dispatch) -> List[str]:
    elements = [f"{mark(rules):#010x} : {way.verdict(rules)}" for rules in services if rules.units]
    if not elements:
        return []
    table.add_map(f"{way.name}_marks", "type mark : verdict;", elements)
    return [f"meta mark and {_MARK_BITS} vmap @{way.name}_marks"]


def _by_class(services: Sequence[ServiceRules], way: Dispatch) -> List[str]:
    lines = []
    for protocol in PROTOCOLS:
        elements = [
            f"{classid:#x} : {way.verdict(rules)}"
            for rules in services
            for classid in rules.classids
            if protocol in way.of(rules)
        ]
        if elements:
            lines.append(f"meta l4proto {protocol} meta cgroup vmap {{ {', '.join(elements)} }}")
    return lines


def _by_owner(table: Table, services: Sequence[ServiceRules], way: Dispatch) -> List[str]:
    lines = []
    for key, kind in _KEY_TYPES.items():
        elements = [
            f"{protocol} . {number} : {way.verdict(rules)}"
            for rules in services
            for number in (rules.uids if key == "skuid" else rules.gids)
            for protocol in way.of(rules)
        ]
        if elements:
            table.add_map(f"{way.name}_{kind}s", f"type inet_proto . {kind} : verdict;", elements)
            lines.append(f"meta l4proto . meta {key} vmap @{way.name}_{kind}s")
    return lines


def forwarded(
    table: Table, services: Sequence[ServiceRules], way: Dispatch, *, families: Sequence[str], original: bool = True
) -> List[str]:
    """Rules that lead forwarded packets to the services with their addresses.

    :param families: ``ip``, ``ip6``.
    :param original: whether source NAT may have come first.
    """
    lines = []
    for family in families:
        elements = []
        for rules in services:
            networks = [network for network in rules.addresses if is_ipv6(network) == (family == "ip6")]
            if not networks:
                continue
            name = f"{way.name}_{family}_{rules.name}"
            origin = "" if rules.interface is None else f'iifname "{rules.interface}" '
            table.chains.append(
                chain(
                    name,
                    [
                        # Between members of one network, nothing leaves it.
                        *(f"{family} daddr {network} accept" for network in networks),
                        *(f"{origin}meta l4proto {protocol} {way.verdict(rules)}" for protocol in way.of(rules)),
                    ],
                )
            )
            elements.extend(f"{network} : goto {name}" for network in networks)
        if elements:
            kind = "ipv4_addr" if family == "ip" else "ipv6_addr"
            table.add_map(f"{way.name}_{family}", f"type {kind} : verdict; flags interval;", elements)
            lines.append(f"{'ct original ' if original else ''}{family} saddr vmap @{way.name}_{family}")
    return lines
