# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the rules of a fence of iptables as the kernel would, packet by packet.

Knows only what the compiler writes (see iptables-extensions(8)); anything else is an AssertionError. A packet of a
connection that is not new has a confirmed conntrack entry without translation.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, replace
from typing import Callable, Dict, List, Optional, Tuple

from ansible_collections.portfence.egress.tests.unit.nft_model import OPENING, Chances, Fate, Frame

# In the order in which an outgoing packet meets them, each with its hook.
ORDER = (("raw", "OUTPUT"), ("filter", "OUTPUT"), ("mangle", "POSTROUTING"), ("nat", "POSTROUTING"))
_PORTS = ("tcp", "udp", "sctp", "dccp", "udplite")

Tables = Dict[str, Dict[str, List[List[str]]]]


def read(text: str) -> Tables:
    """Tables with their chains, ours and the built-in ones, and the words of their rules."""
    tables: Tables = {}
    table: Optional[Dict[str, List[List[str]]]] = None
    for line in text.splitlines():
        words = shlex.split(line)
        if line.startswith("*"):
            assert line[1:] not in tables, line
            table = tables[line[1:]] = {hook: [] for name, hook in ORDER if name == line[1:]}
        elif line == "COMMIT":
            table = None
        elif line.startswith(":"):
            assert table is not None and re.fullmatch(r":[A-Za-z0-9_.+-]{1,28} - \[0:0\]", line), line
            assert words[0][1:] not in table, line
            table[words[0][1:]] = []
        elif words[0] == "-A":
            assert table is not None
            table[words[1]].append(words[2:])
        else:
            assert table is not None and words[0] == "-I" and words[2] == "1" and not table[words[1]], line
            table[words[1]].append(words[3:])
    for chains in tables.values():
        for rules in chains.values():
            for rule in rules:
                targets = [word for before, word in zip(rule, rule[1:]) if before in ("-j", "-g")]
                assert len(targets) <= 1
                assert all(word in chains or word.isupper() for word in targets), rule
    return tables


@dataclass
class _Walk:
    """One packet in one table."""

    chains: Dict[str, List[List[str]]]
    frame: Frame
    chances: Chances
    counted: List[str] = field(default_factory=list)
    logged: List[str] = field(default_factory=list)
    zones: List[int] = field(default_factory=list)


def send(tables: Tables, frame: Frame, *, chances: Chances = Chances()) -> Fate:
    """Let a packet pass all tables in the order of the kernel."""
    walk = _Walk({}, frame, chances)
    for name, hook in ORDER:
        if name not in tables or (name == "nat" and (frame.reply or not frame.new)):
            continue
        walk.chains, walk.frame = tables[name], frame
        verdict = _run(walk, hook)
        if verdict and verdict.startswith("SNAT"):
            assert name == "nat"
            low, high = (int(bound) for bound in verdict.split()[1:])
            if not low <= frame.sport <= high:
                frame = replace(frame, sport=chances.pick(low, high))
        elif verdict:
            fates = {"DROP": ("mangle", "drop"), "REJECT": ("filter", "reject")}
            assert fates[verdict][0] == name
            return Fate(fates[verdict][1], frame.sport, tuple(walk.counted), tuple(walk.logged), sum(walk.zones))
    assert len(walk.zones) <= 1
    return Fate("accept", frame.sport, tuple(walk.counted), tuple(walk.logged), sum(walk.zones))


def _run(walk: _Walk, chain: str) -> Optional[str]:
    """A verdict, or None for going on behind the jump that led to this chain."""
    for rule in walk.chains[chain]:
        target, goto, options = _match(walk, rule)
        if target is None or target == "":
            continue
        if target == "RETURN":
            return None
        if target in walk.chains:
            verdict = _run(walk, target)
            if verdict is not None or goto:
                return verdict
        elif target == "LOG":
            walk.logged.append(options["--log-prefix"])
        elif target == "CT":
            walk.zones.append(int(options["--zone-orig"]))
        elif target == "SNAT":
            low, _dash, high = options["--to-source"][1:].partition("-")
            return f"SNAT {low} {high or low}"
        else:
            assert target in ("DROP", "REJECT"), rule
            return target
    return None


def _match(walk: _Walk, rule: List[str]) -> Tuple[Optional[str], bool, Dict[str, str]]:
    """Target ("" for none), whether it is a goto, options of the target. Target None: the rule does not match."""
    words = list(rule)
    options: Dict[str, str] = {}
    target, goto, inverted = "", False, False
    while words:
        word = words.pop(0)
        if word == "!":
            inverted = True
            continue
        if word == "-m":
            assert words.pop(0) in ("tcp", "owner", "multiport", "conntrack", "comment", "limit", "hashlimit", "statistic", "cgroup"), rule
            continue
        if word in ("--log-uid",):
            continue
        value = words.pop(0)
        if word == "--tcp-flags":
            value = f"{value} {words.pop(0)}"
        if word in ("-j", "-g"):
            target, goto = value, word == "-g"
        elif word in ("--log-prefix", "--log-level", "--zone-orig", "--to-source", "--reject-with"):
            assert target, rule
            options[word] = value
        elif word in _MATCHES:
            assert not target, rule
            if _MATCHES[word](walk, value) == inverted:
                return None, False, {}
            inverted = False
        else:
            raise AssertionError(f"unknown option {word} in {rule}")
    return target, goto, options


def _within(number: int, bounds: str, separator: str = ":") -> bool:
    low, _separator, high = bounds.partition(separator)
    return int(low) <= number <= int(high or low)


def _owner(number: Optional[int], value: str) -> bool:
    return number is not None and _within(number, value, "-")


def _ports(walk: _Walk, value: str) -> bool:
    assert sum(2 if ":" in part else 1 for part in value.split(",")) <= 15
    return walk.frame.protocol in _PORTS and any(_within(walk.frame.sport, part) for part in value.split(","))


def _tcp_flags(walk: _Walk, value: str) -> bool:
    assert value == "FIN,SYN,RST,ACK SYN"
    return walk.frame.flags & {"fin", "syn", "rst", "ack"} == OPENING


def _status(walk: _Walk, value: str) -> bool:
    assert value == "CONFIRMED"
    return not walk.frame.new


def _comment(walk: _Walk, value: str) -> bool:
    walk.counted.append(value)
    return True


def _probability(walk: _Walk, value: str) -> bool:
    # xt_statistic compares 31 random bits; drawn here in steps of one in a thousand.
    return walk.chances.random(1000) < round(float(value) * 1000)


def _same(expected: str) -> Callable[[_Walk, str], bool]:
    def check(walk: _Walk, value: str) -> bool:
        assert value == expected
        return True

    return check


_MATCHES: Dict[str, Callable[[_Walk, str], bool]] = {
    "-p": lambda walk, value: walk.frame.protocol == value,
    "-o": lambda walk, value: _same("lo")(walk, value) and walk.frame.loopback,
    "--uid-owner": lambda walk, value: _owner(walk.frame.uid, value),
    "--gid-owner": lambda walk, value: _owner(walk.frame.gid, value),
    "--cgroup": lambda walk, value: walk.frame.uid is not None and walk.frame.classid == int(value),
    "--sports": _ports,
    "--tcp-flags": _tcp_flags,
    "--ctdir": lambda walk, value: _same("REPLY")(walk, value) and walk.frame.reply,
    "--ctstatus": _status,
    # Without translation, the port that the other side answers to is the one that the packet has.
    "--ctrepldstport": lambda walk, value: _within(walk.frame.sport, value),
    "--comment": _comment,
    "--limit": lambda walk, value: not walk.chances.limited,
    "--limit-burst": lambda walk, value: 1 <= int(value) <= 5,
    "--hashlimit-upto": _same("5/second"),
    "--hashlimit-burst": _same("200"),
    "--hashlimit-name": _same("portfence-5-200"),
    "--hashlimit-htable-expire": _same("80000"),
    "--mode": _same("random"),
    "--probability": _probability,
}
