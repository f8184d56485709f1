# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The allocator: where ranges come from, that they stay, when they are free again, and what can't be done."""

from __future__ import annotations

from datetime import date, timedelta
from typing import List, Sequence, Tuple

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._allocator import (
    DEFAULT_POOLS,
    Holding,
    Key,
    Outcome,
    Request,
    allocate,
    missing_hosts,
    rename,
)
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange

DAY = date(2026, 1, 1)
POOL = (PortRange(1000, 2000),)
EVERYWHERE = Key("", "", "shop")


def at(host: str, service: str = "app", domain: str = "nat") -> Key:
    """A service of a host behind a NAT."""
    return Key(domain, host, service)


def ask(key: Key, size: int = 16, pools: Tuple[PortRange, ...] = POOL, one_range: bool = False) -> Request:
    """A request with a path that shows who asks."""
    return Request(key, size, f"path.{key.service}", pools, one_range)


def run(requests: Sequence[Request], holdings: Sequence[Holding] = (), *, days: int = 0, quarantine: int = 30) -> Outcome:
    """Allocate on a day."""
    return allocate(holdings=holdings, requests=requests, today=DAY + timedelta(days=days), quarantine=quarantine)


def ranges(outcome: Outcome) -> List[str]:
    """Who holds what, in short."""
    return [f"{item.key.host or '*'}.{item.key.service} {item.ports}" for item in outcome.holdings if item.until is None]


def test_default_pools_lie_outside_of_what_the_kernel_chooses_from() -> None:
    assert all(pool.high < 32768 or pool.low > 60999 for pool in DEFAULT_POOLS)


@pytest.mark.parametrize(("size", "want"), [(1, "1000"), (3, "1000-1003"), (16, "1008-1023"), (17, "1024-1055"), (512, "1024-1535")])
def test_a_block_is_a_power_of_two_and_aligned(size: int, want: str) -> None:
    assert ranges(run([ask(EVERYWHERE, size)])) == [f"*.shop {want}"]


def test_large_blocks_come_first_and_names_decide_between_equals() -> None:
    requests = [ask(at("b")), ask(at("a")), ask(at("c"), 64)]
    want = ["a.app 1008-1023", "b.app 1088-1103", "c.app 1024-1087"]
    assert ranges(run(requests)) == want == ranges(run(requests[::-1]))


def test_domains_are_apart_and_services_are_free_in_all_of_them() -> None:
    got = run([ask(at("a", domain="x")), ask(at("a", domain="y")), ask(EVERYWHERE)])
    assert ranges(got) == ["*.shop 1008-1023", "a.app 1024-1039", "a.app 1024-1039"]
    later = run([ask(at("a", domain="x")), ask(Key("", "", "new"))], run([ask(at("a", domain="x"))]).holdings)
    assert ranges(later) == ["*.new 1024-1039", "a.app 1008-1023"]


def test_pools_are_filled_in_their_order() -> None:
    pools = (PortRange(3000, 3040), PortRange(2000, 2040))
    assert ranges(run([ask(at(name), pools=pools) for name in "abcd"])) == [
        "a.app 3008-3023",
        "b.app 3024-3039",
        "c.app 2000-2015",
        "d.app 2016-2031",
    ]


def test_a_second_run_changes_nothing() -> None:
    first = run([ask(at("a")), ask(EVERYWHERE)])
    again = run([ask(EVERYWHERE), ask(at("a"))], first.holdings, days=400)
    assert again == Outcome(first.holdings)


def test_a_freed_range_waits_for_its_quarantine() -> None:
    pools = (PortRange(1008, 1023),)
    first = run([ask(at("a"), pools=pools)])
    gone = run([], first.holdings, days=10)
    assert gone.released == (Holding(at("a"), PortRange(1008, 1023), DAY, DAY + timedelta(days=10)),)
    early = run([ask(at("b"), pools=pools)], gone.holdings, days=39)
    assert ranges(early) == []
    assert "(0 ports are free, 16 in quarantine)" in str(early.problems[0])
    late = run([ask(at("b"), pools=pools)], gone.holdings, days=40)
    assert ranges(late) == ["b.app 1008-1023"]
    assert late.released == ()


def test_who_comes_back_has_its_range_again() -> None:
    gone = run([ask(at("b"))], run([ask(at("a")), ask(at("b"))]).holdings, days=10)
    back = run([ask(at("a")), ask(at("b")), ask(at("c"))], gone.holdings, days=11)
    assert ranges(back) == ["a.app 1008-1023", "b.app 1024-1039", "c.app 1040-1055"]
    assert [item.since for item in back.holdings if item.key == at("a")] == [DAY, DAY + timedelta(days=11)]


def test_who_comes_back_on_the_same_day_was_never_gone() -> None:
    first = run([ask(at("a"))])
    assert run([ask(at("a"))], run([], first.holdings, days=5).holdings, days=5).holdings == first.holdings


def test_who_comes_back_does_not_get_what_another_had_in_between() -> None:
    pools = (PortRange(1008, 1023),)
    gone = run([], run([ask(at("a"), pools=pools)]).holdings, days=1)
    taken = run([ask(at("b"), pools=pools)], gone.holdings, days=31)
    free = run([], taken.holdings, days=40)
    assert ranges(run([ask(at("a"), pools=pools)], free.holdings, days=69)) == []
    assert ranges(run([ask(at("a"), pools=pools)], free.holdings, days=70)) == ["a.app 1008-1023"]


def test_more_ports_are_added_to_those_that_are_held() -> None:
    first = run([ask(at("a")), ask(at("b"))])
    more = run([ask(at("a"), 100), ask(at("b"))], first.holdings, days=1)
    # 112 are missing: 64, 32 and 16.
    assert ranges(more) == ["a.app 1008-1023", "a.app 1040-1055", "a.app 1056-1087", "a.app 1088-1151", "b.app 1024-1039"]
    assert sum(item.ports.size for item in more.holdings if item.key == at("a")) == 128
    assert set(first.holdings) <= set(more.holdings)
    assert run([ask(at("a"), 100), ask(at("b"))], more.holdings, days=2).taken == ()


def test_fewer_ports_leave_the_range_as_it_is() -> None:
    first = run([ask(at("a"), 100)])
    assert run([ask(at("a"), 10)], first.holdings, days=1).holdings == first.holdings


def test_one_range_can_not_grow() -> None:
    first = run([ask(at("a"), one_range=True)])
    assert first.problems == ()
    more = run([ask(at("a"), 17, one_range=True)], first.holdings)
    assert [str(problem) for problem in more.problems] == [
        "path.app.size: found 17 for app on a in nat, which holds 16 ports and has an assignment that takes one range; a range"
        " that was handed out does not move; accepted: at most 16, or another assignment"
    ]


def test_every_request_that_finds_no_room_is_told() -> None:
    got = run([ask(at(name), 512) for name in "abc"])
    assert [str(problem) for problem in got.problems] == [
        f"path.app.size: found 512 for app on {name} in nat, and the pools 1000-2000 have no free block of 512 ports left in the NAT"
        " domain nat (489 ports are free, 0 in quarantine); accepted: a smaller size, or more pools in egress_port_pools"
        for name in "bc"
    ]


def test_a_renamed_host_keeps_its_ranges_and_its_history() -> None:
    first = run([ask(at("old")), ask(at("old", "db")), ask(at("other"))])
    later = DAY + timedelta(days=7)
    got = rename(first.holdings, renames={"old": "new"}, hosts={"new"}, today=later)
    assert got.problems == ()
    assert ranges(got) == ["new.app 1008-1023", "new.db 1024-1039", "other.app 1040-1055"]
    assert Holding(at("old"), PortRange(1008, 1023), DAY, later, "new") in got.holdings
    assert Holding(at("new"), PortRange(1008, 1023), later) in got.holdings
    requests = [ask(at("new")), ask(at("new", "db")), ask(at("other"))]
    assert run(requests, got.holdings, days=7) == Outcome(got.holdings)
    assert rename(got.holdings, renames={"old": "new"}, hosts={"new"}, today=later).holdings == got.holdings


def renamed(holdings: "tuple[Holding, ...]", old: str, new: str, day: date) -> "tuple[Holding, ...]":
    got = rename(holdings, renames={old: new}, hosts={new}, today=day)
    assert got.problems == ()
    assert rename(got.holdings, renames={old: new}, hosts={new}, today=day) == Outcome(got.holdings), "done again"
    return got.holdings


@pytest.mark.parametrize(("first", "between"), [("a", "b"), ("b", "a")])
def test_a_host_is_renamed_twice_on_a_day_and_back(first: str, between: str) -> None:
    before = run([ask(at(first))]).holdings
    ports = PortRange(1008, 1023)
    later = DAY + timedelta(days=7)
    got = renamed(renamed(before, first, between, later), between, "c", later)
    passing = Holding(at(between), ports, later, later, "c")
    assert set(got) == {Holding(at(first), ports, DAY, later, between), passing, Holding(at("c"), ports, later)}
    assert set(renamed(got, "c", first, later)) == {before[0], passing, Holding(at("c"), ports, later, later, first)}
    assert {holding.renamed for holding in renamed(got, "c", "d", later + timedelta(days=1))} == {between, "c", "d", ""}


def test_a_host_is_renamed_on_the_day_on_which_it_came() -> None:
    got = renamed(run([ask(at("a"))]).holdings, "a", "b", DAY)
    assert set(got) == {Holding(at("a"), PortRange(1008, 1023), DAY, DAY, "b"), Holding(at("b"), PortRange(1008, 1023), DAY)}


def test_a_range_that_changes_hands_is_not_renamed() -> None:
    first = run([ask(at("old"))])
    assert [holding.renamed for holding in run([ask(at("new"))], first.holdings, days=1, quarantine=0).holdings] == ["", ""]


def test_two_hosts_swap_their_names_in_three_runs() -> None:
    holdings = run([ask(at("a")), ask(at("b"))]).holdings
    for old, new, hosts in (("a", "other", {"other", "b"}), ("b", "a", {"other", "a"}), ("other", "b", {"a", "b"})):
        got = rename(holdings, renames={old: new}, hosts=hosts, today=DAY + timedelta(days=1))
        assert got.problems == ()
        holdings = got.holdings
    assert ranges(got) == ["a.app 1024-1039", "b.app 1008-1023"]


def test_a_part_of_an_inventory_is_told_from_a_host_that_left() -> None:
    """So is a NAT domain that has another name from that of one host."""
    held = run([ask(at(name)) for name in "abcdefgh"] + [ask(Key("", "", "web"))]).holdings

    def missing(hosts: str, *, moved: str = "", domain: str = "west") -> "tuple[str, ...]":
        return missing_hosts(held, hosts={*(("nat", name) for name in hosts), *((domain, name) for name in moved)}, many=0.25)

    assert missing("abcdefgh") == missing("bcdefgh") == missing("bcdefgh", moved="a") == ()
    assert missing("cdefgh") == ("a in nat", "b in nat")
    assert missing("cefgh", moved="b") == ("a in nat", "b in nat (now in west)", "d in nat")
    assert missing("cdefgh", moved="ab", domain="") == ("a in nat (now in no NAT domain)", "b in nat (now in no NAT domain)")
    assert missing("") == tuple(f"{name} in nat" for name in "abcdefgh")
    gone = renamed(held, "h", "i", DAY + timedelta(days=1))
    assert missing_hosts(gone, hosts={("nat", name) for name in "abcdefgi"}, many=0.0) == (), "a name of the past is not missing"


@pytest.mark.parametrize(
    ("renames", "message"),
    [
        ({"a": "n", "n": "m"}, "a: found n, which is renamed as well; accepted: a name that is not, and a run for each step"),
        ({"a": "c"}, "a: found c, which holds ranges of its own; accepted: a name that holds none"),
        ({"x": "n"}, "x: found n, and x never held a range; accepted: the old name of a host that does"),
        ({"a": "n", "b": "n"}, "b: found n, the new name of a as well; accepted: a name of its own for each host"),
        ({"a": "nn"}, "a: found nn, and the inventory has no such host; accepted: the name that the host has there now, or its egress_host_id"),
        ({"c": "n"}, "c: found n, and the inventory has a host c as well; accepted: an old name that no host has any more"),
        (
            {"gone": "c"},
            "gone: found c, and gone gave its ranges back on 2026-01-08; accepted: the old name of a host that holds ranges, or the file of"
            " before from git",
        ),
        (
            {"old": "n"},
            "old: found n, and old went on as b on 2026-01-08; accepted: the old name of a host that holds ranges, or the file of before from git",
        ),
    ],
)
def test_renames_that_can_not_be(renames: "dict[str, str]", message: str) -> None:
    names = ["a", "old", "c", "gone"]
    first = run([ask(at(name)) for name in names])
    later = DAY + timedelta(days=7)
    holdings = renamed(run([ask(at(name)) for name in names[:-1]], first.holdings, days=7).holdings, "old", "b", later)
    got = rename(holdings, renames=renames, hosts={"c", "n", "m"}, today=later)
    assert f"egress_renamed_hosts.{message}" in [str(problem) for problem in got.problems]
    assert got.holdings == holdings
