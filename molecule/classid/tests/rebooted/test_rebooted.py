# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts were restarted."""

from __future__ import annotations

import pytest
from netcls import INSIDE, UNITS, seen
from testinfra.host import Host


@pytest.mark.parametrize("unit", UNITS)
def test_first_packet_is_recognised(host: Host, unit: str) -> None:
    """From the first packet after the boot on."""
    assert seen(host, unit)["first"] in INSIDE


def test_cgroups_are_made_before_the_services(host: Host) -> None:
    """The unit ran at boot, before the services that need it."""

    def moment(unit: str, event: str) -> int:
        return int(host.check_output(f"systemctl show --property={event}TimestampMonotonic --value {unit}"))

    assert 0 < moment("portfence-classid.service", "ActiveEnter") < moment("legacy.service", "InactiveExit")
