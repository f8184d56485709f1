# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host was restarted: a new network namespace of the host, and nothing in /run."""

from __future__ import annotations

from testinfra.host import Host


def moment(host: Host, unit: str, event: str) -> int:
    """Return when a unit went through a change of state, in microseconds of the machine's clock."""
    value = int(host.check_output(f"systemctl show --property={event}TimestampMonotonic --value {unit}"))
    assert value > 0, f"{unit} never came to {event}"
    return value


def test_namespace_stands_before_the_network(host: Host) -> None:
    """Nothing of it waits for the network, and no unit of it starts before."""
    for unit in ("portfence-namespaces.service", "portfence-namespace@myapp.service"):
        assert moment(host, unit, "ActiveEnter") < moment(host, "test-peer.service", "InactiveExit")
    assert moment(host, "portfence-namespace@myapp.service", "ActiveEnter") < moment(host, "client.service", "InactiveExit")


def test_nothing_failed(host: Host) -> None:
    """systemd is content."""
    assert host.check_output("systemctl --failed --no-legend --plain") == ""
