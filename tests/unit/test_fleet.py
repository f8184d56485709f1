# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What contradicts what in a whole inventory."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Tuple

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._allocator import Key, Request
from ansible_collections.portfence.egress.plugins.module_utils._errors import Problem
from ansible_collections.portfence.egress.plugins.module_utils._fleet import HostPolicy, Policy, survey, unallocated
from ansible_collections.portfence.egress.plugins.module_utils._group_variables import GroupPolicy, contradictions
from ansible_collections.portfence.egress.plugins.module_utils._policy import read_variables
from ansible_collections.portfence.egress.plugins.module_utils._pools import read_name, read_pools
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange, PortSet
from ansible_collections.portfence.egress.plugins.module_utils._service import Allocated

ELSEWHERE = "accepted: ports that no other host of the domain has, auto, or scope: service for a service that has the same ports on all hosts"


def host(name: str, services: Dict[str, Any], *, domain: str = "", pools: Optional[Tuple[PortRange, ...]] = None, host_id: str = "") -> HostPolicy:
    """A host as it is read."""
    declared, problems = read_variables({"egress_services": services}, backend="nftables", allocated=Allocated())
    return HostPolicy(name, Policy(declared, tuple(problems)), host_id or name, domain, pools)


def found(*hosts: HostPolicy, held: Optional[Mapping[Key, PortSet]] = None) -> List[str]:
    """The lines of the report."""
    return survey(hosts, held or {})[0].lines()


def asked(*hosts: HostPolicy) -> Tuple[Request, ...]:
    """The requests of an inventory without findings."""
    findings, requests = survey(hosts, {})
    assert findings.lines() == []
    return requests


def test_a_fleet_in_order() -> None:
    app = {"app": {"source_ports": "50000-50099", "uid": 900, "user": "app"}, "old": {"source_ports": 40000, "classid": "1:1"}}
    assert found(*(host(f"h{index}", app) for index in range(5))) == []


def test_mistakes_of_many_hosts_are_told_once() -> None:
    hosts = [host(f"h{index}", {"a": {"source_ports": 70000}, "b": {"usr": 1, "source_ports": 1}}) for index in range(5)]
    lines = found(*hosts)
    assert lines[0] == "h0, h1, h2 and 2 more: egress_services.a.source_ports: found 70000; ports lie between 1 and 65535"
    assert lines[1].startswith("h0, h1, h2 and 2 more: egress_services.b.usr: unknown key")
    assert str(survey(hosts, {})[0].error(count=5)).startswith("2 findings in the policies of 5 hosts:\n  h0, h1")


def test_overlaps_on_one_host() -> None:
    (line,) = found(host("h", {"a": {"source_ports": "1000-1009"}, "b": {"source_ports": 1005}}))
    assert line.startswith("h: egress_services.b.source_ports: 1005 also belongs to egress_services.a;")


def test_hosts_of_one_domain_share_no_port() -> None:
    places = (("a", "10-19", "x"), ("b", "15-30", "x"), ("c", "10-19", "y"), ("d", "10-19", ""))
    hosts = [host(name, {"app": {"source_ports": ports}}, domain=domain) for name, ports, domain in places]
    assert found(*hosts) == [f"b: egress_services.app.source_ports: found 15-30 in the NAT domain x, where 10-19 is app's on a; {ELSEWHERE}"]


def test_a_service_that_is_the_same_everywhere_may_share_with_itself_alone() -> None:
    app = {"source_ports": "10-19", "scope": "service"}
    assert found(host("a", {"app": app}, domain="x"), host("b", {"app": app}, domain="x")) == []
    assert found(host("a", {"app": app}, domain="x"), host("b", {"web": app}, domain="x")) == [
        f"b: egress_services.web.source_ports: found 10-19 in the NAT domain x, where 10-19 is app's on a; {ELSEWHERE}"
    ]


def test_very_many_clashes_are_cut_short() -> None:
    lines = found(*(host(f"h{index}", {"app": {"source_ports": "10-19"}}, domain="x") for index in range(100)))
    assert "egress_nat_domain: more ranges overlap; only the first 1000 are listed" in lines
    assert len(lines) <= 1001


def test_a_uid_or_classid_with_two_meanings() -> None:
    lines = found(
        host("a", {"app": {"source_ports": 1, "user": "app", "uid": 900}, "old": {"source_ports": 3, "classid": "1:1"}}),
        host("b", {"web": {"source_ports": 2, "user": "web", "uid": 900}, "new": {"source_ports": 4, "classid": "0x10001"}}),
        host("c", {"other": {"source_ports": 2, "user": 900}}),
        host("d", {"app": {"source_ports": 2, "user": 900}}),
    )
    assert lines == [
        'b: egress_services.new.classid: found the classid 0x10001 for the service new, and it stands for the service old on a'
        " (egress_services.old.classid); accepted: one meaning of a classid in the whole inventory",
        "c: egress_services.other.user: found the UID 900 for the service other, and it stands for the account app on a"
        " (egress_services.app.uid); accepted: one meaning of a UID in the whole inventory",
        "b: egress_services.web.uid: found the UID 900 for the account web, and it stands for the account app on a"
        " (egress_services.app.uid); accepted: one meaning of a UID in the whole inventory",
    ]


def test_two_hosts_with_one_id() -> None:
    assert found(host("a", {}), host("b", {}, host_id="a")) == ["b: egress_host_id: found a, which is a's; accepted: an id of its own"]


AUTO = {"source_ports": "auto", "size": 16}


def test_ports_by_hand_lie_outside_of_pools_that_are_used() -> None:
    hand = {"source_ports": "20000-20099"}
    assert found(host("a", {"hand": hand})) == []
    want = (
        "a: egress_services.hand.source_ports: found 20000-20099, which lies inside the pools 16384-28671, 61440-65535 of"
        " egress_port_pools; accepted: ports outside of them, or auto"
    )
    assert found(host("a", {"hand": hand}), host("b", {"app": AUTO})) == [want]
    assert found(host("a", {"hand": hand}, pools=(PortRange(20050, 20100),)))[0].startswith(
        "a: egress_services.hand.source_ports: found 20050-20099, which lies inside the pools 20050-20100 of"
    )


def test_requests_name_the_service_or_the_host_too() -> None:
    hosts = [host(name, {"app": AUTO, "all": {**AUTO, "scope": "service"}}, domain="x", host_id=f"id-{name}") for name in "ab"]
    assert [request.key for request in asked(*hosts, host("c", {"app": AUTO}))] == [
        Key("x", "id-a", "app"),
        Key("", "", "all"),
        Key("x", "id-b", "app"),
        Key("", "", "app"),
    ]


def test_requests_that_contradict_each_other() -> None:
    lines = found(
        host("a", {"app": AUTO, "own": {**AUTO, "scope": "host"}}),
        host("b", {"app": {**AUTO, "size": 32}}, pools=(PortRange(20000, 21000),)),
    )
    assert lines == [
        "b: egress_port_pools: found other pools than on a for egress_services.app; accepted: the same pools on all hosts of a"
        " service that has one range on every host",
        "b: egress_services.app.size: found 32, and 16 on a; accepted: one size, as the range is the same on every host",
        "a: egress_services.own.scope: found host on a host without egress_nat_domain; accepted: service, or a NAT domain",
    ]


def test_ranges_that_were_handed_out_count() -> None:
    hosts = [host("a", {"app": AUTO, "hand": {"source_ports": 1007}}, domain="x"), host("b", {"hand": {"source_ports": 1008}}, domain="x")]
    held = {Key("x", "a", "app"): PortSet.parse("1000-1015")}
    lines = found(*hosts, held=held)
    assert "a: egress_services.hand.source_ports: found 1007, which overlaps with 1000-1015 of app on the same host" in lines
    assert f"b: egress_services.hand.source_ports: found 1008 in the NAT domain x, where 1000-1015 is app's on a; {ELSEWHERE}" in lines


def test_what_is_not_handed_out_yet() -> None:
    hosts = [host("a", {"app": AUTO, "more": AUTO, "gone": {"state": "absent"}}, domain="x")]
    held = {Key("x", "a", "more"): PortSet.parse("1000-1007")}
    assert unallocated(hosts, held, message="is here").lines() == [
        "a: egress_services.app.source_ports: found auto, and no range for it is here",
        "a: egress_services.more.source_ports: found auto, and only 8 of 16 ports for it is here",
    ]


@pytest.mark.parametrize(
    ("value", "messages"),
    [
        ("20000-20999", []),
        ([20000, "30000-30999"], []),
        ([], ["egress_port_pools: found a list without any range; accepted: a list of ranges such as 16384-28671, none of which overlaps with another"]),
        (
            ["20000-20999", "x", "20999-21000"],
            [
                "egress_port_pools[1]: found 'x'; accepted: a port 50000, a range 50000-51000, or a list of them",
                "egress_port_pools[2]: found 20999-21000, which overlaps with 20000-20999 of egress_port_pools[0]; accepted: a list of"
                " ranges such as 16384-28671, none of which overlaps with another",
            ],
        ),
    ],
)
def test_pools(value: Any, messages: List[str]) -> None:
    problems: List[Problem] = []
    read_pools(value, problems)
    assert [str(problem) for problem in problems] == messages


@pytest.mark.parametrize("value", ["", " a", "a\n", "a\u2028b", True, [], "x" * 254])
def test_names_that_are_none(value: Any) -> None:
    problems: List[Problem] = []
    assert read_name("egress_nat_domain", value, problems) == ""
    assert "egress_nat_domain: found " in str(problems[0])


def group(name: str, ports: Any, *, depth: int = 1, priority: int = 1, ancestors: Tuple[str, ...] = ("all",)) -> GroupPolicy:
    """A group with one service."""
    return GroupPolicy(name, (True, depth, priority, name), priority, frozenset(ancestors), {"egress_services": {"app": {"source_ports": ports}}})


def test_groups_that_contradict_each_other() -> None:
    groups = [group("db", "1-2"), group("web", "3-4")]
    assert [str(problem) for problem in contradictions(groups, own=frozenset())] == [
        "egress_services.app.source_ports: found 1-2 in the group db and 3-4 in the group web, which Ansible prefers; accepted: a"
        " variable egress_services__ANYTHING for each group, or ansible_group_priority to say which one holds"
    ]
    lost = GroupPolicy("web", (True, 1, 1, "web"), 1, frozenset(["all"]), {"egress_services": {"other": {"source_ports": 9}}})
    assert [str(problem).partition(";")[0] for problem in contradictions([groups[0], lost], own=frozenset())] == [
        "egress_services.app.source_ports: found 1-2 in the group db, and the group web replaces the variable without the service"
    ]


def test_groups_that_do_not() -> None:
    db = group("db", "1-2")
    for other in (group("web", "1-2"), group("inner", "3-4", depth=2, ancestors=("all", "db")), group("web", "3-4", priority=2)):
        assert contradictions([db, other], own=frozenset()) == []
    assert contradictions([db, group("web", "3-4")], own=frozenset(["egress_services"])) == []
    assert contradictions([db, group("web", [1, "2"])], own=frozenset()) == [], "the same ports, written otherwise"


def test_groups_that_contradict_each_other_about_more_than_ports() -> None:
    """With "auto", the size decides about the ports."""
    groups = [group("db", "auto"), group("web", "auto")]
    for one, keys in zip(groups, ({"size": 500}, {"size": 64, "user": "other"})):
        one.variables["egress_services"]["app"].update(keys)
    assert [str(problem).partition(";")[0] for problem in contradictions(groups, own=frozenset())] == [
        "egress_services.app.size: found 500 in the group db and 64 in the group web, which Ansible prefers",
        "egress_services.app.user: found nothing in the group db and 'other' in the group web, which Ansible prefers",
    ]
