# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cgroups were removed while the services ran."""

from __future__ import annotations

import pytest
from netcls import INSIDE, UNITS, processes, seen
from testhost import snapshot
from testinfra.host import Host


def test_nothing_is_left(host: Host) -> None:
    """Files, units and drop-ins are what they were before the first run, and nothing is mounted."""
    assert set(snapshot(host, "untouched")) ^ set(snapshot(host, "removed")) == set()
    assert "/run/portfence" not in host.file("/proc/self/mounts").content_string
    assert not host.file("/run/portfence").exists
    assert host.check_output("systemctl show --property=PAMName --value legacy.service") == ""


@pytest.mark.parametrize("unit", UNITS)
def test_services_run_on_and_are_not_recognised(host: Host, unit: str) -> None:
    """Their processes were moved back, not ended."""
    before = processes(host, unit)
    ports = {question: port for question, port in seen(host, unit, later=True).items() if question != "first"}
    assert None not in ports.values()
    assert not set(ports.values()) & set(INSIDE)
    assert before & processes(host, unit)
