# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway that knows services by their source ports: what gets through from a host behind it to the peer."""

from __future__ import annotations

import re
from typing import Any, Dict, List

import pytest
from ansible_collections.portfence.egress.plugins.filter.identity_files import identity_files
from lab import Lab, Seen
from lab_keeper import PEER_ADDRESSES, PORT
from namespaces import WAYS, connect, third_host
from test_playbooks import Control

KNOWN, OTHER, UNKNOWN = 50007, 51000, 40000
IDENTITIES: List[Dict[str, Any]] = [
    {"address": address, "protocol": protocol, "source_ports": ports, "service": service, "hosts": ["web1"]}
    for address in ("10.20.0.2", "fd20::2")
    for protocol in ("tcp", "udp")
    for ports, service in (("50000-50999", "myapp"), ("51000", "b.x"))
]
STATE = "nft -s list ruleset | sort; find /etc/portfence /etc/systemd | grep portfence | sort; cat /etc/portfence/edge.nft"
SESSION = """
import os, socket, sys, time
sock = socket.socket()
sock.settimeout(10)
sock.bind(("", int(sys.argv[3])))
sock.connect((sys.argv[1], int(sys.argv[2])))
assert sock.recv(100)
open("/run/open", "w").close()
while not os.path.exists("/run/go"):
    time.sleep(0.02)
sock.sendall(b"still there?\\n")
assert sock.recv(100)
open("/run/alive", "w").close()
"""


@pytest.fixture(name="gateway")
def fixture_gateway(lab: Lab) -> Lab:
    """A router between a host, 10.20.0.2 and fd20::2, and the peer."""
    lab.run(["touch", "/run/mark"])
    forward(lab)
    third_host(lab)
    return lab


def forward(lab: Lab) -> None:
    lab.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"])


def edge(lab: Lab, **params: Any) -> Dict[str, Any]:
    result = lab.module("edge", **{"identities": IDENTITIES, **params})
    assert not result.get("failed"), result["msg"]
    return result


def passes(lab: Lab, protocol: str, family: int, port: int) -> bool:
    """Whether the host behind the gateway gets through from a port. A datagram that is lost is not sent again, so patience does not help."""
    seen: Seen = connect(lab, protocol, family, name="third", bind=port)
    assert seen.port in (port, None)
    return seen.port is not None


def counted(lab: Lab, name: str) -> int:
    return lab.counter("inet portfence_edge", name)


@pytest.mark.parametrize("unknown", ["log", "drop"])
def test_services_are_known_and_counted(gateway: Lab, unknown: str) -> None:
    assert edge(gateway, unknown=unknown)["changed"]
    for protocol, family in WAYS:
        assert passes(gateway, protocol, family, KNOWN)
        assert passes(gateway, protocol, family, OTHER)
        assert passes(gateway, protocol, family, UNKNOWN) == (unknown == "log")
    assert counted(gateway, "service_myapp") == counted(gateway, "service_b.x") == 4
    assert counted(gateway, "unknown") >= 4


def test_others_and_open_connections_are_left_alone(gateway: Lab) -> None:
    gateway.run(["sh", "-c", "cat >/run/session.py"], data=SESSION)
    start = f"ip netns exec third python3 /run/session.py {PEER_ADDRESSES[4]} {PORT} {UNKNOWN} >/run/session.log 2>&1 &"
    gateway.run(["sh", "-c", f"{start} until test -e /run/open; do sleep 0.02; done"])
    edge(gateway, unknown="drop")
    gateway.run(["sh", "-c", "touch /run/go; until test -e /run/alive; do sleep 0.02; done"])
    assert not passes(gateway, "tcp", 4, UNKNOWN + 1)
    # The gateway's own traffic, and a host that nobody has told it of.
    assert gateway.connect("tcp", source_port=UNKNOWN).port == UNKNOWN
    gateway.run(["sh", "-c", "ip -netns third address del 10.20.0.2/24 dev eth0; ip -netns third address add 10.20.0.3/24 dev eth0"])
    gateway.run(["ip", "-netns", "third", "route", "add", "default", "via", "10.20.0.1"])
    assert passes(gateway, "tcp", 4, UNKNOWN + 2)


def test_it_comes_changes_boots_and_goes(gateway: Lab) -> None:
    def state() -> str:
        return gateway.run(["sh", "-c", STATE], check=False).out

    nothing = state()
    predicted = edge(gateway, check_mode=True, diff=True)
    assert predicted["changed"] and "10.20.0.2/32 . tcp . 50000-50999" in predicted["diff"]["after"] and state() == nothing
    assert edge(gateway)["changes"] == predicted["changes"]
    assert not edge(gateway)["changed"]
    assert passes(gateway, "tcp", 4, KNOWN)
    edge(gateway, identities=IDENTITIES[:-1], unknown="drop")
    assert counted(gateway, "service_myapp") == 1, "counts outlive a change"
    assert not passes(gateway, "udp", 6, OTHER) and passes(gateway, "udp", 4, OTHER)
    full = state()
    gateway.run(["nft", "flush", "ruleset"])
    assert edge(gateway, identities=IDENTITIES[:-1], unknown="drop")["changes"] == ["load the rules into the kernel"]
    gateway.reboot()
    assert state() == full
    assert edge(gateway, state="absent", identities=[], check_mode=True)["changed"] and state() == full
    assert edge(gateway, state="absent", identities=[])["changed"]
    assert not edge(gateway, state="absent", identities=[])["changed"]
    assert state() == nothing


def test_a_table_of_somebody_else_is_refused(gateway: Lab) -> None:
    gateway.nft("table inet portfence_edge { chain c { }; }")
    before = gateway.run(["sh", "-c", STATE], check=False).out
    for state in ("present", "absent"):
        result = gateway.module("edge", identities=IDENTITIES, state=state)
        assert result["failed"] and "exists and was not written by this collection" in result["msg"]
    assert gateway.run(["sh", "-c", STATE], check=False).out == before


def test_the_fence_of_the_gateway_itself_stays(gateway: Lab) -> None:
    gateway.add_user("myapp", uid=991)
    gateway.module("fence", services=[{"name": "myapp", "source_ports": "50000-50999"}])
    edge(gateway, unknown="drop")
    assert gateway.module("fence_info")["in_sync"]
    edge(gateway, state="absent", identities=[])
    assert gateway.module("fence_info")["in_sync"]
    edge(gateway, unknown="drop")
    gateway.module("fence", state="absent", purge=True)
    assert not edge(gateway, unknown="drop")["changed"]


@pytest.mark.parametrize("kind", ["nft", "iptables"])
def test_exported_files_do_the_same(gateway: Lab, kind: str) -> None:
    """Loaded twice, as by an admin who got a new version."""
    files = identity_files(IDENTITIES, unknown="drop")
    for _time in range(2):
        if kind == "nft":
            gateway.nft(files["edge.nft"])
        else:
            gateway.run(["iptables-restore", "--noflush"], data=files["edge.rules.v4"])
            gateway.run(["ip6tables-restore", "--noflush"], data=files["edge.rules.v6"])
    if kind == "iptables":
        for program in ("iptables", "ip6tables"):
            gateway.run([program, "-I", "FORWARD", "1", "-j", "PORTFENCE-EDGE"])
    for protocol, family in WAYS:
        assert passes(gateway, protocol, family, KNOWN)
        assert not passes(gateway, protocol, family, UNKNOWN)


NESTED = [
    {"address": address, "protocol": protocol, "source_ports": ports, "service": service, "hosts": ["web1"]}
    for family in (["10.20.0.0/16", "10.20.0.0/24", "10.20.0.2/32"], ["fd20::/32", "fd20::/64", "fd20::2/128"])
    for address, ports, service in zip(family, ("52000-52999", "51000", "50000-50999"), ("wide", "b.x", "myapp"))
    for protocol in ("tcp", "udp")
]


@pytest.mark.parametrize("kind", ["module", "nft", "iptables"])
def test_networks_in_each_other(gateway: Lab, kind: str) -> None:
    """An address has the ports of all networks around it, and is unknown once."""
    files = identity_files(NESTED, unknown="log")
    if kind == "module":
        edge(gateway, identities=NESTED)
        assert not edge(gateway, identities=NESTED)["changed"]
    elif kind == "nft":
        gateway.nft(files["edge.nft"])
    else:
        for program, version in (("iptables", 4), ("ip6tables", 6)):
            gateway.run([f"{program}-restore", "--noflush"], data=files[f"edge.rules.v{version}"])
            gateway.run([program, "-I", "FORWARD", "1", "-j", "PORTFENCE-EDGE"])

    def unknown() -> int:
        if kind != "iptables":
            return counted(gateway, "unknown")
        listed = "".join(gateway.run([program, "-S", "PORTFENCE-EDGE", "-v"]).out for program in ("iptables", "ip6tables"))
        return sum(int(packets) for packets in re.findall(r"-c (\d+) \d+ -j LOG", listed))

    for protocol, family in WAYS:
        for port in (KNOWN, OTHER, 52000):
            assert passes(gateway, protocol, family, port)
        assert not unknown()
    for number, (protocol, family) in enumerate(WAYS, 1):
        assert passes(gateway, protocol, family, UNKNOWN)
        assert unknown() == number


def test_the_playbooks(gateway: Lab) -> None:
    control = Control(gateway)
    policy = {"egress_services": {"myapp": {"source_ports": "50000-50999"}}, "egress_addresses": ["10.20.0.2", "fd20::2"]}
    missing = control.play("portfence.egress.export", hosts=["downweb1"], **{**policy, "egress_addresses": []})
    assert missing.rc != 0 and "downweb1.egress_addresses: missing" in missing.out + missing.err
    exported = control.play("portfence.egress.export", "-e", "edge_export=/run/export", hosts=["downweb1"], **policy)
    assert exported.rc == 0, exported.out
    assert len(gateway.run(["ls", "/run/export"]).out.split()) == 8
    options = ["-e", "target=lab", "-e", "edge_unknown=drop"]
    for changed in (True, False):
        done = control.play("portfence.egress.edge", *options, hosts=["lab", "downweb1"], **policy)
        assert done.rc == 0 and ("changed=0" not in done.out.splitlines()[-2]) == changed, done.out
    assert passes(gateway, "tcp", 4, KNOWN) and not passes(gateway, "tcp", 4, UNKNOWN)


@pytest.mark.parametrize("playbook", ["edge", "export"])
def test_a_limit_is_refused(gateway: Lab, playbook: str) -> None:
    """It would make the others unknown."""
    control = Control(gateway)
    policy = {"egress_services": {"myapp": {"source_ports": "50000-50999"}}, "egress_addresses": ["10.20.0.2"]}
    options = ["-e", "target=lab", "-e", "edge_export=/run/export", "--limit", "lab"]
    done = control.play(f"portfence.egress.{playbook}", *options, hosts=["lab", "downweb1"], **policy)
    assert done.rc != 0 and "--limit leaves out downweb1" in " ".join((done.out + done.err).split())
    assert gateway.run(["ls", "/run/export"], check=False).rc != 0
    assert "portfence_edge" not in gateway.run(["nft", "list", "tables"]).out
