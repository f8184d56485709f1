# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The namespace could not be made."""

from __future__ import annotations

from testinfra.host import Host


def test_unit_does_not_start_outside(host: Host) -> None:
    """A unit without its namespace does not run at all."""
    assert "A dependency job for client.service failed" in host.check_output("cat /run/without-namespace")
