# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe proves units by sockets of their cgroups; portfence-run starts commands there."""

from __future__ import annotations

import pytest
from launched import launched, own, probed, results
from testinfra.host import Host

RANGES = {"myapp": range(50000, 51000), "batch": range(52000, 53000)}
WAYS = {(protocol, family) for protocol in ("tcp", "udp") for family in ("ipv4", "ipv6")}


@pytest.mark.parametrize(("service", "account"), [("myapp", "nobody in the unit myapp.service"), ("batch", "nobody in the unit batch.slice")])
def test_units_are_proved(host: Host, service: str, account: str) -> None:
    """Every check exists over every way, and passed."""
    for lines in own(probed(host, "good"), service).values():
        assert {(line["protocol"], line["family"]) for line in lines} == WAYS
        assert {line["account"] for line in lines} == {account}
        assert results(lines) == {True}
        assert all(line["seen"] in RANGES[service] for line in lines)


def test_an_instance_that_does_not_run_is_not_proved(host: Host) -> None:
    """It is skipped, with the reason."""
    result = probed(host, "good")
    for lines in own(result, "worker").values():
        assert results(lines) == {None}
        assert all("no instance of worker@.service runs" in line["skipped"] for line in lines)
    assert result["summary"]["skipped"] >= 12
    assert any(text.startswith("worker is not proved: ") for text in result["warnings"])


def test_a_fence_that_has_lost_a_unit_is_caught(host: Host) -> None:
    """The unit alone is not held; the slice is."""
    result = probed(host, "broken")
    for lines in own(result, "myapp").values():
        assert results(lines) == {False}
    for lines in own(result, "batch").values():
        assert results(lines) == {True}


def test_a_unit_that_has_ended_is_not_proved(host: Host) -> None:
    """It never counts as passed."""
    for lines in own(probed(host, "stopped"), "myapp").values():
        assert results(lines) == {None}
        assert all("systemctl start myapp.service" in line["skipped"] for line in lines)


def test_ports_that_a_unit_may_bind_to(host: Host) -> None:
    """With listen_ports, systemd refuses any other port where it is built with BPF_FRAMEWORK; the fence holds either way."""
    unit = host.file("/etc/systemd/system/binder@.service.d/50-portfence.conf").content_string
    assert "SocketBindAllow=8080\nSocketBindAllow=53000-53099\nSocketBindDeny=any\n" in unit
    walled = "+BPF_FRAMEWORK" in host.check_output("systemctl --version")
    for port, allowed in ((53050, True), (8080, True), (40007, not walled)):
        host.check_output(f"rm -f /run/asked/bound-{port}; systemctl start binder@{port}.service")
        assert host.check_output(f"cat /run/asked/bound-{port}") == ("bound" if allowed else "EPERM")


@pytest.mark.parametrize(("service", "program"), [("myapp", "curl"), ("myapp", "nc"), ("batch", "wget"), ("batch", "python3"), ("batch", "curl")])
def test_a_command_is_fenced_from_its_first_packet(host: Host, service: str, program: str) -> None:
    """portfence-run puts it into the unit that runs, or into a scope in the slice."""
    ports = launched(host, service, program)
    assert ports <= set(RANGES[service])


def test_a_command_of_a_unit_that_does_not_run_is_not_started(host: Host) -> None:
    """There is no cgroup that the fence knows."""
    result = host.run("portfence-run worker -- touch /run/started")
    assert result.rc == 125 and "no unit of worker runs (worker@.service)" in result.stderr
    assert not host.file("/run/started").exists
