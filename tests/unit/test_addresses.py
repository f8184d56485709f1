# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses and networks as a user writes them."""

from __future__ import annotations

import ipaddress
from typing import List, Tuple

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._addresses import (
    is_ipv6,
    overlapping,
    read_address,
    read_network,
)
from hypothesis import given
from hypothesis import strategies as st

NETWORKS = st.builds(
    lambda number, length: str(ipaddress.ip_network((number, length), strict=False)),
    st.integers(0x0A000000, 0x0A0000FF),
    st.integers(24, 32),
)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("10.88.0.0/16", "10.88.0.0/16"),
        ("10.88.0.7", "10.88.0.7/32"),
        ("fd00:0001::/64", "fd00:1::/64"),
        ("FD00::1", "fd00::1/128"),
    ],
)
def test_networks(written: str, read: str) -> None:
    assert read_network(written) == read
    assert is_ipv6(read) == (":" in written)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("10.88.0.7/16", "it has host bits set; write 10.88.0.0/16, or the address alone"),
        ("0.0.0.0/0", "it is every address; accepted: an IPv4 or IPv6 address"),
        ("::/0", "it is every address; accepted: an IPv4 or IPv6 address"),
        ("example.org", "accepted: an IPv4 or IPv6 address"),
        ("10.1", "accepted: an IPv4 or IPv6 address"),
        (10, "accepted: an IPv4 or IPv6 address"),
        (None, "accepted: an IPv4 or IPv6 address"),
    ],
)
def test_what_is_no_network(written: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        read_network(written)


@pytest.mark.parametrize("written", ["10.0.0.0/8", "", "here", 7, None])
def test_what_is_no_address(written: object) -> None:
    assert read_address("FD00::1") == "fd00::1"
    with pytest.raises(ValueError, match="^accepted: an IPv4 or IPv6 address, or a list of them$"):
        read_address(written)


@given(st.lists(st.tuples(NETWORKS, st.sampled_from("abc")), max_size=8))
def test_overlaps_are_found_just_when_there_are_any(networks: List[Tuple[str, str]]) -> None:
    pairs = overlapping(networks)
    for (first, owner), (second, other) in pairs:
        assert owner != other and ipaddress.ip_network(first).overlaps(ipaddress.ip_network(second))
    clash = any(
        owner != other and ipaddress.ip_network(first).overlaps(ipaddress.ip_network(second))
        for first, owner in networks
        for second, other in networks
    )
    assert bool(pairs) == clash


def test_families_do_not_overlap() -> None:
    assert overlapping([("10.0.0.0/8", "a"), ("::a00:0/104", "b")]) == []
