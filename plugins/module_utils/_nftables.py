# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ruleset → nftables text, and the kernel's JSON listing → a form that can be compared. Pure.

Layout (nft 0.9.8 and newer take the same text):

- ``table inet portfence`` checks, at postrouting behind every source NAT: a verdict map leads from protocol and
  UID (or GID) to the chain of the service, so that the cost of a packet does not grow with the number of services.
- ``table ip portfence`` and ``table ip6 portfence`` assign ports: nft 0.9.8 refuses a NAT of ports alone in ``inet``.
- Counters are never deleted while their service lives; chains and maps are refilled in one transaction.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Callable, Collection, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._policy import PROTOCOLS
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import Ruleset, ServiceRules

TABLE = "portfence"
CHECK_FAMILY = "inet"
NAT_FAMILIES = ("ip", "ip6")
FAMILIES = (CHECK_FAMILY, *NAT_FAMILIES)
# An empty chain that tells our tables from one that somebody else named alike (nft 0.9.8 does not list table comments as JSON).
MARKER = "managed_by_portfence_egress"

# One below the usual srcnat (100): of two nat chains the first to translate a connection wins.
NAT_PRIORITY = 99
CHECK_PRIORITY = 110
REFUSE_PRIORITY = 10
# The usual "raw": before connection tracking (-200) looks the packet up.
ZONE_PRIORITY = -300

# The opening segment of a TCP connection; replies, live sessions and bulk data are anything else.
_NOT_OPENING = "tcp flags & (fin | syn | rst | ack) != syn accept"
# True for every packet that has an owner: (uid_t) -1 is no UID, and a packet without a socket does not match at all.
_HAS_OWNER = "meta skuid != 4294967295"
_LEVELS = {"warning": "warn"}
_KEY_TYPES = {"skuid": "uid", "skgid": "gid"}

Listing = List[Dict[str, Any]]


@dataclass(frozen=True)
class Fence:
    """A compiled fence: tables by family, each the text between its braces."""

    tables: Mapping[str, str]
    maps: Mapping[str, Mapping[str, str]]

    @property
    def text(self) -> str:
        """A file for ``nft -f`` which gives this fence, on a kernel that has none or this one already."""
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


class _Table:
    """Text of one table, in the order in which nft 1.0.6 can resolve it: counters, chains, maps, base chains."""

    def __init__(self) -> None:
        self.counters: List[str] = []
        self.chains: List[str] = [_chain(MARKER, [])]
        self.maps: List[str] = []
        self.base: List[str] = []
        self.specs: Dict[str, str] = {}

    def add_map(self, name: str, spec: str, elements: Sequence[str]) -> None:
        """A verdict map. Maps of ranges only load where map and elements come in one declaration (nft 1.0.6)."""
        self.specs[name] = spec
        body = ",\n\t\t\t".join(elements)
        self.maps.append(f"\tmap {name} {{\n\t\t{spec}\n\t\telements = {{\n\t\t\t{body}\n\t\t}}\n\t}}\n")

    @property
    def text(self) -> str:
        return "".join([*self.counters, *self.chains, *self.maps, *self.base])


def compile_fence(ruleset: Ruleset, *, nat: bool) -> Fence:
    """Write the ruleset as nftables text.

    :param nat: declare the NAT tables even when no service needs them: without them, connections that were
        rewritten before would break.
    """
    tables = {CHECK_FAMILY: _check_table(ruleset)}
    if nat or needs_nat(ruleset):
        tables.update({family: _nat_table(ruleset) for family in NAT_FAMILIES})
    return Fence(
        tables={family: table.text for family, table in tables.items()},
        maps={family: dict(table.specs) for family, table in tables.items()},
    )


def needs_nat(ruleset: Ruleset) -> bool:
    """Whether any service is assigned its ports by source NAT."""
    return any(rules.rewrite for rules in ruleset.services)


def _check_table(ruleset: Ruleset) -> _Table:
    table = _Table()
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
            *_owner_maps(table, services, "check_", f"checked{suffix}"),
            *_guard_maps(table, [rules for rules in services if rules.exclusive], suffix),
        ],
    )
    _zones(table, ruleset)
    refusing = {rules.name for rules in ruleset.services if rules.refuse}
    if refusing:
        _base(
            table,
            name="output",
            declaration=f"type filter hook output priority {REFUSE_PRIORITY}; policy accept;",
            services=_concerned(ruleset.services, refusing),
            dispatch=lambda services, suffix: _owner_maps(table, services, "refuse_", f"refused{suffix}", refusing),
        )
    return table


def _zones(table: _Table, ruleset: Ruleset) -> None:
    """Keep the tracked flows of each rewritten service apart from those of others, and from its own of other ports.

    Other protocols than TCP have no closing handshake: the entry of a flow outlives its socket by up to minutes, and a
    socket that meets it is not shown to the nat chain. Without a zone of its own, a service that takes the port which
    another account just used towards the same destination would be dropped, and so would the account after it. The
    zone holds for the direction of the host only; its number is the service's first port, which no other service has.
    TCP needs none, and must not get one: a connection that is open already would lose its entry.
    """
    zoned = {rules.name for rules in ruleset.services if rules.rewrite and set(rules.protocols) != {"tcp"}}
    if not zoned:
        return
    table.chains.extend(
        _chain(f"zone_{rules.name}", [*_spared(rules), f"ct original zone set {rules.ports.ranges[0].low}"])
        for rules in ruleset.services
        if rules.name in zoned
    )
    lines = [
        f"type filter hook output priority {ZONE_PRIORITY}; policy accept;",
        "meta l4proto tcp accept",
        'oifname "lo" accept',
        *_owner_maps(table, ruleset.services, "zone_", "zoned", zoned, PROTOCOLS[1:]),
    ]
    table.base.append(_chain("raw", lines))


def _nat_table(ruleset: Ruleset) -> _Table:
    table = _Table()
    rewriting = {rules.name for rules in ruleset.services if rules.rewrite}
    table.chains.extend(_assign_chain(rules) for rules in ruleset.services if rules.rewrite)
    _base(
        table,
        name="postrouting",
        declaration=f"type nat hook postrouting priority {NAT_PRIORITY}; policy accept;",
        services=_concerned(ruleset.services, rewriting),
        dispatch=lambda services, suffix: _owner_maps(table, services, "assign_", f"assigned{suffix}", rewriting),
    )
    return table


def _concerned(services: Sequence[ServiceRules], names: Collection[str]) -> List[ServiceRules]:
    """The services with these names, and those whose users must be kept from the groups of them: the user decides first."""
    by_group = any(rules.gids for rules in services if rules.name in names)
    return [rules for rules in services if rules.name in names or (by_group and rules.uids)]


def _base(
    table: _Table,
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
            table.chains.append(_chain(f"{name}_lo", on_loopback))
            lines.append(f'oifname "lo" goto {name}_lo')
        else:
            lines.append('oifname "lo" accept')
        lines.extend(dispatch(services, ""))
    table.base.append(_chain(name, lines))


def _owner_maps(
    table: _Table,
    services: Sequence[ServiceRules],
    prefix: str,
    name: str,
    only: Optional[Collection[str]] = None,
    protocols: Sequence[str] = PROTOCOLS,
) -> List[str]:
    """Verdict maps from owner to chain; packets of services other than ``only`` are accepted."""

    def verdict(rules: ServiceRules) -> str:
        return f"goto {prefix}{rules.name}" if only is None or rules.name in only else "accept"

    if only is not None:
        services = _concerned(services, only)
    rules_text = []
    for key, ids in (("skuid", "uids"), ("skgid", "gids")):
        kind = _KEY_TYPES[key]
        elements = [
            f"{protocol} . {number} : {verdict(rules)}"
            for rules in services
            for number in (rules.uids if ids == "uids" else rules.gids)
            for protocol in rules.protocols
            if protocol in protocols
        ]
        if elements:
            table.add_map(f"{name}_{kind}s", f"type inet_proto . {kind} : verdict;", elements)
            rules_text.append(f"meta l4proto . meta {key} vmap @{name}_{kind}s")
    return rules_text


def _guard_maps(table: _Table, services: Sequence[ServiceRules], suffix: str) -> List[str]:
    rules_text = []
    for protocol in PROTOCOLS:
        elements = [
            f"{part} : goto guard_{rules.name}"
            for rules in services
            if protocol in rules.protocols
            for part in rules.ports
        ]
        if elements:
            name = f"guarded{suffix}_{protocol}"
            table.add_map(name, "type inet_service : verdict; flags interval;", elements)
            rules_text.append(f"{_HAS_OWNER} {protocol} sport vmap @{name}")
    return rules_text


def _check_chain(rules: ServiceRules) -> str:
    return _chain(
        f"check_{rules.name}",
        [
            *_spared(rules),
            *_inside(rules),
            _log(rules, "violation"),
            f'counter name "violations_{rules.name}" {"drop" if rules.blocks else "accept"}',
        ],
    )


def _refuse_chain(rules: ServiceRules) -> str:
    return _chain(
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
    return _chain(
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
    return f'limit rate {rules.log.rate} log prefix "{prefix}" level {level} flags skuid'


def _assign_chain(rules: ServiceRules) -> str:
    """Ports inside are kept (a clash is solved within their range); others are spread over the ranges by size."""
    lines = _spared(rules)
    parts = list(rules.ports)
    for protocol in rules.protocols:
        if len(parts) > 1:
            lines.extend(f"{protocol} sport {part} snat to :{part}" for part in parts)
        left = rules.ports.size
        for part in parts[:-1]:
            lines.append(f"meta l4proto {protocol} numgen random mod {left} < {part.size} snat to :{part}")
            left -= part.size
        lines.append(f"meta l4proto {protocol} snat to :{parts[-1]}")
    return _chain(f"assign_{rules.name}", lines)


def _chain(name: str, lines: Iterable[str]) -> str:
    return "".join([f"\tchain {name} {{\n", *(f"\t\t{line}\n" for line in lines), "\t}\n"])


def parse_listing(text: str) -> Listing:
    """Objects of ``nft -j list …``, without what differs between two equal rulesets.

    Handles go, counters are set to zero, objects are sorted by kind and name, elements by value; rules keep their
    order. Raises PortFenceError when it is no listing.
    """
    try:
        objects = json.loads(text)["nftables"]
        return sorted((_normal(item) for item in objects if "metainfo" not in item), key=_place)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PortFenceError(f"nft -j printed something that is no listing: {text[:200]!r}") from error


def _normal(item: Mapping[str, Any]) -> Dict[str, Any]:
    ((kind, content),) = item.items()
    kept = {key: value for key, value in content.items() if key != "handle"}
    if kind == "counter":
        kept.update(packets=0, bytes=0)
    if "elem" in kept:
        kept["elem"] = sorted(kept["elem"], key=_stable)
    return {kind: kept}


def _place(item: Mapping[str, Any]) -> Tuple[str, str, str]:
    # Python's sort is stable: rules of one chain stay in the kernel's order.
    ((kind, content),) = item.items()
    return (content.get("family", ""), kind, content.get("chain", "") if kind == "rule" else content.get("name", ""))


def _stable(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def family_of(listing: Listing, family: str) -> Listing:
    """Only the objects of one family."""
    return [item for item in listing for content in item.values() if content.get("family") == family]


def names_of(listing: Listing, kind: str) -> List[str]:
    """Names of all objects of a kind (``chain``, ``map``, ``set``, ``counter``)."""
    return [item[kind]["name"] for item in listing if kind in item]


def is_ours(listing: Listing) -> bool:
    """Whether a listed table was written by this collection."""
    return MARKER in names_of(listing, "chain")


def parse_counters(text: str) -> Dict[str, Tuple[int, int]]:
    """``nft -j list counters`` → counter name to packets and bytes. Raises PortFenceError."""
    try:
        objects = json.loads(text)["nftables"]
        counters = [item["counter"] for item in objects if "counter" in item]
        return {item["name"]: (int(item["packets"]), int(item["bytes"])) for item in counters}
    except (ValueError, KeyError, TypeError) as error:
        raise PortFenceError(f"nft -j printed something that is no list of counters: {text[:200]!r}") from error
