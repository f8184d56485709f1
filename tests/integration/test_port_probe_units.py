# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module port_probe for units: a child in the cgroup of the unit opens the sockets, and leaves nothing there.

The fence of this lab does not learn the cgroups of units (a lab is not at the root of the hierarchy); eBPF does. The Molecule
scenario unit has both.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator

import pytest
from bpf_lab import BpfLab
from test_port_probe import every, fence, probe, prove, refute, the, wrong

UNIT: Dict[str, Any] = {"name": "worker", "unit": "worker.service", "source_ports": "52000-52099", "assignment": "bpf", "exclusive": False}
GROUP = "system.slice/worker.service"
OWN = ("unmodified", "bind_inside", "bind_outside")
TCP = [("tcp", "ipv4"), ("tcp", "ipv6")]


@pytest.fixture(name="host")
def fixture_host() -> Iterator[BpfLab]:
    """A throwaway host with cgroups of its own."""
    with BpfLab() as lab:
        lab.run(["sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=52000-52099"])
        yield lab


def test_unit(host: BpfLab) -> None:
    host.inside(["true"], group=GROUP)
    fence(host, UNIT)
    result = prove(host, UNIT)
    assert result["summary"] == {"checks": 20, "ok": 20, "failed": 0, "skipped": 0}
    for check in ("unmodified", "bind_inside"):
        lines = the(result, check, service="worker")
        assert {line["account"] for line in lines} == {"nobody in the unit worker.service"}
        assert all(line["seen"] in range(52000, 52100) for line in lines)
    assert {line["error"] for line in the(result, "bind_outside", service="worker")} == {"bind: Operation not permitted"}
    assert host.run(["cat", f"/sys/fs/cgroup/{GROUP}/cgroup.procs"]).out == ""
    assert host.run(["find", f"/sys/fs/cgroup/{GROUP}", "-mindepth", "1", "-type", "d"]).out == ""


def test_unit_whose_cgroup_was_made_anew_is_caught(host: BpfLab) -> None:
    host.inside(["true"], group=GROUP)
    fence(host, UNIT)
    host.run(["rmdir", f"/sys/fs/cgroup/{GROUP}"])
    host.inside(["true"], group=GROUP)
    assert wrong(refute(host, UNIT)) >= every("unmodified", "bind_outside", paths=TCP)


def test_unit_that_can_not_be_joined_is_not_proved(host: BpfLab) -> None:
    host.inside(["true"], group=GROUP)
    fence(host, UNIT)
    # A cgroup whose sibling became threaded takes processes no more (cgroups(7), "domain invalid").
    host.inside(["true"], group="system.slice/threads")
    host.run(["sh", "-c", "echo threaded >/sys/fs/cgroup/system.slice/threads/cgroup.type"])
    result = refute(host, UNIT)
    assert wrong(result) == every(*OWN)
    assert "can't join the unit worker.service: " in result["msg"] and "Operation not supported" in result["msg"]
    assert host.run(["find", f"/sys/fs/cgroup/{GROUP}", "-mindepth", "1", "-type", "d"]).out == ""


def test_unit_that_ended_is_skipped(host: BpfLab) -> None:
    host.inside(["true"], group=GROUP)
    fence(host, UNIT)
    host.run(["rmdir", f"/sys/fs/cgroup/{GROUP}"])
    result = probe(host, UNIT)
    lines = [line for check in OWN for line in the(result, check, service="worker")]
    assert len(lines) == 12 and {line["ok"] for line in lines} == {None}
    assert all("worker.service does not run" in line["skipped"] for line in lines)
