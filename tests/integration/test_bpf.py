# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""assignment bpf on the real kernel: what programs get, as they and the peer see it."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, Callable, Dict, Iterator, List

import pytest
from bpf_lab import TCP, UDP, BpfLab, job
from lab import PATIENCE, PEER_ADDRESSES, PORT, LabError

UID = 991
OTHER = 1500
LOW, HIGH = 50000, 50199
INSIDE = range(LOW, HIGH + 1)
PEER4 = [PEER_ADDRESSES[4], PORT]
PEER6 = [PEER_ADDRESSES[6], PORT]
MAPPED = [f"::ffff:{PEER_ADDRESSES[4]}", PORT]


@pytest.fixture(name="lab")
def fixture_lab() -> Iterator[BpfLab]:
    """A lab whose host has the account of a service."""
    with BpfLab() as lab:
        lab.add_user("myapp", uid=UID)
        yield lab


def fence(lab: BpfLab, **service: Any) -> Dict[str, Any]:
    """Fence the service on that host."""
    wanted = {"name": "myapp", "source_ports": f"{LOW}-{HIGH}", "assignment": "bpf", **service}
    result = lab.module("fence", services=[wanted])
    assert not result.get("failed"), result
    return result


def errors(answers: List[Dict[str, Any]]) -> List[Any]:
    """Errors with the call that met them."""
    return [answer["error"] and f"{answer['step']} {answer['error']}" for answer in answers]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what has to come; LabError when it does not."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise LabError("it did not happen")
        time.sleep(0.01)


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize(("family", "to"), [(4, PEER4), (6, PEER6), (6, MAPPED)], ids=["ipv4", "ipv6", "mapped"])
def test_unmodified_program_gets_a_port_inside_and_without_nat(lab: BpfLab, protocol: str, family: int, to: List[Any]) -> None:
    """The socket itself has the port that the peer sees."""
    result = fence(lab)
    assert result["assignments"] == {"myapp": "bpf"}
    answers = lab.client(*[job(protocol, family=family, to=to)] * 5, uid=UID)
    assert errors(answers) == [None] * 5
    assert all(answer["seen"] in INSIDE and answer["seen"] == answer["local"] for answer in answers), answers
    assert len({answer["seen"] for answer in answers}) == 5


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_every_port_is_used_before_the_error_is_that_of_exhaustion(lab: BpfLab, protocol: str) -> None:
    """Several ranges; EADDRNOTAVAIL, as the kernel itself says it (its bpf_set_retval() came with Linux 6.1)."""
    fence(lab, source_ports=["50000-50004", 50010, "50020-50023"])
    answers = lab.client(*[job(protocol, to=PEER4)] * 12, uid=UID)
    ports = [answer["seen"] for answer in answers[:10]]
    assert sorted(ports) == [50000, 50001, 50002, 50003, 50004, 50010, 50020, 50021, 50022, 50023]
    assert errors(answers[10:]) == ["connect EADDRNOTAVAIL"] * 2


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize(("family", "to", "any_address"), [(4, PEER4, "0.0.0.0"), (6, PEER6, "::"), (6, MAPPED, "::")])
def test_bind(lab: BpfLab, protocol: str, family: int, to: List[Any], any_address: str) -> None:
    """Inside: kept. Outside: refused at once. Port 0, where the kernel chooses: the fence translates it."""
    fence(lab)
    inside, outside, zero = lab.client(
        *[job(protocol, family=family, to=to, bind=[any_address, port]) for port in (LOW + 7, HIGH + 1, 0)], uid=UID
    )
    assert (inside["seen"], inside["error"]) == (LOW + 7, None)
    assert errors([outside]) == ["bind EPERM"]
    assert zero["error"] is None and zero["seen"] in INSIDE and zero["local"] not in INSIDE


def test_an_audit_refuses_nothing(lab: BpfLab) -> None:
    fence(lab, on_violation="log")
    # In this order: the kernel translates to a port that no connection has, which may be one that the programs would give to the next.
    wanted, outside = lab.client(job(to=PEER4), job(to=PEER4, bind=["0.0.0.0", HIGH + 1]), uid=UID)
    assert (outside["error"], outside["local"]) == (None, HIGH + 1) and outside["seen"] in INSIDE
    assert wanted["seen"] == wanted["local"] and wanted["seen"] in INSIDE


def test_unconnected_udp_is_translated(lab: BpfLab) -> None:
    """No program can bind in sendto()."""
    fence(lab)
    answers = lab.client(job(UDP, to=PEER4, unconnected=True), job(UDP, family=6, to=PEER6, unconnected=True), uid=UID)
    assert errors(answers) == [None, None]
    assert all(answer["seen"] in INSIDE and answer["local"] not in INSIDE for answer in answers)


def test_an_address_without_a_port_is_kept(lab: BpfLab) -> None:
    """IP_BIND_ADDRESS_NO_PORT: the program chose a source address, the service's port joins it."""
    lab.run(["ip", "address", "add", "192.0.2.77/24", "dev", "eth0"])
    fence(lab)
    (answer,) = lab.client(job(to=PEER4, bind=["192.0.2.77", 0], address_only=True), uid=UID)
    assert answer["error"] is None and answer["seen"] == answer["local"] and answer["seen"] in INSIDE
    assert {packet.source for packet in lab.peer.packets() if packet.protocol == TCP} == {"192.0.2.77"}


def test_loopback_is_left_alone_unless_asked_for(lab: BpfLab) -> None:
    """Connections to 127.0.0.1 and ::1, and servers that listen there."""
    lab.serve(8000)
    fence(lab)
    jobs = [
        job(to=["127.0.0.1", 8000]),
        job(family=6, to=["::1", 8000]),
        job(family=6, to=["::ffff:127.0.0.1", 8000]),
        job(bind=["127.0.0.1", 8080], listen=True),
    ]
    answers = lab.client(*jobs, uid=UID)
    assert errors(answers) == [None] * 4
    assert not any(answer["local"] in INSIDE for answer in answers)
    fence(lab, loopback=True)
    answers = lab.client(*jobs, uid=UID)
    assert errors(answers) == [None, None, None, "bind EPERM"]
    assert all(answer["seen"] in INSIDE for answer in answers[:3])


def test_others_are_not_touched(lab: BpfLab) -> None:
    """Neither their connections nor their binds."""
    fence(lab)
    for uid, port in ((OTHER, 60001), (0, 60002)):
        answers = lab.client(job(to=PEER4), job(UDP, to=PEER6, family=6), job(bind=["0.0.0.0", port], to=PEER4), uid=uid)
        assert errors(answers) == [None] * 3
        assert answers[2]["seen"] == port
        assert not any(answer["seen"] in INSIDE for answer in answers)


def test_only_protocols_of_the_service(lab: BpfLab) -> None:
    """UDP of a service that lists TCP is anybody's."""
    fence(lab, protocols=["tcp"])
    tcp, udp, bound = lab.client(job(to=PEER4), job(UDP, to=PEER4), job(UDP, to=PEER4, bind=["0.0.0.0", 60001]), uid=UID)
    assert tcp["seen"] in INSIDE and udp["seen"] not in INSIDE and bound["seen"] == 60001


def test_shared_ports_serve_more_connections_than_there_are_ports(lab: BpfLab) -> None:
    """Ports in TIME_WAIT and ports with connections elsewhere are taken again; UDP is not shared."""
    for port in range(PORT + 1, PORT + 11):
        lab.peer.serve(port)
    to = [[PEER_ADDRESSES[4], port] for port in range(PORT + 1, PORT + 11)]
    fence(lab, source_ports="50000-50003")
    alone = lab.client(*[job(to=where) for where in to], uid=UID)
    assert Counter(errors(alone)) == {None: 4, "connect EADDRNOTAVAIL": 6}
    fence(lab, source_ports="50010-50013", share_ports=True)
    shared = lab.client(*[job(to=where) for where in to], uid=UID)
    assert errors(shared) == [None] * 10
    assert {answer["seen"] for answer in shared} == {50010, 50011, 50012, 50013}
    udp = lab.client(*[job(UDP, to=where) for where in to], uid=UID)
    assert Counter(errors(udp)) == {None: 4, "connect EADDRNOTAVAIL": 6}
    # One destination, one connection at a time: soon every port is in TIME_WAIT.
    for _number in range(12):
        assert errors(lab.client(job(to=PEER4), uid=UID)) == [None]
        wait_until(lambda: not lab.run(["ss", "-tnH", "state", "fin-wait-1", "state", "fin-wait-2", "state", "last-ack"]).out)


def test_auto_leaves_servers_alone(lab: BpfLab) -> None:
    """With auto a service may bind where it likes, as with rewrite; what it connects from there is translated."""
    result = fence(lab, assignment="auto")
    assert result["assignments"] == {"myapp": "bpf"}
    plain, listening, bound = lab.client(
        job(to=PEER4), job(bind=["0.0.0.0", 8080], listen=True), job(bind=["0.0.0.0", 60001], to=PEER4), uid=UID
    )
    assert plain["seen"] == plain["local"] and plain["seen"] in INSIDE
    assert (listening["local"], listening["error"]) == (8080, None)
    assert bound["local"] == 60001 and bound["seen"] in INSIDE


def probe(lab: BpfLab, **service: Any) -> Dict[str, Any]:
    """Run port_probe on the service, in the group that the programs are attached to."""
    with lab.joined():
        return lab.module("port_probe", services=[{"name": "myapp", "source_ports": f"{LOW}-{HIGH}", **service}])


@pytest.mark.parametrize("assignment", ["bpf", "auto"])
def test_probe_proves_it(lab: BpfLab, assignment: str) -> None:
    """The probe knows what a program meets; nothing of it is a violation."""
    fence(lab, assignment=assignment)
    result = probe(lab, assignment=assignment)
    assert not result.get("failed"), result["msg"]
    assert result["summary"]["ok"] == result["summary"]["checks"]
    outside = {line["expected"] for line in result["checks"] if line["check"] == "bind_outside"}
    assert outside == {"refused by bind()" if assignment == "bpf" else f"port {LOW}-{HIGH}"}
    assert result["counted"]["myapp"]["violations"] == 0


def test_probe_knows_that_audit_lets_any_bind_pass(lab: BpfLab) -> None:
    """What binds to a port outside is given one inside on its way, like any other program."""
    fence(lab, on_violation="log")
    result = probe(lab, assignment="bpf", on_violation="log")
    assert not result.get("failed"), result["msg"]
    assert {line["expected"] for line in result["checks"] if line["check"] == "bind_outside"} == {f"port {LOW}-{HIGH}"}


def test_probe_finds_a_hook_that_is_missing(lab: BpfLab) -> None:
    """A bind to a port outside that is let is what it says."""
    fence(lab)
    lab.run(["bpftool", "cgroup", "detach", "/sys/fs/cgroup", "bind4", "pinned", "/sys/fs/bpf/portfence/bind4"])
    result = probe(lab, assignment="bpf")
    assert result["failed"]
    assert "myapp tcp ipv4 bind_outside: expected refused by bind(), it was let, and the peer saw" in result["msg"]
    assert result["summary"]["failed"] == 2
