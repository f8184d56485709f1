# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check mode, and an nft that is too old, leave everything as it is."""

from __future__ import annotations

import pytest
import testinfra
from testhost import changed, snapshot
from testinfra.host import Host


@pytest.mark.parametrize("name", ["debian11", "debian12", "debian13"])
def test_nothing_has_changed(name: str) -> None:
    """The snapshots before and after are the same."""
    host = testinfra.get_host(f"podman://{name}")
    assert snapshot(host, "untouched") == snapshot(host, "after-check-mode")


def test_a_change_was_predicted(host: Host) -> None:
    """The reserved ports and the fence would come."""
    assert changed(host, "check_mode") >= 2
