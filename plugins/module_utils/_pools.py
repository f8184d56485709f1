# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the variables that say where allocated ranges come from and whom they name. Pure."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._errors import Problem, shown
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange, PortSyntaxError

_POOLS = "a list of ranges such as 16384-28671, none of which overlaps with another"


def read_pools(value: Any, problems: List[Problem]) -> Optional[Tuple[PortRange, ...]]:
    """``egress_port_pools`` in its order; None where it is not set. Notes every mistake."""
    if value is None:
        return None
    listed = value if isinstance(value, (list, tuple)) else [value]
    if not listed:
        problems.append(Problem("egress_port_pools", f"found a list without any range; accepted: {_POOLS}"))
    pools: List[PortRange] = []
    for index, item in enumerate(listed):
        path = f"egress_port_pools[{index}]"
        try:
            pool = PortRange.parse(item)
        except PortSyntaxError as error:
            problems.extend(Problem(path, text) for _below, text in error.mistakes)
            continue
        for other_index, other in enumerate(pools):
            if pool.low <= other.high and other.low <= pool.high:
                message = f"found {pool}, which overlaps with {other} of egress_port_pools[{other_index}]; accepted: {_POOLS}"
                problems.append(Problem(path, message))
        pools.append(pool)
    return tuple(pools)


def read_name(variable: str, value: Any, problems: List[Problem], *, required: bool = False) -> str:
    """The name of a host or a NAT domain; empty where it is not set, or wrong, which is noted."""
    if value is None and not required:
        return ""
    number = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18
    text = str(value) if number or isinstance(value, str) else ""
    if not text.strip() or text != text.strip() or len(text) > 253 or not text.isprintable():
        problems.append(Problem(variable, f"found {shown(value)}; accepted: a name of 1 to 253 printable characters"))
        return ""
    return text
