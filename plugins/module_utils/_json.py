# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON that others wrote. Pure."""

from __future__ import annotations

import json
import math
from typing import Any


def load(text: str) -> Any:
    """The value that a text of JSON stands for. Raises ValueError, also for what Python would read and JSON has not: numbers that are none."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:60]} is no number")
    return number


_DECODER = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)
