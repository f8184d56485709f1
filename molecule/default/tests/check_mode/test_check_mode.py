# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check mode on a host that has nothing yet."""

from __future__ import annotations

from testhost import changed, snapshot
from testinfra.host import Host


def test_predicts_changes(host: Host) -> None:
    """Check mode says that there is something to do."""
    assert changed(host, "check_mode") > 0


def test_changes_nothing(host: Host) -> None:
    """Files, accounts, units, sysctls and the firewall are what they were."""
    before = snapshot(host, "untouched")
    after = snapshot(host, "after-check-mode")
    assert any("/etc/passwd" in line for line in before)
    assert after == before
