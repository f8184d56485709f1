# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend-neutral rules: whose packet it is, and what the check makes of it."""

from __future__ import annotations

from typing import Optional, Tuple

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import Packet, Ruleset
from ansible_collections.portfence.egress.tests.unit.pipeline import compile_policy


def ruleset() -> Ruleset:
    """One service of each kind."""
    services = {
        "web": {"source_ports": "50000-50999", "user": [33, 34]},
        "mail": {"source_ports": "51000-51999", "group": 8, "protocols": ["tcp"], "assignment": "app"},
        "open": {"source_ports": "52000-52999", "user": 50, "exclusive": False, "on_violation": "log"},
        "local": {"source_ports": "53000-53999", "user": 60, "loopback": True},
    }
    return compile_policy({"egress_services": services}).ruleset


@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        (Packet("tcp", 50000, uid=33), ("pass", None)),
        (Packet("udp", 50999, uid=34), ("pass", None)),
        (Packet("tcp", 49999, uid=33), ("violation", "web")),
        (Packet("udp", 51000, uid=33), ("violation", "web")),
        (Packet("sctp", 51000, uid=33), ("pass", None)),
        (Packet("tcp", 1, uid=33, loopback=True), ("pass", None)),
        (Packet("tcp", 51000, uid=7, gid=8), ("pass", None)),
        (Packet("tcp", 1, uid=7, gid=8), ("violation", "mail")),
        (Packet("udp", 1, uid=7, gid=8), ("pass", None)),
        (Packet("tcp", 51000, uid=33, gid=8), ("violation", "web")),
        (Packet("tcp", 50000, uid=33, gid=8), ("pass", None)),
        (Packet("tcp", 1, uid=50), ("violation", "open")),
        (Packet("tcp", 50000, uid=7), ("intrusion", "web")),
        (Packet("tcp", 51000, uid=0), ("intrusion", "mail")),
        (Packet("udp", 51000, uid=7), ("pass", None)),
        (Packet("tcp", 52000, uid=7), ("pass", None)),
        (Packet("tcp", 49999, uid=7), ("pass", None)),
        (Packet("tcp", 50000, uid=None), ("pass", None)),
        (Packet("tcp", 50000, uid=7, loopback=True), ("pass", None)),
        (Packet("tcp", 53000, uid=7, loopback=True), ("intrusion", "local")),
        (Packet("tcp", 1, uid=60, loopback=True), ("violation", "local")),
    ],
)
def test_judge(packet: Packet, verdict: Tuple[str, Optional[str]]) -> None:
    assert ruleset().judge(packet) == verdict


def test_services_are_sorted_by_name() -> None:
    assert [rules.name for rules in ruleset().services] == ["local", "mail", "open", "web"]


@pytest.mark.parametrize(
    ("assignment", "on_violation", "refuse", "blocks"),
    [
        ("rewrite", "drop", False, True),
        ("rewrite", "reject", False, True),
        ("rewrite", "log", False, False),
        ("app", "drop", False, True),
        ("app", "reject", True, True),
        ("host", "reject", True, True),
        ("app", "log", False, False),
    ],
)
def test_only_a_final_port_can_be_refused(assignment: str, on_violation: str, refuse: bool, blocks: bool) -> None:
    services = {"a": {"source_ports": 50000, "user": 5, "assignment": assignment, "on_violation": on_violation}}
    (rules,) = compile_policy({"egress_services": services}).ruleset.services
    assert (rules.refuse, rules.blocks, rules.rewrite) == (refuse, blocks, assignment == "rewrite")
