# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges and sets of ports. Pure. All bounds are inclusive and between 1 and 65535."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import Iterable, Iterator, List, NamedTuple, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._errors import shown

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
            raise PortSyntaxError([("", f"found {shown(value)}; accepted: {ACCEPTED}")])
        if isinstance(value, int) and not LOWEST <= value <= HIGHEST:
            raise PortSyntaxError([("", f"found {shown(value)}; ports lie between {LOWEST} and {HIGHEST}")])
        text = str(value)
        found = _RANGE.match(text)
        if found is None:
            raise PortSyntaxError([("", f"found {shown(text)}; {_hint(text)}")])
        low = int(found.group(1))
        high = int(found.group(2)) if found.group(2) is not None else low
        if not (LOWEST <= low <= HIGHEST and LOWEST <= high <= HIGHEST):
            raise PortSyntaxError([("", f"found {shown(text)}; ports lie between {LOWEST} and {HIGHEST}")])
        if low > high:
            raise PortSyntaxError([("", f"found {shown(text)}, which is reversed; write {high}-{low}")])
        return cls(low, high)


def _hint(text: str) -> str:
    plain = _TYPOGRAPHIC_DASH.sub("-", text)
    if plain != text and _RANGE.match(plain):
        return f"it has a typographic dash; write {_dense(plain)} with a plain hyphen"
    if _RANGE.match(text.replace(":", "-", 1)):
        return f"write {_dense(text.replace(':', '-', 1))}"
    return f"accepted: {ACCEPTED}"


def _dense(text: str) -> str:
    """Without white space, to which some control characters belong."""
    return "".join(text.split())


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
            mistakes.append(("", f"found {shown(value)} without any port; accepted: {ACCEPTED}"))
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
        few, many = sorted((self, other), key=lambda ports: len(ports.ranges))
        return PortSet.of(
            PortRange(max(part.low, shared.low), min(part.high, shared.high))
            for part in few
            for shared in many._sharing(part)
        )

    def __sub__(self, other: PortSet) -> PortSet:
        rest: List[PortRange] = []
        for low, high in self.ranges:
            for hole in other._sharing(PortRange(low, high)):
                if low < hole.low:
                    rest.append(PortRange(low, hole.low - 1))
                low = hole.high + 1
            if low <= high:
                rest.append(PortRange(low, high))
        return PortSet(tuple(rest))

    def _sharing(self, part: PortRange) -> Iterator[PortRange]:
        """The ranges that share a port with a range, in order, found without walking through all of them."""
        index = max(0, bisect_right(self.ranges, PortRange(part.low, HIGHEST)) - 1)
        while index < len(self.ranges) and self.ranges[index].low <= part.high:
            if self.ranges[index].high >= part.low:
                yield self.ranges[index]
            index += 1
