# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports that nobody else may use, and what an exclusive range must not hit."""

from __future__ import annotations

import time

import pytest
from field_rules import (
    BOTH,
    INSIDE,
    MYAPP,
    OTHER,
    OUTSIDE,
    UNANSWERED,
    blocked,
    counters,
    fence,
    filter_rules,
    iptables,
    passes,
    until,
)
from lab import PATIENCE, Lab

# The inverse of the how-to's rule, as people write it.
INVERSE = f"-m owner ! --uid-owner {MYAPP} --sport 50000:50999 -j DROP"


def _inverse_rules(lab: Lab) -> None:
    for chain in ("OUTPUT", "POSTROUTING -t mangle"):
        iptables(lab, *(f"-A {chain} -p {protocol} {INVERSE}" for protocol in ("tcp", "udp")))


@pytest.mark.parametrize(("protocol", "family"), BOTH)
@pytest.mark.parametrize("uid", [OTHER, 0])
def test_nobody_else_may_use_the_ports(lab: Lab, protocol: str, family: int, uid: int) -> None:
    fence(lab)
    assert blocked(lab, protocol, family=family, uid=uid, source_port=INSIDE)
    assert counters(lab)["violations"] == 0
    assert counters(lab)["intrusions"] > 0
    assert passes(lab, protocol, family=family, uid=uid, source_port=OUTSIDE) == OUTSIDE
    assert passes(lab, protocol, family=family, uid=MYAPP, source_port=INSIDE + 1) == INSIDE + 1


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_anybody_may_use_the_ports_with_the_pasted_rules(lab: Lab, protocol: str) -> None:
    filter_rules(lab)
    assert passes(lab, protocol, uid=OTHER, source_port=INSIDE) == INSIDE


@pytest.mark.parametrize(("protocol", "family"), BOTH)
def test_ports_that_are_not_exclusive_are_for_all(lab: Lab, protocol: str, family: int) -> None:
    fence(lab, exclusive=False)
    assert passes(lab, protocol, family=family, uid=OTHER, source_port=INSIDE) == INSIDE


@pytest.mark.parametrize(("protocol", "family"), BOTH)
def test_a_server_of_somebody_else_on_these_ports_can_answer(lab: Lab, protocol: str, family: int) -> None:
    """It opens nothing: the connection is inbound."""
    lab.serve(INSIDE, uid=OTHER)
    fence(lab)
    assert passes(lab.peer, protocol, family=family, port=INSIDE, source_port=OUTSIDE) == OUTSIDE


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_server_of_somebody_else_hangs_with_the_inverse_rule(lab: Lab, protocol: str) -> None:
    lab.serve(INSIDE, uid=OTHER)
    _inverse_rules(lab)
    assert lab.peer.connect(protocol, port=INSIDE, **UNANSWERED) == (None, "timeout")


@pytest.mark.parametrize("family", [4, 6])
def test_the_kernel_may_refuse_connections_to_these_ports(lab: Lab, family: int) -> None:
    fence(lab)
    assert lab.peer.connect(family=family, port=INSIDE, timeout=PATIENCE).error == "ECONNREFUSED"


def test_the_kernel_stays_silent_with_the_inverse_rule(lab: Lab) -> None:
    """Its answer, a reset, belongs to no account."""
    _inverse_rules(lab)
    assert lab.peer.connect(port=INSIDE, **UNANSWERED) == (None, "timeout")


def _connections_at_peer(lab: Lab) -> str:
    return lab.peer.run(["ss", "-Htan", "sport", "=", ":7000", "and", "dport", "=", f":{INSIDE}"]).out


def _hang_up(lab: Lab) -> None:
    """Close a connection as its client, and see the peer close its end; the last word is with the lab.

    No program has the socket any more, so that the acknowledgement belongs to no account.
    """
    session = lab.open(uid=MYAPP, source_port=INSIDE)
    assert "ESTAB" in _connections_at_peer(lab)
    session.close()
    assert until(lambda: "ESTAB" not in _connections_at_peer(lab))


def test_the_end_of_a_connection_gets_through(lab: Lab) -> None:
    fence(lab)
    _hang_up(lab)
    assert until(lambda: _connections_at_peer(lab) == "")


def test_the_end_of_a_connection_is_lost_with_the_inverse_rule(lab: Lab) -> None:
    _inverse_rules(lab)
    _hang_up(lab)
    time.sleep(0.4)
    assert "LAST-ACK" in _connections_at_peer(lab)


# A container, as far as the network knows: a namespace behind the host, which forwards and translates for it.
CONTAINER = """
set -e
ip netns add container
ip link add box type veth peer name eth0 netns container
ip address add 10.9.0.1/24 dev box
ip link set box up
ip -n container address add 10.9.0.2/24 dev eth0
ip -n container link set eth0 up
ip -n container route add default via 10.9.0.1
sysctl -qw net.ipv4.ip_forward=1
iptables -t nat -A POSTROUTING -s 10.9.0.0/24 -o eth0 -j MASQUERADE
"""
CLIENT = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM if sys.argv[1] == "tcp" else socket.SOCK_DGRAM)
sock.settimeout(float(sys.argv[2]))
sock.bind(("", int(sys.argv[3])))
sock.connect(("192.0.2.1", 7000))
sock.send(b"who am I?")
print(int(sock.recv(100).split()[0]))
"""


def _from_container(lab: Lab, protocol: str, *, timeout: float) -> str:
    command = ["ip", "netns", "exec", "container", "python3", "-c", CLIENT, protocol, str(timeout), str(INSIDE)]
    result = lab.run(command, check=False)
    return result.out.strip() or result.err.splitlines()[-1]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_forwarded_connections_pass_as_they_have_no_owner(lab: Lab, protocol: str) -> None:
    """Also a limit to know: a container behind this host can take the ports, and has to be told apart by its address."""
    lab.run(["sh", "-c", CONTAINER])
    fence(lab)
    assert _from_container(lab, protocol, timeout=PATIENCE) == str(INSIDE)
    assert counters(lab)["intrusions"] == 0


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_forwarded_connections_are_cut_by_the_inverse_rule(lab: Lab, protocol: str) -> None:
    lab.run(["sh", "-c", CONTAINER])
    _inverse_rules(lab)
    assert "timed out" in _from_container(lab, protocol, timeout=0.4)
