# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units are in their cgroup."""

from __future__ import annotations

import pytest
from netcls import BYSTANDER, CGROUP, ESCAPED, INSIDE, QUESTIONS, UNITS, members, processes, seen
from testinfra.host import Host


@pytest.mark.parametrize("unit", UNITS)
def test_every_program_of_a_service_is_recognised(host: Host, unit: str) -> None:
    """Unmodified clients, the main process and its children, all leave from the ports of the classid."""
    ports = seen(host, unit, later=True)
    assert {question for question in QUESTIONS if ports[question] in INSIDE} == QUESTIONS, ports


@pytest.mark.parametrize("unit", [*UNITS, ESCAPED])
def test_every_process_of_a_service_is_in(host: Host, unit: str) -> None:
    """Whatever runs in the unit is in the cgroup. What ends while we look is in neither list the second time."""
    assert processes(host, unit)
    outside = processes(host, unit) - members(host)
    assert not outside & processes(host, unit)


def test_another_service_of_the_same_account_is_not(host: Host) -> None:
    """The account is not what counts."""
    ports = seen(host, BYSTANDER, later=True)
    assert None not in ports.values()
    assert not set(ports.values()) & set(INSIDE)
    assert not processes(host, BYSTANDER) & members(host)


def test_only_root_puts_processes_in(host: Host) -> None:
    """The account of the service can't take the identity for another process of its own."""
    assert host.run(f"runuser -u nobody -- sh -c 'echo $$ >{CGROUP}/cgroup.procs'").failed
    assert host.file(f"{CGROUP}/cgroup.procs").user == "root"


def test_nothing_has_failed(host: Host) -> None:
    """The cgroups are made at boot, and every unit of the host is well."""
    assert host.service("portfence-classid.service").is_enabled
    assert host.service("portfence-classid.service").is_running
    assert host.check_output("systemctl --failed --no-legend") == ""
