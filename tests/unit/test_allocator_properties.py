# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts and services come, go, grow and are renamed in any order over the years: ranges stay, and no port ever has two owners."""

from __future__ import annotations

from datetime import date, timedelta
from random import Random
from typing import Dict, List, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._allocator import Holding, Key, Request, allocate, blocks_of, held_by, rename
from ansible_collections.portfence.egress.plugins.module_utils._lock_file import LockFile, parse, ranges_of, render
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

POOLS = (PortRange(1000, 1130), PortRange(2040, 2100))
QUARANTINE = 20
HOSTS = st.sampled_from(["a", "b", "c", "d"])
SERVICES = st.sampled_from(["app", "db", "on"])
# Few sizes, so that what one gives back would suit the next.
SIZES = st.sampled_from([1, 15, 16, 40])
ORDERS = st.randoms(use_true_random=False)


class Years(RuleBasedStateMachine):
    """An inventory and the file, over time."""

    def __init__(self) -> None:
        super().__init__()
        self.today = date(2026, 1, 1)
        self.wanted: Dict[Key, int] = {}
        self.holdings: Tuple[Holding, ...] = ()

    @rule(host=HOSTS, service=SERVICES, domain=st.sampled_from(["x", "y"]), size=SIZES, order=ORDERS)
    def host_wants(self, host: str, service: str, domain: str, size: int, order: Random) -> None:
        self.wanted[Key(domain, host, service)] = size
        self.allocation(order)

    @rule(service=SERVICES, size=SIZES, order=ORDERS)
    def service_wants(self, service: str, size: int, order: Random) -> None:
        self.wanted[Key("", "", service)] = size
        self.allocation(order)

    @rule(several=st.lists(st.integers(0, 20), max_size=3), order=ORDERS)
    def some_leave(self, several: List[int], order: Random) -> None:
        for index in several:
            if self.wanted:
                del self.wanted[sorted(self.wanted)[index % len(self.wanted)]]
        self.allocation(order)

    @rule(days=st.integers(1, 2 * QUARANTINE))
    def time_passes(self, days: int) -> None:
        self.today += timedelta(days=days)

    @rule(old=HOSTS, new=st.sampled_from(["a", "b", "e", "f"]))
    def host_is_renamed(self, old: str, new: str) -> None:
        got = rename(self.holdings, renames={old: new}, hosts={new}, today=self.today)
        if got.problems or old == new:
            return
        ports = {(item.key.domain, item.key.service, item.ports) for item in self.holdings if item.until is None}
        assert ports == {(item.key.domain, item.key.service, item.ports) for item in got.holdings if item.until is None}
        self.holdings = got.holdings
        for key in sorted(self.wanted):
            if key.host == old:
                self.wanted[key._replace(host=new)] = self.wanted.pop(key)

    def allocation(self, order: Random) -> None:
        """Allocate, and look at what came of it."""
        requests = [Request(key, size, str(key), POOLS) for key, size in sorted(self.wanted.items())]
        before = self.holdings
        got = allocate(holdings=before, requests=requests, today=self.today, quarantine=QUARANTINE)

        # The order of the input is all one.
        shuffled, mixed = list(requests), list(before)
        order.shuffle(shuffled)
        order.shuffle(mixed)
        assert allocate(holdings=mixed, requests=shuffled, today=self.today, quarantine=QUARANTINE) == got

        # What was held and is wanted has not moved; what is held is what was asked for, unless that is told.
        failed = {problem.path for problem in got.problems}
        held = held_by(got.holdings)
        for item in before:
            if item.until is None and item.key in self.wanted:
                assert item in got.holdings
        for key, size in self.wanted.items():
            assert f"{key}.size" in failed or held[key].size >= size
        assert set(held) <= set(self.wanted)

        # Nobody has what another gave back a short while ago, and blocks are aligned and in the pools.
        for item in got.taken:
            assert item.ports.size & (item.ports.size - 1) == 0
            assert item.ports.low % item.ports.size == 0
            assert item.ports.size <= blocks_of(self.wanted[item.key])
            assert any(pool.low <= item.ports.low and item.ports.high <= pool.high for pool in POOLS)
            for other in got.holdings:
                if other.until is not None and other.key != item.key and near(other, item) and shares(other.ports, item.ports):
                    mine = [old.until for old in before if old.key == item.key and old.ports == item.ports and old.until]
                    assert (self.today - other.until).days >= QUARANTINE or any(until >= other.until for until in mine)

        # The past stays.
        past = {item for item in before if item.until is not None}
        assert all(item in got.holdings or revived(item, got.holdings, self.today) for item in past)
        self.holdings = got.holdings
        assert allocate(holdings=got.holdings, requests=requests, today=self.today, quarantine=QUARANTINE).holdings == got.holdings

    @invariant()
    def no_port_has_two_owners(self) -> None:
        held = [item for item in self.holdings if item.until is None]
        for index, item in enumerate(held):
            assert not [other for other in held[index + 1 :] if near(item, other) and shares(item.ports, other.ports)]

    @invariant()
    def the_file_says_the_same(self) -> None:
        text = render(LockFile(3, self.holdings))
        assert parse(text, path="f") == LockFile(3, self.holdings)
        held = held_by(self.holdings)
        for domain, host in {(key.domain, key.host) for key in held}:
            services, own = ranges_of(text, domain=domain, host=host, path="f")
            assert services == {key.service: ports for key, ports in held.items() if not key.domain}
            assert own == {key.service: ports for key, ports in held.items() if domain and key.domain == domain and key.host == host}


def near(one: Holding, other: Holding) -> bool:
    """Whether two holdings are in one scope."""
    return one.key.domain == other.key.domain or not one.key.domain or not other.key.domain


def shares(one: PortRange, other: PortRange) -> bool:
    """Whether two ranges have a port in common."""
    return one.low <= other.high and other.low <= one.high


def revived(item: Holding, holdings: Tuple[Holding, ...], today: date) -> bool:
    """Whether what was given back today was taken again today."""
    return item.until == today and item._replace(until=None) in holdings


Years.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestYears = Years.TestCase
