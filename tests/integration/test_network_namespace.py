# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module network_namespace on the real kernel: what the peer sees of a service in its namespace, and of all others."""

from __future__ import annotations

import shlex
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List

import pytest
from lab import PATIENCE, Lab, Seen
from lab_keeper import LAB_ADDRESSES, PEER_ADDRESSES, PORT
from namespaces import HIGH, LOW, MYAPP, RANGE, SESSION, WAYS, connect, count, exhaust, namespaces, third_host

every_way = pytest.mark.parametrize("protocol, family", WAYS)


def test_port_on_the_wire(lab: Lab) -> None:
    namespaces(lab, MYAPP)
    lab.peer.packets()
    for protocol, family in WAYS:
        seen = connect(lab, protocol, family)
        assert seen.port in RANGE, (protocol, family, seen)
    for packet in lab.peer.packets():
        assert packet.source == LAB_ADDRESSES[packet.family]
        assert packet.source_port in RANGE


@every_way
def test_bind(lab: Lab, protocol: str, family: int) -> None:
    namespaces(lab, MYAPP)
    assert connect(lab, protocol, family, bind=LOW + 123) == Seen(LOW + 123, None)
    assert count(lab, "violations_myapp", name="myapp") == 0
    lab.peer.packets()
    assert connect(lab, protocol, family, bind=40000) == Seen(None, "timeout" if protocol == "tcp" else "EPERM")
    assert lab.peer.packets() == []
    assert count(lab, "violations_myapp", name="myapp") > 0


@every_way
def test_reject(lab: Lab, protocol: str, family: int) -> None:
    namespaces(lab, {**MYAPP, "on_violation": "reject"})
    assert connect(lab, protocol, family, bind=40000).error == {"tcp": "ECONNREFUSED", "udp": "EPERM"}[protocol]
    assert connect(lab, protocol, family).port in RANGE
    assert count(lab, "violations_myapp", name="myapp") == 1


@every_way
def test_audit(lab: Lab, protocol: str, family: int) -> None:
    """What is let pass inside leaves the host with a port of the service all the same."""
    namespaces(lab, {**MYAPP, "on_violation": "log"})
    assert connect(lab, protocol, family, bind=40000).port in RANGE
    assert count(lab, "violations_myapp", name="myapp") == 1


def test_protocols(lab: Lab) -> None:
    namespaces(lab, {**MYAPP, "protocols": ["tcp"]})
    assert connect(lab, "udp", 4, bind=40000) == Seen(40000, None)
    assert connect(lab, "tcp", 4, bind=40000).port is None


@every_way
def test_exhaustion_is_told(lab: Lab, protocol: str, family: int) -> None:
    namespaces(lab, {**MYAPP, "source_ports": "50000-50009"})
    ports, error = exhaust(lab, protocol, family)
    assert ports == list(range(50000, 50010))
    assert error == {"tcp": "EADDRNOTAVAIL", "udp": "EAGAIN"}[protocol]


def test_two_services(lab: Lab) -> None:
    """Neither takes ports of the other, and they do not reach each other."""
    other: Dict[str, Any] = {"name": "a-name-of-a-collector.as_long-as", "source_ports": "52000-52009"}
    result = namespaces(lab, MYAPP, other)
    assert len({item["interface"] for item in result["namespaces"]}) == 2
    name = other["name"]
    for protocol, family in WAYS:
        assert connect(lab, protocol, family).port in RANGE
        assert connect(lab, protocol, family, name=name).port in range(52000, 52010)
    addresses = {item["name"]: item["addresses"] for item in result["namespaces"]}
    served = "import socket; s = socket.create_server(('', 7000)); print('ready', flush=True); s.accept()"
    lab.run(["sh", "-c", f'nohup ip netns exec "{name}" python3 -c "{served}" >/run/served 2>&1 & until grep -q ready /run/served; do sleep 0.02; done'])
    assert connect(lab, "tcp", 4, address=addresses[name]["ipv4"]).port is None


def test_nobody_comes_in_from_outside(lab: Lab) -> None:
    result = namespaces(lab, MYAPP)
    addresses = result["namespaces"][0]["addresses"]
    lab.peer.run(["ip", "route", "add", addresses["ipv4"], "via", LAB_ADDRESSES[4]])
    lab.peer.run(["ip", "-6", "route", "add", addresses["ipv6"], "via", LAB_ADDRESSES[6]])
    counted = "import socket; s = socket.create_server(('', 7000)); print('ready', flush=True); s.accept()"
    lab.run(["sh", "-c", f'nohup ip netns exec myapp python3 -c "{counted}" >/run/served 2>&1 & until grep -q ready /run/served; do sleep 0.02; done'])
    assert lab.connect("tcp", address=addresses["ipv4"]).error == "closed without an answer"  # it listens
    assert lab.peer.connect("tcp", address=addresses["ipv4"]).error == "timeout"


def test_spoofed_source(lab: Lab) -> None:
    """Root in the namespace may give itself any address, but none of them leaves the host."""
    namespaces(lab, MYAPP)
    lab.peer.packets()
    lab.run(["ip", "-netns", "myapp", "address", "add", "198.51.100.7/32", "dev", "eth0"])
    lab.run(["sh", "-c", "echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter; echo 0 >/proc/sys/net/ipv4/conf/pf-myapp/rp_filter"])
    send = f"import socket; s = socket.socket(2, 2); s.bind(('198.51.100.7', {LOW})); s.sendto(b'x', ('{PEER_ADDRESSES[4]}', {PORT}))"
    lab.run(["ip", "netns", "exec", "myapp", "python3", "-c", send])
    assert lab.peer.packets() == []
    assert count(lab, "spoofed_myapp") == 1


@pytest.mark.parametrize("first", ["fence", "namespace"])
def test_beside_the_fence(lab: Lab, first: str) -> None:
    """The fence judges what the account does outside, and lets pass what comes out of the namespace."""
    lab.add_user("myapp", uid=991)
    policy = {"services": [{**MYAPP, "assignment": "namespace"}, {"name": "other", "user": 992, "source_ports": "52000-52099"}]}
    for step in (first, "namespace" if first == "fence" else "fence"):
        if step == "namespace":
            namespaces(lab, MYAPP)
        else:
            assert not lab.module("fence", **policy).get("failed")
    for protocol, family in WAYS:
        assert connect(lab, protocol, family).port in RANGE
        assert connect(lab, protocol, family, bind=LOW + 7).port == LOW + 7
        assert lab.connect(protocol, family=family, uid=991, source_port=LOW - 1000).port is None
        assert lab.connect(protocol, family=family, uid=993, source_port=LOW + 8).port is None
        assert lab.connect(protocol, family=family, uid=992).port in range(52000, 52100)
    assert not lab.module("fence", **policy)["changed"] and not namespaces(lab, MYAPP)["changed"]
    found = lab.module("fence_info")["services"]["myapp"]
    assert found["sockets"] is None and 1 < found["ports_in_use"]["tcp"] <= 4 and found["use"] == found["ports_in_use"]["tcp"] / len(RANGE)
    assert lab.module("fence", state="absent", purge=True)["changed"]
    assert not lab.module("fence", state="absent", purge=True)["changed"]
    assert connect(lab, "tcp", 4).port in RANGE
    assert not namespaces(lab, MYAPP)["changed"]


def through(lab: Lab) -> List[bool]:
    """Whether the third host gets through to the peer, over IPv4 and IPv6."""
    return [connect(lab, "tcp", family, name="third").port is not None for family in (4, 6)]


@pytest.mark.parametrize("first", ["host", "namespace"])
def test_host_does_not_become_a_router(lab: Lab, first: str) -> None:
    if first == "host":
        third_host(lab)
        assert through(lab) == [False, False]
        namespaces(lab, MYAPP)
    else:
        namespaces(lab, MYAPP)
        third_host(lab)
    assert through(lab) == [False, False]
    # The chain has something to say: the kernel itself would let them pass.
    assert count(lab, "refused") > 0
    assert connect(lab, "tcp", 4).port in RANGE
    assert connect(lab, "tcp", 6).port in RANGE


@pytest.mark.parametrize("moment", ["ExecStartPost", "ExecReload", "ExecStopPost"])
def test_host_stays_no_router_when_nftables_service_flushes(lab: Lab, moment: str) -> None:
    """What its drop-in says is run as it stands there; in Molecule, systemd does."""
    third_host(lab)
    namespaces(lab, MYAPP)
    lab.nft("flush ruleset")
    assert through(lab) == [True, True], "what is open without the rules"
    lines = lab.run(["cat", "/etc/systemd/system/nftables.service.d/portfence-namespaces.conf"]).out.splitlines()
    lab.run(shlex.split(next(line for line in lines if line.startswith(f"{moment}=-")).partition("=-")[2]))
    assert through(lab) == [False, False]
    assert connect(lab, "tcp", 4).port in RANGE
    assert not namespaces(lab, MYAPP)["changed"]


def test_router_stays_one(lab: Lab) -> None:
    third_host(lab)
    lab.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"])
    result = namespaces(lab, MYAPP)
    assert result["forwarding_opened"] == [] and result["warnings"] == []
    assert through(lab) == [True, True]
    assert connect(lab, "tcp", 4).port in RANGE
    namespaces(lab, state="absent", purge=True)
    assert through(lab) == [True, True]


def test_interfaces_that_forwarded_before(lab: Lab) -> None:
    """IPv4 can be forwarded interface by interface, which is nothing that we close."""
    third_host(lab)
    lab.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/lan0/forwarding; echo 1 >/proc/sys/net/ipv4/conf/eth0/forwarding"])
    assert through(lab) == [True, False]
    namespaces(lab, MYAPP)
    assert through(lab) == [True, False]
    namespaces(lab, state="absent", purge=True)
    assert through(lab) == [True, False]


def test_forwarding_that_somebody_turns_on_later(lab: Lab) -> None:
    third_host(lab)
    namespaces(lab, MYAPP)
    lab.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])
    lab.run(["sh", "-c", "echo net.ipv6.conf.all.forwarding = 1 >/etc/sysctl.d/80-router.conf"])
    result = namespaces(lab, MYAPP)
    assert result["changed"] and result["forwarding_opened"] == []
    assert through(lab) == [True, True]
    namespaces(lab, state="absent", purge=True)
    assert through(lab) == [True, True]


@pytest.mark.parametrize("family", [4, 6])
def test_change_of_range_keeps_sessions(lab: Lab, family: int) -> None:
    where = {"ipv4": "10.99.0.0/31", "ipv6": "fd00:99::/127"}
    namespaces(lab, {**MYAPP, **where})
    with ThreadPoolExecutor() as pool:
        args = [PEER_ADDRESSES[family], str(PORT), "/run/session"]
        session = pool.submit(lab.run, ["ip", "netns", "exec", "myapp", "python3", "-c", SESSION, *args])
        lab.run(["sh", "-c", f"timeout {PATIENCE:g} sh -c 'until test -e /run/session.open; do sleep 0.02; done'"])
        result = namespaces(lab, {**MYAPP, **where, "source_ports": "51000-51499"})
        assert result["changed"]
        assert connect(lab, "tcp", family).port in range(51000, 51500)
        assert connect(lab, "tcp", family, bind=HIGH).port is None
        lab.run(["touch", "/run/session.go"])
        port, answer = session.result().out.split("\n")[:2]
    assert int(port) in RANGE
    assert answer == "still there?"
