# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module fence_info: its figures against connections that are really open, and that it changes nothing."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

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


FLUSH = {
    "nftables": "nft flush ruleset",
    "nft": "for save in iptables-save ip6tables-save; do $save | sed '/^-A/d; /^:p/d; /^:managed/d' | ${save%save}restore; done",
}


@pytest.mark.parametrize("firewall", ["nftables", "nft", "legacy"])
def test_probes_are_told_apart(lab: Lab, firewall: str) -> None:
    for name, uid in (("myapp", 991), ("otel", 992), ("team", 993)):
        lab.add_user(name, uid)
    if firewall != "nftables":
        lab.use_iptables(firewall)
    assert not lab.module("fence", services=SERVICES, backend=lab.backend).get("failed")
    flush = FLUSH.get(firewall, FLUSH["nft"])

    def violate(times: int) -> None:
        for _time in range(times):
            assert lab.connect("udp", uid=992, source_port=40000).port is None

    def probe() -> int:
        """Packets that a probe makes the fence count."""
        result = lab.module("port_probe", services=SERVICES[:2])
        assert not result.get("failed"), result["msg"]
        services = info(lab)["services"]
        assert services["nat"]["intrusions"]["by_probes"] >= result["counted"]["nat"]["intrusions"] > 0
        return result["counted"]["binds"]["violations"]

    def violations() -> Tuple[int, int]:
        found = info(lab)["services"]["binds"]["violations"]
        return found["packets"], found["by_probes"]

    violate(1)
    counted = probe()
    assert violations() == (counted + 1, counted) and counted > 0
    # What changes something else leaves the counts as they are, and so does what loads the same fence once more.
    wider = [*SERVICES[:2], {**SERVICES[2], "source_ports": "54000-54001"}]
    assert lab.module("fence", services=wider, backend=lab.backend)["changed"]
    boot(lab)
    assert violations() == (counted + 1, counted)
    again = probe()
    assert violations() == (counted + again + 1, counted + again)
    # Counters that are made anew count no probe of before: by whatever restarts the unit, ...
    lab.run(["sh", "-c", flush])
    boot(lab)
    violate(3)
    assert violations() == (3, 0)
    # ... even when they have grown beyond what they were, ...
    counted = probe()
    assert violations() == (3 + counted, counted)
    lab.run(["sh", "-c", flush])
    boot(lab)
    violate(4 + counted)
    assert violations() == (4 + counted, 0)
    # ... by the module, ...
    counted = probe()
    lab.run(["sh", "-c", flush])
    lab.module("fence", services=SERVICES, backend=lab.backend)
    violate(5 + counted)
    assert violations() == (5 + counted, 0)
    # ... and with the service.
    counted = probe()
    for state in ("absent", "present"):
        assert lab.module("fence", services=[{**SERVICES[1], "state": state}], backend=lab.backend)["changed"]
    violate(10 + 5 + 2 * counted)
    assert violations() == (10 + 5 + 2 * counted, 0)


def boot(lab: Lab) -> None:
    """What systemd runs for our units, while everything is as it is."""
    for command, must in lab.boot_commands():
        lab.run(command, check=must)


def test_an_owner_that_is_gone_is_drift(host: Lab) -> None:
    host.run(["userdel", "otel"])
    found = info(host)
    assert found["in_sync"] is False
    assert "binds.json.user: there is no user otel on this host" in found["drift"][0]


def test_one_service_that_cannot_be_read_hides_no_other(host: Lab) -> None:
    sound = info(host)
    assert host.connect("udp", uid=992, source_port=40000).port is None
    assert host.connect("udp", uid=1234, source_port=50003).port is None
    session = host.open("tcp", uid=991)
    for break_it in (["userdel", "otel"], ["sh", "-c", "echo '{' >/etc/portfence/services.d/binds.json"]):
        host.run(break_it)
        found = info(host)
        assert not found["in_sync"] and "binds.json" in found["drift"][0]
        assert set(found["services"]) == {"nat", "team"} and found["services"]["team"] == sound["services"]["team"]
        assert found["services"]["nat"]["sockets"]["tcp"] == 1 and found["services"]["nat"]["intrusions"]["packets"] == 1
        assert found["assignments"] == {name: sound["assignments"][name] for name in ("nat", "team")}
        assert found["violations"]["packets"] == 1, "of the one that is not shown, by the fence that is still in force"
    session.close()


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
