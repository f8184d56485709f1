# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway recognises services, and lets everything pass."""

from __future__ import annotations

import pytest
from seen import ADDRESSES, HOSTS, counted, get, identified, ports
from testhost import WAYS, connect

IDS = [f"{protocol}{family}" for protocol, family in WAYS]


@pytest.mark.parametrize("way", WAYS, ids=IDS)
@pytest.mark.parametrize("name", HOSTS)
def test_a_service_is_recognised(name: str, way: tuple[str, int]) -> None:
    """Its port is its own outside of the NAT as well, and is counted for it."""
    before, unknown = counted("web"), counted("unknown")
    assert connect(get(name), user="web", way=way).seen in ports(name, "web")
    assert counted("web") > before and counted("unknown") == unknown


@pytest.mark.parametrize("way", WAYS, ids=IDS)
@pytest.mark.parametrize("name", HOSTS)
def test_others_pass_as_unknown(name: str, way: tuple[str, int]) -> None:
    """They are counted."""
    before = counted("unknown")
    assert connect(get(name), user="nobody", way=way).seen is not None
    assert counted("unknown") > before


@pytest.mark.parametrize("name", HOSTS)
def test_an_address_and_a_port_name_service_and_host(name: str) -> None:
    """Two hosts share the address of their NAT, and yet it is clear which one it was."""
    for family, address in zip((4, 6), ADDRESSES[name]):
        seen = connect(get(name), user="web", way=("tcp", family)).seen
        assert seen is not None
        assert f"web on {name} in the NAT domain {name[:-1]}: " in identified(address, seen)
