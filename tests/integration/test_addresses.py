# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The selector addresses: a container on a bridge like Docker's, whose traffic the host forwards."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any, Dict, Optional

import pytest
from lab import PORT, Lab, Seen

WAYS = [(protocol, family) for protocol in ("tcp", "udp") for family in (4, 6)]
PEER = {4: "192.0.2.1", 6: "2001:db8:0:1::1"}
SERVICE = {"name": "box", "addresses": ["172.17.0.0/16", "fd00:17::/64"], "source_ports": "50000-50099"}
FRESH_PORTS = itertools.count(21000)
CLIENT = """
import errno, json, socket, sys
protocol, family, address, port, bind = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
sock = socket.socket({4: socket.AF_INET, 6: socket.AF_INET6}[family], {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[protocol])
sock.settimeout(2)
try:
    if bind:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", bind))
    sock.connect((address, port))
    if protocol == "udp":
        sock.send(b"?")
    print(json.dumps([int(sock.recv(100)), None]))
except socket.timeout:
    print(json.dumps([None, "timeout"]))
except OSError as error:
    print(json.dumps([None, errno.errorcode[error.errno]]))
"""
# What dockerd sets up for its default bridge (its documentation, "Packet filtering and firewalls").
DOCKER = """
for program in iptables ip6tables; do
    case $program in iptables) net=172.17.0.0/16 ;; *) net=fd00:17::/64 ;; esac
    $program -w -N DOCKER
    $program -w -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    $program -w -A FORWARD -o docker0 -j DOCKER
    $program -w -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
    $program -w -t nat -A POSTROUTING -s $net ! -o docker0 -j MASQUERADE
    $program -w -P FORWARD DROP
done
"""


@pytest.fixture(name="host")
def fixture_host(lab: Lab) -> Lab:
    """A host with a bridge, and a container on it: a namespace with a port range of its own to choose from."""
    lab.run(
        [
            "sh",
            "-ec",
            """
            echo 1 >/proc/sys/net/ipv4/ip_forward
            echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
            ip link add docker0 type bridge
            ip address add 172.17.0.1/16 dev docker0
            ip address add fd00:17::1/64 dev docker0 nodad
            ip link set docker0 up
            for number in 2 3; do
                ip netns add box$number
                ip link add veth$number type veth peer name eth0 netns box$number
                ip link set veth$number master docker0 up
                ip -netns box$number link set lo up
                ip -netns box$number address add 172.17.0.$number/16 dev eth0
                ip -netns box$number address add fd00:17::$number/64 dev eth0 nodad
                ip -netns box$number link set eth0 up
                ip -netns box$number route add default via 172.17.0.1
                ip -netns box$number -6 route add default via fd00:17::1
            done
            # A port of the bridge forwards once the kernel has seen its carrier; an address of IPv6 has no local route
            # for a moment, even without duplicate address detection.
            settled() {
                [ "$(bridge link | grep -c 'state forwarding')" = 2 ] && ip -json route get fd00:17::1 | grep -q '"local"' || return
                for number in 2 3; do
                    ip -netns box$number -json route get fd00:17::$number | grep -q '"local"' || return
                    ! ip -netns box$number link show eth0 | grep -q 'qdisc noop' || return
                done
            }
            for tries in $(seq 500); do settled && exit 0; sleep 0.01; done
            exit 1
            """,
        ]
    )
    return lab


def connect(host: Lab, way: tuple[str, int], *, box: str = "box2", bind: int = 0, address: Optional[str] = None, port: int = PORT) -> Seen:
    """One attempt of a program in the container."""
    protocol, family = way
    said = host.run(
        ["ip", "netns", "exec", box, "/usr/bin/python3", "-c", CLIENT, protocol, str(family), address or PEER[family], str(port), str(bind)]
    )
    return Seen(*json.loads(said.out))


def fence(host: Lab, *services: Dict[str, Any]) -> Dict[str, Any]:
    result = host.module("fence", services=list(services), purge=True)
    assert not result.get("failed"), result["msg"]
    return result


@pytest.mark.parametrize("order", ["docker first", "docker later", "no docker"])
def test_the_container_leaves_from_its_ports_whoever_else_translates(host: Lab, order: str) -> None:
    if order == "docker first":
        host.run(["sh", "-ec", DOCKER])
    fence(host, SERVICE)
    if order == "docker later":
        host.run(["sh", "-ec", DOCKER])
    foreign = host.run(["sh", "-c", "iptables-save; ip6tables-save"]).out
    for way in WAYS:
        first = connect(host, way).port
        assert first in range(50000, 50100), way
        # Connection tracking still has the first one.
        other = 50042 if first != 50042 else 50043
        assert connect(host, way, bind=other).port == other, way
        assert connect(host, way, bind=next(FRESH_PORTS)).port in range(50000, 50100), way
    assert not fence(host, SERVICE)["changed"]
    assert host.module("fence_info")["in_sync"]
    rules = [line for line in host.run(["sh", "-c", "iptables-save; ip6tables-save"]).out.splitlines() if line[:2] == "-A"]
    assert rules == [line for line in foreign.splitlines() if line[:2] == "-A"]


@pytest.mark.parametrize("assignment", ["rewrite", "app"])
def test_ports_in_use_are_those_of_the_containers(host: Lab, assignment: str) -> None:
    """The sockets are not the host's, and neither are the addresses from which they connect."""
    host.run(["ip", "netns", "exec", "box2", "sh", "-c", "echo 50000 50099 >/proc/sys/net/ipv4/ip_local_port_range"])
    fence(host, {**SERVICE, "assignment": assignment, "source_ports": "50000-50199"})
    if assignment == "app":
        host.run(["sh", "-ec", DOCKER])
    assert host.module("fence_info")["services"]["box"]["use"] == 0
    ports = {connect(host, ("tcp", family)).port for family in (4, 4, 4, 6)}
    ports_udp = {connect(host, ("udp", 4)).port}
    assert None not in ports | ports_udp
    found = host.module("fence_info")["services"]["box"]
    assert found["ports_in_use"] == {"tcp": len(ports), "udp": 1} and found["sockets"] is None
    if assignment == "app":
        assert (found["use"], found["busiest_destination"]) == (len(ports) / 200, None)
    else:
        assert found["busiest_destination"] == {"protocol": "tcp", "address": PEER[4], "port": PORT, "connections": 3}
        assert found["use"] == 3 / 200


@pytest.mark.parametrize("way", WAYS)
def test_app_only_checks(host: Lab, way: tuple[str, int]) -> None:
    """The container has a range of its own, and Docker's masquerade keeps its ports; whatever else leaves is stopped."""
    host.run(["sh", "-ec", DOCKER])
    host.run(["ip", "netns", "exec", "box2", "sh", "-c", "echo 50000 50099 >/proc/sys/net/ipv4/ip_local_port_range"])
    fence(host, {**SERVICE, "assignment": "app"})
    assert connect(host, way).port in range(50000, 50100)
    assert connect(host, way, bind=next(FRESH_PORTS)) == Seen(None, "timeout")
    assert host.module("fence_info")["services"]["box"]["violations"]["packets"] > 0
    fence(host, {**SERVICE, "assignment": "app", "on_violation": "reject"})
    assert connect(host, way, bind=next(FRESH_PORTS)) == Seen(None, "ECONNREFUSED")
    assert connect(host, way).port in range(50000, 50100)


@pytest.mark.parametrize("way", WAYS)
def test_without_masquerade_the_address_stays(host: Lab, way: tuple[str, int]) -> None:
    for family, network in ((4, "172.17.0.0/16"), (6, "fd00:17::/64")):
        host.peer.run(["ip", f"-{family}", "route", "add", network, "via", host.addresses[family]])
    fence(host, {**SERVICE, "masquerade": False})
    host.peer.packets()
    assert connect(host, way).port in range(50000, 50100)
    assert {"172.17.0.2", "fd00:17::2"} >= {packet.source for packet in host.peer.packets() if packet.protocol == way[0]}


@pytest.mark.parametrize("way", WAYS)
def test_only_what_comes_in_by_the_interface(host: Lab, way: tuple[str, int]) -> None:
    host.run(["sh", "-ec", DOCKER])
    fence(host, {**SERVICE, "interface": "docker1"})
    port = next(FRESH_PORTS)
    assert connect(host, way, bind=port).port == port
    fence(host, {**SERVICE, "interface": "docker0"})
    assert connect(host, way, bind=next(FRESH_PORTS)).port in range(50000, 50100)


@pytest.mark.parametrize("way", WAYS)
def test_others_are_left_alone(host: Lab, way: tuple[str, int]) -> None:
    """Another container, the host itself from the address of the bridge, and whatever does not leave the network."""
    host.run(["sh", "-ec", DOCKER])
    bridge = {"name": "bridge", "source_ports": "51000-51099", "addresses": ["172.17.0.1", "fd00:17::1"]}
    fence(host, {**SERVICE, "addresses": ["172.17.0.2", "fd00:17::2"]}, bridge)
    protocol, family = way
    port = next(FRESH_PORTS)
    assert connect(host, way, box="box3", bind=port).port == port
    assert host.connect(protocol, family=family, uid=1234, source_port=next(FRESH_PORTS), timeout=5.0).port is not None
    host.serve(7070)
    port = next(FRESH_PORTS)
    inside = {4: "172.17.0.1", 6: "fd00:17::1"}[family]
    assert connect(host, way, bind=port, address=inside, port=7070).port == port


def test_ranges_are_filled_by_both_families_and_exhaustion_is_silent_but_harmless(host: Lab) -> None:
    """Of four ports towards one destination, four UDP flows get one each; a fifth is lost, never let out from elsewhere."""
    fence(host, {**SERVICE, "source_ports": ["50000-50001", "50010-50011"]})
    seen = set()
    for _attempt in range(60):  # each flow draws one of the two parts, which may be full already
        seen.add(connect(host, ("udp", 4), bind=next(FRESH_PORTS)).port)
        if len(seen - {None}) == 4:
            break
    assert seen - {None} == {50000, 50001, 50010, 50011}
    assert connect(host, ("udp", 4), bind=next(FRESH_PORTS)).port is None


def test_a_live_flow_goes_on_with_the_ports_of_a_new_policy(host: Lab) -> None:
    """A UDP socket of the container that is open when the range moves: the zone of the new range knows no old entry."""
    flow = """
import os, socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(5)
sock.connect((sys.argv[1], int(sys.argv[2])))
end = time.monotonic() + 120
while time.monotonic() < end and not os.path.exists("/run/stop"):
    sock.send(b"?")
    with open("/run/seen.new", "w") as file:
        file.write(sock.recv(100).decode())
    os.replace("/run/seen.new", "/run/seen")
    time.sleep(0.1)
"""
    fence(host, SERVICE)
    host.run(["sh", "-c", "cat >/run/flow.py"], data=flow)
    host.run(["sh", "-c", f"ip netns exec box2 /usr/bin/python3 /run/flow.py {PEER[4]} {PORT} >/dev/null 2>&1 &"])
    try:
        wait_for(host, "seen", range(50000, 50100))
        fence(host, {**SERVICE, "source_ports": "51000-51099"})
        wait_for(host, "seen", range(51000, 51100))
    finally:
        host.run(["touch", "/run/stop"])


def wait_for(host: Lab, name: str, ports: range) -> None:
    """Until a file below /run holds one of these ports."""
    end = time.monotonic() + 60
    while True:
        said = host.run(["cat", f"/run/{name}"], check=False).out.strip()
        if said and int(said) in ports:
            return
        assert time.monotonic() < end, f"still {said!r}"
        time.sleep(0.1)
