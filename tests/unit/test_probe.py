# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes: which attempts are made, what the policy says should be seen, and what is made of what was seen."""

from __future__ import annotations

import errno
from typing import Any, Dict, List, Optional, Tuple

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet
from ansible_collections.portfence.egress.plugins.module_utils._probe import (
    Account,
    Attempt,
    Circumstances,
    Law,
    Line,
    Outcome,
    expect,
    judge,
    not_probed,
    outside,
    plan,
)
from ansible_collections.portfence.egress.plugins.module_utils._probe_place import CLASSID, FORWARDED, NAMESPACE, UNIT, Place
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import Packet, Ruleset
from ansible_collections.portfence.egress.tests.unit.pipeline import compile_policy
from hypothesis import given
from hypothesis import strategies as st

MYAPP = Account("myapp", 100, 100)
OTHER = Account("nobody", 65534, 65534)
INSIDE, OUTSIDE = 50123, 45000
REST: Dict[str, Any] = {"second": {"user": 200, "source_ports": "60000-60009", "exclusive": False}}


def ruleset(**changes: Any) -> Ruleset:
    """The rules of a service myapp that is like this, and of another one."""
    service = {"user": MYAPP.uid, "source_ports": ["50000-50999", 51500], **changes}
    return compile_policy({"egress_services": {"myapp": service, **REST}}).ruleset


def circumstances(**changes: Any) -> Circumstances:
    usual: Dict[str, Any] = {
        "accounts": {"myapp": [MYAPP], "second": [Account("b", 200, 200)]},
        "host_range": (),
        "other": OTHER,
        "unreachable": {},
        "first_free_port": 1024,
    }
    return Circumstances(**{**usual, **changes})


def attempts(rules: Optional[Ruleset] = None, **changes: Any) -> Tuple[Attempt, ...]:
    return plan(rules or ruleset(), names=["myapp"], given=circumstances(**changes))


def one(check: str, rules: Ruleset, *, protocol: str = "tcp", **changes: Any) -> Attempt:
    """The attempt of this check over IPv4."""
    (found,) = (
        attempt
        for attempt in attempts(rules, **changes)
        if (attempt.check, attempt.protocol, attempt.family) == (check, protocol, "ipv4")
    )
    return found


def test_plan_has_every_check_protocol_and_family() -> None:
    found = {(attempt.check, attempt.protocol, attempt.family, attempt.account.name) for attempt in attempts()}
    whose = {
        "unmodified": "myapp",
        "bind_inside": "myapp",
        "bind_outside": "myapp",
        "other_inside": "nobody",
        "other_elsewhere": "nobody",
    }
    assert found == {
        (check, protocol, family, name)
        for check, name in whose.items()
        for protocol in ("tcp", "udp")
        for family in ("ipv4", "ipv6")
    }


def test_plan_tries_every_account() -> None:
    found = attempts(accounts={"myapp": [MYAPP, Account("twin", 101, 101)]})
    assert [item.account.name for item in found if item.check == "unmodified" and item.path == ("tcp", "ipv4")] == ["myapp", "twin"]
    assert sum(item.check == "other_inside" for item in found) == 4


def test_plan_leaves_out_protocols() -> None:
    rules = ruleset(protocols=["tcp", "sctp", "udplite"])
    assert {attempt.protocol for attempt in attempts(rules)} == {"tcp"}
    assert not_probed(rules, ["myapp"]) == {"myapp": ["sctp", "udplite"]}
    assert not_probed(rules, ["second"]) == {}


def test_plan_says_what_it_skips() -> None:
    for attempt in attempts(unreachable={"ipv6": "IPv6 is disabled"}):
        assert attempt.skipped == ("IPv6 is disabled" if attempt.family == "ipv6" else None)


def test_ports_to_bind_to_outside_belong_to_no_service() -> None:
    ports = outside(ruleset(), 1024)
    assert str(ports) == "1024-49999,51000-51499,51501-59999,60010-65535"
    assert one("bind_outside", ruleset()).ports == ports
    assert str(outside(ruleset(), 50990)) == "51000-51499,51501-59999,60010-65535"


def test_no_port_is_left_outside() -> None:
    rules = ruleset(source_ports="1024-59999")
    everything = compile_policy(
        {"egress_services": {"myapp": {"user": 100, "source_ports": "1-65535"}}}
    ).ruleset
    assert one("bind_outside", rules).skipped is None
    assert one("bind_outside", everything).skipped == "every port belongs to a service"


def test_privileged_ports_are_skipped_unless_the_account_may() -> None:
    rules = ruleset(source_ports="600-700")
    assert one("bind_inside", rules).skipped == "myapp may not bind to ports below 1024"
    assert one("other_inside", rules).skipped == "nobody may not bind to ports below 1024"
    assert one("bind_inside", rules, first_free_port=650).ports == PortSet.parse("650-700")
    assert one("bind_inside", rules, first_free_port=0).ports == PortSet.parse("600-700")
    root = {"accounts": {"myapp": [Account("root", 0, 0)]}}
    assert one("bind_inside", rules, **root).ports == PortSet.parse("600-700")


EXPECTATIONS: List[Tuple[Dict[str, Any], str, Optional[int], str]] = [
    # what the service is like, check, port of the socket, expected
    ({}, "unmodified", OUTSIDE, "port 50000-50999,51500"),
    ({}, "bind_inside", INSIDE, "port 50000-50999,51500"),
    ({}, "bind_outside", OUTSIDE, "port 50000-50999,51500"),
    ({}, "other_inside", INSIDE, "blocked"),
    ({}, "other_elsewhere", OUTSIDE, "a port of no exclusive service"),
    ({}, "other_elsewhere", INSIDE, "blocked"),
    ({"on_violation": "reject"}, "bind_outside", OUTSIDE, "port 50000-50999,51500"),
    ({"on_violation": "reject"}, "other_inside", INSIDE, "blocked"),
    ({"on_violation": "log"}, "bind_outside", OUTSIDE, "port 50000-50999,51500"),
    ({"on_violation": "log"}, "other_inside", INSIDE, "any port"),
    ({"exclusive": False}, "other_inside", INSIDE, "any port"),
    ({"assignment": "app"}, "unmodified", OUTSIDE, "blocked"),
    ({"assignment": "app"}, "unmodified", None, "blocked"),
    ({"assignment": "app"}, "unmodified", INSIDE, "port 50123"),
    ({"assignment": "app"}, "bind_inside", INSIDE, "port 50123"),
    ({"assignment": "app"}, "bind_outside", OUTSIDE, "blocked"),
    ({"assignment": "app"}, "other_inside", INSIDE, "blocked"),
    ({"assignment": "app", "on_violation": "reject"}, "unmodified", None, "refused"),
    ({"assignment": "app", "on_violation": "reject"}, "bind_outside", OUTSIDE, "refused"),
    ({"assignment": "app", "on_violation": "reject"}, "bind_inside", INSIDE, "port 50123"),
    ({"assignment": "app", "on_violation": "reject"}, "other_inside", INSIDE, "blocked"),
    ({"assignment": "app", "on_violation": "log"}, "unmodified", OUTSIDE, "any port"),
    ({"assignment": "app", "on_violation": "log"}, "bind_outside", OUTSIDE, "any port"),
    ({"assignment": "app", "on_violation": "log"}, "bind_inside", INSIDE, "port 50123"),
    ({"assignment": "host", "source_ports": "50000-50999"}, "unmodified", INSIDE, "port 50000-50999"),
    ({"assignment": "host", "source_ports": "50000-50999"}, "unmodified", OUTSIDE, "port 50000-50999"),
    ({"assignment": "host", "source_ports": "50000-50999"}, "bind_inside", INSIDE, "port 50123"),
    ({"assignment": "host", "source_ports": "50000-50999"}, "bind_outside", OUTSIDE, "blocked"),
    ({"assignment": "host", "source_ports": "50000-50999"}, "other_inside", INSIDE, "any port"),
    ({"assignment": "host", "source_ports": "50000-50999"}, "other_elsewhere", INSIDE, "a port of no exclusive service"),
]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(("service", "check", "local", "expected"), EXPECTATIONS)
def test_expectations(service: Dict[str, Any], check: str, local: Optional[int], expected: str, protocol: str) -> None:
    rules = ruleset(**service)
    attempt = one(check, rules, protocol=protocol, host_range=["myapp"] if service.get("assignment") == "host" else [])
    assert str(expect(attempt, local=local, law=Law(rules))) == expected


def test_breaches_are_named_for_the_counters() -> None:
    app = ruleset(assignment="app")
    audit = ruleset(assignment="app", on_violation="log")
    assert expect(one("bind_outside", app), local=OUTSIDE, law=Law(app)).breach == ("violation", "myapp")
    assert expect(one("other_inside", app), local=INSIDE, law=Law(app)).breach == ("intrusion", "myapp")
    assert expect(one("bind_outside", audit), local=OUTSIDE, law=Law(audit)).breach == ("violation", "myapp")
    assert expect(one("bind_inside", app), local=INSIDE, law=Law(app)).breach is None
    rewrite = ruleset()
    assert expect(one("bind_outside", rewrite), local=OUTSIDE, law=Law(rewrite)).breach is None


BOUND_NOWHERE = Outcome(text="bind: Operation not permitted", unbound=errno.EPERM)


@pytest.mark.parametrize(
    ("check", "outcome", "problem"),
    [
        ("bind_outside", BOUND_NOWHERE, None),
        ("bind_outside", Outcome(text="bind: no", unbound=errno.EACCES), "expected refused by bind(), could not bind: bind: no"),
        ("bind_outside", Outcome(local=OUTSIDE, seen=50000, answered=True), "expected refused by bind(), it was let, and the peer saw 50000"),
        ("bind_outside", Outcome(local=OUTSIDE, error=errno.ETIMEDOUT), "expected refused by bind(), it was let, and the peer saw nothing"),
        ("bind_inside", BOUND_NOWHERE, "could not connect: bind: Operation not permitted"),
        ("unmodified", Outcome(local=INSIDE, seen=INSIDE, answered=True), None),
    ],
)
def test_ebpf_refuses_to_bind_outside(check: str, outcome: Outcome, problem: Optional[str]) -> None:
    rules = ruleset(assignment="bpf")
    line = judge(one(check, rules, strict=["myapp"]), outcome, law=Law(rules))
    assert line.ok is (problem is None)
    assert problem is None or problem in str(line.problem)


def test_groups_are_probed_with_their_gid() -> None:
    rules = compile_policy({"egress_services": {"team": {"group": 300, "source_ports": 50000, "assignment": "app"}}}).ruleset
    account = Account("group team", OTHER.uid, 300)
    found = plan(rules, names=["team"], given=circumstances(accounts={"team": [account]}))
    own = [attempt for attempt in found if attempt.account is account]
    assert {attempt.check for attempt in own} == {"unmodified", "bind_inside", "bind_outside"}
    assert {str(expect(attempt, local=OUTSIDE, law=Law(rules))) for attempt in own} == {"blocked"}


def seen(port: Optional[int], *, local: int, error: Optional[int] = None) -> Outcome:
    return Outcome(local=local, seen=port, answered=error is None, error=error, packets=1)


def verdict(check: str, outcome: Outcome, **service: Any) -> Line:
    rules = ruleset(**service)
    return judge(one(check, rules, protocol="udp"), outcome, law=Law(rules))


APP: Dict[str, Any] = {"assignment": "app"}
REJECT: Dict[str, Any] = {"assignment": "app", "on_violation": "reject"}
AUDIT: Dict[str, Any] = {"assignment": "app", "on_violation": "log"}
RIGHT: List[Tuple[str, Dict[str, Any], Outcome]] = [
    ("unmodified", {}, seen(50000, local=OUTSIDE)),
    ("bind_outside", {}, seen(51500, local=OUTSIDE)),
    ("bind_inside", APP, seen(INSIDE, local=INSIDE)),
    ("other_elsewhere", {}, seen(OUTSIDE, local=OUTSIDE)),
    ("other_elsewhere", {}, seen(60000, local=60000)),
    ("other_inside", {"exclusive": False}, seen(INSIDE, local=INSIDE)),
    ("bind_outside", AUDIT, seen(OUTSIDE, local=OUTSIDE)),
    *(("bind_outside", APP, seen(None, local=OUTSIDE, error=number)) for number in (errno.ETIMEDOUT, errno.EPERM)),
    *(("bind_outside", REJECT, seen(None, local=OUTSIDE, error=number)) for number in (errno.ECONNREFUSED, errno.EPERM)),
    ("other_inside", {}, seen(None, local=INSIDE, error=errno.ETIMEDOUT)),
    # Moved to another port because of a connection that the kernel still remembers: harmless on the wire.
    ("other_inside", {}, seen(1917, local=INSIDE)),
]


@pytest.mark.parametrize(("check", "service", "outcome"), RIGHT)
def test_right(check: str, service: Dict[str, Any], outcome: Outcome) -> None:
    line = verdict(check, outcome, **service)
    assert (line.ok, line.problem) == (True, None)


WRONG: List[Tuple[str, Dict[str, Any], Outcome, str]] = [
    ("unmodified", {}, seen(OUTSIDE, local=OUTSIDE), "expected port 50000-50999,51500, peer saw 45000 (as myapp from port 45000)"),
    ("unmodified", {}, seen(51000, local=OUTSIDE), "expected port 50000-50999,51500, peer saw 51000 (as myapp from port 45000)"),
    (
        "unmodified",
        {},
        seen(None, local=OUTSIDE, error=errno.ETIMEDOUT),
        "expected port 50000-50999,51500, nothing arrived: Connection timed out (as myapp from port 45000)",
    ),
    ("bind_outside", APP, seen(OUTSIDE, local=OUTSIDE), "expected blocked, peer saw 45000 (as myapp from port 45000)"),
    # Arrived, though the client never learned: that is not blocked.
    (
        "bind_outside",
        APP,
        seen(OUTSIDE, local=OUTSIDE, error=errno.ETIMEDOUT),
        "expected blocked, peer saw 45000 (as myapp from port 45000)",
    ),
    ("bind_outside", APP, seen(45001, local=OUTSIDE), "expected blocked, peer saw 45001 (as myapp from port 45000)"),
    (
        "bind_outside",
        REJECT,
        seen(None, local=OUTSIDE, error=errno.ETIMEDOUT),
        "expected refused, nothing arrived, but the client was not told (as myapp from port 45000)",
    ),
    ("other_inside", {}, seen(INSIDE, local=INSIDE), "expected blocked, peer saw 50123 (as nobody from port 50123)"),
    ("other_inside", {}, seen(50124, local=INSIDE), "expected blocked, peer saw 50124 (as nobody from port 50123)"),
    (
        "other_elsewhere",
        {},
        seen(INSIDE, local=OUTSIDE),
        "expected a port of no exclusive service, peer saw 50123 (as nobody from port 45000)",
    ),
    (
        "bind_outside",
        AUDIT,
        seen(None, local=OUTSIDE, error=errno.EPERM),
        "expected any port, nothing arrived: Operation not permitted (as myapp from port 45000)",
    ),
    (
        "bind_inside",
        APP,
        seen(INSIDE, local=INSIDE, error=errno.ETIMEDOUT),
        "expected port 50123, peer saw 50123, but its answer did not come back: Connection timed out (as myapp from port 50123)",
    ),
    (
        "other_inside",
        {},
        seen(None, local=INSIDE, error=errno.EADDRNOTAVAIL),
        "expected blocked, could not connect: Cannot assign requested address (as nobody from port 50123)",
    ),
    ("bind_inside", APP, Outcome(text="bind: no"), "expected port 50000, could not connect: bind: no (as myapp)"),
]


@pytest.mark.parametrize(("check", "service", "outcome", "message"), WRONG)
def test_wrong(check: str, service: Dict[str, Any], outcome: Outcome, message: str) -> None:
    line = verdict(check, outcome, **service)
    assert (line.ok, line.problem) == (False, f"myapp udp ipv4 {check}: {message}")


def test_skipped_is_neither_right_nor_wrong() -> None:
    line = verdict("bind_inside", Outcome(skipped="every port of 50000 is in use"))
    assert (line.ok, line.expected) == (None, None)
    assert line.to_dict()["skipped"] == "every port of 50000 is in use"
    rules = ruleset()
    line = judge(one("unmodified", rules, unreachable={"ipv4": "no"}), Outcome(), law=Law(rules))
    assert (line.ok, line.to_dict()["skipped"]) == (None, "no")


def test_a_line_as_it_is_returned() -> None:
    assert verdict("other_inside", seen(None, local=INSIDE, error=errno.EPERM)).to_dict() == {
        "service": "myapp",
        "check": "other_inside",
        "protocol": "udp",
        "family": "ipv4",
        "account": "nobody",
        "local": 50123,
        "expected": "blocked",
        "seen": None,
        "error": "Operation not permitted",
        "ok": True,
    }


SERVICES: Dict[str, Any] = {
    "web": {"source_ports": [10, "20-29"], "user": [1, 2]},
    "mail": {"source_ports": "30-39", "group": [1, 2], "protocols": ["tcp"]},
    "open": {"source_ports": "40-49", "user": 3, "exclusive": False},
}


@given(
    st.sampled_from(["tcp", "udp"]), st.integers(0, 60), st.none() | st.integers(0, 4), st.none() | st.integers(0, 4)
)
def test_quick_answers_are_those_of_the_ruleset(protocol: str, port: int, uid: Optional[int], gid: Optional[int]) -> None:
    rules = compile_policy({"egress_services": SERVICES}).ruleset
    packet = Packet(protocol, port, uid=uid, gid=gid)
    near = Law(rules).near(packet)
    assert near.judge(packet) == rules.judge(packet)
    assert near.owner(packet) == rules.owner(packet)


# --- Services that are recognised by where their sockets are ---

IN_UNIT = Account("nobody in a unit", OTHER.uid, OTHER.gid, Place(UNIT, "worker@7.service", "/cgroup"))
IN_CLASS = Account("nobody in a class", OTHER.uid, OTHER.gid, Place(CLASSID, "myapp", "/class", classid=0x100001))
IN_NAMESPACE = Account("nobody inside", OTHER.uid, OTHER.gid, Place(NAMESPACE, "myapp", "/netns"))


@pytest.mark.parametrize(
    ("account", "selector"), [(IN_UNIT, {"unit": "worker@.service"}), (IN_CLASS, {"classid": "0x100001"})], ids=["unit", "class"]
)
def test_a_place_makes_any_account_one_of_the_service(account: Account, selector: Dict[str, Any]) -> None:
    rules = compile_policy({"egress_services": {"myapp": {"source_ports": "50000-50999", "assignment": "app", **selector}}}).ruleset
    tried = {attempt.check: attempt for attempt in attempts(rules, accounts={"myapp": [account]}) if attempt.path == ("tcp", "ipv4")}
    law = Law(rules)
    assert str(expect(tried["bind_inside"], local=INSIDE, law=law)) == f"port {INSIDE}"
    assert expect(tried["bind_outside"], local=OUTSIDE, law=law).breach == ("violation", "myapp")
    assert str(expect(tried["other_inside"], local=INSIDE, law=law)) == "blocked"
    assert str(expect(tried["other_elsewhere"], local=OUTSIDE, law=law)) == "a port of no exclusive service"


@pytest.mark.parametrize(("on_violation", "outside_is"), [("drop", "blocked"), ("reject", "refused"), ("log", "port 50000-50999")])
def test_expectations_in_a_namespace(on_violation: str, outside_is: str) -> None:
    service = {"user": 100, "source_ports": "50000-50999", "assignment": "namespace", "on_violation": on_violation}
    rules = compile_policy({"egress_services": {"myapp": service}}).ruleset
    tried = {attempt.check: attempt for attempt in attempts(rules, accounts={"myapp": [IN_NAMESPACE]}) if attempt.path == ("tcp", "ipv4")}
    law = Law(rules)
    assert str(expect(tried["unmodified"], local=OUTSIDE, law=law)) == "port 50000-50999"
    assert str(expect(tried["bind_inside"], local=INSIDE, law=law)) == "port 50000-50999"
    outside_bound = expect(tried["bind_outside"], local=OUTSIDE, law=law)
    assert str(outside_bound) == outside_is
    assert outside_bound.breach == ("namespace_violation", "myapp")
    # A port of the service on the wire does not make good what had another one inside.
    line = judge(tried["bind_outside"], Outcome(local=OUTSIDE, seen=INSIDE, answered=True), law=law)
    assert line.ok is (on_violation == "log")


@pytest.mark.parametrize("check", ["unmodified", "bind_inside", "bind_outside"])
@pytest.mark.parametrize("account", [IN_UNIT, IN_CLASS, IN_NAMESPACE], ids=["unit", "class", "namespace"])
def test_a_place_that_can_not_be_entered_never_passes(account: Account, check: str) -> None:
    """Not even where nothing has to arrive."""
    rules = ruleset(assignment="app")
    for strict in ((), ("myapp",)):
        attempt = one(check, rules, accounts={"myapp": [account]}, strict=strict)
        line = judge(attempt, Outcome(text="can't enter it"), law=Law(rules))
        assert line.ok is False and line.problem is not None and "can't enter it" in line.problem


def test_what_is_absent_is_skipped_with_the_reason() -> None:
    absent = Account("addresses", 1, 1, absent=FORWARDED)
    found = [attempt for attempt in attempts(accounts={"myapp": [absent]}) if attempt.account == absent]
    assert len(found) == 12 and {attempt.skipped for attempt in found} == {FORWARDED}
    assert judge(found[0], Outcome(), law=Law(ruleset())).ok is None


def test_systemd_may_refuse_a_bind_outside() -> None:
    rules, listens = ruleset(assignment="app"), PortSet.parse("1024-40000")
    attempt = one("bind_outside", rules, walled={"myapp": listens})
    assert attempt.ports is not None and not [part for part in attempt.ports if part.low <= 40000]
    law = Law(rules)
    assert judge(attempt, Outcome(text="bind: Operation not permitted", unbound=errno.EPERM), law=law).ok is True
    assert judge(attempt, Outcome(text="bind: Permission denied", unbound=errno.EACCES), law=law).ok is False
    assert judge(attempt, Outcome(local=OUTSIDE, error=errno.ETIMEDOUT), law=law).ok is True
    assert judge(attempt, Outcome(local=OUTSIDE, seen=OUTSIDE, answered=True), law=law).ok is False
    inside_bound = one("bind_inside", rules, walled={"myapp": listens})
    assert judge(inside_bound, Outcome(text="bind: Operation not permitted", unbound=errno.EPERM), law=law).ok is False
