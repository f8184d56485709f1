# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service was taken away."""

from __future__ import annotations

import json

import pytest
from testhost import PEER, WAYS
from testinfra.host import Host


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}{way[1]}")
def test_the_engine_translates_alone(host: Host, way: tuple[str, int]) -> None:
    """It keeps the port that the program bound."""
    protocol, family = way
    command = f"/usr/bin/python3 /usr/local/lib/test-host/connect.py {protocol} {PEER[family]} 9001 40009"
    assert json.loads(host.check_output(f"podman exec first {command}"))["seen"] == 40009


def test_nothing_of_ours_is_left(host: Host) -> None:
    """No table and no file."""
    assert "portfence" not in host.check_output("nft list tables")
    assert not host.file("/etc/portfence").exists
