# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an apply says about ports that the kernel may still choose for other programs."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._apply import automatic_ports, unreserved
from ansible_collections.portfence.egress.plugins.module_utils._backend_nftables import compile_for
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Resolved
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import build
from ansible_collections.portfence.egress.tests.unit.pipeline import compile_policy


class Kernel(Host):
    """A machine with these settings."""

    def __init__(self, *, local: str, reserved: str) -> None:
        self._settings = {"net.ipv4.ip_local_port_range": local, "net.ipv4.ip_local_reserved_ports": reserved}

    def sysctl(self, key: str) -> str:
        """The value of a setting."""
        return self._settings[key]


@pytest.mark.parametrize(
    ("local", "reserved", "expected"),
    [
        ("32768 60999", "", "32768-60999"),
        ("32768 60999", "50000-50999", "32768-49999,51000-60999"),
        ("32768 60999", "0-10,40000,61000-65535", "32768-39999,40001-60999"),
        ("50000 50099", "50000-50099", ""),
    ],
)
def test_ports_that_the_kernel_chooses_from(local: str, reserved: str, expected: str) -> None:
    assert str(automatic_ports(Kernel(local=local, reserved=reserved))) == expected


def test_this_kernel_can_be_asked() -> None:
    assert all(1 <= part.low <= part.high <= 65535 for part in automatic_ports(Host()))


def resolved(**given: Any) -> List[Resolved]:
    """One service of user 5."""
    services: Dict[str, Any] = {"web": {"source_ports": "50000-50999", "user": 5, **given}}
    return list(compile_policy({"egress_services": services}).resolved)


def test_a_warning_tells_the_share_of_connections() -> None:
    assert unreserved(tuple(resolved()), PortSet.parse("40000-59999")) == [
        "web: the ports 50000-50999 are exclusive, but the kernel may choose them for other programs: about 5.0 % of their"
        " connections would be dropped; reserve the ports with the module ephemeral_ports"
    ]
    assert "the ports 50900-50999 are exclusive" in unreserved(tuple(resolved()), PortSet.parse("50900-60899"))[0]


@pytest.mark.parametrize(
    ("given", "automatic"),
    [
        ({}, "40000-49999,51000-60000"),
        ({"exclusive": False}, "40000-59999"),
        ({"assignment": "host"}, "50000-50999"),
    ],
)
def test_no_warning_where_nobody_is_hurt(given: Dict[str, Any], automatic: str) -> None:
    assert not unreserved(tuple(resolved(**given)), PortSet.parse(automatic))
    assert not unreserved(tuple(resolved(**given)), PortSet())


def test_live_nat_tables_are_kept() -> None:
    ruleset = build(resolved(assignment="app"))
    assert set(compile_for(ruleset, {}).tables) == {"inet"}
    assert set(compile_for(ruleset, {"inet": [], "ip6": []}).tables) == {"inet", "ip", "ip6"}
