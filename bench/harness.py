# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every row of the benchmark shares: contenders that take turns, statistics, and the file with the result.

A row measures one or more metrics. For each, contenders take turns for so many rounds (A B C, B C A, …), so that a busy
moment of the machine falls on all of them. What is claimed is a ratio: of every round the one contender over the other,
and of these the median. Quartiles say how far it spreads.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

RESULTS = Path(__file__).resolve().parent / "results"


class Spread(NamedTuple):
    """The quartiles of some numbers."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Contender:
    """What is measured: a line of a table, and a column of it where there are several (a number of services)."""

    line: str
    column: str = ""

    def __str__(self) -> str:
        return f"{self.line} ({self.column})" if self.column else self.line


@dataclass
class Measured:
    """One metric, and what each contender showed in each round.

    :ivar key: of the metric, for claims.
    :ivar scale: what a sample is multiplied by for people.
    """

    key: str
    title: str
    unit: str
    samples: Dict[Contender, List[float]]
    scale: float = 1.0

    def spread(self, contender: Contender) -> Spread:
        """Of a contender, in the unit of the metric."""
        return spread([value * self.scale for value in self.samples[contender]])


@dataclass(frozen=True)
class Claim:
    """A ratio of one contender to another in one metric.

    :ivar limit: what has to be reached. None for a ratio that is only told.
    :ivar at_least: whether the limit is a lower one.
    """

    text: str
    metric: str
    of: Contender
    against: Contender
    limit: Optional[float] = None
    at_least: bool = False

    def ratio(self, measured: Sequence[Measured]) -> Spread:
        """What was seen. Raises KeyError when the metric or a contender is missing."""
        found = {metric.key: metric for metric in measured}[self.metric]
        return ratio(found.samples[self.of], found.samples[self.against])

    def reached(self, measured: Sequence[Measured]) -> bool:
        """Whether the median of the ratios is within the limit, if there is one."""
        seen = self.ratio(measured).median
        if self.limit is None:
            return True
        return seen >= self.limit if self.at_least else seen <= self.limit


@dataclass
class Row:
    """One question, how it was put, and the answers.

    :ivar facts: about this run, as texts: rounds, load of the machine, …
    """

    name: str
    title: str
    method: str
    measured: List[Measured] = field(default_factory=list)
    claims: List[Claim] = field(default_factory=list)
    facts: Dict[str, str] = field(default_factory=dict)


def spread(values: Sequence[float]) -> Spread:
    """Quartiles, the inclusive ones: within what was seen, whatever the number of values. Raises ValueError without any."""
    if not values:
        raise ValueError("nothing was measured")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def ratio(of: Sequence[float], against: Sequence[float]) -> Spread:
    """Quartiles of the ratios of each round. Raises ValueError unless both took part in every round."""
    if len(of) != len(against):
        raise ValueError(f"{len(of)} rounds of one, {len(against)} of the other")
    return spread([one / other for one, other in zip(of, against)])


def interleave(
    contenders: Mapping[Contender, Callable[[], float]], *, rounds: int, warm_up: bool = True
) -> Dict[Contender, List[float]]:
    """Let contenders take turns, each round from another one on.

    :param warm_up: whether there is a round before the first that does not count.
    """
    order = list(contenders)
    samples: Dict[Contender, List[float]] = {contender: [] for contender in order}
    for number in range(-1 if warm_up else 0, rounds):
        first = number % len(order)
        for contender in order[first:] + order[:first]:
            value = contenders[contender]()
            if number >= 0:
                samples[contender].append(value)
    return samples


def to_json(row: Row) -> str:
    """A row as text; a sample keeps five digits."""
    measured = [
        {
            **vars(metric),
            "samples": [
                {**asdict(contender), "values": [float(f"{value:.5g}") for value in values]}
                for contender, values in metric.samples.items()
            ],
        }
        for metric in row.measured
    ]
    content = {**vars(row), "measured": measured, "claims": [asdict(claim) for claim in row.claims]}
    return json.dumps(content, indent=1) + "\n"


def from_json(text: str) -> Row:
    """The row that :func:`to_json` wrote. Raises ValueError, KeyError or TypeError on anything else."""
    content: Dict[str, Any] = json.loads(text)
    for measured in content["measured"]:
        measured["samples"] = {Contender(item["line"], item["column"]): item["values"] for item in measured["samples"]}
    for claim in content["claims"]:
        claim.update(of=Contender(**claim["of"]), against=Contender(**claim["against"]))
    measured_all = [Measured(**item) for item in content.pop("measured")]
    claims = [Claim(**item) for item in content.pop("claims")]
    return Row(measured=measured_all, claims=claims, **content)


def save(row: Row, folder: Path = RESULTS) -> Path:
    """Write the result of a row; gives the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{row.name}.json"
    path.write_text(to_json(row), encoding="utf-8")
    return path


def load_all(names: Sequence[str], folder: Path = RESULTS) -> Tuple[Row, ...]:
    """The rows with these names that have a result, in this order."""
    paths = [folder / f"{name}.json" for name in names]
    return tuple(from_json(path.read_text(encoding="utf-8")) for path in paths if path.exists())
