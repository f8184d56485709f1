# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The identity map → variables and rules for Suricata. Pure.

The rules of a service mark its flows, and whatever opens from a fenced host without a mark is unknown: the same answer as that of
a gateway (:mod:`_edge`), for networks that lie in each other as well. Measured with Suricata 7.0.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from typing import Dict, List, Sequence, Set, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._addresses import is_ipv6
from ansible_collections.portfence.egress.plugins.module_utils._edge import HEADER
from ansible_collections.portfence.egress.plugins.module_utils._identity import Identity
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange, PortSet

# The first of the numbers that are left to local rules ("Rule Management" of Suricata's documentation: 1,000,000 to 1,999,999).
FIRST_SID = 1_500_000
_SIDS = 400_000
# Of the protocols with ports, Suricata knows these.
_PROTOCOLS = ("tcp", "udp", "sctp")
# Suricata 7.0 refuses lists of ports from 1,024 bytes on, 6.0 lists of addresses from 8,196. A list may name others, each with that room.
_ADDRESS_BYTES, _PORT_BYTES = 8000, 1000


@dataclass
class _Variables:
    """The variables of one kind, by name."""

    limit: int
    texts: Dict[str, str] = field(default_factory=dict)

    def define(self, name: str, values: Sequence[str]) -> None:
        """Add one, made of others where its list would be too long."""
        text = f"[{','.join(values)}]"
        if len(text) > self.limit:
            # As many parts as are needed, but no more than there is room for their names.
            count = min(len(text) // self.limit + 2, self.limit // (len(name) + 6))
            size = -(-len(values) // count)
            names = []
            for at in range(0, len(values), size):
                names.append(f"${name}_{len(names) + 1}")
                self.define(names[-1][1:], values[at : at + size])
            text = f"[{','.join(names)}]"
        self.texts[name] = text

    def __str__(self) -> str:
        return "\n".join(["%YAML 1.1", "---", HEADER.rstrip(), *(f'{name}: "{text}"' for name, text in self.texts.items()), ""])


@dataclass(frozen=True)
class _Group:
    """Addresses of a service where it has the same ports.

    :ivar name: how its variables begin.
    """

    service: str
    protocol: str
    name: str
    addresses: Tuple[str, ...]
    ports: PortSet


def files(entries: Sequence[Identity]) -> Tuple[Tuple[str, str], ...]:
    """File name and text: what is to be included in the address-groups and port-groups of suricata.yaml, and the rules."""
    addresses, ports = _Variables(_ADDRESS_BYTES), _Variables(_PORT_BYTES)
    fenced = []
    for version in (4, 6):
        own = [entry for entry in entries if is_ipv6(entry.address) == (version == 6)]
        if own:
            addresses.define(f"PORTFENCE_HOSTS_IPV{version}", _unique(own))
            used = {entry.protocol for entry in own}
            fenced.extend((protocol, version) for protocol in _PROTOCOLS if protocol in used)
    versions = [f"${name}" for name in ("PORTFENCE_HOSTS_IPV4", "PORTFENCE_HOSTS_IPV6") if name in addresses.texts]
    if versions:
        addresses.define("PORTFENCE_HOSTS", versions)
    services: Dict[str, List[Identity]] = {}
    for entry in entries:
        if entry.protocol in _PROTOCOLS:
            services.setdefault(entry.service, []).append(entry)
    groups = []
    for name, own in sorted(services.items()):
        addresses.define(f"{_variable(name)}_HOSTS", _unique(own))
        ports.define(f"{_variable(name)}_PORTS", _list(PortSet.of(entry.part for entry in own)))
        for group in _groups(name, own):
            addresses.define(f"{group.name}_HOSTS", group.addresses)
            ports.define(f"{group.name}_PORTS", _list(group.ports))
            groups.append(group)
    return (
        ("suricata-addresses.yaml", str(addresses)),
        ("suricata-ports.yaml", str(ports)),
        ("suricata.rules", _rules(groups, fenced)),
    )


def _groups(service: str, entries: Sequence[Identity]) -> List[_Group]:
    """One group for addresses with equal ports: a rule is true for each of its addresses with each of its ports."""
    ports: Dict[Tuple[str, str], List[PortRange]] = {}
    for entry in entries:
        ports.setdefault((entry.protocol, entry.address), []).append(entry.part)
    found: Dict[Tuple[str, PortSet], List[str]] = {}
    for (protocol, address), parts in ports.items():
        found.setdefault((protocol, PortSet.of(parts)), []).append(address)
    alike = len({(own, tuple(addresses)) for (_protocol, own), addresses in found.items()}) == 1
    return [
        _Group(service, protocol, _variable(service) + ("" if alike else f"_{protocol.upper()}_{_word(addresses[0])}"), tuple(addresses), own)
        for (protocol, own), addresses in found.items()
    ]


def _rules(groups: Sequence[_Group], fenced: Sequence[Tuple[str, int]]) -> str:
    """A mark for the flows of each service, then one alert for each flow without.

    Suricata puts rules that set a flowbit before those that ask for it. As at a gateway, TCP is judged when it opens.
    """
    lines = [HEADER.rstrip()]
    taken: Set[int] = set()
    for group in groups:
        sid = _sid(f"{group.protocol} {group.service} {group.name}", taken)
        lines.append(
            f'alert {group.protocol} ${group.name}_HOSTS ${group.name}_PORTS -> any any (msg:"portfence service {group.service}";'
            f" flow:to_server; flowbits:set,portfence; flowbits:set,portfence.{group.service}; noalert; sid:{sid}; rev:1;)"
        )
    for protocol, version in fenced:
        sid = _sid(f"{protocol} {version}", taken)
        lines.append(
            f'alert {protocol} $PORTFENCE_HOSTS_IPV{version} any -> any any (msg:"portfence unknown source port"; flow:to_server;'
            f"{' flags:S,PUCE;' if protocol == 'tcp' else ''} flowbits:isnotset,portfence; flowbits:set,portfence; sid:{sid}; rev:1;)"
        )
    return "\n".join([*lines, ""])


def _sid(text: str, taken: Set[int]) -> int:
    """A number that a rule keeps when others come and go, unless two of them meet."""
    number = zlib.crc32(text.encode()) % _SIDS
    while number in taken:
        number = (number + 1) % _SIDS
    taken.add(number)
    return FIRST_SID + number


def _unique(entries: Sequence[Identity]) -> List[str]:
    """The addresses, each once, in order."""
    return list(dict.fromkeys(entry.address for entry in entries))


def _list(ports: PortSet) -> List[str]:
    return [str(part).replace("-", ":") for part in ports]


def _variable(service: str) -> str:
    """How the variables of a service begin; services whose names look alike in capitals are told apart by a checksum."""
    mark = "" if re.fullmatch(r"[a-z0-9]+", service) else f"_{zlib.crc32(service.encode()):08x}"
    return f"PORTFENCE_{_word(service)}{mark.upper()}"


def _word(text: str) -> str:
    """A name or a network as a part of a variable's name. No two networks come out alike."""
    address, slash, length = text.partition("/")
    lone = not slash or length == ("128" if is_ipv6(address) else "32")
    return re.sub(r"[^A-Z0-9_]", "_", (address if lone else f"{address}net{length}").upper())
