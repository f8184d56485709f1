# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module port_probe for services that are recognised by where their sockets are: a class of net_cls, a network namespace, addresses."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List

import pytest
from lab import Lab
from namespaces import count, namespaces
from net_cls import ROOT, NetClsLab, task
from test_port_probe import PATHS, every, fence, inside, probe, prove, refute, the, wrong

SERVICE: Dict[str, Any] = {"name": "myapp", "source_ports": "50000-50999"}
CLASS: Dict[str, Any] = {**SERVICE, "classid": "0x100001"}
CGROUP: Dict[str, Any] = {"name": "myapp", "classid": "0x100001"}
INNER: Dict[str, Any] = {**SERVICE, "user": "myapp", "assignment": "namespace"}
RESERVED = "net.ipv4.ip_local_reserved_ports=50000-50999"
OWN = ("unmodified", "bind_inside", "bind_outside")


@pytest.fixture(name="host")
def fixture_host() -> Iterator[Lab]:
    """A throwaway host with a hierarchy of net_cls of its own."""
    with NetClsLab() as lab:
        lab.run(["sysctl", "-qw", RESERVED])
        yield lab


@pytest.fixture(name="inner")
def fixture_inner(lab: Lab) -> Lab:
    """A throwaway host with the account of the service."""
    lab.add_user("myapp", 20001)
    lab.run(["sysctl", "-qw", RESERVED])
    return lab


def in_namespace(result: Dict[str, Any], check: str) -> List[Dict[str, Any]]:
    """The lines of a check in the network namespace."""
    return [line for line in the(result, check) if line["account"].endswith(" in the network namespace myapp")]


# --- Classes of net_cls ---


def test_class(host: Lab) -> None:
    task(host, cgroups=[CGROUP])
    fence(host, CLASS)
    result = prove(host, CLASS)
    assert result["summary"] == {"checks": 20, "ok": 20, "failed": 0, "skipped": 0}
    for check in OWN:
        assert len(the(result, check)) == 4
        assert all(inside(line) and line["account"] == "nobody in the class 0x100001" for line in the(result, check))
    assert {(line["account"], line["seen"]) for line in the(result, "other_inside")} == {("nobody", None)}
    assert host.run(["cat", f"{ROOT}/myapp/tasks"]).out == ""


@pytest.mark.parametrize("on_violation", ["drop", "reject"])
def test_class_of_a_program_that_binds(host: Lab, on_violation: str) -> None:
    service = {**CLASS, "assignment": "app", "on_violation": on_violation}
    task(host, cgroups=[CGROUP])
    fence(host, service)
    result = prove(host, service)
    for check in ("unmodified", "bind_outside"):
        assert {line["seen"] for line in the(result, check)} == {None}
        assert {line["expected"] for line in the(result, check)} == {"blocked" if on_violation == "drop" else "refused"}
    assert all(line["seen"] == line["local"] for line in the(result, "bind_inside"))
    assert result["counted"]["myapp"]["violations"] >= 8


def test_two_classes_at_a_time(host: Lab) -> None:
    second = {"name": "second", "classid": "0x100002", "source_ports": "51000-51009"}
    task(host, cgroups=[CGROUP, {"name": "second", "classid": "0x100002"}])
    fence(host, CLASS, second)
    result = prove(host, CLASS, second)
    assert result["summary"]["ok"] == 40
    assert all(line["seen"] in range(51000, 51010) for check in OWN for line in the(result, check, service="second"))


def test_a_class_without_a_cgroup_is_not_proved(host: Lab) -> None:
    service = {**CLASS, "assignment": "app"}
    fence(host, service)
    result = refute(host, service)
    assert wrong(result) == every(*OWN)
    assert f"can't enter the class 0x100001: {ROOT}/myapp: No such file or directory" in result["msg"]


def test_a_cgroup_with_another_class_is_caught(host: Lab) -> None:
    task(host, cgroups=[CGROUP])
    fence(host, CLASS)
    host.run(["sh", "-c", f"echo 0x100009 >{ROOT}/myapp/net_cls.classid"])
    assert wrong(refute(host, CLASS)) == every(*OWN)


# --- Network namespaces ---


@pytest.mark.parametrize("on_violation", ["drop", "reject", "log"])
def test_namespace(inner: Lab, on_violation: str) -> None:
    service = {**INNER, "on_violation": on_violation}
    namespaces(inner, {**SERVICE, "on_violation": on_violation})
    fence(inner, service)
    result = prove(inner, service)
    assert result["summary"] == {"checks": 32, "ok": 32, "failed": 0, "skipped": 0}
    for check in ("unmodified", "bind_inside"):
        assert len(in_namespace(result, check)) == 4
        assert all(inside(line) and inside({"seen": line["local"]}) for line in in_namespace(result, check))
    outside = in_namespace(result, "bind_outside")
    assert {line["expected"] for line in outside} == {{"drop": "blocked", "reject": "refused", "log": "port 50000-50999"}[on_violation]}
    assert all(inside(line) for line in outside) if on_violation == "log" else {line["seen"] for line in outside} == {None}
    assert result["counted"]["myapp"]["namespace_violations"] == count(inner, "violations_myapp", name="myapp") >= 4
    assert not result.get("warnings")


def test_namespace_that_is_not_there_is_not_proved(inner: Lab) -> None:
    fence(inner, INNER)
    result = refute(inner, INNER)
    assert wrong(result) == every(*OWN)
    assert len([line for line in result["checks"] if line["ok"] is False]) == 12
    assert "can't enter the network namespace myapp: /run/netns/myapp: No such file or directory" in result["msg"]


def test_namespace_without_its_fence_is_caught(inner: Lab) -> None:
    """The host translates what leaves, so the port on the wire is right, and is still not what the policy says."""
    namespaces(inner, SERVICE)
    fence(inner, INNER)
    inner.run(["ip", "netns", "exec", "myapp", "nft", "flush", "ruleset"])
    result = refute(inner, INNER)
    assert wrong(result) == every("bind_outside")
    assert all(inside(line) for line in in_namespace(result, "bind_outside"))


def test_namespace_with_another_range_is_caught(inner: Lab) -> None:
    namespaces(inner, SERVICE)
    fence(inner, INNER)
    inner.run(["ip", "netns", "exec", "myapp", "sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40999"])
    assert wrong(refute(inner, INNER)) == every("unmodified")


def test_namespace_without_a_way_out_is_caught(inner: Lab) -> None:
    namespaces(inner, SERVICE)
    fence(inner, INNER)
    inner.run(["ip", "netns", "exec", "myapp", "ip", "link", "set", "eth0", "down"])
    assert wrong(refute(inner, INNER)) >= every("unmodified", "bind_inside")


# --- What can't be probed ---


def test_addresses_are_skipped_and_say_why(inner: Lab) -> None:
    service = {"name": "containers", "addresses": "10.88.0.0/16", "source_ports": "50000-50999"}
    fence(inner, service)
    result = prove(inner, service)
    assert result["summary"] == {"checks": 20, "ok": 8, "failed": 0, "skipped": 12}
    for check in OWN:
        lines = the(result, check, service="containers")
        assert len(lines) == len(PATHS) and {line["ok"] for line in lines} == {None}
        assert all("forwarded by this host, which can't send it itself" in line["skipped"] for line in lines)


def test_unit_that_does_not_run_is_skipped_and_says_what_to_do(inner: Lab) -> None:
    service = {**SERVICE, "unit": ["myapp.service", "worker@.service"]}
    result = probe(inner, service)
    lines = [line for check in OWN for line in the(result, check)]
    assert {line["ok"] for line in lines} == {None}
    assert result["summary"]["skipped"] == len(lines) == 24
    said = {line["skipped"] for line in lines}
    assert len(said) == 2
    assert any("myapp.service does not run" in text and "systemctl start myapp.service" in text for text in said)
    assert any("no instance of worker@.service runs" in text for text in said)
    assert len([text for text in result["warnings"] if text.startswith("myapp is not proved: ")]) == 2


def test_check_mode_sends_nothing(host: Lab) -> None:
    result = host.module("port_probe", services=[CLASS], check_mode=True)
    assert result["skipped"] and not result.get("failed")
