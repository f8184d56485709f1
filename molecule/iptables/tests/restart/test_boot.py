# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host was restarted: a new network namespace, without rules."""

from __future__ import annotations

from testinfra.host import Host


def moment(host: Host, unit: str, event: str) -> int:
    """Return when a unit went through a change of state, in microseconds of the machine's clock."""
    value = int(host.check_output(f"systemctl show --property={event}TimestampMonotonic --value {unit}"))
    assert value > 0, f"{unit} never came to {event}"
    return value


def test_fence_stands_before_the_network_and_behind_the_rules_of_the_admin(host: Host) -> None:
    """No service has a network before the fence is loaded, and nobody flushes it afterwards."""
    fenced = moment(host, "portfence.service", "ActiveEnter")
    assert fenced < moment(host, "test-peer.service", "InactiveExit")
    assert moment(host, "netfilter-persistent.service", "ActiveEnter") < fenced
