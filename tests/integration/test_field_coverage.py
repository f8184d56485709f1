# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which packets are judged: both families, behind whatever rules there are, other protocols; and what is not covered."""

from __future__ import annotations

from typing import Optional

import pytest
from field_rules import (
    ANSWERED,
    BOTH,
    INSIDE,
    MYAPP,
    OTHER,
    OUTSIDE,
    PORTS,
    UNANSWERED,
    blocked,
    counters,
    fence,
    filter_rules,
    iptables,
    passes,
)
from lab import PATIENCE, PROTOCOLS, Lab

# A system Python: the accounts can't enter the folder of a virtual environment that belongs to root.
PYTHON = "/usr/bin/python3"
WITH_CAP_NET_RAW = ["setpriv", "--inh-caps=+net_raw", "--ambient-caps=+net_raw", f"--reuid={MYAPP}", "--clear-groups", "--"]


@pytest.mark.parametrize(("protocol", "family"), BOTH)
@pytest.mark.parametrize("on_violation", ["drop", "reject"])
def test_other_ports_are_stopped_in_both_families(lab: Lab, protocol: str, family: int, on_violation: str) -> None:
    fence(lab, assignment="app", on_violation=on_violation)
    assert blocked(lab, protocol, family=family, uid=MYAPP, source_port=OUTSIDE)
    found = counters(lab)  # more than one if a busy machine lets TCP repeat the segment
    assert found["violations"] > 0 and found["intrusions"] == 0
    assert passes(lab, protocol, family=family, uid=MYAPP, source_port=INSIDE) == INSIDE


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_ipv6_is_open_with_the_pasted_rules(lab: Lab, protocol: str) -> None:
    filter_rules(lab)
    assert blocked(lab, protocol, uid=MYAPP, source_port=OUTSIDE)
    assert passes(lab, protocol, family=6, uid=MYAPP, source_port=OUTSIDE) == OUTSIDE


@pytest.mark.parametrize(("protocol", "family"), BOTH)
def test_an_audit_lets_pass_and_counts(lab: Lab, protocol: str, family: int) -> None:
    fence(lab, assignment="app", on_violation="log")
    assert passes(lab, protocol, family=family, uid=MYAPP, source_port=OUTSIDE) == OUTSIDE
    assert passes(lab, protocol, family=family, uid=OTHER, source_port=INSIDE) == INSIDE
    assert counters(lab) == {"violations": 1, "intrusions": 1}


@pytest.mark.parametrize(("protocol", "family"), BOTH)
def test_reject_tells_the_program_at_once(lab: Lab, protocol: str, family: int) -> None:
    fence(lab, assignment="app", on_violation="reject")
    seen = lab.connect(protocol, family=family, uid=MYAPP, source_port=OUTSIDE, **ANSWERED)
    assert seen.error == ("ECONNREFUSED" if protocol == "tcp" else "EPERM")


def test_a_program_hangs_with_the_pasted_rules(lab: Lab) -> None:
    filter_rules(lab)
    assert lab.connect("tcp", uid=MYAPP, source_port=OUTSIDE, **UNANSWERED) == (None, "timeout")


def _somebody_accepts(lab: Lab) -> None:
    """What ufw, firewalld or Docker may have put there before."""
    for version in ("iptables", "ip6tables"):
        iptables(lab, "-A OUTPUT -o eth0 -j ACCEPT", version=version)


@pytest.mark.parametrize(("protocol", "family"), BOTH)
def test_rules_of_others_do_not_let_anything_pass_us(lab: Lab, protocol: str, family: int) -> None:
    _somebody_accepts(lab)
    fence(lab, assignment="app")
    assert blocked(lab, protocol, family=family, uid=MYAPP, source_port=OUTSIDE)
    assert blocked(lab, protocol, family=family, uid=OTHER, source_port=INSIDE)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_rules_of_others_stand_before_the_pasted_ones(lab: Lab, protocol: str) -> None:
    _somebody_accepts(lab)
    filter_rules(lab)
    assert passes(lab, protocol, uid=MYAPP, source_port=OUTSIDE) == OUTSIDE


OPENER = """
import os, socket, sys
early = sys.argv[1] == "as root"
if early:
    sock = socket.socket()
os.setgroups([])
os.setgid(20001)
os.setuid(20001)
if not early:
    sock = socket.socket()
sock.settimeout(float(sys.argv[2]))
sock.bind(("", int(sys.argv[3])))
sock.connect(("192.0.2.1", 7000))
print(int(sock.recv(100)))
"""


def _open_in_a_program(lab: Lab, *, opened: str, timeout: float) -> Optional[str]:
    result = lab.run([PYTHON, "-I", "-c", OPENER, opened, str(timeout), str(OUTSIDE)], check=False)
    return result.out.strip() if result.rc == 0 else None


def test_the_owner_is_who_opened_the_socket(lab: Lab) -> None:
    """A limit to know: a program that opens sockets as root and gives up its rights afterwards is root to the fence."""
    fence(lab, assignment="app")
    assert _open_in_a_program(lab, opened="as the account", timeout=0.4) is None
    assert _open_in_a_program(lab, opened="as root", timeout=PATIENCE) == str(OUTSIDE)


def test_a_socket_that_is_passed_on_keeps_its_owner(lab: Lab) -> None:
    fence(lab, assignment="app")
    # This test's process is root, and got the socket from a process that opened it as the account.
    with lab.socket("udp", uid=MYAPP) as sock:
        sock.bind(("0.0.0.0", OUTSIDE))
        with pytest.raises(PermissionError):
            sock.sendto(b"who am I?", (lab.peer.addresses[4], 7000))
    assert counters(lab)["violations"] == 1


# A packet of any protocol: source port, destination port, and enough behind them to look like one.
RAW = """
import socket, sys
family, protocol, source_port, destination = sys.argv[1:]
sock = socket.socket(socket.AF_INET if family == "4" else socket.AF_INET6, socket.SOCK_RAW, int(protocol))
packet = int(source_port).to_bytes(2, "big") + (7000).to_bytes(2, "big") + bytes(28)
try:
    sock.sendto(packet, (destination, 0))
except PermissionError:
    pass
"""
OTHER_PROTOCOLS = ["sctp", "dccp", "udplite"]


def _raw_arrives(lab: Lab, protocol: str, *, family: int, port: int) -> bool:
    """Whether a packet of a protocol for which the kernel need not have sockets reaches the peer."""
    lab.peer.packets()
    arguments = [str(family), str(PROTOCOLS[protocol]), str(port), lab.peer.addresses[family]]
    lab.run([*WITH_CAP_NET_RAW, PYTHON, "-I", "-c", RAW, *arguments])
    return [packet.source_port for packet in lab.peer.packets() if packet.protocol == protocol] == [port]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", OTHER_PROTOCOLS)
def test_other_protocols_with_ports_are_fenced_when_listed(lab: Lab, protocol: str, family: int) -> None:
    fence(lab, assignment="app", protocols=["tcp", "udp", *OTHER_PROTOCOLS])
    assert not _raw_arrives(lab, protocol, family=family, port=OUTSIDE)
    assert counters(lab)["violations"] == 1
    assert _raw_arrives(lab, protocol, family=family, port=INSIDE)
    fence(lab, assignment="app", protocols=["tcp", "udp"])
    assert _raw_arrives(lab, protocol, family=family, port=OUTSIDE)


@pytest.mark.parametrize("protocol", OTHER_PROTOCOLS)
def test_other_protocols_are_open_with_the_pasted_rules(lab: Lab, protocol: str) -> None:
    filter_rules(lab)
    assert _raw_arrives(lab, protocol, family=4, port=OUTSIDE)


@pytest.mark.parametrize("family", [4, 6])
def test_udplite_is_given_a_port(lab: Lab, family: int) -> None:
    fence(lab, protocols=["udplite"])
    with lab.socket("udplite", family=family, uid=MYAPP) as sock:
        sock.sendto(b"anybody there?", (lab.peer.addresses[family], 7000))
    assert [packet.source_port in PORTS for packet in lab.peer.packets() if packet.protocol == "udplite"] == [True]


PING = """
import socket, sys
family, destination, timeout = sys.argv[1:]
if family == "4":
    sock, request = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP), 8
else:
    sock, request = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6), 128
sock.settimeout(float(timeout))
sock.sendto(bytes([request]) + bytes(15), (destination, 0))
print(len(sock.recv(100)))
"""


def _ping(lab: Lab, *, family: int, timeout: float) -> bool:
    lab.run(["sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647"])
    arguments = [str(family), lab.peer.addresses[family], str(timeout)]
    return lab.run([PYTHON, "-I", "-c", PING, *arguments], uid=MYAPP, check=False).rc == 0


@pytest.mark.parametrize("family", [4, 6])
def test_icmp_passes(lab: Lab, family: int) -> None:
    fence(lab, assignment="app", protocols=["tcp", "udp", *OTHER_PROTOCOLS])
    assert _ping(lab, family=family, timeout=PATIENCE)
    assert counters(lab)["violations"] == 0


@pytest.mark.parametrize("family", [4, 6])
def test_icmp_is_cut_by_a_rule_for_every_protocol(lab: Lab, family: int) -> None:
    lab.nft(
        f"""
        table inet pasted {{
            chain out {{
                type filter hook output priority 0;
                meta skuid {MYAPP} th sport != 50000-50999 drop
            }}
        }}
        """
    )
    assert not _ping(lab, family=family, timeout=0.4)


MPTCP = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
sock.settimeout(float(sys.argv[1]))
sock.bind(("", int(sys.argv[2])))
sock.connect(("192.0.2.1", 7000))
print(int(sock.recv(100)))
"""


def test_the_first_connection_of_mptcp_is_fenced(lab: Lab) -> None:
    fence(lab, assignment="app")
    for port, timeout, seen in ((INSIDE, PATIENCE, str(INSIDE)), (OUTSIDE, 0.4, "")):
        result = lab.run([PYTHON, "-I", "-c", MPTCP, str(timeout), str(port)], uid=MYAPP, check=False)
        assert result.out.strip() == seen, result.err


PACKET = """
import socket
sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
udp = (45123).to_bytes(2, "big") + (7000).to_bytes(2, "big") + (8).to_bytes(2, "big") + bytes(2)
header = bytes([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1])
sock.sendto(header + udp, ("eth0", 0x0800, 0, 0, bytes.fromhex("ffffffffffff")))
"""


def test_packets_beneath_the_firewall_are_not_covered(lab: Lab) -> None:
    """A limit to know: CAP_NET_RAW lets a program write to the wire past every rule. A service must not have it."""
    fence(lab, assignment="app")
    lab.run([*WITH_CAP_NET_RAW, PYTHON, "-I", "-c", PACKET])
    assert [packet.source_port for packet in lab.peer.packets() if packet.protocol == "udp"] == [45123]
    assert lab.run([PYTHON, "-I", "-c", PACKET], uid=MYAPP, check=False).rc != 0
