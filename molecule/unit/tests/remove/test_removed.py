# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence was removed."""

from __future__ import annotations

from testhost import snapshot
from testinfra.host import Host


def test_nothing_is_left(host: Host) -> None:
    """Every file, unit, sysctl and table is what it was before the first run."""
    assert set(snapshot(host, "untouched")) ^ set(snapshot(host, "removed")) == set()


def test_units_start_without_the_fence(host: Host) -> None:
    """Nothing holds them back any more."""
    host.check_output("systemctl restart myapp.service")
    assert host.service("myapp.service").is_running
