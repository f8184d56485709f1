# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""After a reboot, the fence is there before the units."""

from __future__ import annotations

from testinfra.host import Host


def test_the_fence_is_loaded(host: Host) -> None:
    """The slice is there as well, and nothing has failed."""
    assert host.service("portfence.service").is_running
    assert "batch.slice" in host.check_output("nft list map inet portfence marked_units_1")
    assert host.check_output("systemctl --failed --no-legend") == ""
    host.check_output("systemctl start myapp.service")
