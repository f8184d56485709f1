# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors that a user can cause or meet. Every one carries a message that says what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence


class PortFenceError(Exception):
    """Anything that ends a module with a message instead of a traceback."""


class HostError(PortFenceError):
    """The host refused: a command failed, a file can't be written, a program is missing."""


class KilledError(HostError):
    """A program was killed, or crashed: what it would have said is not known."""


def shown(value: Any) -> str:
    """Any value as a short piece of a message, without control characters; containers by their kind alone."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None:
        return "nothing"
    try:
        text = ascii(value[:60] if isinstance(value, (str, bytes)) else value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class Problem:
    """One mistake: the path of the value, and what is wrong with it and would be right."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class InputError(PortFenceError):
    """Mistakes in what the user wrote, all of them at once.

    :param what: what was read, for the first line of the message ("the egress policy").
    :param problems: at least one mistake.
    """

    def __init__(self, *, what: str, problems: Sequence[Problem]) -> None:
        self.what = what
        self.problems = tuple(problems)
        super().__init__(what, self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        head = f"{self.what} has {count} mistake{'' if count == 1 else 's'}:"
        return "\n".join([head, *(f"  {problem}" for problem in self.problems)])
