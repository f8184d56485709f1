# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables for spreadsheets (RFC 4180). Pure."""

from __future__ import annotations

import csv
import io
import unicodedata
from typing import Any, Iterable, Sequence


def to_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table. A text that a spreadsheet would take for a formula is led by an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_literal(value) for value in row] for row in rows)
    return text.getvalue()


def _literal(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # Spreadsheets look past white space, and some take the wide forms of the East Asian blocks for the same characters.
    first = unicodedata.normalize("NFKC", value).lstrip()[:1]
    return f"'{value}" if value[:1] in ("\t", "\r") or first in ("=", "+", "-", "@") else value
