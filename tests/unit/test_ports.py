# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports, ranges and sets of them: reading, writing, algebra."""

from __future__ import annotations

import datetime
from typing import Set

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange, PortSet, PortSyntaxError
from hypothesis import given
from hypothesis import strategies as st

ACCEPTED = "accepted: a port 50000, a range 50000-51000, or a list of them"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (50000, "50000"),
        (1, "1"),
        (65535, "65535"),
        ("50000", "50000"),
        (" 50000 - 51000\n", "50000-51000"),
        ("050000", "50000"),
        ("1-65535", "1-65535"),
        ("7-7", "7"),
        ([52000, "53000-53999"], "52000,53000-53999"),
        (("53000-53999", 52000), "52000,53000-53999"),
        ("1000,1005-1010", "1000,1005-1010"),
        ("1000, 1005 - 1010,", "1000,1005-1010"),
        (["50000-50499", "50500-50999"], "50000-50999"),
        (["50000-50600", "50500-50999", 50700], "50000-50999"),
    ],
)
def test_accepted_spellings(value: object, text: str) -> None:
    assert str(PortSet.parse(value)) == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("51000-50000", "found '51000-50000', which is reversed; write 50000-51000"),
        ("50000-49999", "found '50000-49999', which is reversed; write 49999-50000"),
        (0, "found 0; ports lie between 1 and 65535"),
        (-5, "found -5; ports lie between 1 and 65535"),
        (65536, "found 65536; ports lie between 1 and 65535"),
        pytest.param(10**5000, "found a huge number; ports lie between 1 and 65535", id="huge number"),
        ("0-10", "found '0-10'; ports lie between 1 and 65535"),
        ("50000-65536", "found '50000-65536'; ports lie between 1 and 65535"),
        ("", f"found ''; {ACCEPTED}"),
        ("http", f"found 'http'; {ACCEPTED}"),
        ("-50000", f"found '-50000'; {ACCEPTED}"),
        ("50000-", f"found '50000-'; {ACCEPTED}"),
        ("50000-51000-52000", f"found '50000-51000-52000'; {ACCEPTED}"),
        ("5e4", f"found '5e4'; {ACCEPTED}"),
        ("50000;drop", f"found '50000;drop'; {ACCEPTED}"),
        ("\u0665\u0660\u0660\u0660\u0660", "found '\\u0665\\u0660\\u0660\\u0660\\u0660'; " + ACCEPTED),
        ("50000\x00", f"found '50000\\x00'; {ACCEPTED}"),
        pytest.param("9" * 5000, f"found '{'9' * 56}...; {ACCEPTED}", id="huge text"),
        ("50000\u201351000", "found '50000\\u201351000'; it has a typographic dash; write 50000-51000 with a plain hyphen"),
        ("50000\u221251000", "found '50000\\u221251000'; it has a typographic dash; write 50000-51000 with a plain hyphen"),
        ("50000:51000", "found '50000:51000'; write 50000-51000"),
        (True, f"found True; {ACCEPTED}"),
        (50000.0, f"found 50000.0; {ACCEPTED}"),
        (float("nan"), f"found nan; {ACCEPTED}"),
        (None, f"found nothing; {ACCEPTED}"),
        ({"low": 1}, f"found a mapping; {ACCEPTED}"),
        (datetime.date(2026, 1, 1), f"found datetime.date(2026, 1, 1); {ACCEPTED}"),
        ([], f"found a list without any port; {ACCEPTED}"),
        (",", f"found ',' without any port; {ACCEPTED}"),
    ],
)
def test_mistakes_say_what_was_found_and_what_is_accepted(value: object, message: str) -> None:
    with pytest.raises(PortSyntaxError) as error:
        PortSet.parse(value)
    assert error.value.mistakes == (("", message),)


def test_every_mistake_of_a_list_has_its_place() -> None:
    with pytest.raises(PortSyntaxError) as error:
        PortSet.parse(["51000-50000", 50000, "http", [1], 70000])
    assert [where for where, _text in error.value.mistakes] == ["[0]", "[2]", "[3]", "[4]"]
    assert str(error.value).startswith("[0]: found '51000-50000', which is reversed; write 50000-51000; [2]: found 'http'")


def test_size_counts_both_bounds() -> None:
    assert PortRange(50000, 50999).size == 1000
    assert PortSet.parse(["50000-50999", 40000]).size == 1001
    assert PortSet().size == 0


def numbers(ports: PortSet) -> Set[int]:
    """The ports as Python knows sets."""
    return {number for low, high in ports for number in range(low, high + 1)}


# Few numbers and both ends of the scale, so that ranges meet, touch and contain one another.
PORTS = st.one_of(st.integers(1, 40), st.integers(65500, 65535))
RANGES = st.lists(st.builds(lambda one, other: PortRange(min(one, other), max(one, other)), PORTS, PORTS), max_size=6)
SETS = st.builds(PortSet.of, RANGES)


@given(RANGES)
def test_of_is_the_union_in_normal_form(ranges: list) -> None:
    ports = PortSet.of(ranges)
    assert numbers(ports) == {number for low, high in ranges for number in range(low, high + 1)}
    assert all(part.low <= part.high for part in ports)
    assert all(before.high + 1 < after.low for before, after in zip(ports.ranges, ports.ranges[1:]))


@given(SETS, SETS)
def test_algebra_is_that_of_sets(left: PortSet, right: PortSet) -> None:
    assert numbers(left | right) == numbers(left) | numbers(right)
    assert numbers(left & right) == numbers(left) & numbers(right)
    assert numbers(left - right) == numbers(left) - numbers(right)
    for result in (left | right, left & right, left - right):
        assert result == PortSet.of(result.ranges)
        assert result.size == len(numbers(result))
        assert bool(result) == bool(numbers(result))


@given(SETS, PORTS)
def test_membership(ports: PortSet, port: int) -> None:
    assert (port in ports) == (port in numbers(ports))


@given(SETS.filter(bool))
def test_what_is_written_is_read_back(ports: PortSet) -> None:
    assert PortSet.parse(str(ports)) == ports
    assert PortSet.parse([str(part) for part in ports]) == ports


@given(st.text(alphabet="0123456789-, :\u2013\x00x", max_size=14))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        ports = PortSet.parse(text)
    except PortSyntaxError as error:
        assert error.mistakes
    else:
        assert ports and numbers(ports) <= set(range(1, 65536))
