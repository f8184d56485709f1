# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges were handed out, and no host was touched."""

from __future__ import annotations

import itertools
import json

import pytest
from fleet import HOSTS, allocated, domain, get, own_service, ports
from testhost import recap, said


def test_site_names_the_command_that_is_missing() -> None:
    """It ends before it has looked at a host."""
    assert "portfence.egress.allocate" in said("too_early")
    assert "Fence the hosts" not in said("too_early")


def test_every_host_has_a_range_of_its_own_behind_its_address() -> None:
    """Both domains use the same ports."""
    for one, other in itertools.combinations(HOSTS, 2):
        if domain(one) == domain(other):
            assert not set(ports(one, own_service(one))) & set(ports(other, own_service(other)))
    assert any(ports(one, own_service(one)) == ports(other, own_service(other)) for one, other in itertools.combinations(HOSTS, 2))
    assert len(ports("web01", "web")) == 256 and len(ports("job10", "worker")) == 512


def test_a_service_for_all_has_one_range() -> None:
    """It is nobody else's."""
    agent = ports("web01", "agent")
    assert len([entry for entry in allocated() if entry["service"] == "agent"]) == 1
    assert all(not set(agent) & set(ports(name, own_service(name))) for name in HOSTS)


def test_check_mode_shows_the_same_ranges() -> None:
    """What it shows is what was written then."""
    for entry in allocated():
        assert entry["ports"] in said("allocate_check")


def test_a_second_run_changes_nothing() -> None:
    """Nor does validation."""
    assert all(numbers["changed"] == 0 for run in ("allocate_again", "validate") for numbers in recap(run).values())


@pytest.mark.parametrize("name", ["web01", "db01", "job10"])
def test_preview_has_changed_nothing(name: str) -> None:
    """It has found nobody who would be hit."""
    assert f"{name}: the fence would change" in said("preview")
    assert recap("preview")[name]["failed"] == 0
    assert json.loads(get(name).check_output("nft -j list tables"))["nftables"][1:] == []
    assert not get(name).file("/etc/portfence").exists
