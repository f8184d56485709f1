# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The nftables text: what the layout promises, and what is made of the kernel's listing."""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._nft_listing import (
    MARKER,
    family_of,
    is_ours,
    names_of,
    parse_counters,
    parse_listing,
)
from ansible_collections.portfence.egress.tests.unit.counters_sample import COUNTERS
from ansible_collections.portfence.egress.tests.unit.nft_model import Frame, read, send
from ansible_collections.portfence.egress.tests.unit.pipeline import fence_of

ONE = {"web": {"source_ports": "50000-50999", "user": 33}}
MANY = {f"s{i}": {"source_ports": f"{10000 + 10 * i}-{10000 + 10 * i + 8}", "user": 2000 + i} for i in range(300)}


def chain(text: str, name: str) -> List[str]:
    """The rules of the first chain of this name."""
    found = re.search(r"^\tchain " + re.escape(name) + r" \{\n(.*?)^\t\}$", text, re.MULTILINE | re.DOTALL)
    assert found, name
    return [line.strip() for line in found[1].splitlines()]


def test_packets_meet_as_many_rules_with_one_service_as_with_many() -> None:
    assert chain(fence_of(ONE).tables["inet"], "postrouting") == chain(fence_of(MANY).tables["inet"], "postrouting")
    assert chain(fence_of(ONE).tables["ip"], "postrouting") == chain(fence_of(MANY).tables["ip"], "postrouting")
    assert chain(fence_of(MANY).body, "check_s7") == [
        "th sport 10070-10078 accept",
        'limit rate 10/second limit name "logged" log prefix "portfence violation s7: " level warn flags skuid',
        'counter name "violations_s7" drop',
    ]


def test_the_check_stands_behind_every_source_nat_and_ours_comes_first() -> None:
    fence = fence_of(ONE)
    assert chain(fence.tables["inet"], "postrouting")[0] == "type filter hook postrouting priority 110; policy accept;"
    for family in ("ip", "ip6"):
        assert chain(fence.tables[family], "postrouting")[0] == "type nat hook postrouting priority 99; policy accept;"


def test_nat_changes_the_port_alone() -> None:
    assert "masquerade" not in fence_of(ONE).text
    assert chain(fence_of(ONE).tables["ip"], "assign_web") == [
        "meta l4proto tcp snat to :50000-50999",
        "meta l4proto udp snat to :50000-50999",
    ]


def test_nat_keeps_ports_inside_and_spreads_others_by_size() -> None:
    services = {"web": {"source_ports": ["1-10", 20, "30-34"], "user": 33, "protocols": ["tcp"]}}
    assert chain(fence_of(services).tables["ip6"], "assign_web") == [
        "tcp sport 1-10 snat to :1-10",
        "tcp sport 20 snat to :20",
        "tcp sport 30-34 snat to :30-34",
        "meta l4proto tcp numgen random mod 16 < 10 snat to :1-10",
        "meta l4proto tcp numgen random mod 6 < 1 snat to :20",
        "meta l4proto tcp snat to :30-34",
    ]


def test_loopback_is_left_alone_unless_asked_for() -> None:
    assert fence_of(ONE).body.count('oif "lo" accept') == 4
    services = {**ONE, "db": {"source_ports": "51000-51999", "user": 50, "loopback": True}}
    fence = fence_of(services)
    assert fence.body.count('oif "lo" goto postrouting_lo') == 3
    assert "web" not in "".join(fence.tables["inet"].split("map checked_lo_uids {")[1].split("}")[0])
    tables = read(fence.body)
    assert send(tables, Frame("tcp", 7, uid=33, loopback=True)).sport == 7
    assert send(tables, Frame("tcp", 7, uid=50, loopback=True)).sport == 51000


def test_tcp_alone_needs_no_connection_tracking() -> None:
    services = {"web": {**ONE["web"], "assignment": "app", "protocols": ["tcp"]}}
    assert "ct " not in fence_of(services).text
    assert set(fence_of(services).tables) == {"inet"}
    services["dns"] = {"source_ports": 53, "user": 5, "assignment": "app", "protocols": ["udp"]}
    assert "meta l4proto != tcp ct direction reply accept" in chain(fence_of(services).body, "postrouting")


def test_guards_look_at_packets_with_an_owner_only() -> None:
    for protocol in ("tcp", "udp"):
        assert f"{protocol} sport vmap @exclusive_{protocol}" in chain(fence_of(ONE).body, "postrouting")
        assert chain(fence_of(ONE).body, f"guarded_{protocol}") == [f"meta skuid != 4294967295 {protocol} sport vmap @guarded_{protocol}"]


def test_a_log_stands_before_its_drop_and_has_a_limit() -> None:
    services = {
        "a": {**ONE["web"], "on_violation": "reject", "assignment": "app"},
        "b": {"source_ports": 1, "user": 5, "on_violation": "log", "log": {"prefix": "P: ", "level": "info", "rate": "1/hour"}},
    }
    text = fence_of(services).body
    limits = {"a": 'limit rate 10/second limit name "logged" log prefix', "b": 'limit rate 1/hour limit name "logged" log prefix'}
    for name in ("check_a", "refuse_a", "guard_a", "check_b", "guard_b"):
        rules = chain(text, name)
        logs = [index for index, rule in enumerate(rules) if " log " in rule]
        counts = [index for index, rule in enumerate(rules) if rule.startswith("counter ")]
        assert len(logs) == len(counts) == 1 and logs[0] + 1 == counts[0]
        assert rules[logs[0]].startswith(limits[name[-1]]) and rules[logs[0]].endswith("flags skuid")
    assert 'log prefix "P: " level info' in chain(text, "check_b")[1]
    assert 'log prefix "portfence intrusion b: " level info' in chain(text, "guard_b")[0]


def test_reject_answers_on_the_way_out() -> None:
    services = {"web": {**ONE["web"], "assignment": "app", "on_violation": "reject"}}
    text = fence_of(services).body
    assert chain(text, "output")[0] == "type filter hook output priority 10; policy accept;"
    assert chain(text, "refuse_web")[-2:] == [
        "meta l4proto tcp reject with tcp reset",
        "meta l4proto != tcp reject with icmpx type port-unreachable",
    ]
    assert not any("reject" in rule for rule in chain(text, "check_web"))
    assert "chain output" not in fence_of({"web": {**ONE["web"], "on_violation": "reject"}}).body


USER_APP = {"app": {"source_ports": "50000-50009", "user": 5, "assignment": "app"}}


def test_the_user_decides_before_the_group_about_nat_too() -> None:
    """An account of one service may be in the group of another: its ports must not be rewritten into the other's."""
    services = {**USER_APP, "grp": {"source_ports": "60000-60009", "group": 7}}
    tables = read(fence_of(services).body)
    inside, outside = (send(tables, Frame("tcp", port, uid=5, gid=7)) for port in (50001, 7))
    assert (inside.verdict, inside.sport) == ("accept", 50001)
    assert (outside.verdict, outside.sport, outside.counted) == ("drop", 7, ("violations_app",))
    assert send(tables, Frame("tcp", 7, uid=6, gid=7)).sport == 60000


def test_the_user_decides_before_the_group_about_reject_too() -> None:
    services = {
        **USER_APP,
        "grp": {"source_ports": "60000-60009", "group": 7, "assignment": "app", "on_violation": "reject"},
    }
    tables = read(fence_of(services).body)
    assert send(tables, Frame("tcp", 50001, uid=5, gid=7)).verdict == "accept"
    assert send(tables, Frame("tcp", 7, uid=5, gid=7)).counted == ("violations_app",)
    assert send(tables, Frame("tcp", 7, uid=6, gid=7)).verdict == "reject"


def test_ids_are_numbers_and_tables_are_ours_alone() -> None:
    text = fence_of({**ONE, "grp": {"source_ports": 1, "group": 7}}).text
    for element in re.findall(r"^\t\t\t(tcp|udp) \. (\S+) :", text, re.MULTILINE):
        assert element[1].isdigit()
    commands = [line for line in text.splitlines() if line and line[0] not in "#\t}"]
    assert all(re.match(r"(add table|add map|flush table|delete map|table) (inet|ip|ip6) portfence\b", line) for line in commands)
    assert "flush ruleset" not in text and "delete table" not in text


def test_no_line_depends_on_when_or_where_it_was_written() -> None:
    assert fence_of(MANY).text == fence_of(dict(reversed(list(MANY.items())))).text


def test_nat_tables_stay_when_nothing_needs_them_any_more() -> None:
    """Without them, connections that were rewritten before would break."""
    services = {"web": {**ONE["web"], "assignment": "app"}}
    assert set(fence_of(services).tables) == {"inet"}
    fence = fence_of(services, nat=True)
    assert set(fence.tables) == {"inet", "ip", "ip6"}
    assert chain(fence.tables["ip"], "postrouting") == ["type nat hook postrouting priority 99; policy accept;"]


def listing(*objects: Dict[str, Any]) -> str:
    """What nft -j prints."""
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *objects]})


RULES = [
    {"rule": {"family": "inet", "table": "portfence", "chain": "c", "handle": handle, "expr": [{verdict: None}]}}
    for handle, verdict in ((7, "drop"), (3, "accept"))
]
OBJECTS = [
    {"table": {"family": "inet", "name": "portfence", "handle": 1}},
    {"counter": {"family": "inet", "name": "violations_b", "table": "portfence", "handle": 9, "packets": 4, "bytes": 160}},
    {"counter": {"family": "inet", "name": "violations_a", "table": "portfence", "handle": 2, "packets": 0, "bytes": 0}},
    {"map": {"family": "inet", "name": "m", "table": "portfence", "handle": 5, "elem": [[2, {"accept": None}], [1, {"drop": None}]]}},
    *RULES,
]


def test_a_listing_is_normal_but_for_the_order_of_rules() -> None:
    first = parse_listing(listing(*OBJECTS))
    second = parse_listing(
        listing(
            *RULES,
            OBJECTS[2],
            {"map": {**OBJECTS[3]["map"], "handle": 50, "elem": OBJECTS[3]["map"]["elem"][::-1]}},
            {"counter": {**OBJECTS[1]["counter"], "packets": 9, "bytes": 999}},
            OBJECTS[0],
        )
    )
    assert first == second
    assert parse_listing(listing(*OBJECTS[:-2], *RULES[::-1])) != first
    assert "handle" not in json.dumps(first)
    assert names_of(first, "counter") == ["violations_a", "violations_b"]
    assert family_of(first, "ip") == []


def test_a_table_is_ours_by_its_marker() -> None:
    assert not is_ours(parse_listing(listing(*OBJECTS)))
    marker = {"chain": {"family": "inet", "table": "portfence", "name": MARKER, "handle": 4}}
    assert is_ours(parse_listing(listing(*OBJECTS, marker)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "5",
        "null",
        '{"nftables": 5}',
        '{"nftables": [5]}',
        '{"nftables": [{}]}',
        '{"nftables": [{"a": 1, "b": 2}]}',
        '{"nftables": [{"table": 5}]}',
        "Segmentation fault",
    ],
)
def test_what_is_no_listing_is_an_error(text: str) -> None:
    with pytest.raises(PortFenceError, match="no listing"):
        parse_listing(text)


def test_counters() -> None:
    counters = parse_counters(COUNTERS)
    assert counters.counts == {"violations_a": (0, 0), "violations_b": (4, 160)}
    assert counters.made == {"violations_a": "7.2", "violations_b": "7.9"}
    nothing = parse_counters("table inet portfence { # handle 7\n}\n")
    assert nothing.counts == {} and nothing.made == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Segmentation fault",
        COUNTERS.replace("{ # handle 7", "{"),
        COUNTERS.replace("{ # handle 9", "{"),
        COUNTERS.replace("bytes 160", ""),
        COUNTERS.replace("packets 4", "packets 0x4"),
        COUNTERS.replace("packets 4", f"packets {'9' * 5000}"),
        COUNTERS[: COUNTERS.index("comment")],
    ],
)
def test_what_is_no_list_of_counters_is_an_error(text: str) -> None:
    """None of them is taken for a counter that is not there."""
    with pytest.raises(PortFenceError, match="no list of counters"):
        parse_counters(text)
