# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the fence of nftables does in the field, that of iptables does as well; and what is true of iptables alone."""

from __future__ import annotations

import pytest
from field_rules import BOTH, INSIDE, MYAPP, OTHER, OUTSIDE, PORTS, blocked, counters, fence, iptables, passes
from lab import Lab
from test_field_assignment import (
    test_a_port_inside_is_kept_and_one_outside_is_replaced,
    test_a_udp_port_that_somebody_else_just_used_is_not_lost,
    test_all_ranges_of_a_service_are_used,
    test_exhaustion_is_told_by_the_info,
    test_loopback_is_left_alone,
    test_our_translation_wins_in_every_order,
    test_programs_that_bind_nothing_are_given_a_port,
    test_the_range_of_the_host_must_not_be_reserved,
    test_the_source_address_is_kept,
)
from test_field_coverage import (
    test_an_audit_lets_pass_and_counts,
    test_icmp_passes,
    test_other_ports_are_stopped_in_both_families,
    test_other_protocols_with_ports_are_fenced_when_listed,
    test_reject_tells_the_program_at_once,
    test_rules_of_others_do_not_let_anything_pass_us,
    test_the_first_connection_of_mptcp_is_fenced,
    test_the_owner_is_who_opened_the_socket,
)
from test_field_exclusive import (
    test_a_server_of_somebody_else_on_these_ports_can_answer,
    test_forwarded_connections_pass_as_they_have_no_owner,
    test_nobody_else_may_use_the_ports,
    test_ports_that_are_not_exclusive_are_for_all,
    test_the_end_of_a_connection_gets_through,
    test_the_kernel_may_refuse_connections_to_these_ports,
)
from test_field_sessions import (
    test_a_live_udp_socket_goes_on_in_the_new_ports,
    test_a_server_can_answer,
    test_an_inbound_session_survives_that_connections_are_forgotten,
    test_an_inbound_session_survives_that_the_fence_is_loaded,
    test_an_outbound_session_survives_a_policy_that_would_forbid_it,
    test_new_connections_are_judged_while_old_sessions_live,
    test_rewritten_sessions_survive_changes_of_the_policy,
)

__all__ = [
    "test_a_live_udp_socket_goes_on_in_the_new_ports",
    "test_a_port_inside_is_kept_and_one_outside_is_replaced",
    "test_a_server_can_answer",
    "test_a_server_of_somebody_else_on_these_ports_can_answer",
    "test_a_udp_port_that_somebody_else_just_used_is_not_lost",
    "test_all_ranges_of_a_service_are_used",
    "test_an_audit_lets_pass_and_counts",
    "test_an_inbound_session_survives_that_connections_are_forgotten",
    "test_an_inbound_session_survives_that_the_fence_is_loaded",
    "test_an_outbound_session_survives_a_policy_that_would_forbid_it",
    "test_exhaustion_is_told_by_the_info",
    "test_forwarded_connections_pass_as_they_have_no_owner",
    "test_icmp_passes",
    "test_loopback_is_left_alone",
    "test_new_connections_are_judged_while_old_sessions_live",
    "test_nobody_else_may_use_the_ports",
    "test_other_ports_are_stopped_in_both_families",
    "test_other_protocols_with_ports_are_fenced_when_listed",
    "test_our_translation_wins_in_every_order",
    "test_ports_that_are_not_exclusive_are_for_all",
    "test_programs_that_bind_nothing_are_given_a_port",
    "test_reject_tells_the_program_at_once",
    "test_rewritten_sessions_survive_changes_of_the_policy",
    "test_rules_of_others_do_not_let_anything_pass_us",
    "test_the_end_of_a_connection_gets_through",
    "test_the_first_connection_of_mptcp_is_fenced",
    "test_the_kernel_may_refuse_connections_to_these_ports",
    "test_the_owner_is_who_opened_the_socket",
    "test_the_range_of_the_host_must_not_be_reserved",
    "test_the_source_address_is_kept",
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of this file run with both variants, which take the same rules; those of other files with the usual one."""
    own = metafunc.function.__module__ == __name__
    metafunc.parametrize("variant", ["nft", "legacy"] if own else ["nft"], indirect=True)


@pytest.fixture(autouse=True, name="variant")
def fixture_variant(request: pytest.FixtureRequest, lab: Lab) -> None:
    lab.use_iptables(request.param)


def masquerade(lab: Lab, *, ports: str, insert: bool = False) -> None:
    """Somebody else's source NAT, which takes ports of its own."""
    how = "-I" if insert else "-A"
    for version in ("iptables", "ip6tables"):
        rules = (f"-t nat {how} POSTROUTING -o eth0 -p {protocol} -j MASQUERADE --to-ports {ports}" for protocol in ("tcp", "udp"))
        iptables(lab, *rules, version=version)


@pytest.mark.parametrize(("protocol", "family"), BOTH)
@pytest.mark.parametrize("assignment", ["rewrite", "app"])
def test_nobody_translates_a_port_away(lab: Lab, protocol: str, family: int, assignment: str) -> None:
    """There is no table behind the translation that could stop it; there is ours before it."""
    fence(lab, assignment=assignment)
    masquerade(lab, ports="40000-40999")
    assert passes(lab, protocol, family=family, uid=MYAPP, source_port=INSIDE) == INSIDE
    assert passes(lab, protocol, family=family, uid=OTHER, source_port=OUTSIDE) in range(40000, 41000)
    # Not the port that the other account has just had: on a busy machine, its connection is still there.
    if assignment == "rewrite":
        assert passes(lab, protocol, family=family, uid=MYAPP, source_port=OUTSIDE + 1) in PORTS
    else:
        assert blocked(lab, protocol, family=family, uid=MYAPP, source_port=OUTSIDE + 1)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_translation_that_is_put_above_ours_is_noticed_and_put_below(lab: Lab, protocol: str) -> None:
    service = fence(lab)["services_before"]
    assert service == []
    masquerade(lab, ports="40000-40999", insert=True)
    assert passes(lab, protocol, uid=MYAPP, source_port=OUTSIDE) in range(40000, 41000), "the test would not notice anything"
    assert lab.module("fence_info")["drift"] == ["load the fence into the kernel"]
    assert fence(lab)["changes"] == ["load the fence into the kernel"]
    assert passes(lab, protocol, uid=MYAPP, source_port=OUTSIDE + 1) in PORTS
    # From a port of its own: the kernel may remember the connection above.
    assert passes(lab, protocol, uid=OTHER, source_port=OUTSIDE + 2) in range(40000, 41000)


def test_datagrams_of_a_flow_that_was_translated_away_are_stopped(lab: Lab) -> None:
    """What conntrack has settled already is judged by the port on the wire, in either assignment."""
    masquerade(lab, ports="40000-40999")
    session = lab.open("udp", uid=MYAPP, source_port=INSIDE)
    assert session.port in range(40000, 41000)
    fence(lab, assignment="app")
    lab.peer.packets()
    with pytest.raises(PermissionError):
        session.sock.sendall(b"still there?\n")
    session.close()
    assert counters(lab)["violations"] == 1
    assert [packet for packet in lab.peer.packets() if packet.protocol == "udp"] == []


@pytest.mark.parametrize("assignment", ["rewrite", "app"])
def test_packets_that_are_not_tracked_are_judged_by_their_own_port(lab: Lab, assignment: str) -> None:
    """A rule of somebody else takes them out of connection tracking, and so of translation."""
    iptables(lab, "-t raw -A OUTPUT -p udp -j CT --notrack")
    fence(lab, assignment=assignment, protocols=["tcp", "udp"])
    if assignment == "app":
        assert passes(lab, "udp", uid=MYAPP, source_port=INSIDE) == INSIDE
    iptables(lab, "-t raw -I OUTPUT -p udp -j CT --notrack")
    assert passes(lab, "udp", uid=MYAPP, source_port=INSIDE) == INSIDE
    assert blocked(lab, "udp", uid=MYAPP, source_port=OUTSIDE)
    assert blocked(lab, "udp", uid=OTHER, source_port=INSIDE)


@pytest.mark.parametrize("event", ["violation", "intrusion"])
@pytest.mark.parametrize("on_violation", ["drop", "reject", "log"])
def test_what_happens_is_logged_before_it_is_stopped(lab: Lab, event: str, on_violation: str) -> None:
    """Counts of the rules that log; where the kernel writes to is not this namespace's business."""
    fence(lab, assignment="app", on_violation=on_violation)
    uid, port = (MYAPP, OUTSIDE) if event == "violation" else (OTHER, INSIDE)
    assert (lab.connect("udp", uid=uid, source_port=port, timeout=0.4).port is None) == (on_violation != "log")
    rules = [line for line in lab.run(["iptables-save", "-c"]).out.splitlines() if f'--log-prefix "{event} myapp: "' in line]
    assert sum(int(line.partition(":")[0][1:]) for line in rules) == 1
    assert counters(lab)[f"{event}s"] == 1
