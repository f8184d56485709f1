# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What iptables-save prints → what of it is ours, in a form that can be compared. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, List, Mapping, NamedTuple, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._iptables import EVENTS, FAMILIES, MARKER, is_ours

_CHAIN = re.compile(r":([^ ]+) (?:[A-Z]+|-) \[[0-9]+:[0-9]+\]\Z")
_RULE = re.compile(r"(?:\[([0-9]+):([0-9]+)\] )?-A ([^ ]+)(?: (.*))?\Z")
_TARGET = re.compile(r"(?:\A| )-[jg] (\S+)")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_COUNTED = re.compile(rf'-m comment --comment "?((?:{"|".join(EVENTS)})_[A-Za-z0-9_.-]+)"?\Z')
_INCOMPATIBLE = re.compile(r"^# Table `(\w+)' is incompatible", re.MULTILINE)


class Jump(NamedTuple):
    """A rule of a chain that is not ours, and leads to one that is. The first rule of a chain has position 1."""

    chain: str
    position: int
    rule: str


@dataclass(frozen=True)
class Part:
    """What is ours in one table."""

    chains: Mapping[str, Tuple[str, ...]]
    jumps: Tuple[Jump, ...]


# By table. Tables that hold nothing of ours are left out.
Listing = Mapping[str, Part]


def parse_listing(text: str) -> Dict[str, Part]:
    """The output of iptables-save, without counts. Raises PortFenceError when it is none."""
    found: Dict[str, Part] = {}
    for table, chains in _tables(text).items():
        ours = {name: tuple(rules) for name, rules in sorted(chains.items()) if is_ours(name)}
        jumps = tuple(
            Jump(name, position, rule)
            for name, rules in chains.items()
            if name not in ours
            for position, rule in enumerate(rules, start=1)
            if target(rule) in ours
        )
        if ours:
            found[table] = Part(ours, jumps)
    return found


def _tables(text: str) -> Dict[str, Dict[str, List[str]]]:
    tables: Dict[str, Dict[str, List[str]]] = {}
    table = ""
    for line in text.split("\n"):
        chain, rule = _CHAIN.match(line), _RULE.match(line)
        if line.startswith("*"):
            table = line[1:]
            tables[table] = {}
        elif chain and table:
            tables[table][chain[1]] = []
        elif rule and rule[3] in tables.get(table, {}):
            tables[table][rule[3]].append(rule[4] or "")
        elif line == "COMMIT" and table:
            table = ""
        elif line and not line.startswith("#"):
            raise PortFenceError(f"iptables-save printed something that is no listing: {line[:200]!r}")
    if table:
        raise PortFenceError(f"iptables-save ended in the middle of table {table[:60]!r}")
    return tables


def target(rule: str) -> str:
    """Where a rule leads to; empty for a rule that only counts."""
    found = _TARGET.search(_QUOTED.sub("", rule))
    return found[1] if found else ""


def incompatible(text: str) -> Tuple[str, ...]:
    """Tables that iptables-nft-save does not list because something else than iptables wrote to them."""
    return tuple(_INCOMPATIBLE.findall(text))


def unmarked(listing: Listing) -> Tuple[str, ...]:
    """Tables in which a chain is named like one of ours, but was not written by us."""
    return tuple(table for table, part in listing.items() if MARKER not in part.chains)


def counting_chains(listings: Mapping[int, Listing]) -> List[str]:
    """The chains in the table ``filter`` that hold counts."""
    names = [name for family in FAMILIES for name in getattr(listings.get(family, {}).get("filter"), "chains", ())]
    return sorted({name for name in names if name.startswith("pf-violations-")})


def parse_counters(text: str) -> Dict[str, Tuple[int, int]]:
    """The output of ``iptables-save --counters`` → name, such as violations_myapp, to packets and bytes."""
    found: Dict[str, Tuple[int, int]] = {}
    for line in text.split("\n"):
        rule = _RULE.match(line)
        name = _COUNTED.match(rule[4] or "") if rule and is_ours(rule[3]) else None
        if rule and name:
            packets, size = found.get(name[1], (0, 0))
            found[name[1]] = (packets + int(rule[1] or 0), size + int(rule[2] or 0))
    return found
