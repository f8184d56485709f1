# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The namespace was made while the client was running."""

from __future__ import annotations

from client import is_inside, seen
from testinfra.host import Host


def test_running_unit_is_left_alone_and_told_of(host: Host) -> None:
    """A process can't be moved; nobody restarts it without being asked."""
    assert not is_inside(host)
    assert seen(host) > 0
    assert host.service("client.service").is_running
    assert host.check_output("cat /run/units-to-restart") == "client.service"
