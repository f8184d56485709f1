# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module fence_info: its figures against connections that are really open, and that it changes nothing."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest
from lab import PEER_ADDRESSES, PORT, Lab

SERVICES: List[Dict[str, Any]] = [
    {"name": "nat", "user": "myapp", "source_ports": "50000-50009"},
    {"name": "binds", "user": "otel", "source_ports": ["52000-52004", 53500], "assignment": "app", "exclusive": False},
    {"name": "team", "group": "team", "source_ports": 54000, "protocols": ["tcp"]},
]


@pytest.fixture(name="host")
def fixture_host(lab: Lab) -> Lab:
    lab.add_user("myapp", 991)
    lab.add_user("otel", 992)
    lab.add_user("team", 993)
    result = lab.module("fence", services=SERVICES)
    assert not result.get("failed"), result
    return lab


def info(lab: Lab) -> Dict[str, Any]:
    result = lab.module("fence_info")
    assert not result.get("failed"), result
    assert result["changed"] is False
    return result


def test_idle_host(host: Lab) -> None:
    found = info(host)
    assert found["in_sync"] and found["drift"] == []
    assert found["backend"] == "nftables" and found["nft_version"].count(".") == 2
    assert found["local_port_range"] == "32768-60999"
    assert found["reserved_ports"] == ""
    nat = found["services"]["nat"]
    assert nat["source_ports"] == ["50000-50009"]
    assert (nat["capacity"], nat["use"], nat["busiest_destination"]) == (10, 0.0, None)
    assert nat["violations"] == {"packets": 0, "bytes": 0, "by_probes": 0}
    assert found["violations"] == {"packets": 0, "bytes": 0, "by_probes": 0}
    assert found["services"]["binds"]["intrusions"] is None
    assert found["services"]["team"]["sockets"] is None
    assert found["services"]["team"]["gids"] == [993]


def test_rewritten_ports_are_counted_by_destination(host: Lab) -> None:
    sessions = [host.open("tcp", uid=991, family=family) for family in (4, 4, 4, 6)]
    sessions.append(host.open("udp", uid=991))
    nat = info(host)["services"]["nat"]
    assert nat["sockets"] == {"tcp": 4, "udp": 1}
    assert nat["ports_in_use"]["tcp"] == len({session.port for session in sessions[:4]})
    assert nat["ports_in_use"]["udp"] == 1
    assert nat["busiest_destination"] == {
        "protocol": "tcp",
        "address": PEER_ADDRESSES[4],
        "port": PORT,
        "connections": 3,
    }
    assert nat["use"] == pytest.approx(0.3)
    for session in sessions:
        session.close()


def test_exhausted_ports_show_as_full_use(host: Lab) -> None:
    sessions = [host.open("tcp", uid=991, timeout=20) for _number in range(10)]
    assert host.connect("tcp", uid=991).error == "timeout"
    nat = info(host)["services"]["nat"]
    assert nat["use"] == 1.0
    assert nat["violations"]["packets"] == 0  # exhaustion is no violation, which is why use is reported
    for session in sessions:
        session.close()


def test_bound_ports_are_counted_on_the_host(host: Lab) -> None:
    sessions = [host.open("tcp", uid=992, source_port=port) for port in (52000, 52001, 53500)]
    binds = info(host)["services"]["binds"]
    assert binds["sockets"]["tcp"] == 3
    assert binds["ports_in_use"] == {"tcp": 3, "udp": 0}
    assert (binds["capacity"], binds["use"]) == (6, 0.5)
    for session in sessions:
        session.close()


def test_connections_that_come_in_are_no_use(host: Lab) -> None:
    host.serve(50003, uid=991)
    session = host.peer.open("tcp", port=50003, source_port=50004)
    nat = info(host)["services"]["nat"]
    assert nat["ports_in_use"] == {"tcp": 0, "udp": 0}
    session.close()


def test_violations_and_intrusions(host: Lab) -> None:
    assert host.connect("udp", uid=992, source_port=40000).port is None
    assert host.connect("udp", family=6, uid=1234, source_port=50003).port is None
    services = info(host)["services"]
    assert services["binds"]["violations"]["packets"] == 1
    assert services["binds"]["violations"]["bytes"] == 20 + 8 + len(b"who am I?\n")
    assert services["nat"]["intrusions"]["packets"] == 1
    assert services["nat"]["intrusions"]["bytes"] == 40 + 8 + len(b"who am I?\n")


def test_probes_are_told_apart(host: Lab) -> None:
    assert host.connect("udp", uid=992, source_port=40000).port is None
    probe = host.module("port_probe", services=SERVICES[:2])
    assert not probe.get("failed"), probe["msg"]
    services = info(host)["services"]
    for name, event in (("binds", "violations"), ("nat", "intrusions")):
        assert services[name][event]["by_probes"] == probe["counted"][name][event] > 0
    assert services["binds"]["violations"]["packets"] == services["binds"]["violations"]["by_probes"] + 1
    host.nft("delete table inet portfence")
    host.module("fence", services=SERVICES)
    assert info(host)["services"]["binds"]["violations"] == {"packets": 0, "bytes": 0, "by_probes": 0}


def test_an_owner_that_is_gone_is_drift(host: Lab) -> None:
    host.run(["userdel", "otel"])
    found = info(host)
    assert found["in_sync"] is False
    assert "binds.json.user: there is no user otel on this host" in found["drift"][0]


def test_host_without_a_fence(lab: Lab) -> None:
    found = info(lab)
    assert (found["services"], found["in_sync"]) == ({}, True)
    assert lab.run(["nft", "list", "ruleset"]).out == ""


def test_nothing_is_changed(host: Lab) -> None:
    def state() -> List[str]:
        return [
            host.run(["nft", "list", "ruleset"]).out,
            host.run(["sh", "-c", "find /etc /run -xdev -newer /run/mark"]).out,
        ]

    host.run(["touch", "/run/mark"])
    before = state()
    info(host)
    assert state() == before
