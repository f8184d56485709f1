# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the nftables text of a fence as the kernel would, packet by packet.

Knows only what the compiler writes (see nft(8) for what each statement means); anything else is an AssertionError,
so that a new statement can't slip past the tests.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Tuple

HOOKS = ("output", "postrouting")
# nat chains are shown the packet that opens a connection (nft(8), "CHAINS").
OPENING = frozenset({"syn"})


@dataclass(frozen=True)
class Frame:
    """A packet on its way out. No uid and no gid: it has no owner on this host."""

    protocol: str
    sport: int
    uid: Optional[int] = None
    gid: Optional[int] = None
    loopback: bool = False
    flags: FrozenSet[str] = OPENING
    reply: bool = False
    new: bool = True


@dataclass(frozen=True)
class Fate:
    """What became of a packet: accept, drop or reject, the port that it left with, what was counted and logged, and the
    zone of connection tracking that it was put in."""

    verdict: str
    sport: int
    counted: Tuple[str, ...] = ()
    logged: Tuple[str, ...] = ()
    zone: int = 0


@dataclass(frozen=True)
class Chances:
    """What the text leaves open: whether the rate of logs is used up, random numbers below a modulus, and which port of
    a range NAT takes."""

    limited: bool = False
    random: Callable[[int], int] = lambda modulus: 0
    pick: Callable[[int, int], int] = lambda low, high: low


@dataclass
class Table:
    """One table: chains as lists of rules, maps as (low key, high key, verdict)."""

    chains: Dict[str, List[str]] = field(default_factory=dict)
    maps: Dict[str, List[Tuple[Any, Any, str]]] = field(default_factory=dict)
    counters: List[str] = field(default_factory=list)


@dataclass
class _Walk:
    """One packet in one base chain."""

    table: Table
    frame: Frame
    chances: Chances
    counted: List[str]
    logged: List[str]
    zones: List[int]


def read(body: str) -> Dict[str, Table]:
    """Tables by family."""
    tables: Dict[str, Table] = {}
    chain: List[str] = []
    elements: List[Tuple[Any, Any, str]] = []
    inside = ""
    for line in body.splitlines():
        text = line.strip()
        if found := re.fullmatch(r"table (\w+) portfence \{", text):
            assert found[1] not in tables, f"table {found[1]} twice"
            table = tables[found[1]] = Table()
        elif found := re.fullmatch(r"counter (\S+) \{ packets 0 bytes 0 \}", text):
            assert found[1] not in table.counters, text
            table.counters.append(found[1])
        elif found := re.fullmatch(r"chain (\S+) \{", text):
            assert found[1] not in table.chains, text
            chain = table.chains[found[1]] = []
            inside = "chain"
        elif found := re.fullmatch(r"map (\S+) \{", text):
            assert found[1] not in table.maps, text
            elements = table.maps[found[1]] = []
            inside = "map"
        elif text in ("}", ""):
            inside = inside if text == "" else ""
        elif inside == "chain":
            chain.append(text)
        elif text.startswith("type ") or text == "elements = {":
            assert inside == "map", text
            inside = "map" if text.startswith("type ") else "elements"
        else:
            assert inside == "elements", text
            elements.append(_element(text.rstrip(",")))
    for table in tables.values():
        _check_references(table)
    return tables


def _element(text: str) -> Tuple[Any, Any, str]:
    if found := re.fullmatch(r"(\w+) \. (\d+) : (accept|goto \S+)", text):
        key = (found[1], int(found[2]))
        return key, key, found[3]
    if found := re.fullmatch(r"0x([0-9a-f]{8}) : (accept|goto \S+)", text):
        return int(found[1], 16), int(found[1], 16), found[2]
    if found := re.fullmatch(r"([0-9a-f.:]+/\d+) : (goto \S+)", text):
        network = ipaddress.ip_network(found[1])
        return int(network.network_address), int(network.broadcast_address), found[2]
    found = re.fullmatch(r"(\d+)(?:-(\d+))? : (goto \S+)", text)
    assert found, text
    return int(found[1]), int(found[2] or found[1]), found[3]


def _check_references(table: Table) -> None:
    rules = "\n".join(re.sub(r'log prefix "[^"]*"', "", rule) for chain in table.chains.values() for rule in chain)
    verdicts = "\n".join(verdict for elements in table.maps.values() for _low, _high, verdict in elements)
    assert set(re.findall(r"(?:goto|jump) ([\w.-]+)", f"{rules}\n{verdicts}")) <= set(table.chains)
    assert set(re.findall(r"@(\S+)", rules)) == set(table.maps)
    assert set(re.findall(r'counter name "([^"]+)"', rules)) == set(table.counters)
    for elements in table.maps.values():
        ordered = sorted(elements)
        assert all(before[1] < after[0] for before, after in zip(ordered, ordered[1:])), f"overlapping keys: {ordered}"


def send(tables: Dict[str, Table], frame: Frame, *, family: str = "ip", chances: Chances = Chances()) -> Fate:
    """Let a packet of a family (ip, ip6) pass all base chains in the order of the kernel."""
    counted: List[str] = []
    logged: List[str] = []
    zones: List[int] = []
    for _hook, _priority, kind, table, rules in sorted(_bases(tables, family), key=lambda base: base[:2]):
        if kind == "nat" and (frame.reply or not frame.new):
            continue
        verdict = _run(_Walk(table, frame, chances, counted, logged, zones), rules)
        if verdict.startswith("snat"):
            low, high = (int(bound) for bound in verdict.split()[1:])
            if not low <= frame.sport <= high:
                frame = replace(frame, sport=chances.pick(low, high))
        elif verdict != "accept":
            return Fate(verdict, frame.sport, tuple(counted), tuple(logged), sum(zones))
    assert len(zones) <= 1, zones
    return Fate("accept", frame.sport, tuple(counted), tuple(logged), sum(zones))


def _bases(tables: Dict[str, Table], family: str) -> List[Tuple[int, int, str, Table, List[str]]]:
    found = []
    for name, table in tables.items():
        assert name in ("inet", "ip", "ip6")
        for rules in table.chains.values():
            if rules and rules[0].startswith("type ") and name in ("inet", family):
                base = re.fullmatch(r"type (filter|nat) hook (output|postrouting) priority (-?\d+); policy accept;", rules[0])
                assert base, rules[0]
                found.append((HOOKS.index(base[2]), int(base[3]), base[1], table, rules[1:]))
    return found


def _run(walk: _Walk, rules: List[str]) -> str:
    for rule in rules:
        verdict = _rule(walk, rule)
        if verdict is None:
            continue
        # After a goto, a chain that ends hands the packet to the policy of the base chain.
        return _run(walk, walk.table.chains[verdict[5:]]) if verdict.startswith("goto ") else verdict
    return "accept"


def _rule(walk: _Walk, rule: str) -> Optional[str]:
    """A verdict, or None when the rule does not match or gives none."""
    rest = rule
    while rest:
        for pattern, act in _STATEMENTS:
            found = pattern.match(rest)
            if found:
                break
        else:
            raise AssertionError(f"unknown statement: {rest!r} in {rule!r}")
        rest = rest[found.end() :]
        result = act(walk, found)
        if result is None:
            return None
        if result:
            assert not rest, f"{rest!r} stands behind a verdict in {rule!r}"
            return result
    return None


def _when(matches: bool) -> Optional[str]:
    """Go on with the rule, or leave it."""
    return "" if matches else None


def _look_up(walk: _Walk, name: str, key: Any) -> Optional[str]:
    return next((verdict for low, high, verdict in walk.table.maps[name] if low <= key <= high), None)


def _owner_map(walk: _Walk, found: re.Match[str]) -> Optional[str]:
    owner = walk.frame.uid if found[1] == "skuid" else walk.frame.gid
    return None if owner is None else _look_up(walk, found[2], (walk.frame.protocol, owner))


def _port_map(walk: _Walk, found: re.Match[str]) -> Optional[str]:
    return _look_up(walk, found[2], walk.frame.sport) if walk.frame.protocol == found[1] else None


def _log(walk: _Walk, found: re.Match[str]) -> str:
    walk.logged.append(found[1])
    return ""


def _count(walk: _Walk, found: re.Match[str]) -> str:
    walk.counted.append(found[1])
    return ""


def _zone(walk: _Walk, found: re.Match[str]) -> str:
    walk.zones.append(int(found[1]))
    return ""


def _sport(walk: _Walk, found: re.Match[str]) -> Optional[str]:
    has_ports = walk.frame.protocol != "icmp"
    right_protocol = found[1] == "th" or walk.frame.protocol == found[1]
    return _when(has_ports and right_protocol and int(found[2]) <= walk.frame.sport <= int(found[3] or found[2]))


_PROTOCOL = "(tcp|udp|sctp|dccp|udplite)"
_STATEMENTS: List[Tuple[re.Pattern[str], Callable[[_Walk, re.Match[str]], Optional[str]]]] = [
    (re.compile(pattern + r"(?: |$)"), act)
    for pattern, act in (
        (
            r"tcp flags & \(fin \| syn \| rst \| ack\) != syn",
            lambda walk, found: _when(
                walk.frame.protocol == "tcp" and walk.frame.flags & {"fin", "syn", "rst", "ack"} != OPENING
            ),
        ),
        (r"meta l4proto \. meta (skuid|skgid) vmap @(\S+)", _owner_map),
        (_PROTOCOL + r" sport vmap @(\S+)", _port_map),
        (r"meta l4proto != tcp", lambda walk, found: _when(walk.frame.protocol != "tcp")),
        (r"meta l4proto " + _PROTOCOL, lambda walk, found: _when(walk.frame.protocol == found[1])),
        (r"meta skuid 0", lambda walk, found: _when(walk.frame.uid == 0)),
        (r"meta skuid != 4294967295", lambda walk, found: _when(walk.frame.uid not in (None, 4294967295))),
        (r"ct original zone set (\d+)", _zone),
        (r"ct direction reply", lambda walk, found: _when(walk.frame.reply)),
        (r'oifname "lo"', lambda walk, found: _when(walk.frame.loopback)),
        (r"(th|tcp|udp|sctp|dccp|udplite) sport (\d+)(?:-(\d+))?", _sport),
        (
            r"numgen random mod (\d+) < (\d+)",
            lambda walk, found: _when(walk.chances.random(int(found[1])) < int(found[2])),
        ),
        (r"limit rate [1-9]\d*/(?:second|minute|hour|day)", lambda walk, found: _when(not walk.chances.limited)),
        (r'log prefix "([^"]{1,127})" level (?:emerg|alert|crit|err|warn|notice|info|debug) flags skuid', _log),
        (r'counter name "([^"]+)"', _count),
        (r"reject with (?:tcp reset|icmpx type port-unreachable)", lambda walk, found: "reject"),
        (r"snat to :(\d+)(?:-(\d+))?", lambda walk, found: f"snat {found[1]} {found[2] or found[1]}"),
        (r"(accept|drop|goto \S+)", lambda walk, found: found[1]),
    )
]
