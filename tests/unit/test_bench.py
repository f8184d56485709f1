# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark's statistics and its report, with numbers made by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Callable, List

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import harness
import report
from harness import Claim, Contender, Measured, Row

OURS, FLOOR = Contender("fence", "1 service"), Contender("no rules")
MANY = Contender("fence", "5000 services")


def row() -> Row:
    """A row whose ratios are easy to see: 1.1, 1.2, 1.5 times the floor."""
    samples = {FLOOR: [100.0, 200.0, 100.0], OURS: [110.0, 240.0, 150.0], MANY: [1000.0, 2000.0, 123456.0]}
    return Row(
        name="example",
        title="An example",
        method="How it was measured.",
        measured=[Measured("udp", "UDP", "µs", samples, scale=0.1)],
        claims=[
            Claim("ours is near the floor", "udp", OURS, FLOOR, 1.25),
            Claim("ours is very near the floor", "udp", OURS, FLOOR, 1.15),
            Claim("ours carries nearly as much", "udp", OURS, FLOOR, 1.2, at_least=True),
            Claim("many, to the floor", "udp", MANY, FLOOR),
        ],
        facts={"rounds": "3"},
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], (7.0, 7.0, 7.0)),
        ([1.0, 2.0], (1.25, 1.5, 1.75)),
        ([5.0, 1.0, 4.0, 2.0, 3.0], (2.0, 3.0, 4.0)),
        ([1.0, 1.0, 1.0, 1000.0], (1.0, 1.0, 250.75)),
    ],
)
def test_quartiles(values: List[float], expected: object) -> None:
    assert harness.spread(values) == expected


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        harness.spread([])


def test_ratios_are_those_of_the_same_round() -> None:
    # The machine became four times slower in the middle; the ratio of the medians would be 1.6.
    assert harness.ratio([11.0, 44.0, 44.0], [10.0, 40.0, 10.0]).median == pytest.approx(1.1)
    with pytest.raises(ValueError, match="3 rounds of one, 2 of the other"):
        harness.ratio([1.0, 1.0, 1.0], [1.0, 1.0])


def test_contenders_take_turns() -> None:
    calls: List[str] = []

    def contender(name: str) -> Callable[[], float]:
        def sample() -> float:
            calls.append(name)
            return float(len(calls))

        return sample

    one, two, three = Contender("a"), Contender("b"), Contender("c")
    samples = harness.interleave({one: contender("a"), two: contender("b"), three: contender("c")}, rounds=3)
    assert "".join(calls) == "cab" + "abc" + "bca" + "cab"
    assert samples == {one: [4.0, 9.0, 11.0], two: [5.0, 7.0, 12.0], three: [6.0, 8.0, 10.0]}
    calls.clear()
    harness.interleave({one: contender("a"), two: contender("b")}, rounds=2, warm_up=False)
    assert "".join(calls) == "ab" + "ba"


def test_claims() -> None:
    example = row()
    assert example.claims[0].ratio(example.measured).median == pytest.approx(1.2)
    assert [claim.reached(example.measured) for claim in example.claims] == [True, False, True, True]


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    harness.save(row(), tmp_path)
    (read,) = harness.load_all(["absent", "example"], tmp_path)
    assert read.measured[0].samples[MANY] == [1000.0, 2000.0, 123460.0]  # five digits are kept
    read.measured[0].samples[MANY][2] = 123456.0
    assert read == row()


def test_report() -> None:
    page = report.render([row()], plots=["example"])
    for line in (
        "![An example](results/example.svg)",
        "| ours is near the floor | ≤ 1.25 | **1.200** | 1.150 – 1.350 | reached |",
        "| ours is very near the floor | ≤ 1.15 | **1.200** | 1.150 – 1.350 | **NOT reached** |",
        "| ours carries nearly as much | ≥ 1.20 | **1.200** | 1.150 – 1.350 | reached |",
        "| many, to the floor | **10.0** | 10.0 – 622 |",
        "## An example\n\nHow it was measured.",
        "- rounds: 3",
        "### UDP, µs",
        "| | any number | 1 service | 5000 services |",
        "| fence |  | 15.0<br>13.0 – 19.5 | 200<br>150 – 6,273 |",
        "| no rules | 10.0<br>10.0 – 15.0 |  |  |",
    ):
        assert line in page


def test_report_without_columns() -> None:
    example = row()
    example.measured[0].samples = {Contender("plain"): [1.0, 2.0, 3.0]}
    example.measured[0].scale, example.claims = 1.0, []
    page = report.render([example], plots=[])
    assert "| plain | 2.00 | 1.50 – 2.50 |" in page
    assert "svg" not in page


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.01234, "0.0123"), (0.5, "0.500"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234")]
)
def test_numbers_for_people(value: float, text: str) -> None:
    assert report.number(value) == text
