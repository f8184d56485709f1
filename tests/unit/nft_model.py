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
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._nft_table import Member

# On the way out, of this host's own packets and of those that it forwards.
OWN_HOOKS = ("output", "postrouting")
FORWARDED_HOOKS = ("prerouting", "forward", "postrouting")
# nat chains are shown the packet that opens a connection (nft(8), "CHAINS").
OPENING = frozenset({"syn"})


@dataclass(frozen=True)
class Frame:
    """A packet on its way out. No uid and no gid: it has no owner on this host. With an address it is forwarded.

    :ivar cgroup: path of the cgroup v2 of its socket, without slashes at the ends.
    :ivar address: where it comes from; the family that it is sent with goes with it.
    """

    protocol: str
    sport: int
    uid: Optional[int] = None
    gid: Optional[int] = None
    loopback: bool = False
    flags: FrozenSet[str] = OPENING
    reply: bool = False
    new: bool = True
    classid: int = 0
    cgroup: Optional[str] = None
    address: Optional[str] = None
    destination: str = "192.0.2.1"
    interface: str = "eth1"
    mark: int = 0


@dataclass(frozen=True)
class Fate:
    """What became of a packet: accept, drop or reject, the port that it left with, what was counted and logged, the
    zone of connection tracking that it was put in, whether it left with the host's address, and its mark."""

    verdict: str
    sport: int
    counted: Tuple[str, ...] = ()
    logged: Tuple[str, ...] = ()
    zone: int = 0
    masqueraded: bool = False
    mark: int = 0


@dataclass(frozen=True)
class Chances:
    """What the text leaves open: whether the rate of logs is used up, random numbers below a modulus, and which port of
    a range NAT takes."""

    limited: bool = False
    random: Callable[[int], int] = lambda modulus: 0
    pick: Callable[[int, int], int] = lambda low, high: low


@dataclass
class Table:
    """One table: chains as lists of rules, maps as (low key, high key, verdict), and what maps of cgroups may hold."""

    chains: Dict[str, List[str]] = field(default_factory=dict)
    maps: Dict[str, List[Tuple[Any, Any, str]]] = field(default_factory=dict)
    counters: List[str] = field(default_factory=list)
    limits: List[str] = field(default_factory=list)
    members: Tuple[Member, ...] = ()


@dataclass
class _Walk:
    """One packet in one base chain."""

    table: Table
    frame: Frame
    chances: Chances
    counted: List[str]
    logged: List[str]
    zones: List[int]
    mark: int


def read(body: str, *, members: Sequence[Member] = ()) -> Dict[str, Table]:
    """Tables by family.

    :param members: elements of the maps of cgroups, each there as soon as a cgroup of that name is.
    """
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
        elif text.startswith("limit ") and inside == "":
            assert text == "limit logged { rate 5/second burst 200 packets }" and not table.limits, text
            table.limits.append("logged")
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
    if members:
        tables["inet"].members = tuple(members)
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
    found = re.fullmatch(r"(\d+)(?:-(\d+))? : ((?:goto|jump) \S+)", text)
    assert found, text
    return int(found[1]), int(found[2] or found[1]), found[3]


def _check_references(table: Table) -> None:
    rules = "\n".join(re.sub(r'log prefix "[^"]*"', "", rule) for chain in table.chains.values() for rule in chain)
    verdicts = "\n".join(
        [
            *(verdict for elements in table.maps.values() for _low, _high, verdict in elements),
            *(member.verdict for member in table.members),
        ]
    )
    assert set(re.findall(r"(?:goto|jump) ([\w.-]+)", f"{rules}\n{verdicts}")) <= set(table.chains)
    # Interfaces are between quotes, and can have this character in their name.
    assert set(re.findall(r"@(\S+)", re.sub(r'"[^"]*"', "", rules))) == set(table.maps)
    assert set(re.findall(r'counter name "([^"]+)"', rules)) == set(table.counters)
    assert set(re.findall(r'limit name "([^"]+)"', rules)) == set(table.limits)
    for elements in table.maps.values():
        ordered = sorted(elements)
        assert all(before[1] < after[0] for before, after in zip(ordered, ordered[1:])), f"overlapping keys: {ordered}"


def send(tables: Dict[str, Table], frame: Frame, *, family: str = "ip", chances: Chances = Chances()) -> Fate:
    """Let a packet of a family (ip, ip6) pass all base chains in the order of the kernel."""
    counted: List[str] = []
    logged: List[str] = []
    zones: List[int] = []
    masqueraded = False
    verdict = "accept"
    hooks = OWN_HOOKS if frame.address is None else FORWARDED_HOOKS
    for _hook, _priority, kind, table, rules in sorted(_bases(tables, family, hooks), key=lambda base: base[:2]):
        if kind == "nat" and (frame.reply or not frame.new):
            continue
        walk = _Walk(table, frame, chances, counted, logged, zones, frame.mark)
        # At the end of a base chain stands its policy.
        verdict = _run(walk, rules) or "accept"
        frame = replace(frame, mark=walk.mark)
        if verdict.startswith(("snat", "masquerade")):
            masqueraded = masqueraded or verdict.startswith("masquerade")
            low, high = (int(bound) for bound in verdict.split()[1:])
            if not low <= frame.sport <= high:
                frame = replace(frame, sport=chances.pick(low, high))
            verdict = "accept"
        elif verdict != "accept":
            break
    assert len(zones) <= 1, zones
    return Fate(verdict, frame.sport, tuple(counted), tuple(logged), sum(zones), masqueraded, frame.mark)


def _bases(tables: Dict[str, Table], family: str, hooks: Sequence[str]) -> List[Tuple[int, int, str, Table, List[str]]]:
    found = []
    for name, table in tables.items():
        assert name in ("inet", "ip", "ip6")
        for rules in table.chains.values():
            if rules and rules[0].startswith("type ") and name in ("inet", family):
                base = re.fullmatch(r"type (filter|nat) hook (\w+) priority (-?\d+); policy accept;", rules[0])
                assert base and base[2] in (*OWN_HOOKS, *FORWARDED_HOOKS), rules[0]
                if base[2] in hooks:
                    found.append((hooks.index(base[2]), int(base[3]), base[1], table, rules[1:]))
    return found


def _run(walk: _Walk, rules: List[str]) -> Optional[str]:
    """A verdict, or None at the end of the chain, which hands the packet to whoever jumped last."""
    for rule in rules:
        verdict = _rule(walk, rule)
        if verdict is None:
            continue
        if verdict.startswith("goto "):
            return _run(walk, walk.table.chains[verdict[5:]])
        if verdict.startswith("jump "):
            verdict = _run(walk, walk.table.chains[verdict[5:]])
            if verdict is None:
                continue
        return verdict
    return None


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


def _class_map(walk: _Walk, found: re.Match[str]) -> Optional[str]:
    for key, verdict in (element.split(" : ") for element in found[1].split(", ")):
        if int(key, 16) == walk.frame.classid and walk.frame.uid is not None:
            return verdict
    return None


def _cgroup_map(walk: _Walk, found: re.Match[str]) -> Optional[str]:
    level = int(found[1])
    path = (walk.frame.cgroup or "").split("/")
    if walk.frame.cgroup is None or len(path) < level:
        return None
    parent, name = "/".join(path[: level - 1]), path[level - 1]
    verdicts = [
        member.verdict
        for member in walk.table.members
        if member.map == found[2] and (member.place.level, member.place.parent) == (level, parent) and member.place.matches(name)
    ]
    assert len(verdicts) <= 1, verdicts
    return verdicts[0] if verdicts else None


def _address_map(walk: _Walk, found: re.Match[str]) -> Optional[str]:
    return None if walk.frame.address is None else _look_up(walk, found[1], int(ipaddress.ip_address(walk.frame.address)))


def _inside(walk: _Walk, found: re.Match[str]) -> Optional[str]:
    return _when(ipaddress.ip_address(walk.frame.destination) in ipaddress.ip_network(found[1]))


def _set_mark(walk: _Walk, found: re.Match[str]) -> str:
    walk.mark = walk.mark & int(found[1], 16) | int(found[2] or "0", 16)
    return ""


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
        (r"meta cgroup vmap \{ (.+) \}", _class_map),
        (r"socket cgroupv2 level (\d+) vmap @(\S+)", _cgroup_map),
        (r"meta mark set meta mark and 0x([0-9a-f]{8})(?: or 0x([0-9a-f]{8}))?", _set_mark),
        (r"meta mark and 0x([0-9a-f]{8}) vmap @(\S+)", lambda walk, found: _look_up(walk, found[2], walk.mark & int(found[1], 16))),
        (r"(?:ct original )?ip6? saddr vmap @(\S+)", _address_map),
        (r"ip6? daddr (\S+)", _inside),
        (r'iifname "([^"]+)"', lambda walk, found: _when(walk.frame.interface == found[1])),
        (r"meta l4proto != tcp", lambda walk, found: _when(walk.frame.protocol != "tcp")),
        (r"meta l4proto " + _PROTOCOL, lambda walk, found: _when(walk.frame.protocol == found[1])),
        (r"meta skuid 0", lambda walk, found: _when(walk.frame.uid == 0)),
        (r"meta skuid != 4294967295", lambda walk, found: _when(walk.frame.uid not in (None, 4294967295))),
        (r"ct original zone set (\d+)", _zone),
        (r"ct direction reply", lambda walk, found: _when(walk.frame.reply)),
        (r'oif "lo"', lambda walk, found: _when(walk.frame.loopback)),
        (r"(th|tcp|udp|sctp|dccp|udplite) sport (\d+)(?:-(\d+))?", _sport),
        (
            r"numgen random mod (\d+) < (\d+)",
            lambda walk, found: _when(walk.chances.random(int(found[1])) < int(found[2])),
        ),
        (r"limit rate [1-9]\d*/(?:second|minute|hour|day)", lambda walk, found: _when(not walk.chances.limited)),
        (r'limit name "logged"', lambda walk, found: ""),
        (r'log prefix "([^"]{1,127})" level (?:emerg|alert|crit|err|warn|notice|info|debug) flags skuid', _log),
        (r'counter name "([^"]+)"', _count),
        (r"reject with (?:tcp reset|icmpx type port-unreachable)", lambda walk, found: "reject"),
        (r"(snat|masquerade) to :(\d+)(?:-(\d+))?", lambda walk, found: f"{found[1]} {found[2]} {found[3] or found[2]}"),
        (r"(accept|drop|goto \S+)", lambda walk, found: found[1]),
    )
]
