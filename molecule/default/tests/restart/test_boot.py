# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host was restarted: a new network namespace, without rules and with the kernel's own sysctls."""

from __future__ import annotations

from testinfra.host import Host


def moment(host: Host, unit: str, event: str) -> int:
    """Return when a unit went through a change of state, in microseconds of the machine's clock."""
    value = int(host.check_output(f"systemctl show --property={event}TimestampMonotonic --value {unit}"))
    assert value > 0, f"{unit} never came to {event}"
    return value


def test_fence_stands_before_the_network(host: Host) -> None:
    """No service has a network to use before the fence is loaded."""
    assert moment(host, "portfence.service", "ActiveEnter") < moment(host, "test-peer.service", "InactiveExit")


def test_boot_loads_the_fence(host: Host) -> None:
    """The fence is loaded by its unit and by nothing else."""
    assert host.service("portfence.service").is_running
    assert "table inet portfence" in host.check_output("nft list tables")
