# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the peer sees of containers of the network."""

from __future__ import annotations

import json

import pytest
from testhost import PEER, WAYS, connect
from testinfra.host import Host

SHOP = range(50000, 51000)

pytestmark = pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}{way[1]}")


def ask(host: Host, way: tuple[str, int], *, bind: int = 0, port: int = 9000, name: str = "first") -> dict[str, object]:
    """Let a program in the container ask the peer once."""
    protocol, family = way
    command = f"/usr/bin/python3 /usr/local/lib/test-host/connect.py {protocol} {PEER[family]} {port} {bind or ''}"
    return json.loads(host.check_output(f"podman exec {name} {command}"))


def test_a_container_leaves_from_the_ports_of_its_network(host: Host, way: tuple[str, int]) -> None:
    """Whether its program binds or not."""
    assert ask(host, way)["seen"] in SHOP
    assert ask(host, way, bind=40001)["seen"] in SHOP


def test_the_engine_keeps_its_rules(host: Host, way: tuple[str, int]) -> None:
    """Those that translate the network are there, and not ours."""
    rules = host.check_output("nft list ruleset")
    assert "10.89.7.0/24" in rules.replace(host.check_output("nft list table ip portfence"), "")


def test_nobody_else_gets_these_ports(host: Host, way: tuple[str, int]) -> None:
    """The host's own programs are kept out, and free elsewhere."""
    assert connect(host, user="nobody", way=way, bind=50124).seen is None
    assert connect(host, user="nobody", way=way, bind=40003).seen == 40003
