# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables for spreadsheets (RFC 4180). Pure."""

from __future__ import annotations

import re
from typing import Any, Iterable, Match, Sequence

# All that ends a line for somebody.
_LINE_ENDS = "\n\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029"
# What ends a cell or a row in a table like this, and what does where a comma is a part of numbers and something else stands between cells.
_ENDS_CELL = re.compile(f'[,"{_LINE_ENDS}]')
_ENDS_FOREIGN_CELL = re.compile(rf"[;|\t{_LINE_ENDS}]")
# Spreadsheets look past white space, and some take the wide forms of the East Asian blocks, and others, for the same characters.
_FORMULA = "[=+@\u207a\u207c\u208a\u208c\u2a75\u2a76\ufb29\ufe62\ufe63\ufe66\ufe6b\uff0b\uff0d\uff1d\uff20-]"
# Runs of what may stand before a formula, each looked at once.
_BEFORE = rf'[;|"\s{_LINE_ENDS}]'
_BEGIN = re.compile(rf"(?:\A|(?<!{_BEFORE})){_BEFORE}*(?={_FORMULA})")


def to_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table. A text that a spreadsheet would take for a formula is led by an apostrophe, and so is a part that it could take for a cell."""
    lines = (",".join(_cell(value) for value in row) for row in (columns, *rows))
    return "".join(f"{line}\n" for line in lines)


def _cell(value: Any) -> str:
    text = "" if value is None else _literal(value) if isinstance(value, str) else str(value)
    quoted = text.replace('"', '""')
    return f'"{quoted}"' if _ENDS_CELL.search(text) else text


def _literal(text: str) -> str:
    led = _BEGIN.sub(_led, text)
    return f"'{led}" if led[:1] in ("\t", "\r") else led


def _led(before: Match[str]) -> str:
    first = "'" if before.start() == 0 else ""
    return f"{first}{before[0]}" + ("'" if _ENDS_FOREIGN_CELL.search(before[0]) else "")
