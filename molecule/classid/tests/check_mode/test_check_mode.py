# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check mode on a host that has nothing yet."""

from __future__ import annotations

import pytest
from netcls import BYSTANDER, INSIDE, UNITS, seen
from testhost import changed, snapshot
from testinfra.host import Host


def test_predicts_changes(host: Host) -> None:
    """Check mode says that there is something to do."""
    assert changed(host, "check_mode") == 2


def test_changes_nothing(host: Host) -> None:
    """Files, units and drop-ins are what they were, and nothing is mounted."""
    before = snapshot(host, "untouched")
    assert any("legacy.service" in line for line in before)
    assert snapshot(host, "after-check-mode") == before
    assert "/run/portfence" not in host.file("/proc/self/mounts").content_string


@pytest.mark.parametrize("unit", [*UNITS, BYSTANDER])
def test_nobody_is_recognised(host: Host, unit: str) -> None:
    """Nobody leaves from the ports of the classid."""
    ports = seen(host, unit)
    assert None not in ports.values()
    assert not set(ports.values()) & set(INSIDE)
