# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Units keep their ports across restarts of theirs and reloads of the fence, and don't start without it."""

from __future__ import annotations

import json

import pytest
from asking import BATCH, MYAPP, asked, heard, ports
from testhost import WAYS, connect
from testinfra.host import Host


def test_a_unit_that_runs_is_fenced(host: Host) -> None:
    """It was started before the fence was loaded, or comes from a boot."""
    assert set(ports(asked(host, "now"))) <= set(MYAPP)


def test_a_unit_that_starts_again_is_fenced_from_its_first_packet(host: Host) -> None:
    """Its cgroup is made anew, and its first program runs before its main process."""
    for _round in range(3):
        host.check_output("rm -f /run/asked/first")
        host.check_output("systemctl restart myapp.service")
        assert set(ports(heard(host, "first"))) <= set(MYAPP)
        assert set(ports(asked(host, "now"))) <= set(MYAPP)


@pytest.mark.parametrize("command", ["systemctl reload portfence", "systemctl restart portfence", "nft flush ruleset && systemctl restart portfence"])
def test_a_unit_that_runs_stays_fenced_when_the_fence_is_loaded_again(host: Host, command: str) -> None:
    """What loads the fence looks for the cgroups that units have."""
    host.check_output(f"sh -c '{command}'")
    assert set(ports(asked(host, "now"))) <= set(MYAPP)


def test_a_unit_does_not_start_without_the_fence(host: Host) -> None:
    """Nothing of it leaves unfenced, not even its first program."""
    host.check_output("systemctl stop myapp.service")
    host.check_output("nft flush ruleset")
    host.check_output("rm -f /run/asked/first /run/asked/first.new")
    assert host.run("systemctl start myapp.service").rc != 0
    assert host.service("myapp.service").is_running is False
    assert not host.file("/run/asked/first").exists and not host.file("/run/asked/first.new").exists
    assert "may not start without it" in host.check_output("journalctl --unit=myapp.service --no-pager --lines=20")
    host.check_output("systemctl reset-failed myapp.service")
    host.check_output("systemctl restart portfence")
    host.check_output("systemctl start myapp.service")
    assert set(ports(heard(host, "first"))) <= set(MYAPP)


def test_nothing_is_left_of_units_that_have_ended(host: Host) -> None:
    """The fence has one element for the unit that runs, however often it was started."""
    host.check_output("systemctl restart myapp.service")
    listing = host.check_output("nft list map inet portfence marked_units_2")
    assert listing.count(" : jump ") == 1 and '"system.slice/myapp.service"' in listing


def test_every_instance_of_a_template_is_fenced(host: Host) -> None:
    """The instance is called by the port that it binds to."""
    for port, allowed in ((51007, True), (51008, True), (40007, False)):
        host.check_output(f"rm -f /run/asked/worker-{port}")
        host.check_output(f"systemctl start worker@{port}.service")
        outcomes = heard(host, f"worker-{port}")
        assert ports(outcomes) == [port if allowed else None] * len(WAYS)
        if not allowed:
            assert {outcome["error"] for outcome in outcomes} == {"ECONNREFUSED", "EPERM"}


def test_whatever_runs_in_a_slice_is_fenced(host: Host) -> None:
    """A transient unit, too, and a second one after the first has ended."""
    for _round in range(2):
        for protocol, family in WAYS:
            address = "203.0.113.2" if family == 4 else "2001:db8:1::2"
            command = f"/usr/bin/python3 /usr/local/lib/test-host/connect.py {protocol} {address} 9000"
            said = host.check_output(f"systemd-run --quiet --pipe --wait --slice=batch.slice {command}")
            assert json.loads(said)["seen"] in BATCH


def test_a_slice_can_not_be_stopped_by_hand(host: Host) -> None:
    """Its cgroup has to stay what the fence knows."""
    assert host.run("systemctl stop batch.slice").rc != 0


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}{way[1]}")
def test_the_same_account_outside_of_the_unit_is_somebody_else(host: Host, way: tuple[str, int]) -> None:
    """The unit counts, not the account: nobody has no port of the service, and any other one."""
    for port in (50123, 51007, 52123):
        assert connect(host, user="nobody", way=way, bind=port).seen is None
    assert connect(host, user="nobody", way=way, bind=40003).seen == 40003
