# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ruleset → nftables text. Pure.

Layout (nft 0.9.8 and newer take the same text, but for units, which need 0.9.9):

- ``table inet portfence`` checks, at postrouting behind every source NAT: verdict maps lead from what the kernel knows
  of a packet's sender to the chain of the service (see _nft_table.py).
- ``table ip portfence`` and ``table ip6 portfence`` assign ports: nft 0.9.8 refuses a NAT of ports alone in ``inet``.
- Counters are never deleted while their service lives, nor are maps that lead from owners to chains (see _plan.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, List, Mapping, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._nft_names import (
    CHECK_FAMILY,
    CHECK_PRIORITY,
    MARK_PRIORITY,
    NAT_FAMILIES,
    NAT_PRIORITY,
    REFUSE_PRIORITY,
    TABLE,
    ZONE_PRIORITY,
)
from ansible_collections.portfence.egress.plugins.module_utils._nft_table import (
    CLEAR_MARK,
    HAS_OWNER,
    Dispatch,
    Member,
    Table,
    chain,
    concerned,
    forwarded,
    owned,
    set_mark,
)
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import Ruleset, ServiceRules
from ansible_collections.portfence.egress.plugins.module_utils._service import LOG_BURST, LOG_CEILING, PROTOCOLS

# The opening segment of a TCP connection; replies, live sessions and bulk data are anything else.
_NOT_OPENING = "tcp flags & (fin | syn | rst | ack) != syn accept"
# By number, which is the same in every network namespace (LOOPBACK_IFINDEX): the kernel copies and compares no name for each packet.
_LOOPBACK = 'oif "lo"'
_PORT_MAP = "type inet_service : verdict; flags interval;"
_LEVELS = {"warning": "warn"}

# What all rules of the table may log together: one object, which each of them asks.
LOG_LIMIT = "logged"
LOG_LIMIT_TEXT = f"\tlimit {LOG_LIMIT} {{ rate {LOG_CEILING}/second burst {LOG_BURST} packets }}\n"


@dataclass(frozen=True)
class Fence:
    """A compiled fence.

    :ivar tables: by family, each the text between its braces.
    :ivar chains: text of the chains that others jump to, by family and name, in an order in which nft can read them.
    :ivar maps: specifications of the maps whose elements are in that text, by family and name.
    :ivar members: elements of the other maps of the table of the checks, which come and go with units.
    """

    tables: Mapping[str, str]
    chains: Mapping[str, Mapping[str, str]]
    maps: Mapping[str, Mapping[str, str]]
    members: Tuple[Member, ...] = ()

    @property
    def text(self) -> str:
        """A file for ``nft -f`` which gives this fence, on a kernel that has none or this one already.

        Members stay as they are.
        """
        lines = [
            "# The fence of this host: which source ports its services may use for outbound connections.",
            "# Written by the Ansible collection portfence.egress, loaded by portfence.service. Changes are overwritten.",
            "",
        ]
        for family, maps in self.maps.items():
            lines.extend(emptied(family, maps))
        return "\n".join([*lines, "", self.body])

    @property
    def body(self) -> str:
        """The tables with everything in them."""
        return "\n".join(
            f"table {family} {TABLE} {{\n{content}}}\n" for family, content in self.tables.items()
        )

    @property
    def member_maps(self) -> Tuple[str, ...]:
        """Names of the maps that hold the members."""
        return tuple(sorted({member.map for member in self.members}))


def emptied(family: str, maps: Mapping[str, str]) -> List[str]:
    """Commands for a table without rules and without these maps, whether they were there before or not.

    A map has to be known before a table is flushed: nft 0.9.8 crashes when the same transaction brings it in later.

    :param maps: name to specification.
    """
    table = f"{family} {TABLE}"
    return [
        f"add table {table}",
        *(f"add map {table} {name} {{ {spec} }}" for name, spec in maps.items()),
        f"flush table {table}",
        *(f"delete map {table} {name}" for name in maps),
    ]


def compile_fence(ruleset: Ruleset, *, nat: bool) -> Fence:
    """Write the ruleset as nftables text.

    :param nat: declare the NAT tables even when no service needs them: without them, connections that were
        rewritten before would break.
    """
    tables = {CHECK_FAMILY: _check_table(ruleset)}
    if nat or needs_nat(ruleset):
        tables.update({family: _nat_table(ruleset, family) for family in NAT_FAMILIES})
    return Fence(
        tables={family: table.text for family, table in tables.items()},
        chains={family: {text.split()[1]: text for text in table.chains} for family, table in tables.items()},
        maps={family: dict(table.specs) for family, table in tables.items()},
        members=tuple(tables[CHECK_FAMILY].members),
    )


def needs_nat(ruleset: Ruleset) -> bool:
    """Whether any service is assigned its ports by source NAT."""
    return any(rules.rewrite for rules in ruleset.services)


def _check_table(ruleset: Ruleset) -> Table:
    table = Table()
    if ruleset.services:
        table.limits.append(LOG_LIMIT_TEXT)
    for rules in ruleset.services:
        table.counters.append(f"\tcounter violations_{rules.name} {{ packets 0 bytes 0 }}\n")
        table.chains.append(_check_chain(rules))
        if rules.refuse:
            table.chains.append(_refuse_chain(rules))
        if rules.exclusive:
            table.counters.append(f"\tcounter intrusions_{rules.name} {{ packets 0 bytes 0 }}\n")
            table.chains.append(_guard_chain(rules))
    _base(
        table,
        name="postrouting",
        declaration=f"type filter hook postrouting priority {CHECK_PRIORITY}; policy accept;",
        services=ruleset.services,
        dispatch=lambda services, suffix: [
            *owned(table, services, Dispatch("check_", f"checked{suffix}", sockets=False)),
            *_guard_maps(table, [rules for rules in services if rules.exclusive], suffix),
            *_check_forwarded(table, services, suffix),
        ],
    )
    _marks(table, ruleset)
    _zones(table, ruleset)
    _refusals(table, ruleset)
    return table


def _check_forwarded(table: Table, services: Sequence[ServiceRules], suffix: str) -> List[str]:
    """Forwarded packets have no owner, those of this host's sockets have one, and may bear the same address."""
    lines = [] if suffix else forwarded(table, services, Dispatch("check_", "checked", sockets=False), families=NAT_FAMILIES)
    return [f"{HAS_OWNER} accept", *lines] if lines else []


def _marks(table: Table, ruleset: Ruleset) -> None:
    """Let postrouting know which packets come from the units of services."""
    units = {rules.name for rules in ruleset.services if rules.units}
    if not units:
        return
    table.chains.extend(chain(f"mark_{rules.name}", [set_mark(rules)]) for rules in ruleset.services if rules.units)
    _base(
        table,
        name="marking",
        declaration=f"type filter hook output priority {MARK_PRIORITY}; policy accept;",
        services=[rules for rules in ruleset.services if rules.units],
        dispatch=lambda services, suffix: owned(table, services, Dispatch("mark_", f"marked{suffix}", sockets=True)),
    )


def _refusals(table: Table, ruleset: Ruleset) -> None:
    """Answer violations on the way out, which postrouting can't."""
    protocols = {rules.name: rules.refused for rules in ruleset.services if rules.refuse}
    if not protocols:
        return
    _base(
        table,
        name="output",
        declaration=f"type filter hook output priority {REFUSE_PRIORITY}; policy accept;",
        services=concerned(ruleset.services, protocols),
        dispatch=lambda services, suffix: owned(
            table, services, Dispatch("refuse_", f"refused{suffix}", sockets=True, only=protocols, protocols=protocols)
        ),
    )
    others = forwarded(
        table,
        [rules for rules in ruleset.services if rules.refuse],
        Dispatch("refuse_", "refused", sockets=False, protocols=protocols),
        families=NAT_FAMILIES,
    )
    if others:
        lines = [_NOT_OPENING, "meta l4proto != tcp ct direction reply accept", *others]
        table.base.append(
            chain("forward", [f"type filter hook forward priority {REFUSE_PRIORITY}; policy accept;", *lines])
        )


def _zones(table: Table, ruleset: Ruleset) -> None:
    """Keep the tracked flows of each rewritten service apart from those of others, and from its own of other ports.

    Other protocols than TCP have no closing handshake: the entry of a flow outlives its socket by up to minutes, and a
    socket that meets it is not shown to the nat chain. Without a zone of its own, a service that takes the port which
    another account just used towards the same destination would be dropped, and so would the account after it. The
    zone holds for the direction of the host only; its number is the service's first port, which no other service has.
    TCP needs none, and must not get one: a connection that is open already would lose its entry.
    """
    rewritten = ((rules, tuple(protocol for protocol in rules.rewritten if protocol != "tcp")) for rules in ruleset.services)
    # Of the services that are not zoned, other protocols than TCP are what matters as well.
    protocols = {rules.name: tuple(protocol for protocol in rules.protocols if protocol != "tcp") for rules in ruleset.services}
    zoned = {rules.name: found for rules, found in rewritten if found}
    if not zoned:
        return
    table.chains.extend(
        chain(f"zone_{rules.name}", [*_spared(rules), f"ct original zone set {rules.ports.ranges[0].low}"])
        for rules in ruleset.services
        if rules.name in zoned
    )
    protocols.update(zoned)
    own = owned(table, ruleset.services, Dispatch("zone_", "zoned", sockets=True, only=zoned, protocols=protocols))
    others = forwarded(
        table,
        [rules for rules in ruleset.services if rules.name in zoned],
        Dispatch("zone_", "zoned", sockets=False, protocols=protocols),
        families=NAT_FAMILIES,
        original=False,
    )
    for name, hook, lines in (("raw", "output", own), ("raw_forwarded", "prerouting", others)):
        if lines:
            lines = ["meta l4proto tcp accept", *([f"{_LOOPBACK} accept"] if hook == "output" else []), *lines]
            declaration = f"type filter hook {hook} priority {ZONE_PRIORITY}; policy accept;"
            table.base.append(chain(name, [declaration, *lines]))


def _nat_table(ruleset: Ruleset, family: str) -> Table:
    table = Table()
    protocols = {rules.name: rules.rewritten for rules in ruleset.services if rules.rewrite}
    table.chains.extend(_assign_chain(rules) for rules in ruleset.services if rules.rewrite)

    def dispatch(services: Sequence[ServiceRules], suffix: str) -> List[str]:
        way = Dispatch("assign_", f"assigned{suffix}", sockets=False, only=protocols, protocols=protocols)
        others = [] if suffix else forwarded(table, services, way, families=[family], original=False)
        return [*owned(table, services, way), *([f"{HAS_OWNER} accept", *others] if others else [])]

    _base(
        table,
        name="postrouting",
        declaration=f"type nat hook postrouting priority {NAT_PRIORITY}; policy accept;",
        services=concerned(ruleset.services, protocols),
        dispatch=dispatch,
    )
    return table


def _base(
    table: Table,
    *,
    name: str,
    declaration: str,
    services: Sequence[ServiceRules],
    dispatch: Callable[[Sequence[ServiceRules], str], List[str]],
) -> None:
    """A base chain: what passes at once, what stays on the host, then the look-up of the service."""
    lines = [declaration]
    if services:
        lines.append(_NOT_OPENING)
        # A nat chain is shown the first packet of a connection only, which is never a reply.
        if "type nat" not in declaration and any(set(rules.protocols) != {"tcp"} for rules in services):
            lines.append("meta l4proto != tcp ct direction reply accept")
        on_loopback = dispatch([rules for rules in services if rules.loopback], "_lo")
        if on_loopback:
            table.chains.append(chain(f"{name}_lo", on_loopback))
            lines.append(f"{_LOOPBACK} goto {name}_lo")
        else:
            lines.append(f"{_LOOPBACK} accept")
        lines.extend(dispatch(services, ""))
    table.base.append(chain(name, lines))


def _guard_maps(table: Table, services: Sequence[ServiceRules], suffix: str) -> List[str]:
    """Rules that lead packets with ports of exclusive services to their guards.

    Nearly every packet has no such port, so a small map of all those ports stands before that of the services, and only
    then the owner is asked for. The kernel looks through ranges by bisection and locks a socket to read its owner: with
    5,000 services it would be a tenth of what sending a packet costs.
    """
    rules_text = []
    for protocol in PROTOCOLS:
        guarded = [rules for rules in services if protocol in rules.protocols]
        if guarded:
            name = f"guarded{suffix}_{protocol}"
            elements = [f"{part} : goto guard_{rules.name}" for rules in guarded for part in rules.ports]
            table.add_map(name, _PORT_MAP, elements)
            table.chains.append(chain(name, [f"{HAS_OWNER} {protocol} sport vmap @{name}"]))
            # Packets without an owner come back from there.
            ports = PortSet.of(part for rules in guarded for part in rules.ports)
            table.add_map(f"exclusive{suffix}_{protocol}", _PORT_MAP, [f"{part} : jump {name}" for part in ports])
            rules_text.append(f"{protocol} sport vmap @exclusive{suffix}_{protocol}")
    return rules_text


def _check_chain(rules: ServiceRules) -> str:
    return chain(
        f"check_{rules.name}",
        [
            *([CLEAR_MARK] if rules.units else []),
            *_spared(rules),
            *_inside(rules),
            _log(rules, "violation"),
            f'counter name "violations_{rules.name}" {"drop" if rules.blocks else "accept"}',
        ],
    )


def _refuse_chain(rules: ServiceRules) -> str:
    return chain(
        f"refuse_{rules.name}",
        [
            *_spared(rules),
            *_inside(rules),
            _log(rules, "violation"),
            f'counter name "violations_{rules.name}"',
            "meta l4proto tcp reject with tcp reset",
            "meta l4proto != tcp reject with icmpx type port-unreachable",
        ],
    )


def _guard_chain(rules: ServiceRules) -> str:
    return chain(
        f"guard_{rules.name}",
        [
            _log(rules, "intrusion"),
            f'counter name "intrusions_{rules.name}" {"drop" if rules.blocks else "accept"}',
        ],
    )


def _spared(rules: ServiceRules) -> List[str]:
    return ["meta skuid 0 accept"] if rules.spares_root else []


def _inside(rules: ServiceRules) -> List[str]:
    # A rule for each range: anonymous sets in many chains make loading slow out of proportion.
    return [f"th sport {part} accept" for part in rules.ports]


def _log(rules: ServiceRules, event: str) -> str:
    prefix = rules.log.prefix if event == "violation" else None
    if prefix is None:
        prefix = f"portfence {event} {rules.name}: "
    level = _LEVELS.get(rules.log.level, rules.log.level)
    return f'limit rate {rules.log.rate} limit name "{LOG_LIMIT}" log prefix "{prefix}" level {level} flags skuid'


def _assign_chain(rules: ServiceRules) -> str:
    """Ports inside are kept (a clash is solved within their range); others are spread over the ranges by size."""
    lines = _spared(rules)
    # Masquerade changes the source address to that of the interface, which only forwarded traffic needs.
    nat = "masquerade" if rules.addresses and rules.masquerade else "snat"
    parts = list(rules.ports)
    for protocol in rules.rewritten:
        if len(parts) > 1:
            lines.extend(f"{protocol} sport {part} {nat} to :{part}" for part in parts)
        left = rules.ports.size
        for part in parts[:-1]:
            lines.append(f"meta l4proto {protocol} numgen random mod {left} < {part.size} {nat} to :{part}")
            left -= part.size
        lines.append(f"meta l4proto {protocol} {nat} to :{parts[-1]}")
    return chain(f"assign_{rules.name}", lines)
