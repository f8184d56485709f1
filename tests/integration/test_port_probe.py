# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module port_probe: a good fence passes, and every kind of wrong fence is caught with the right message."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Set, Tuple

import pytest
from lab import Lab

MYAPP = 20001
SERVICE: Dict[str, Any] = {"name": "myapp", "source_ports": "50000-50999"}
APP: Dict[str, Any] = {**SERVICE, "assignment": "app"}
RESERVED = "net.ipv4.ip_local_reserved_ports=50000-50999,53500"
# Answers take as long as a busy machine needs; what is blocked takes all of it.
TIMEOUT = 1.0
PATHS = {(protocol, family) for protocol in ("tcp", "udp") for family in ("ipv4", "ipv6")}


@pytest.fixture(name="host")
def fixture_host(lab: Lab) -> Lab:
    lab.add_user("myapp", MYAPP)
    lab.add_user("otel", 20002)
    lab.run(["sysctl", "-qw", RESERVED])
    return lab


def probe(host: Lab, *services: Dict[str, Any], **more: Any) -> Dict[str, Any]:
    return host.module("port_probe", services=list(services), **{"timeout": TIMEOUT, **more})


def fence(host: Lab, *services: Dict[str, Any]) -> None:
    result = host.module("fence", services=list(services))
    assert not result.get("failed"), result["msg"]


def prove(host: Lab, *services: Dict[str, Any], **more: Any) -> Dict[str, Any]:
    """Probe what has to be right."""
    result = probe(host, *services, **more)
    assert not result.get("failed"), result["msg"]
    assert result["changed"] is False
    return result


def refute(host: Lab, *services: Dict[str, Any], **more: Any) -> Dict[str, Any]:
    """Probe what has to be wrong; what is said about it is in the message, line by line."""
    result = probe(host, *services, **more)
    assert result.get("failed"), result
    assert result["summary"]["failed"] == len(wrong(result)) > 0
    return result


def wrong(result: Dict[str, Any]) -> Set[Tuple[str, str, str]]:
    """Check, protocol and family of what failed."""
    return {(line["check"], line["protocol"], line["family"]) for line in result["checks"] if line["ok"] is False}


def every(*checks: str, paths: Sequence[Tuple[str, str]] = tuple(PATHS)) -> Set[Tuple[str, str, str]]:
    return {(check, *path) for check in checks for path in paths}


def the(result: Dict[str, Any], check: str, *, service: str = "myapp") -> List[Dict[str, Any]]:
    """The lines of a check, one for each protocol and family."""
    return [line for line in result["checks"] if (line["service"], line["check"]) == (service, check)]


def inside(line: Dict[str, Any]) -> bool:
    return line["seen"] is not None and 50000 <= line["seen"] <= 50999


# --- Good fences ---


def test_rewrite(host: Lab) -> None:
    fence(host, SERVICE)
    result = prove(host, SERVICE)
    assert result["summary"] == {"checks": 20, "ok": 20, "failed": 0, "skipped": 0}
    assert result["probed"] == ["myapp"]
    for check in ("unmodified", "bind_inside", "bind_outside"):
        assert len(the(result, check)) == 4
        assert all(inside(line) and line["account"] == "myapp" for line in the(result, check))
    for line in the(result, "bind_outside"):
        assert not 50000 <= line["local"] <= 50999
    for line in the(result, "other_inside"):
        assert (line["seen"], line["account"], line["expected"]) == (None, "nobody", "blocked")
        assert 50000 <= line["local"] <= 50999
    assert all(line["seen"] == line["local"] for line in the(result, "other_elsewhere"))


@pytest.mark.parametrize("on_violation", ["drop", "reject"])
def test_app(host: Lab, on_violation: str) -> None:
    service = {**APP, "on_violation": on_violation}
    fence(host, service)
    result = prove(host, service)
    for check in ("unmodified", "bind_outside"):
        assert {line["seen"] for line in the(result, check)} == {None}
        assert {line["expected"] for line in the(result, check)} == {"blocked" if on_violation == "drop" else "refused"}
    assert all(line["seen"] == line["local"] for line in the(result, "bind_inside"))


def test_audit_lets_violations_and_intrusions_pass(host: Lab) -> None:
    service = {**APP, "on_violation": "log"}
    fence(host, service)
    result = prove(host, service)
    for check in ("unmodified", "bind_outside", "other_inside"):
        assert all(line["seen"] == line["local"] for line in the(result, check))
    # One packet for each protocol and family of a check that the policy is against.
    assert result["counted"] == {"myapp": {"violations": 8, "intrusions": 4}}


def test_range_of_the_host(host: Lab) -> None:
    service = {**SERVICE, "assignment": "host"}
    host.run(["sysctl", "-qw", "net.ipv4.ip_local_port_range=50000 50999", "net.ipv4.ip_local_reserved_ports="])
    fence(host, service)
    result = prove(host, service)
    assert all(inside(line) for line in the(result, "unmodified"))
    assert {line["seen"] for line in the(result, "bind_outside")} == {None}
    assert all(inside(line) for line in the(result, "other_inside"))


def test_ports_that_are_not_exclusive(host: Lab) -> None:
    service = {**SERVICE, "exclusive": False}
    fence(host, service)
    assert all(inside(line) for line in the(prove(host, service), "other_inside"))


def test_group(host: Lab) -> None:
    service = {"name": "team", "group": "otel", "source_ports": 53500, "assignment": "app"}
    fence(host, service)
    result = prove(host, service)
    assert {line["account"] for line in the(result, "bind_inside", service="team")} == {"group otel"}
    assert {line["seen"] for line in the(result, "bind_inside", service="team")} == {53500}


def test_several_accounts(host: Lab) -> None:
    service = {**SERVICE, "user": ["myapp", "otel", 20003]}
    fence(host, service)
    result = prove(host, service)
    assert {line["account"] for line in the(result, "unmodified")} == {"myapp", "otel", "UID 20003"}


def test_nobody_may_have_a_service_too(host: Lab) -> None:
    service = {**SERVICE, "user": "nobody"}
    fence(host, service)
    accounts = {line["account"] for line in the(prove(host, service), "other_inside")}
    assert len(accounts) == 1
    assert accounts.pop().startswith("UID 655")


def test_root_may_have_a_service(host: Lab) -> None:
    service = {**SERVICE, "user": "root", "allow_admin": True, "source_ports": "600-700"}
    fence(host, service)
    result = prove(host, service)
    assert all(600 <= line["seen"] <= 700 for line in the(result, "bind_inside"))
    assert {line["skipped"] for line in the(result, "other_inside")} == {"nobody may not bind to ports below 1024"}


def test_one_port_again_and_again(host: Lab) -> None:
    """Every attempt wants the same port, and connection tracking still knows those of the last run."""
    services = [{**SERVICE, "source_ports": 53500}, {"name": "collector", "user": "otel", "source_ports": 50500, "assignment": "app"}]
    fence(host, *services)
    for _run in range(3):
        assert prove(host, *services)["summary"]["ok"] == 40


def test_hundred_services(host: Lab) -> None:
    """Few ports for many connections: they must not meet each other, nor what connection tracking knows of the last ones."""
    kinds: List[Dict[str, Any]] = [{}, {"assignment": "app"}, {"assignment": "app", "on_violation": "reject"}, {"on_violation": "log"}]
    services = [
        {"name": f"s{number}", "user": 30000 + number, "source_ports": 40000 + number, **kinds[number % 4]} for number in range(100)
    ]
    host.run(["sysctl", "-qw", "net.ipv4.ip_local_port_range=61000 61003"])
    fence(host, *services)
    assert prove(host, *services, timeout=3.0)["summary"]["ok"] == 2000


def test_other_services_of_the_host_are_kept_out_of(host: Lab) -> None:
    """Nearly every port belongs to another service, so a blind choice would run into it."""
    other = {"name": "other", "user": 20005, "source_ports": ["1024-49999", "51000-65000"]}
    host.run(["sysctl", "-qw", "net.ipv4.ip_local_port_range=65100 65500"])
    fence(host, APP, other)
    result = prove(host, APP)
    assert {line["service"] for line in result["checks"]} == {"myapp"}
    assert all(line["local"] > 65000 for line in the(result, "bind_outside"))
    assert result["counted"]["myapp"]["violations"] > 0
    assert set(result["counted"]) == {"myapp"}


def test_protocols_that_are_not_probed_are_named(host: Lab) -> None:
    service = {**SERVICE, "protocols": ["udp", "sctp", "dccp"]}
    fence(host, service)
    result = prove(host, service)
    assert result["not_probed"] == {"myapp": ["sctp", "dccp"]}
    assert {line["protocol"] for line in result["checks"]} == {"udp"}


def test_what_is_held_is_given_up_when_others_have_arrived(host: Lab) -> None:
    """The kernel sends an opening segment again after a second, and after two more."""
    fence(host, APP)
    assert prove(host, APP, timeout=10.0)["counted"] == {"myapp": {"violations": 8, "intrusions": 4}}


def test_ports_in_use_are_left_alone(host: Lab) -> None:
    service = {**SERVICE, "source_ports": "50000-50009"}
    fence(host, service)
    for port in range(50000, 50009):
        host.serve(port, uid=MYAPP)
    lines = the(prove(host, service), "bind_inside")
    assert {line["local"] for line in lines if line["protocol"] == "tcp"} == {50009}
    host.serve(50009, uid=MYAPP)
    lines = the(prove(host, service), "bind_inside")
    assert {line.get("skipped") for line in lines if line["protocol"] == "tcp"} == {"every port of 50000-50009 is in use"}


def test_counts_are_exact_and_add_up(host: Lab) -> None:
    fence(host, APP)
    assert host.connect("udp", uid=MYAPP, source_port=45000).port is None
    for run in (1, 2):
        counted = prove(host, APP)["counted"]["myapp"]
        assert counted["violations"] >= 8 and counted["intrusions"] >= 4
        services = host.module("fence_info")["services"]["myapp"]
        assert services["violations"]["packets"] == services["violations"]["by_probes"] + 1 >= 8 * run + 1
        assert services["intrusions"]["packets"] == services["intrusions"]["by_probes"] >= 4 * run


# --- Wrong fences ---


CHECK = f"""
table inet test {{
    chain check {{
        type filter hook postrouting priority 110;
        oifname "lo" accept
        tcp flags & (fin | syn | rst | ack) != syn accept
        meta l4proto udp ct direction reply accept
        meta skuid {MYAPP} tcp sport != 50000-50999 drop
        meta skuid {MYAPP} udp sport != 50000-50999 drop
    }}
}}
"""
GUARD = f"""
table inet test {{
    chain guard {{
        type filter hook postrouting priority 111;
        tcp flags & (fin | syn | rst | ack) != syn accept
        meta l4proto udp ct direction reply accept
        meta skuid != {MYAPP} tcp sport 50000-50999 drop
        meta skuid != {MYAPP} udp sport 50000-50999 drop
    }}
}}
"""


def assign(*families: str, ports: str = "50000-50999", who: str = f"meta skuid {MYAPP}") -> str:
    """Source NAT to these ports."""
    return "".join(
        f"""
        table {family} test {{
            chain assign {{
                type nat hook postrouting priority 99;
                oifname "lo" accept
                {who} meta l4proto tcp snat to :{ports}
                {who} meta l4proto udp snat to :{ports}
            }}
        }}
        """
        for family in families
    )


def test_fence_of_another_hand_passes(host: Lab) -> None:
    """The rules that the following tests take something away from are right."""
    host.nft(CHECK + GUARD + assign("ip", "ip6"))
    assert prove(host, SERVICE)["counted"] == {"myapp": {"violations": 0, "intrusions": 0}}


def test_no_fence(host: Lab) -> None:
    result = refute(host, SERVICE)
    assert wrong(result) == every("unmodified", "bind_outside", "other_inside")
    for check, account, expected in (("bind_outside", "myapp", "port 50000-50999"), ("other_inside", "nobody", "blocked")):
        for line in the(result, check):
            where, port = f"myapp {line['protocol']} {line['family']} {check}", line["local"]
            assert f"{where}: expected {expected}, peer saw {port} (as {account} from port {port})" in result["msg"]
    assert result["msg"].startswith("12 of 20 checks are not as the policy says:\n")


def test_ports_are_not_exclusive(host: Lab) -> None:
    host.nft(CHECK + assign("ip", "ip6"))
    result = refute(host, SERVICE)
    assert wrong(result) == every("other_inside")
    assert "myapp udp ipv6 other_inside: expected blocked, peer saw 50" in result["msg"]


def test_ipv6_is_open(host: Lab) -> None:
    host.nft((CHECK + GUARD).replace("table inet", "table ip") + assign("ip"))
    result = refute(host, SERVICE)
    ipv6 = [("tcp", "ipv6"), ("udp", "ipv6")]
    assert wrong(result) == every("unmodified", "bind_outside", "other_inside", paths=ipv6)


def test_udp_is_open(host: Lab) -> None:
    rules = [line for line in (CHECK + GUARD + assign("ip", "ip6")).splitlines() if "udp" not in line]
    host.nft("\n".join(rules))
    udp = [("udp", "ipv4"), ("udp", "ipv6")]
    assert wrong(refute(host, SERVICE)) == every("unmodified", "bind_outside", "other_inside", paths=udp)


def test_filter_without_assignment(host: Lab) -> None:
    host.nft(CHECK + GUARD)
    result = refute(host, SERVICE)
    assert wrong(result) == every("unmodified", "bind_outside")
    assert "myapp tcp ipv4 unmodified: expected port 50000-50999, nothing arrived: Connection timed out (as myapp from port" in result["msg"]
    assert "myapp udp ipv6 bind_outside: expected port 50000-50999, nothing arrived: Operation not permitted (as" in result["msg"]


def test_filter_before_the_translation(host: Lab) -> None:
    host.nft((CHECK + GUARD).replace("hook postrouting priority 110", "hook output priority 0") + assign("ip", "ip6"))
    assert wrong(refute(host, SERVICE)) == every("unmodified", "bind_outside")


def test_translation_beside_the_range(host: Lab) -> None:
    host.nft(GUARD + assign("ip", "ip6", ports="51000-51999"))
    result = refute(host, SERVICE)
    assert wrong(result) == every("unmodified", "bind_inside", "bind_outside")
    assert "myapp tcp ipv6 bind_inside: expected port 50000-50999, peer saw 51" in result["msg"]


def test_translation_of_too_many(host: Lab) -> None:
    """Everybody's connections get the service's ports."""
    host.nft(CHECK + assign("ip", "ip6", who=""))
    result = refute(host, SERVICE)
    assert wrong(result) == every("other_inside", "other_elsewhere")
    assert "myapp tcp ipv4 other_elsewhere: expected a port of no exclusive service, peer saw 50" in result["msg"]


def test_others_are_blocked(host: Lab) -> None:
    host.nft(CHECK + GUARD.replace("tcp sport 50000-50999", "tcp sport 1024-65535") + assign("ip", "ip6"))
    result = refute(host, SERVICE)
    tcp = [("tcp", "ipv4"), ("tcp", "ipv6")]
    assert wrong(result) == every("other_elsewhere", paths=tcp)


def test_bound_ports_are_not_checked(host: Lab) -> None:
    """The program is trusted to bind inside, so nothing checks that it does."""
    host.nft(GUARD)
    result = refute(host, APP)
    assert wrong(result) == every("unmodified", "bind_outside")
    assert "myapp udp ipv6 bind_outside: expected blocked, peer saw" in result["msg"]


def test_violations_are_dropped_instead_of_rejected(host: Lab) -> None:
    fence(host, APP)
    result = refute(host, {**APP, "on_violation": "reject"})
    tcp = [("tcp", "ipv4"), ("tcp", "ipv6")]
    assert wrong(result) == every("unmodified", "bind_outside", paths=tcp)
    assert "myapp tcp ipv4 bind_outside: expected refused, nothing arrived, but the client was not told (as myapp from port" in result["msg"]


def test_violations_are_blocked_instead_of_logged(host: Lab) -> None:
    fence(host, APP)
    assert wrong(refute(host, {**APP, "on_violation": "log"})) == every("unmodified", "bind_outside", "other_inside")


def test_host_does_not_have_the_range(host: Lab) -> None:
    service = {**SERVICE, "assignment": "host"}
    fence(host, service)
    result = refute(host, service)
    assert wrong(result) == every("unmodified")


def test_another_translation_comes_first(host: Lab) -> None:
    fence(host, SERVICE)
    host.nft(assign("ip", "ip6", ports="1024-1999").replace("priority 99", "priority 90"))
    result = refute(host, SERVICE)
    assert every("unmodified", "bind_outside") <= wrong(result)


def test_something_else_blocks(host: Lab) -> None:
    """The result is right, but the fence has no part in it."""
    fence(host, APP)
    host.nft(CHECK.replace("priority 110", "priority 50"))
    result = prove(host, APP)
    assert result["warnings"] == [
        "the probe's packets were blocked, but the counter violations_myapp of the fence did not move: something else blocks them"
    ]
