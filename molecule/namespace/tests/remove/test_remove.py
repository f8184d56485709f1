# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The namespaces were taken away."""

from __future__ import annotations

from testhost import snapshot
from testinfra.host import Host


def test_nothing_is_left(host: Host) -> None:
    """Every file, unit, sysctl, interface and table is what it was before the first run."""
    assert set(snapshot(host, "untouched")) ^ set(snapshot(host, "removed")) == set()


def test_client_was_told_of_and_is_outside(host: Host) -> None:
    """The unit that was still inside is back on the host."""
    assert host.check_output("cat /run/units-to-restart") == "client.service"
    pid = host.check_output("systemctl show --property=MainPID --value client.service")
    assert host.check_output(f"readlink /proc/{pid}/ns/net") == host.check_output("readlink /proc/self/ns/net")
