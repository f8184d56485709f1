# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module port_probe: what it needs of a host, what it says where that is missing, and that it leaves nothing behind."""

from __future__ import annotations

import json
import sys
from typing import Any, Dict, List

import pytest
from field_rules import until
from lab import LAB_ADDRESSES, PEER_ADDRESSES, PORT, Lab

SERVICE: Dict[str, Any] = {"name": "myapp", "source_ports": "50000-50999"}
MODULE = [sys.executable, "-m", "ansible_collections.portfence.egress.plugins.modules.port_probe"]
RESPONDER = "ansible_collections/portfence/egress/roles/probe/files/portfence_responder.py"


@pytest.fixture(name="host")
def fixture_host(lab: Lab) -> Lab:
    lab.add_user("myapp", 20001)
    lab.run(["sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=50000-50999"])
    result = lab.module("fence", services=[SERVICE])
    assert not result.get("failed"), result["msg"]
    return lab


def probe(host: Lab, **more: Any) -> Dict[str, Any]:
    return host.module("port_probe", **{"services": [SERVICE], "timeout": 1.0, **more})


def interfaces(host: Lab) -> List[str]:
    return sorted(link["ifname"] for link in json.loads(host.run(["ip", "-j", "link"]).out))


def leftovers(host: Lab) -> Dict[str, Any]:
    """Whatever a probe could leave behind."""
    return {
        "interfaces": interfaces(host),
        "routes": [
            line
            for version in ("-4", "-6")
            for line in host.run(["ip", version, "route", "show", "table", "all"]).out.splitlines()
            if "eth0" not in line and "dev lo" not in line
        ],
        "namespaces": host.run(["lsns", "--type", "net", "--noheadings", "--output", "NS"]).out.split(),
        "processes": host.run(["pgrep", "--full", "modules.port_probe"], check=False).out.split(),
    }


def start(host: Lab, **parameters: Any) -> int:
    """Begin a probe in the background that takes a while, as no connection comes about; its PID in the lab, once it is connecting."""
    host.nft("add table inet silence; add chain inet silence out { type filter hook output priority 100; tcp flags syn drop; }")
    data = json.dumps({"ANSIBLE_MODULE_ARGS": {"services": [SERVICE], "timeout": 60, **parameters}})
    before = interfaces(host)
    command = 'cat > /run/arguments; "$@" < /run/arguments > /run/output 2>&1 & echo $!'
    pid = host.run(["sh", "-c", command, "sh", *MODULE], data=data, env={"PYTHONPATH": host.collections()}).out
    assert until(lambda: interfaces(host) != before)
    assert until(lambda: "SYN-SENT" in host.run(["ss", "--tcp", "--all", "--numeric"]).out)
    # Nothing has arrived by which the probe could tell that it has waited for long enough.
    host.nft("delete table inet silence")
    return int(pid)


def test_nothing_is_left_after_success(host: Lab) -> None:
    before = leftovers(host)
    assert not probe(host).get("failed")
    assert leftovers(host) == before


def test_nothing_is_left_after_failure(host: Lab) -> None:
    host.nft("delete table inet portfence")
    before = leftovers(host)
    assert probe(host)["failed"]
    assert leftovers(host) == before


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_nothing_is_left_after_a_signal(host: Lab, signal: str) -> None:
    before = leftovers(host)
    pid = start(host)
    during = leftovers(host)
    assert len(during["namespaces"]) == len(before["namespaces"]) + 1
    assert len(during["processes"]) == 2
    host.run(["kill", f"-{signal}", str(pid)])
    assert until(lambda: leftovers(host) == before)
    assert not probe(host).get("failed")


def test_the_peer_dies(host: Lab) -> None:
    before = leftovers(host)
    pid = start(host)
    (child,) = host.run(["pgrep", "--parent", str(pid)]).out.split()
    host.run(["kill", "-KILL", child])
    assert until(lambda: leftovers(host) == before)
    assert "the temporary peer has ended unexpectedly" in json.loads(host.run(["cat", "/run/output"]).out)["msg"]


def test_nothing_is_left_when_the_peer_is_stuck(host: Lab) -> None:
    before = leftovers(host)
    pid = start(host)
    (child,) = host.run(["pgrep", "--parent", str(pid)]).out.split()
    host.run(["kill", "-STOP", child])
    host.run(["kill", "-KILL", str(pid)])
    assert until(lambda: leftovers(host) == before)


# The peer works in short moments, with more than the time of an attempt between them. Of the attempts, few may be under way at once.
# Of the children, it is the one with a network namespace of its own; others are programs that end soon.
SLOW_PEER = """
cat >/run/arguments
ulimit -n 120
"$@" </run/arguments >/run/output &
pid=$!
here=$(readlink /proc/self/ns/net)
child=
while test -z "$child" && kill -0 $pid; do
    for each in $(pgrep --parent $pid); do
        there=$(readlink /proc/$each/ns/net) && test "$there" != "$here" && child=$each
    done
    sleep 0.01
done
while kill -STOP $child 2>/dev/null && kill -0 $pid 2>/dev/null; do
    sleep 1
    kill -CONT $child
    sleep 0.05
done
wait $pid
cat /run/output
"""


def test_a_slow_peer_is_waited_for(host: Lab) -> None:
    """What arrived is told by the peer, not by the clock; and what comes late is nobody else's."""
    more = [{"name": f"s{number}", "user": str(21000 + number), "source_ports": f"{52000 + 10 * number}-{52009 + 10 * number}"} for number in range(4)]
    services = [SERVICE, *more]
    assert not host.module("fence", services=services).get("failed")
    data = json.dumps({"ANSIBLE_MODULE_ARGS": {"services": services, "timeout": 0.5}})
    result = json.loads(host.run(["sh", "-c", SLOW_PEER, "sh", *MODULE], data=data, env={"PYTHONPATH": host.collections()}, timeout=120).out)
    assert "msg" not in result, result["msg"]
    assert result["summary"]["ok"] == result["summary"]["checks"] == 100


def test_the_fence_cannot_change_meanwhile(host: Lab) -> None:
    pid = start(host)
    assert host.run(["flock", "--nonblock", "/run/portfence.lock", "true"], check=False).rc == 1
    host.run(["kill", "-KILL", str(pid)])
    assert until(lambda: host.run(["flock", "--nonblock", "/run/portfence.lock", "true"], check=False).rc == 0)


def test_two_probes_at_once(host: Lab) -> None:
    command = 'cat > /run/arguments; for n in 1 2; do "$@" < /run/arguments > /run/output$n 2>&1 & done; wait; cat /run/output1; echo; cat /run/output2'
    data = json.dumps({"ANSIBLE_MODULE_ARGS": {"services": [SERVICE]}})
    printed = host.run(["sh", "-c", command, "sh", *MODULE], data=data, env={"PYTHONPATH": host.collections()}).out
    results = [json.loads(line) for line in printed.splitlines() if line]
    assert [result["summary"]["ok"] for result in results] == [20, 20]


def test_check_mode_does_nothing(host: Lab) -> None:
    host.peer.packets()
    counters = host.run(["nft", "list", "counters"]).out
    result = probe(host, check_mode=True, services=[{**SERVICE, "user": "not-yet-there"}])
    assert not result.get("failed")
    assert (result["changed"], result["skipped"]) == (False, True)
    assert "check mode" in result["msg"]
    assert host.run(["nft", "list", "counters"]).out == counters


def test_nothing_leaves_the_host(host: Lab) -> None:
    host.peer.packets()
    probe(host)
    assert [packet for packet in host.peer.packets() if packet.protocol in ("tcp", "udp")] == []


def test_no_services(host: Lab) -> None:
    result = probe(host, services=[{"name": "myapp", "state": "absent"}])
    assert not result.get("failed")
    assert result["summary"]["checks"] == 0


def test_ipv6_is_disabled(host: Lab) -> None:
    host.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"])
    result = probe(host)
    assert not result.get("failed")
    assert result["summary"] == {"checks": 20, "ok": 10, "failed": 0, "skipped": 10}
    for line in result["checks"]:
        assert (line["family"] == "ipv6") == ("skipped" in line) == (line["ok"] is None)
    assert "IPv6 is disabled on this host: no interface has an IPv6 address" in {line.get("skipped") for line in result["checks"]}


def test_ipv6_is_disabled_for_new_interfaces(host: Lab) -> None:
    host.run(["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"])
    assert probe(host)["summary"]["ok"] == 20


def test_documentation_addresses_in_use_are_left_alone(host: Lab) -> None:
    host.run(["ip", "address", "add", "198.51.100.77/24", "dev", "eth0"])
    host.run(["ip", "route", "add", "blackhole", "203.0.113.0/25"])
    host.run(["ip", "-6", "route", "add", "unreachable", "2001:db8:ff::/49"])
    assert probe(host)["summary"]["ok"] == 20


def test_no_documentation_address_is_free(host: Lab) -> None:
    for prefix in ("198.51.100.0/24", "203.0.113.0/24"):  # 192.0.2.0/24 is the lab's own network
        host.run(["ip", "route", "add", "unreachable", prefix])
    result = probe(host)
    assert result["failed"]
    assert "needs an IPv4 network of the documentation addresses (198.51.100.0/24, 203.0.113.0/24, 192.0.2.0/24)" in result["msg"]
    assert "give the probe a target instead" in result["msg"]


def test_policy_routing_leads_elsewhere(host: Lab) -> None:
    host.run(["ip", "rule", "add", "priority", "100", "lookup", "100"])
    host.run(["ip", "route", "add", "default", "via", PEER_ADDRESSES[4], "table", "100"])
    before = leftovers(host)
    result = probe(host)
    assert result["failed"]
    assert "policy routing (ip rule)" in result["msg"]
    assert leftovers(host) == before


def test_another_firewall_stops_everything(host: Lab) -> None:
    host.nft("table inet other { chain output { type filter hook output priority 0; udp dport >= 1024 drop; }; }")
    result = probe(host)
    assert result["failed"]
    assert "UDP over IPv4: nothing arrived at the temporary peer, not even from an account that belongs to no service" in result["msg"]
    assert "another firewall" in result["msg"]
    assert "UDP over IPv6" in result["msg"] and "TCP" not in result["msg"]
    assert {line["ok"] for line in result["checks"] if line["protocol"] == "udp"} == {False}


def test_another_firewall_stops_the_answers(host: Lab) -> None:
    host.nft("table inet other { chain input { type filter hook input priority 0; meta l4proto tcp drop; }; }")
    result = probe(host)
    assert result["failed"]
    assert "TCP over IPv4: no answer came back at all; another firewall on this host drops what comes in" in result["msg"]
    assert "but its answer did not come back: Connection timed out" in result["msg"]
    assert "UDP" not in result["msg"]


def test_another_firewall_stops_neighbour_discovery(host: Lab) -> None:
    host.nft("table inet other { chain input { type filter hook input priority 0; meta l4proto ipv6-icmp drop; }; }")
    host.nft("table arp other { chain input { type filter hook input priority 0; drop; }; }")
    assert probe(host)["summary"]["ok"] == 20


def test_namespaces_are_not_permitted(host: Lab) -> None:
    before = leftovers(host)
    result = host.run(
        ["setpriv", "--bounding-set", "-sys_admin", "--", *MODULE],
        data=json.dumps({"ANSIBLE_MODULE_ARGS": {"services": [SERVICE]}}),
        check=False,
        env={"PYTHONPATH": host.collections()},
    )
    message = json.loads(result.out)["msg"]
    assert message.startswith("can't make a temporary network namespace (Operation not permitted)")
    assert "give the probe a target instead" in message
    assert leftovers(host) == before


def test_without_root(host: Lab) -> None:
    data = json.dumps({"ANSIBLE_MODULE_ARGS": {"services": [SERVICE]}})
    result = host.run(MODULE, uid=20001, data=data, check=False, env={"PYTHONPATH": host.collections()})
    assert "Traceback" not in result.out + result.err
    assert "needs root" in result.out


def hide_ip(host: Lab, script: str) -> None:
    """Put a program over ip, for this lab's eyes only. The true one is at /run/ip."""
    host.run(["sh", "-c", 'cat > /run/fake; chmod 755 /run/fake; touch /run/ip; true=$(readlink -f "$(command -v ip)")'
              '; mount --bind "$true" /run/ip; mount --bind /run/fake "$true"'], data=script)


def test_ip_is_missing(host: Lab) -> None:
    hide_ip(host, "")
    host.run(["chmod", "644", "/run/fake"])
    result = probe(host)
    assert result["failed"]
    assert result["missing_programs"] == ["ip"]
    assert "install the package iproute2" in result["msg"]
    nothing = host.module("port_probe", services=[{"name": "myapp", "state": "absent"}])
    assert not nothing.get("failed") and nothing["checks"] == [], "nothing to do for ip"


def test_veth_is_missing(host: Lab) -> None:
    hide_ip(host, '#!/bin/sh\ncase "$*" in -batch*) echo "Error: Unknown device type." >&2; exit 1;; esac\nexec /run/ip "$@"\n')
    result = probe(host)
    assert result["failed"]
    assert "can't join a temporary network namespace to this host by a veth pair" in result["msg"]
    assert "Unknown device type" in result["msg"] and "the kernel module veth may be missing" in result["msg"]


def test_unknown_account_and_bad_policy(host: Lab) -> None:
    result = probe(host, services=[{"name": "a", "source_ports": 40000}, {"name": "b", "user": 1, "source_ports": "50999-51000"}])
    assert "there is no user a on this host" in result["msg"]
    assert "50999 also belongs to /etc/portfence/services.d/myapp.json" in result["msg"]


# --- A target instead of the temporary peer ---


TARGET: Dict[str, Any] = {"address4": PEER_ADDRESSES[4], "address6": PEER_ADDRESSES[6], "ports": "41000-41015"}


@pytest.fixture(name="responder")
def fixture_responder(host: Lab) -> Lab:
    """The program that comes with the role, on the machine at the other end of the cable."""
    program = f"{host.collections()}/{RESPONDER}"
    host.peer.run(["sh", "-c", '"$@" > /run/responder 2>&1 &', "sh", "/usr/bin/python3", "-u", program, "--ports", TARGET["ports"]])
    assert until(lambda: "answering on" in host.run(["cat", "/run/responder"]).out)
    assert host.run(["cat", "/run/responder"]).out == "answering on the ports 41000 to 41015, TCP and UDP, ipv4 and ipv6\n"
    return host


def test_target(responder: Lab) -> None:
    before = leftovers(responder)
    for _run in range(2):
        result = probe(responder, target=TARGET)
        assert not result.get("failed"), result["msg"]
        assert result["summary"]["ok"] == 20
    assert leftovers(responder) == before
    assert any(packet.source_port and 50000 <= packet.source_port <= 50999 for packet in responder.peer.packets())


def test_target_with_few_ports_and_services_with_one(responder: Lab) -> None:
    """Each attempt of a service has to go to another port of the target, or they would be the same to connection tracking."""
    services = [{"name": f"s{number}", "user": 30000 + number, "source_ports": 40000 + number} for number in range(12)]
    assert not responder.module("fence", services=services).get("failed")
    result = probe(responder, services=services, target={**TARGET, "ports": "41000-41004"}, timeout=1.0)
    assert not result.get("failed"), result["msg"]


def test_target_without_a_fence(responder: Lab) -> None:
    for family in ("inet", "ip", "ip6"):
        responder.nft(f"delete table {family} portfence")
    result = probe(responder, target=TARGET)
    assert result["summary"]["failed"] == 12
    assert "myapp udp ipv6 other_inside: expected blocked, peer saw 50" in result["msg"]


def test_target_in_one_family(responder: Lab) -> None:
    result = probe(responder, target={**TARGET, "address6": None})
    assert result["summary"] == {"checks": 20, "ok": 10, "failed": 0, "skipped": 10}
    assert "the target has no IPv6 address" in {line.get("skipped") for line in result["checks"]}


def test_target_with_a_single_port(host: Lab) -> None:
    """Attempts take turns. The responder is another program, which says more than the port."""
    result = probe(host, target={**TARGET, "ports": PORT})
    assert not result.get("failed"), result["msg"]


def test_target_that_does_not_answer(host: Lab) -> None:
    result = probe(host, target=TARGET)
    assert result["summary"]["ok"] == 0
    for path in ("TCP over IPv4", "UDP over IPv6"):
        assert f"{path}: nothing arrived at the target" in result["msg"]


def test_target_that_says_something_else(host: Lab) -> None:
    script = "import socket; s = socket.create_server(('', 41000)); [s.accept()[0].sendall(b'SSH-2.0-x\\r\\n') for _ in range(99)]"
    host.peer.run(["sh", "-c", '"$@" > /dev/null 2>&1 &', "sh", "/usr/bin/python3", "-c", script])
    result = probe(host, services=[{**SERVICE, "protocols": ["tcp"]}], target={"address4": PEER_ADDRESSES[4], "ports": 41000})
    assert "could not connect: the answer was b'SSH-2.0-x" in result["msg"]


def test_target_on_this_host(host: Lab) -> None:
    result = probe(host, target={**TARGET, "address4": LAB_ADDRESSES[4]})
    assert f"the target {LAB_ADDRESSES[4]} is an address of this host" in result["msg"]


def test_target_that_cannot_be_reached(host: Lab) -> None:
    host.run(["ip", "route", "add", "unreachable", "203.0.113.0/24"])
    result = probe(host, target={**TARGET, "address4": "203.0.113.9"})
    assert "this host can't reach the target 203.0.113.9: No route to host" in result["msg"]


def test_mistakes_in_the_parameters(host: Lab) -> None:
    assert "target.address4: found 'x'" in probe(host, target={"address4": "x"})["msg"]
    assert "one of the following is required: address4, address6" in probe(host, target={"ports": 1})["msg"]
    assert "timeout: found 0; accepted: 0.1 to 60 seconds" in probe(host, timeout=0)["msg"]
