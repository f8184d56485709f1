# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges and sets of ports. Pure. All bounds are inclusive and between 1 and 65535."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Iterable, Iterator, List, NamedTuple, Sequence, Tuple

LOWEST = 1
HIGHEST = 65535
ACCEPTED = "a port 50000, a range 50000-51000, or a list of them"

_RANGE = re.compile(r"^\s*([0-9]{1,12})\s*(?:-\s*([0-9]{1,12})\s*)?$")
# What a word processor makes of "-": hyphen, non-breaking hyphen, figure dash, en dash, em dash, bar, minus.
_TYPOGRAPHIC_DASH = re.compile("[\u2010-\u2015\u2212]")


class PortSyntaxError(ValueError):
    """Ports that can't be read. :ivar mistakes: (path below the value such as "[1]" or "", message) pairs."""

    def __init__(self, mistakes: Sequence[Tuple[str, str]]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(f"{where}{': ' if where else ''}{text}" for where, text in self.mistakes))


class PortRange(NamedTuple):
    """The ports from low to high, both included."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"

    @property
    def size(self) -> int:
        """Number of ports."""
        return self.high - self.low + 1

    @classmethod
    def parse(cls, value: object) -> PortRange:
        """Read ``50000``, ``"50000"`` or ``"50000-51000"``. Raises PortSyntaxError."""
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise PortSyntaxError([("", f"found {value!r}; accepted: {ACCEPTED}")])
        text = str(value)
        found = _RANGE.match(text)
        if found is None:
            raise PortSyntaxError([("", f"found {_shown(text)}; {_hint(text)}")])
        low = int(found.group(1))
        high = int(found.group(2)) if found.group(2) is not None else low
        if not (LOWEST <= low <= HIGHEST and LOWEST <= high <= HIGHEST):
            raise PortSyntaxError([("", f"found {_shown(text)}; ports lie between {LOWEST} and {HIGHEST}")])
        if low > high:
            raise PortSyntaxError([("", f"found {_shown(text)}, which is reversed; write {high}-{low}")])
        return cls(low, high)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _hint(text: str) -> str:
    plain = _TYPOGRAPHIC_DASH.sub("-", text)
    if plain != text and _RANGE.match(plain):
        return f"it has a typographic dash; write {plain.strip()} with a plain hyphen"
    if _RANGE.match(text.replace(":", "-", 1)):
        return f"write {text.replace(':', '-', 1).strip()}"
    return f"accepted: {ACCEPTED}"


@dataclass(frozen=True)
class PortSet:
    """A set of ports, kept as sorted ranges that neither overlap nor touch."""

    ranges: Tuple[PortRange, ...] = ()

    @classmethod
    def of(cls, ranges: Iterable[PortRange]) -> PortSet:
        """The union of any ranges, in any order."""
        merged: List[PortRange] = []
        for low, high in sorted(ranges):
            if merged and low <= merged[-1].high + 1:
                merged[-1] = PortRange(merged[-1].low, max(merged[-1].high, high))
            else:
                merged.append(PortRange(low, high))
        return cls(tuple(merged))

    @classmethod
    def parse(cls, value: object) -> PortSet:
        """Read a port, a range, a list of them, or a comma-separated string of them as the kernel writes it.

        Raises PortSyntaxError with every mistake, or when there is no port at all.
        """
        if isinstance(value, str) and "," in value:
            parts: Sequence[object] = [part for part in value.split(",") if part.strip()]
        elif isinstance(value, (list, tuple)):
            parts = value
        else:
            return cls((PortRange.parse(value),))
        ranges: List[PortRange] = []
        mistakes: List[Tuple[str, str]] = []
        for index, part in enumerate(parts):
            try:
                ranges.append(PortRange.parse(part))
            except PortSyntaxError as error:
                mistakes.extend((f"[{index}]{where}", text) for where, text in error.mistakes)
        if not parts:
            mistakes.append(("", f"found {_shown(str(value))}, no port at all; accepted: {ACCEPTED}"))
        if mistakes:
            raise PortSyntaxError(mistakes)
        return cls.of(ranges)

    def __str__(self) -> str:
        """The kernel's spelling, ``1000,1005-1010``; empty for no port."""
        return ",".join(str(part) for part in self.ranges)

    def __iter__(self) -> Iterator[PortRange]:
        return iter(self.ranges)

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __contains__(self, port: int) -> bool:
        return any(low <= port <= high for low, high in self.ranges)

    @property
    def size(self) -> int:
        """Number of ports."""
        return sum(part.size for part in self.ranges)

    def __or__(self, other: PortSet) -> PortSet:
        return PortSet.of((*self.ranges, *other.ranges))

    def __and__(self, other: PortSet) -> PortSet:
        common = []
        for left in self.ranges:
            for right in other.ranges:
                low, high = max(left.low, right.low), min(left.high, right.high)
                if low <= high:
                    common.append(PortRange(low, high))
        return PortSet.of(common)

    def __sub__(self, other: PortSet) -> PortSet:
        rest = list(self.ranges)
        for hole in other.ranges:
            cut: List[PortRange] = []
            for part in rest:
                if hole.high < part.low or hole.low > part.high:
                    cut.append(part)
                    continue
                if part.low < hole.low:
                    cut.append(PortRange(part.low, hole.low - 1))
                if part.high > hole.high:
                    cut.append(PortRange(hole.high + 1, part.high))
            rest = cut
        return PortSet.of(rest)
