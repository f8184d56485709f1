# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway lets services of the fleet pass, and nobody else on their hosts."""

from __future__ import annotations

import pytest
from seen import HOSTS, counted, get, ports
from testhost import WAYS, changed, connect, said

IDS = [f"{protocol}{family}" for protocol, family in WAYS]


def test_only_the_gateway_has_changed_and_only_once() -> None:
    """Check mode said so before."""
    gateway = get("gateway")
    assert (changed(gateway, "drop_check"), changed(gateway, "drop"), changed(gateway, "drop_again")) == (1, 1, 0)
    assert "drop" in said("drop_check")


@pytest.mark.parametrize("way", WAYS, ids=IDS)
@pytest.mark.parametrize(("service", "name"), [*(("web", name) for name in HOSTS), ("agent", "east1"), ("agent", "west1")])
def test_services_pass(service: str, name: str, way: tuple[str, int]) -> None:
    """Each from its own ports. Those of agent are one host's behind each NAT here: it gives two hosts with the same port others."""
    before = counted(service)
    assert connect(get(name), user=service, way=way).seen in ports(name, service)
    assert counted(service) > before


@pytest.mark.parametrize("way", WAYS, ids=IDS)
@pytest.mark.parametrize("name", HOSTS)
def test_others_do_not(name: str, way: tuple[str, int]) -> None:
    """The kernel chose a port for them."""
    before = counted("unknown")
    assert connect(get(name), user="nobody", way=way).seen is None
    assert counted("unknown") > before


def test_a_port_that_nobody_has_does_not_pass() -> None:
    """Between the ranges of services."""
    before = counted("unknown")
    assert connect(get("east1"), user="nobody", way=("tcp", 4), bind=30123).seen is None
    assert counted("unknown") > before


@pytest.mark.parametrize("way", WAYS, ids=IDS)
def test_a_service_that_binds_by_itself_passes_with_its_port(way: tuple[str, int]) -> None:
    """The NAT keeps it, as it is free there."""
    own = ports("east2", "replica")[5]
    assert connect(get("east2"), user="replica", way=way, bind=own).seen == own
