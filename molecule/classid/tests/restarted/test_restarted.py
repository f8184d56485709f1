# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units were started again."""

from __future__ import annotations

import pytest
from netcls import INSIDE, UNITS, seen
from testinfra.host import Host


@pytest.mark.parametrize("unit", [*UNITS, "legacy-worker@c.service"])
def test_first_packet_is_recognised(host: Host, unit: str) -> None:
    """The first thing that the main process does is a connection, and it leaves from the ports of the classid."""
    assert seen(host, unit)["first"] in INSIDE


def test_first_packet_of_many_starts(host: Host) -> None:
    """It is no race that is won most of the time."""
    for number in range(10):
        host.check_output(f"systemctl start legacy-worker@n{number}.service")
    first = [seen(host, f"legacy-worker@n{number}.service")["first"] for number in range(10)]
    host.check_output("systemctl stop 'legacy-worker@n*.service'")
    assert all(port in INSIDE for port in first), first


def test_session_for_a_command(host: Host) -> None:
    """What is not a unit can be started with the same PAM service."""
    command = "systemd-run --wait --pipe --quiet --property=PAMName=portfence-0x100001 --property=User=daemon"
    port = host.check_output(f"{command} sh -c 'echo | nc -N -w 5 203.0.113.2 9000'")
    assert int(port) in INSIDE
