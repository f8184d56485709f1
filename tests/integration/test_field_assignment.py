# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a program that binds nothing gets a port inside its range, and what other address translation does to it."""

from __future__ import annotations

import json
from typing import Callable, List, Tuple

import pytest
from field_rules import (
    ANSWERED,
    BOTH,
    INSIDE,
    MYAPP,
    OTHER,
    OUTSIDE,
    OWNER,
    PORTS,
    UNANSWERED,
    blocked,
    counters,
    fence,
    filter_rules,
    iptables,
    masquerade_rules,
    passes,
)
from lab import PATIENCE, Lab, Session

SECOND = {4: "192.0.2.22", 6: "2001:db8:0:1::22"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}


def _answered(lab: Lab, *, uid: int, attempts: int) -> List[bool]:
    """Which of so many unmodified UDP clients, which are refused at once if at all, got an answer."""
    return [lab.connect("udp", uid=uid, **ANSWERED).port is not None for _attempt in range(attempts)]


def test_programs_that_bind_nothing_are_given_a_port(lab: Lab) -> None:
    fence(lab)
    for protocol, family in BOTH:
        for _attempt in range(10):
            assert passes(lab, protocol, family=family, uid=MYAPP) in PORTS


def test_programs_that_bind_nothing_hang_with_the_pasted_rules(lab: Lab) -> None:
    filter_rules(lab)
    # 1,000 of 28,232 automatic ports are inside: 60 attempts give 2 answers on average, and more than 20 never.
    assert sum(_answered(lab, uid=MYAPP, attempts=60)) <= 20


@pytest.mark.parametrize(("protocol", "family"), BOTH)
def test_a_port_inside_is_kept_and_one_outside_is_replaced(lab: Lab, protocol: str, family: int) -> None:
    fence(lab)
    assert passes(lab, protocol, family=family, uid=MYAPP, source_port=INSIDE) == INSIDE
    assert passes(lab, protocol, family=family, uid=MYAPP, source_port=OUTSIDE) in PORTS
    assert passes(lab, protocol, family=family, uid=OTHER, source_port=OUTSIDE + 1) == OUTSIDE + 1


def test_all_ranges_of_a_service_are_used(lab: Lab) -> None:
    fence(lab, source_ports=["50000-50003", 50100, "50200-50203"])
    for port in range(9000, 9080):
        with lab.socket("udp", uid=MYAPP) as sock:
            sock.sendto(b"anybody there?", (lab.peer.addresses[4], port))
    seen = {packet.source_port for packet in lab.peer.packets() if packet.protocol == "udp"}
    assert seen <= {*range(50000, 50004), 50100, *range(50200, 50204)}
    # Of 80 draws, a range of 4 ports in 9 is missed about once in 10^20 runs.
    assert seen & set(range(50000, 50004)) and seen & set(range(50200, 50204))


# Automatic ports for everybody, half of which belong to the service.
NARROW = "net.ipv4.ip_local_port_range=50000 50199"
HALF = "50000-50099"


def test_reserved_ports_are_not_chosen_for_others(lab: Lab) -> None:
    lab.run(["sysctl", "-qw", NARROW])
    reserved = lab.module("ephemeral_ports", reserved_ports=[HALF])
    assert not reserved.get("failed"), reserved["msg"]
    fence(lab, source_ports=HALF)
    lab.peer.serve(7001)
    assert all(_answered(lab, uid=OTHER, attempts=40))
    # The owner loses nothing: what is not chosen for it is assigned, and an explicit bind is not affected.
    for _attempt in range(20):
        assert passes(lab, "tcp", uid=MYAPP) in range(50000, 50100)
    assert passes(lab, "tcp", uid=MYAPP, source_port=50050, port=7001) == 50050
    assert counters(lab) == {"violations": 0, "intrusions": 0}


def test_ports_that_are_not_reserved_are_chosen_for_others_and_fail(lab: Lab) -> None:
    lab.run(["sysctl", "-qw", NARROW])
    warnings = fence(lab, source_ports=HALF)["warnings"]
    answered = _answered(lab, uid=OTHER, attempts=40)
    assert any(answered) and not all(answered)
    assert counters(lab)["intrusions"] == answered.count(False)
    assert ["50.0 %" in text for text in warnings] == [True]


def test_the_range_of_the_host_must_not_be_reserved(lab: Lab) -> None:
    lab.run(["sysctl", "-qw", "net.ipv4.ip_local_port_range=50000 50999"])
    fence(lab, assignment="host")
    for protocol, family in BOTH:
        assert passes(lab, protocol, family=family, uid=MYAPP) in PORTS
    refused = lab.module("ephemeral_ports", reserved_ports=["50000-50999"])
    assert refused["failed"] and "50000-50999" in refused["msg"]
    # What happens to those who write it by hand:
    lab.run(["sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=50000-50999"])
    assert lab.connect("tcp", uid=MYAPP, **ANSWERED).error == "EADDRNOTAVAIL"
    assert lab.connect("udp", uid=MYAPP, **ANSWERED).error in ("EADDRNOTAVAIL", "EAGAIN")


@pytest.mark.parametrize(("protocol", "family"), BOTH)
def test_the_check_stands_behind_the_translation(lab: Lab, protocol: str, family: int) -> None:
    fence(lab)
    assert passes(lab, protocol, family=family, uid=MYAPP) in PORTS
    assert counters(lab)["violations"] == 0


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_filter_at_output_kills_what_would_be_translated(lab: Lab, protocol: str) -> None:
    masquerade_rules(lab)
    assert passes(lab, protocol, uid=MYAPP, source_port=OUTSIDE) in PORTS
    filter_rules(lab)
    assert blocked(lab, protocol, uid=MYAPP, source_port=OUTSIDE + 1)


def _foreign_translation(lab: Lab) -> None:
    """Somebody else's source NAT, which takes ports of its own."""
    for version in ("iptables", "ip6tables"):
        rules = (f"-t nat -A POSTROUTING -o eth0 -p {protocol} -j MASQUERADE --to-ports 40000-40999" for protocol in ("tcp", "udp"))
        iptables(lab, *rules, version=version)


@pytest.mark.parametrize(("protocol", "family"), BOTH)
def test_a_port_that_somebody_else_translates_away_is_stopped(lab: Lab, protocol: str, family: int) -> None:
    fence(lab, assignment="app")
    _foreign_translation(lab)
    assert blocked(lab, protocol, family=family, uid=MYAPP, source_port=INSIDE)
    assert counters(lab)["violations"] > 0


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_that_somebody_else_translates_away_passes_the_pasted_rules(lab: Lab, protocol: str) -> None:
    filter_rules(lab)
    _foreign_translation(lab)
    assert passes(lab, protocol, uid=MYAPP, source_port=INSIDE) in range(40000, 41000)


@pytest.mark.parametrize(("protocol", "family"), BOTH)
@pytest.mark.parametrize("assignment", ["rewrite", "app"])
def test_loopback_is_left_alone(lab: Lab, protocol: str, family: int, assignment: str) -> None:
    lab.serve(7001)
    fence(lab, assignment=assignment)
    local = {"family": family, "address": LOOPBACK[family], "port": 7001}
    assert passes(lab, protocol, uid=MYAPP, source_port=OUTSIDE, **local) == OUTSIDE
    assert passes(lab, protocol, uid=OTHER, source_port=INSIDE, **local) == INSIDE


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_loopback_is_broken_by_the_pasted_rules(lab: Lab, protocol: str) -> None:
    lab.serve(7001)
    local = {"address": LOOPBACK[4], "port": 7001}
    filter_rules(lab)
    assert lab.connect(protocol, uid=MYAPP, source_port=OUTSIDE, **local, **UNANSWERED).port is None


def test_loopback_is_broken_by_pasted_translation(lab: Lab) -> None:
    lab.serve(7001)
    local = {"address": LOOPBACK[4], "port": 7001}
    masquerade_rules(lab)
    assert passes(lab, "tcp", uid=MYAPP, source_port=OUTSIDE, **local) in PORTS
    assert lab.connect("udp", uid=MYAPP, source_port=OUTSIDE, **local, **UNANSWERED) == (None, "timeout")


def _use_other_address(lab: Lab, *, protocol: str, family: int) -> Tuple[str, str]:
    """The address that a client chose, not the one that the kernel would have, and the one that the peer then saw."""
    usual = lab.run(["ip", "-json", "route", "get", lab.peer.addresses[family]]).out
    (chosen,) = {SECOND[family], lab.addresses[family]} - {json.loads(usual)[0]["prefsrc"]}
    with lab.socket(protocol, family=family, uid=MYAPP) as sock:
        sock.settimeout(PATIENCE)
        sock.bind((chosen, 0))
        sock.connect((lab.peer.addresses[family], 7000))
        sock.sendall(b"who am I?\n")
        assert int(sock.recv(100).split()[0]) in PORTS
    return chosen, lab.peer.packets()[0].source


def _add_second_address(lab: Lab) -> None:
    lab.run(["ip", "address", "add", f"{SECOND[4]}/24", "dev", "eth0"])
    lab.run(["ip", "address", "add", f"{SECOND[6]}/64", "dev", "eth0", "nodad"])


@pytest.mark.parametrize(("protocol", "family"), BOTH)
def test_the_source_address_is_kept(lab: Lab, protocol: str, family: int) -> None:
    _add_second_address(lab)
    fence(lab)
    chosen, seen = _use_other_address(lab, protocol=protocol, family=family)
    assert seen == chosen


@pytest.mark.parametrize(("protocol", "family"), BOTH)
def test_the_source_address_is_replaced_by_masquerade(lab: Lab, protocol: str, family: int) -> None:
    _add_second_address(lab)
    masquerade_rules(lab, version="iptables" if family == 4 else "ip6tables")
    chosen, seen = _use_other_address(lab, protocol=protocol, family=family)
    assert seen != chosen


def _fill(lab: Lab) -> List[Session]:
    return [lab.open(uid=MYAPP) for _port in range(4)]


def test_exhaustion_is_told_by_the_info(lab: Lab) -> None:
    """With NAT nobody tells the program or counts anything: the use against the capacity has to be looked at."""
    fence(lab, source_ports="50000-50003")
    assert lab.module("fence_info")["services"]["myapp"]["use"] == 0
    sessions = _fill(lab)
    try:
        assert {session.port for session in sessions} == set(range(50000, 50004))
        assert lab.connect("tcp", uid=MYAPP, **UNANSWERED) == (None, "timeout")
        found = lab.module("fence_info")["services"]["myapp"]
        assert (found["capacity"], found["ports_in_use"]["tcp"], found["use"]) == (4, 4, 1.0)
        assert found["violations"]["packets"] == 0
        lab.peer.serve(7001)
        # Another destination has all ports again, as TCP tells connections by both ends.
        assert passes(lab, "tcp", uid=MYAPP, port=7001) in range(50000, 50004)
    finally:
        for session in sessions:
            session.close()


def test_exhaustion_moves_no_counter_of_the_pasted_rules(lab: Lab) -> None:
    iptables(lab, f"-t nat -A POSTROUTING -p tcp {OWNER} -j MASQUERADE --to-ports 50000-50003")
    sessions = _fill(lab)
    try:
        assert lab.connect("tcp", uid=MYAPP, **UNANSWERED) == (None, "timeout")
        listing = lab.run(["iptables", "-t", "filter", "-nvxL"]).out
        assert "DROP" not in listing
    finally:
        for session in sessions:
            session.close()


def test_a_program_that_binds_is_told_of_exhaustion(lab: Lab) -> None:
    fence(lab, source_ports="50000-50000", assignment="app")
    with lab.open(uid=MYAPP, source_port=50000).sock, lab.socket(uid=MYAPP) as second:
        with pytest.raises(OSError, match="Address already in use"):
            second.bind(("0.0.0.0", 50000))


def _ours(lab: Lab) -> None:
    fence(lab)


def _at_the_usual_priority(lab: Lab) -> None:
    lab.nft(
        f"""
        table ip pasted {{
            chain assign {{
                type nat hook postrouting priority srcnat;
                meta skuid {MYAPP} meta l4proto tcp snat to :50000-50999
                meta skuid {MYAPP} meta l4proto udp snat to :50000-50999
            }}
        }}
        """
    )


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("order", [(_ours, _foreign_translation), (_foreign_translation, _ours)])
def test_our_translation_wins_in_every_order(lab: Lab, protocol: str, order: List[Callable[[Lab], None]]) -> None:
    for load in order:
        load(lab)
    assert passes(lab, protocol, uid=MYAPP) in PORTS
    assert passes(lab, protocol, family=6, uid=MYAPP) in PORTS


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_at_the_usual_priority_the_later_translation_wins(lab: Lab, protocol: str) -> None:
    _at_the_usual_priority(lab)
    assert passes(lab, protocol, uid=MYAPP) in PORTS
    _foreign_translation(lab)
    assert passes(lab, protocol, uid=MYAPP) in range(40000, 41000)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("priority", [-100, 50, 105, 300])
def test_the_check_sees_every_address_translation(lab: Lab, protocol: str, priority: int) -> None:
    """Whatever priority a nat chain has, the kernel translates at 100 and asks the chains in their order."""
    fence(lab, assignment="app")
    lab.nft(
        f"""
        table ip foreign {{
            chain translate {{
                type nat hook postrouting priority {priority};
                meta l4proto {protocol} masquerade to :40000-40999
            }}
        }}
        """
    )
    assert blocked(lab, protocol, uid=MYAPP, source_port=INSIDE)


def test_a_header_that_is_written_behind_the_check_is_not_covered(lab: Lab) -> None:
    """A limit to know: rules that write into packets after priority 110 have the last word."""
    fence(lab, assignment="app")
    lab.nft(
        """
        table inet foreign {
            chain write {
                type filter hook postrouting priority 300;
                udp dport 7000 udp sport set 40123
            }
        }
        """
    )
    with lab.socket("udp", uid=MYAPP) as sock:
        sock.bind(("0.0.0.0", INSIDE))
        sock.sendto(b"who am I?", (lab.peer.addresses[4], 7000))
        assert [packet.source_port for packet in lab.peer.packets() if packet.protocol == "udp"] == [40123]


@pytest.mark.parametrize("family", [4, 6])
def test_a_udp_port_that_somebody_else_just_used_is_not_lost(lab: Lab, family: int) -> None:
    fence(lab)
    same = {"family": family, "source_port": OUTSIDE}
    assert passes(lab, "udp", uid=OTHER, **same) == OUTSIDE
    assert passes(lab, "udp", uid=MYAPP, **same) in PORTS
    other = {"family": family, "source_port": OUTSIDE + 1}
    assert passes(lab, "udp", uid=MYAPP, **other) in PORTS
    assert passes(lab, "udp", uid=OTHER, **other) == OUTSIDE + 1


def test_without_zones_a_udp_port_that_somebody_else_just_used_is_lost(lab: Lab) -> None:
    fence(lab)
    lab.nft("flush chain inet portfence raw")
    assert passes(lab, "udp", uid=OTHER, source_port=OUTSIDE) == OUTSIDE
    assert blocked(lab, "udp", uid=MYAPP, source_port=OUTSIDE)
    assert passes(lab, "udp", uid=MYAPP, source_port=OUTSIDE + 1) in PORTS
    assert blocked(lab, "udp", uid=OTHER, source_port=OUTSIDE + 1)
