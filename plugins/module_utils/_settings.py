# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Validates the variables of a host that say how its policy is carried out. Pure."""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, List, Mapping

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.portfence.egress.plugins.module_utils._errors import Problem, shown

ENFORCEMENTS = ("audit", "enforce")


def _is_boolean(value: Any) -> bool:
    try:
        boolean(value)
    except TypeError:
        return False
    return True


def _is_count(value: Any, *, least: int) -> bool:
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    return re.fullmatch("[0-9]{1,6}", text.strip()) is not None and int(text) >= least


def _is_percentage(value: Any) -> bool:
    number = value[:-1] if isinstance(value, str) and value.endswith("%") else value
    try:
        return not isinstance(number, bool) and 0 <= float(number) <= 100
    except (TypeError, ValueError):
        return False


def _is_batch(value: Any) -> bool:
    return _is_count(value, least=1) or (isinstance(value, str) and value.endswith("%") and _is_percentage(value))


def _is_serial(value: Any) -> bool:
    return all(map(_is_batch, value)) and bool(value) if isinstance(value, (list, tuple)) else _is_batch(value)


def _is_units(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str)
        and (isinstance(units, str) or (isinstance(units, (list, tuple)) and all(isinstance(unit, str) for unit in units)))
        for name, units in value.items()
    )


# Variable → whether a value is right, and what is.
_ACCEPTED: Dict[str, Any] = {
    "egress_enforcement": (lambda value: isinstance(value, str) and value in ENFORCEMENTS, ", ".join(ENFORCEMENTS)),
    "egress_purge": (_is_boolean, "true, false"),
    "egress_serial": (_is_serial, "a number of hosts from 1, a percentage such as 25%, or a list of them"),
    "egress_max_fail_percentage": (_is_percentage, "a percentage from 0 to 100"),
    "egress_classid_units": (_is_units, "a mapping of service names to lists of units"),
    "egress_probe_sample": (lambda value: _is_count(value, least=0), "a number of services, 0 or more"),
}


def check_settings(get: Callable[[str], Any], problems: List[Problem]) -> None:
    """Note every mistake in these variables.

    :param get: gives the value of a variable, None where it is not set.
    """
    for name, (is_right, accepted) in _ACCEPTED.items():
        value = get(name)
        if value is not None and not is_right(value):
            problems.append(Problem(name, f"found {shown(value)}; accepted: {accepted}"))
