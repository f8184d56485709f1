# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check mode told what it would do, and did nothing."""

from __future__ import annotations

from testhost import changed, snapshot
from testinfra.host import Host


def test_check_mode(host: Host) -> None:
    """A change is foretold, and the host is what it was."""
    assert changed(host, "check_mode") == 1
    assert snapshot(host, "untouched") == snapshot(host, "after-check-mode")
