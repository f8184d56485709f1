# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Results of the rows → RESULTS.md. Pure."""

from __future__ import annotations

from typing import Dict, List, Sequence

from harness import Claim, Measured, Row, Spread

_HEAD = """<!-- Written by `make bench` from results/*.json: see README.md. Changes are overwritten. -->

# What it costs

Ratios are the claim, absolute figures are context: they belong to this machine and this hour. A ratio is the median of those of all rounds,
of each round the one contender over the other; in brackets the quartiles. [How to read and repeat this](README.md).
"""


def render(rows: Sequence[Row], *, plots: Sequence[str]) -> str:
    """The whole page.

    :param plots: names of the rows that have a picture in results/.
    """
    parts = [_HEAD, *(_picture(row) for row in rows if row.name in plots), _summary(rows)]
    for row in rows:
        parts.append(f"## {row.title}\n\n{row.method}\n")
        parts.append(_facts(row))
        parts.extend(_table(measured) for measured in row.measured)
    return "\n".join(parts)


def verdict(claim: Claim, measured: Sequence[Measured]) -> str:
    """Whether a claim is reached, in words."""
    return "reached" if claim.reached(measured) else "**NOT reached**"


def ratio_text(value: float) -> str:
    """A ratio with as many digits as it has a meaning."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def number(value: float) -> str:
    """Three digits that mean something, and every digit before the point."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if abs(value) < 1 else f"{value:.{1 if abs(value) >= 10 else 2}f}"


def _picture(row: Row) -> str:
    return f"![{row.title}](results/{row.name}.svg)\n"


def _summary(rows: Sequence[Row]) -> str:
    lines = ["## What must be reached", "", "| | must be | is | quartiles | |", "|---|---|---|---|---|"]
    told = ["## Other ratios", "", "| | is | quartiles |", "|---|---|---|"]
    for row in rows:
        for claim in row.claims:
            seen = claim.ratio(row.measured)
            figures = f"**{ratio_text(seen.median)}** | {ratio_text(seen.low)} – {ratio_text(seen.high)} |"
            if claim.limit is None:
                told.append(f"| {claim.text} | {figures}")
            else:
                sign, result = "≥" if claim.at_least else "≤", verdict(claim, row.measured)
                lines.append(f"| {claim.text} | {sign} {claim.limit:.2f} | {figures} {result} |")
    return "\n".join([*lines, "", *told, ""])


def _facts(row: Row) -> str:
    return "".join(f"- {key}: {value}\n" for key, value in row.facts.items())


def _table(measured: Measured) -> str:
    columns = list(dict.fromkeys(contender.column for contender in measured.samples))
    lines: Dict[str, Dict[str, Spread]] = {}
    for contender in measured.samples:
        lines.setdefault(contender.line, {})[contender.column] = measured.spread(contender)
    texts: List[str] = [f"### {measured.title}, {measured.unit}", ""]
    if columns == [""]:
        texts += ["| | median | quartiles |", "|---|---|---|"]
        texts += [f"| {line} | {_cell(found[''], ' | ')} |" for line, found in lines.items()]
    else:
        texts += [f"| | {' | '.join(column or 'any number' for column in columns)} |", f"|---|{'---|' * len(columns)}"]
        for line, found in lines.items():
            cells = [_cell(found[column], "<br>") if column in found else "" for column in columns]
            texts.append(f"| {line} | {' | '.join(cells)} |")
    return "\n".join([*texts, ""])


def _cell(found: Spread, between: str) -> str:
    return f"{number(found.median)}{between}{number(found.low)} – {number(found.high)}"
