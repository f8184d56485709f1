# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fence must not cut: servers, sessions that are open, and what a change of the policy meets."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import termios
import threading
from typing import Callable, List

import pytest
from field_rules import (
    BOTH,
    INSIDE,
    MYAPP,
    OUTSIDE,
    PORTS,
    UNANSWERED,
    blocked,
    counters,
    fence,
    filter_rules,
    iptables,
    masquerade_rules,
    passes,
    until,
)
from lab import PATIENCE, Lab, Session

SERVER = 8443

# The how-to with connection tracking added: only what belongs to an outbound connection is judged, it would seem.
TRACKED = f"""
table inet pasted {{
    chain out {{
        type filter hook output priority 0;
        meta skuid {MYAPP} ct direction original tcp sport != 50000-50999 drop
    }}
}}
"""


@pytest.mark.parametrize(("protocol", "family"), BOTH)
@pytest.mark.parametrize("assignment", ["rewrite", "app"])
def test_a_server_can_answer(lab: Lab, protocol: str, family: int, assignment: str) -> None:
    lab.serve(SERVER, uid=MYAPP)
    fence(lab, assignment=assignment)
    assert passes(lab.peer, protocol, family=family, port=SERVER, source_port=OUTSIDE) == OUTSIDE
    assert counters(lab) == {"violations": 0, "intrusions": 0}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_server_hangs_with_the_pasted_rules(lab: Lab, protocol: str) -> None:
    lab.serve(SERVER, uid=MYAPP)
    filter_rules(lab)
    assert lab.peer.connect(protocol, port=SERVER, **UNANSWERED) == (None, "timeout")


def _answers_after(lab: Lab, change: Callable[[], object]) -> bool:
    """Whether a server's answer gets out that is the first packet of its session after a change.

    The server is stopped while the question arrives and the change is made.
    """
    server = lab.serve(SERVER, uid=MYAPP)
    session = lab.peer.open(port=SERVER)
    try:
        assert session.alive()
        os.kill(server, signal.SIGSTOP)
        session.sock.sendall(b"a question\n")
        # A question that is not acknowledged would be sent again, and make the session known from its right end.
        assert until(lambda: fcntl.ioctl(session.sock, termios.TIOCOUTQ, bytes(4)) == bytes(4))
        change()
        os.kill(server, signal.SIGCONT)
        session.sock.settimeout(2.0)
        try:
            return session.sock.recv(100) == b"a question\n"
        except socket.timeout:
            return False
    finally:
        session.close()


def test_an_inbound_session_survives_that_the_fence_is_loaded(lab: Lab) -> None:
    assert _answers_after(lab, lambda: fence(lab))
    assert counters(lab)["violations"] == 0


def test_an_inbound_session_is_cut_by_rules_that_trust_connection_tracking(lab: Lab) -> None:
    assert not _answers_after(lab, lambda: lab.nft(TRACKED))


def _flush(lab: Lab) -> None:
    lab.run(["conntrack", "-F"])


@pytest.mark.parametrize("assignment", ["rewrite", "app"])
def test_an_inbound_session_survives_that_connections_are_forgotten(lab: Lab, assignment: str) -> None:
    fence(lab, assignment=assignment)
    assert _answers_after(lab, lambda: _flush(lab))


def test_an_inbound_session_is_cut_when_tracked_connections_are_forgotten(lab: Lab) -> None:
    lab.nft(TRACKED)
    assert not _answers_after(lab, lambda: _flush(lab))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("change", [{}, {"assignment": "app"}, {"assignment": "app", "on_violation": "reject"}])
def test_an_outbound_session_survives_a_policy_that_would_forbid_it(lab: Lab, family: int, change: object) -> None:
    assert isinstance(change, dict)
    with lab.open(family=family, uid=MYAPP, source_port=OUTSIDE).sock as sock:
        fence(lab, **change)
        assert Session(sock=sock, port=OUTSIDE).alive()
    assert counters(lab)["violations"] == 0


@pytest.mark.parametrize("rules", [filter_rules, masquerade_rules])
def test_an_outbound_session_is_cut_by_the_pasted_rules(lab: Lab, rules: Callable[[Lab], None]) -> None:
    with lab.open(uid=MYAPP, source_port=OUTSIDE).sock as sock:
        rules(lab)
        assert not Session(sock=sock, port=OUTSIDE).alive()


@pytest.mark.parametrize("family", [4, 6])
def test_rewritten_sessions_survive_changes_of_the_policy(lab: Lab, family: int) -> None:
    fence(lab)
    session = lab.open(family=family, uid=MYAPP, source_port=OUTSIDE)
    done = threading.Event()
    answers: List[bool] = []

    def talk() -> None:
        while not done.is_set():
            answers.append(session.alive(timeout=PATIENCE))

    talking = threading.Thread(target=talk)
    talking.start()
    try:
        assert session.port in PORTS
        for ports, assignment in (("51000-51999", "rewrite"), ("51000-51999", "app"), ("50000-50999", "rewrite")):
            fence(lab, source_ports=ports, assignment=assignment)
            before = len(answers)
            assert until(lambda: len(answers) > before + 1)
    finally:
        done.set()
        talking.join()
        session.close()
    assert all(answers)


def test_rewritten_sessions_are_cut_by_a_reload_that_deletes_the_rules(lab: Lab) -> None:
    fence(lab)
    session = lab.open(uid=MYAPP, source_port=OUTSIDE)
    try:
        assert session.port in PORTS
        for family in ("inet", "ip", "ip6"):
            lab.run(["nft", "delete", "table", family, "portfence"])
        assert not session.alive()
    finally:
        session.close()


@pytest.mark.parametrize("family", [4, 6])
def test_a_live_udp_socket_goes_on_in_the_new_ports(lab: Lab, family: int) -> None:
    """The zone of connection tracking changes with the ports, so the flow is translated anew."""
    fence(lab)
    session = lab.open("udp", family=family, uid=MYAPP)
    try:
        assert session.port in PORTS
        fence(lab, source_ports="51000-51999")
        session.sock.send(b"still there?")
        session.sock.settimeout(5.0)
        assert int(session.sock.recv(100)) in range(51000, 52000)
    finally:
        session.close()


def test_a_live_udp_socket_is_refused_after_a_change_without_zones(lab: Lab) -> None:
    """A tracked flow keeps its translation: until it is forgotten, the check finds the port of before."""
    fence(lab)
    lab.nft("flush chain inet portfence raw")
    session = lab.open("udp", uid=MYAPP)
    try:
        assert session.port in PORTS
        fence(lab, source_ports="51000-51999")
        lab.nft("flush chain inet portfence raw")
        lab.peer.packets()
        with pytest.raises(PermissionError):
            session.sock.send(b"still there?")
        assert not lab.peer.packets()
        _flush(lab)
        session.sock.send(b"still there?")
        session.sock.settimeout(5.0)
        assert int(session.sock.recv(100)) in range(51000, 52000)
    finally:
        session.close()


def test_a_live_udp_socket_keeps_its_old_port_with_the_pasted_rules(lab: Lab) -> None:
    masquerade_rules(lab)
    session = lab.open("udp", uid=MYAPP)
    try:
        assert session.port in PORTS
        iptables(lab, "-t nat -F POSTROUTING")
        masquerade = f"-t nat -A POSTROUTING -p udp -m owner --uid-owner {MYAPP} -j MASQUERADE --to-ports 51000-51999"
        iptables(lab, masquerade)
        session.sock.send(b"still there?")
        session.sock.settimeout(5.0)
        assert int(session.sock.recv(100)) in PORTS
    finally:
        session.close()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_new_connections_are_judged_while_old_sessions_live(lab: Lab, protocol: str) -> None:
    with lab.open(uid=MYAPP, source_port=OUTSIDE).sock as sock:
        fence(lab, assignment="app")
        assert blocked(lab, protocol, uid=MYAPP, source_port=OUTSIDE + 1)
        assert passes(lab, protocol, uid=MYAPP, source_port=INSIDE) == INSIDE
        assert Session(sock=sock, port=OUTSIDE).alive()
