# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Somebody flushed the firewall by hand."""

from __future__ import annotations

from testhost import changed
from testinfra.host import Host


def test_check_mode_notices(host: Host) -> None:
    """Check mode says that the fence is not what it should be."""
    assert changed(host, "flush_check") > 0


def test_next_run_mends(host: Host) -> None:
    """The next run loads the fence again and says so."""
    assert changed(host, "flush") > 0
