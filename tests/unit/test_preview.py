# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Open sockets and a policy: who would be hit."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_list
from ansible_collections.portfence.egress.plugins.module_utils._preview import preview
from ansible_collections.portfence.egress.plugins.module_utils._resolve import resolve
from ansible_collections.portfence.egress.plugins.module_utils._usage import Socket, parse_sockets
from ansible_collections.portfence.egress.tests.unit.pipeline import lookup

MYAPP: Dict[str, Any] = {"name": "myapp", "source_ports": "50000-50009"}
PEER: Dict[str, Any] = {"peer": "192.0.2.1", "peer_port": 443}


def found(service: Dict[str, Any], *sockets: Socket) -> List[Tuple[str, Any, Tuple[int, ...], str]]:
    """Kind, protocol, ports and effect of what is found for a service of UID 991 at one look."""
    return found_in(service, sockets)


def found_in(service: Dict[str, Any], *looks: Sequence[Socket]) -> List[Tuple[str, Any, Tuple[int, ...], str]]:
    """The same at several."""
    resolved, _problems = resolve(parse_list([service]), lookup=lookup(users={"myapp": 991}), admin_uids={})
    return [(item.kind, item.protocol, item.ports, item.effect) for item in preview(resolved, looks).findings]


def tcp(port: int, uid: int = 991, state: str = "ESTAB", **more: Any) -> Socket:
    return Socket("tcp", state, port, uid, **{**PEER, **more})


@pytest.mark.parametrize(
    ("changes", "effect"),
    [
        ({}, "new connections would get a port inside"),
        ({"assignment": "app"}, "new connections from such ports would be dropped"),
        ({"assignment": "app", "on_violation": "reject"}, "new connections from such ports would be refused"),
        ({"assignment": "app", "on_violation": "log"}, "new connections from such ports would be counted and logged"),
        ({"assignment": "bpf"}, "new connections get a port inside (bpf); those that bind outside would be dropped"),
    ],
)
def test_connections_from_outside(changes: Dict[str, Any], effect: str) -> None:
    assert found({**MYAPP, **changes}, tcp(50000), tcp(40001), tcp(40000)) == [("outside", "tcp", (40000, 40001), effect)]


def test_what_is_no_connection_of_the_service_is_left_out() -> None:
    assert found(
        MYAPP,
        tcp(8080, state="LISTEN", peer=None, peer_port=0),
        tcp(8080),  # accepted there
        tcp(40000, state="TIME-WAIT", uid=0),
        tcp(40001, peer="127.0.0.1"),
        tcp(40002, peer="::1"),
        tcp(40003, peer="::ffff:127.0.0.2"),
        tcp(40004, uid=1),
    ) == []
    assert found({**MYAPP, "loopback": True}, tcp(40001, peer="127.0.0.1"))[0][:3] == ("outside", "tcp", (40001,))
    assert found({**MYAPP, "protocols": ["udp"]}, tcp(40000)) == []


def test_others_on_exclusive_ports() -> None:
    effect = "new connections of others from these ports would be dropped"
    assert found(MYAPP, tcp(50003, uid=7), tcp(50010, uid=7)) == [("intruder", "tcp", (50003,), effect)]
    assert found({**MYAPP, "exclusive": False}, tcp(50003, uid=7)) == []
    assert found({**MYAPP, "on_violation": "log"}, tcp(50003, uid=7))[0][3].endswith("would be counted and logged")


def test_servers() -> None:
    nobody: Dict[str, Any] = {"peer": None, "peer_port": 0}
    ours, theirs = Socket("udp", "UNCONN", 514, 991, **nobody), Socket("udp", "UNCONN", 50001, 7, **nobody)
    kinds = found(MYAPP, ours, theirs, tcp(50002, uid=7, state="LISTEN", **nobody))
    assert [item[:3] for item in kinds] == [("listener", "tcp", (50002,)), ("listener", "udp", (50001,)), ("udp_server", "udp", (514,))]
    assert kinds[2][3].endswith("what it sends first would get a port inside")
    assert found(MYAPP, Socket("udp", "UNCONN", 50001, 991, **nobody), Socket("udp", "UNCONN", 0, 991, **nobody)) == []


def test_a_small_range() -> None:
    eight = [tcp(50000 + number) for number in range(8)]
    assert found(MYAPP, *eight) == []
    nine = [*eight, tcp(50008)]
    message = "9 connections to 192.0.2.1 port 443 are open, and 10 ports would be there for them"
    assert found(MYAPP, *nine) == [("capacity", "tcp", (), message)]
    spread = [tcp(50000 + number, peer_port=number) for number in range(10)]
    assert found(MYAPP, *spread) == [], "towards each destination a port can be used again"
    assert found({**MYAPP, "assignment": "app"}, *spread)[0][0] == "capacity"


def test_what_was_open_one_after_the_other_was_not_open_at_once() -> None:
    states = ("SYN-SENT", "ESTAB", "FIN-WAIT-1")
    assert found_in(MYAPP, *([tcp(50000 + number, state=state)] for number in range(10) for state in states)) == []
    many = [tcp(50000 + number) for number in range(9)]
    message = "9 connections to 192.0.2.1 port 443 are open, and 10 ports would be there for them"
    assert found_in(MYAPP, many[:1], many, many[:5]) == [("capacity", "tcp", (), message)]


def test_a_connection_is_one_in_whatever_state() -> None:
    resolved, _problems = resolve(parse_list([MYAPP]), lookup=lookup(users={"myapp": 991}), admin_uids={})
    seen = preview(resolved, [[tcp(40000, state=state)] for state in ("SYN-SENT", "ESTAB", "FIN-WAIT-1")])
    assert (seen.looks, seen.sockets) == (3, 1)
    assert [(finding.kind, finding.sockets) for finding in seen.findings] == [("outside", 1)]


@pytest.mark.parametrize("state", ["FIN-WAIT-1", "FIN-WAIT-2", "CLOSING", "LAST-ACK", "TIME-WAIT"])
def test_what_nobody_holds_any_more_is_nobodys(state: str) -> None:
    """The kernel shows no owner, which is root's number."""
    assert found(MYAPP, tcp(50003, uid=0, state=state)) == []
    if state != "TIME-WAIT":
        assert found(MYAPP, tcp(50003, uid=0, state=state, program="curl"))[0][0] == "intruder"


def test_units_are_seen_by_their_cgroup() -> None:
    unit = {"name": "w", "source_ports": "50000-50009", "unit": "w@.service", "assignment": "app"}
    inside = tcp(40000, uid=5, cgroup="system.slice/system-w.slice/w@1.service/sub")
    outside = tcp(40001, uid=5, cgroup="system.slice/w.service")
    assert found(unit, inside, outside) == [("outside", "tcp", (40000,), "new connections from such ports would be dropped")]


@pytest.mark.parametrize(
    ("service", "effect"),
    [
        ({"user": "gone"}, "not looked at: the account does not exist yet"),
        ({"group": 5}, "not looked at: sockets don't show the selector group"),
        ({"classid": "10:1"}, "not looked at: sockets don't show the selector classid"),
        ({"addresses": ["10.0.0.0/8"]}, "not looked at: sockets don't show the selector addresses"),
    ],
)
def test_what_cannot_be_seen_is_said(service: Dict[str, Any], effect: str) -> None:
    assert found({**MYAPP, **service}) == [("unseen", None, (), effect)]


def test_what_ss_prints() -> None:
    text = """\
tcp ESTAB 0 0 192.0.2.2:50001 192.0.2.1:443 users:(("a \\"b",pid=7,fd=3)) uid:991 ino:1 sk:2 cgroup:/system.slice/x.service <->
tcp ESTAB 0 0 [::ffff:192.0.2.2]:50002 [::ffff:192.0.2.1]:443 uid:991 ino:1 sk:2 cgroup:/ <->
udp UNCONN 0 0 [fe80::1]%eth0:546 [::]:* ino:1 sk:2
tcp LISTEN 0 128 *:80 *:* users:(("nginx",pid=1,fd=6),("nginx",pid=2,fd=6)) ino:1 sk:2
"""
    one, mapped, udp, listening = parse_sockets(text)
    assert one == Socket("tcp", "ESTAB", 50001, 991, "192.0.2.1", 443, 'a \\"b', "system.slice/x.service")
    assert (mapped.peer, mapped.cgroup) == ("::ffff:192.0.2.1", "")
    assert udp == Socket("udp", "UNCONN", 546, 0)
    assert (listening.program, listening.peer) == ("nginx", None)
