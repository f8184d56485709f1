# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who was behind a port when hosts moved, were renamed, or handed a range over; what a host forwards; and when a day begins."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.filter.identify import identify
from ansible_collections.portfence.egress.plugins.filter.identities import identities
from ansible_collections.portfence.egress.plugins.filter.services import services
from ansible_collections.portfence.egress.plugins.module_utils._allocator import Holding, Key, Request, allocate, rename
from ansible_collections.portfence.egress.plugins.module_utils._errors import Problem
from ansible_collections.portfence.egress.plugins.module_utils._identify import read_question
from ansible_collections.portfence.egress.plugins.module_utils._lock_file import LockFile, render
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange

WEB = {"source_ports": "auto", "size": 512}
EAST = {"egress_nat_domain": "east", "egress_addresses": "203.0.113.7", "egress_services": {"web": WEB}}
WEST = {"egress_nat_domain": "west", "egress_addresses": "203.0.113.8", "egress_services": {"web": WEB}}
FIRST, CHANGE = date(2026, 1, 1), date(2026, 3, 1)
PORTS = PortRange(20000, 20511)


class Fleet:
    """An inventory and the file of allocated ports."""

    def __init__(self, folder: Path, hosts: Mapping[str, Any], holdings: Sequence[Holding]) -> None:
        self._hosts = hosts
        self._lock = folder / "port-allocations.yml"
        self._lock.write_text(render(LockFile(1, tuple(holdings))), encoding="utf-8")

    def ask(self, address: str, time: Optional[str] = None, port: int = PORTS.low) -> List[Tuple[str, List[str], bool]]:
        """Who it was in words, the names of now, and whether that is certain."""
        got = identify(self._hosts, address, port, time, str(self._lock))
        return [
            (text.partition(": ")[0].replace(" in the NAT domain east", "", text.count("east")), match["hosts"], match["certain"])
            for text, match in zip(got["text"], got["matches"])
        ]


def had(host: str, until: Optional[date] = None, *, domain: str = "east", since: date = FIRST, renamed: str = "", low: int = PORTS.low) -> Holding:
    """A range of the service web."""
    return Holding(Key(domain, host, "web"), PortRange(low, low + 511), since, until, renamed)


@pytest.mark.parametrize(
    ("variables", "later", "want"),
    [
        (WEST, [had("web1", domain="west", since=CHANGE, low=30720)], ("web on web1 (now in the NAT domain west)", ["web1"], True)),
        # Whoever came later, or was not given anything, may be another of this name.
        (
            WEST,
            [had("web1", domain="west", since=CHANGE + timedelta(1), low=30720)],
            ("web on web1 (now in the NAT domain west, if that is the same host)", ["web1"], False),
        ),
        (
            {"egress_addresses": "203.0.113.8"},
            [],
            ("web on web1 (now in no NAT domain, if that is the same host)", ["web1"], False),
        ),
    ],
)
def test_a_host_moves_to_another_nat_domain(tmp_path: Path, variables: Dict[str, Any], later: List[Holding], want: Tuple[Any, ...]) -> None:
    hosts = {"web1": {**variables, "ansible_host": "10.1.0.1"}, "web2": EAST}
    fleet = Fleet(tmp_path, hosts, [had("web1", CHANGE), *later])
    assert fleet.ask("203.0.113.7", "2026-02-01") == [want]
    assert fleet.ask("10.1.0.1", "2026-02-01") == [want]
    assert fleet.ask("203.0.113.7", "2026-03-02") == []
    assert fleet.ask("203.0.113.8", "2026-02-01") == [], "it was behind the other NAT then"
    named = Fleet(tmp_path, {"front": {**hosts["web1"], "egress_host_id": "web1"}, "web2": EAST}, [had("web1", CHANGE), *later])
    assert named.ask("10.1.0.1", "2026-02-01") == [(want[0].replace("(now ", "(now front "), ["front"], want[2])]


def test_a_host_moves_before_ports_are_allocated(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"web1": WEST, "web2": EAST}, [had("web1")])
    assert fleet.ask("203.0.113.7") == [("web on web1 (now in the NAT domain west)", ["web1"], True)]


def test_a_nat_domain_has_another_name(tmp_path: Path) -> None:
    """Where it was seen, nothing says any more; who is seen there now may have been then."""
    hosts = {"web1": {**WEST, "egress_addresses": EAST["egress_addresses"], "ansible_host": "10.1.0.1"}}
    fleet = Fleet(tmp_path, hosts, [had("web1", CHANGE), had("web1", domain="west", since=CHANGE, low=30720)])
    want = [("web on web1 (now in the NAT domain west, if that is the same host)", ["web1"], False)]
    assert fleet.ask("203.0.113.7", "2026-02-01") == want
    assert fleet.ask("10.1.0.1", "2026-02-01") == [("web on web1 (now in the NAT domain west)", ["web1"], True)]
    assert fleet.ask("203.0.113.8", "2026-02-01") == []


def test_a_host_is_renamed_and_moves(tmp_path: Path) -> None:
    later = date(2026, 5, 1)
    holdings = [had("web1", CHANGE, renamed="www1"), had("www1", later, since=CHANGE), had("www1", domain="west", since=later, low=30720)]
    fleet = Fleet(tmp_path, {"www1": WEST, "web2": EAST}, holdings)
    assert fleet.ask("203.0.113.7", "2026-02-01") == [("web on web1 (now www1 in the NAT domain west)", ["www1"], True)]


def test_one_that_has_the_old_name_now_is_another(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"www1": EAST, "web1": EAST}, [had("web1", CHANGE, renamed="www1"), had("www1", since=CHANGE)])
    assert fleet.ask("203.0.113.7", "2026-02-01") == [("web on web1 (now www1)", ["www1"], True)]


def ask_for(*hosts: str) -> List[Request]:
    """What allocate asks for."""
    return [Request(Key("east", host, "web"), 512, "web", (PortRange(20480, 20991),)) for host in hosts]


@pytest.mark.parametrize("stays", [False, True])
def test_a_range_that_changes_hands_on_one_day(tmp_path: Path, stays: bool) -> None:
    """Without quarantine. A rename is written as one."""
    before = allocate(holdings=[], requests=ask_for("web1"), today=FIRST, quarantine=0).holdings
    renamed = rename(before, renames={"web1": "web2"}, hosts={"web2"}, today=CHANGE).holdings
    handed = allocate(holdings=before, requests=ask_for("web2"), today=CHANGE, quarantine=0).holdings
    hosts = {"web2": EAST, **({"web1": {**EAST, "egress_services": {}}} if stays else {})}
    name = ("web on web1", ["web1"], True) if stays else ("web on web1 (now web2, if that is the same host)", ["web2"], False)
    for holdings, want in ((renamed, ("web on web1 (now web2)", ["web2"], True)), (handed, name)):
        assert [(item.key.host, item.ports.low) for item in holdings] == [("web1", 20480), ("web2", 20480)]
        fleet = Fleet(tmp_path, hosts, holdings)
        assert fleet.ask("203.0.113.7", "2026-02-01", 20480) == [want]
        both = fleet.ask("203.0.113.7", "2026-03-01", 20480)
        assert both == [want, ("web on web2", ["web2"], True)]


@pytest.mark.parametrize(
    "other",
    [
        # A rename goes to a name that holds nothing, and takes everything along.
        had("web2", since=FIRST, low=30720),
        had("web2", CHANGE, since=FIRST, low=30720),
        had("web1", date(2026, 4, 1), low=30720),
    ],
)
def test_what_no_rename_can_have_left(tmp_path: Path, other: Holding) -> None:
    fleet = Fleet(tmp_path, {"web2": EAST}, [had("web1", CHANGE), had("web2", since=CHANGE), other])
    assert fleet.ask("203.0.113.7", "2026-02-01") == [("web on web1 (not in the inventory any more)", [], True)]


FORWARDED = {
    "plain": {"source_ports": "50000-50009"},
    "box": {"source_ports": "50010-50019", "addresses": ["10.88.0.0/16", "fd88::/64"]},
    "raw": {"source_ports": "50020-50029", "addresses": ["10.99.0.0/16", "fd99::/64"], "masquerade": False},
    "auto": {"source_ports": "auto", "size": 16, "addresses": "10.98.0.0/24", "masquerade": False},
}


@pytest.mark.parametrize(
    ("address", "port", "want"),
    [
        ("10.99.3.4", 50025, "raw on gate: 50020-50029, written by hand"),
        ("fd99::7", 50020, "raw on gate: 50020-50029, written by hand"),
        ("192.0.2.1", 50025, None),
        ("10.1.0.1", 50025, None),
        ("10.99.3.4", 50005, None),
        ("10.88.0.1", 50015, None),
        ("192.0.2.1", 50015, "box on gate: 50010-50019, written by hand"),
        ("10.1.0.1", 50005, "plain on gate: 50000-50009, written by hand"),
        ("10.98.0.9", 20490, "auto on gate: 20480-20495 since 2026-01-01"),
        ("192.0.2.1", 20490, None),
    ],
)
@pytest.mark.parametrize("template", [False, True])
def test_what_is_forwarded_as_it_is(tmp_path: Path, address: str, port: int, want: Optional[str], template: bool) -> None:
    lock = tmp_path / "lock.yml"
    lock.write_text(render(LockFile(1, (Holding(Key("", "", "auto"), PortRange(20480, 20495), FIRST),))), encoding="utf-8")
    policy: Dict[str, Any] = {"egress_services": FORWARDED}
    if template:
        # Not looked into before it is read.
        policy = {"egress_services": {name: Text("{{ it }}") for name in FORWARDED}, "it": FORWARDED}
    hosts = Templated({"gate": {"ansible_host": "10.1.0.1", "egress_addresses": ["192.0.2.1"], **policy}, "web2": EAST})
    got = identify(hosts, address, port, lock_file=str(lock))
    assert got["text"] == ([want] if want else [])
    assert got["hosts"] == (["gate"] if not address.startswith("10.88.") else [])


class Text(str):
    """A text that is no plain one."""


class Templated(Dict[str, Any]):
    """Hosts whose templates are what they say."""

    def raw_get(self, name: str) -> Any:
        return super().__getitem__(name)

    def __getitem__(self, name: str) -> Any:
        variables = super().__getitem__(name)
        found = variables.get("egress_services") or {}
        return {**variables, "egress_services": {key: variables["it"][key] if isinstance(value, Text) else value for key, value in found.items()}}

    _loader = None
    _inventory = type("Inventory", (), {"groups": {}, "_sources": ()})()


def test_the_map_for_others_says_the_same() -> None:
    by_hand = {name: value for name, value in FORWARDED.items() if name != "auto"}
    own = {"egress_addresses": ["192.0.2.1", "2001:db8::/64"]}
    entries = identities({"gate": {**own, "egress_policy": services({"egress_services": by_hand})}})
    assert len({entry["address"] for entry in entries}) == 4
    for entry in entries:
        first = entry["address"].partition("/")[0]
        got = identify({"gate": {**own, "egress_services": by_hand}}, first, int(entry["source_ports"].partition("-")[0]))
        assert [(match["service"], match["ports"]) for match in got["matches"]] == [(entry["service"], entry["source_ports"])]


NOW = datetime(2028, 2, 28, 13, tzinfo=timezone.utc)


def day_of(time: object, now: datetime = NOW) -> object:
    """The day that is asked about, or what is wrong."""
    problems: List[Problem] = []
    question = read_question(address="10.0.0.1", port=1, time=time, now=now, problems=problems)
    return str(problems[0]) if question is None else question.day and (str(question.day), question.past)


@pytest.mark.parametrize(
    ("time", "want"),
    [
        (None, None),
        ("2028-02-27", ("2028-02-27", True)),
        ("2028-02-28", ("2028-02-28", False)),
        ("2028-02-28T00:00:00", ("2028-02-28", False)),
        ("2028-02-28T00:00:00Z", ("2028-02-28", False)),
        ("2028-02-28T00:59:59+01:00", ("2028-02-27", True)),
        ("2028-02-27T23:59:59-00:30", ("2028-02-28", False)),
        ("2028-02-28T01:00:00+01:00", ("2028-02-28", False)),
        (datetime(2028, 2, 28, 0, 30, tzinfo=timezone(timedelta(hours=1))), ("2028-02-27", True)),
        (date(2028, 2, 28), ("2028-02-28", False)),
        # A leap year.
        ("2024-02-29T23:30:00-01:00", ("2024-03-01", True)),
        ("2024-03-01T00:30:00+01:00", ("2024-02-29", True)),
        # Local time, in New Zealand for one, is ahead.
        ("2028-02-29T03:00:00", ("2028-02-29", False)),
        ("2028-02-29T02:59:00+14:00", ("2028-02-28", False)),
    ],
)
def test_a_day_is_that_of_utc(time: object, want: object) -> None:
    assert day_of(time) == want


@pytest.mark.parametrize("time", ["2028-03-01", "2028-03-01T00:00:00Z", "2062-02-28", "9999-12-31"])
def test_a_day_that_is_still_to_come(time: str) -> None:
    want = f"time: found '{time}', which is still to come; accepted: a day 2026-01-31 or a time 2026-01-31T23:15:00+01:00 (UTC where it does not say)"
    assert day_of(time) == want
    with pytest.raises(AnsibleFilterError, match="which is still to come"):
        identify({}, "10.0.0.1", 1, "9999-12-31")


@pytest.mark.parametrize("time", ["2026-02-29", "2026-02-28T25:00:00", "9999-12-31T23:00:00-14:00", "0001-01-01T00:00:00+14:00", 1790000000, True, ""])
def test_what_is_no_time(time: object) -> None:
    assert str(day_of(time)).startswith("time: found ")
    assert "still to come" not in str(day_of(time))


def test_ports_by_hand_have_no_past() -> None:
    hosts = {"web1": {"ansible_host": "10.1.0.1", "egress_services": {"tool": {"source_ports": 50000}}}}
    for time, doubt in ((None, ""), ("2026-01-31", ", if the service was there then")):
        got = identify(hosts, "10.1.0.1", 50000, time)
        assert got["text"] == [f"tool on web1{doubt}: 50000, written by hand"]
        assert got["matches"][0]["certain"] == (not doubt)
