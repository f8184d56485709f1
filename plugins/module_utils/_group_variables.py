# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Groups of a host that contradict each other. Pure.

Ansible takes a variable from one of a host's groups and is silent about the others. Between a group and one inside of it that
is what the user wants; between groups that know nothing of each other it is a service with other ports than someone thinks, or none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, FrozenSet, List, Mapping, Sequence

from ansible_collections.portfence.egress.plugins.module_utils._errors import Problem, shown
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet, PortSyntaxError


@dataclass(frozen=True)
class GroupPolicy:
    """A group that defines variables of services.

    :ivar rank: what Ansible sorts groups by; of a host's groups, the one with the highest rank gives it the variable.
    :ivar ancestors: names of the groups that it is in, however deep.
    :ivar variables: names of variables to their raw values.
    """

    name: str
    rank: Any
    priority: int
    ancestors: FrozenSet[str]
    variables: Mapping[str, Any] = field(default_factory=dict)


def contradictions(groups: Sequence[GroupPolicy], *, own: FrozenSet[str]) -> List[Problem]:
    """What hosts that are in all of these groups lose.

    :param own: variables that the host defines for itself, which is a decision.
    """
    problems: List[Problem] = []
    names = sorted({name for group in groups for name in group.variables} - own)
    for name in names:
        holders = sorted((group for group in groups if name in group.variables), key=lambda group: group.rank)
        winner = holders[-1]
        for group in holders[:-1]:
            if group.name in winner.ancestors or group.priority != winner.priority:
                continue
            problems.extend(_lost(name, group, winner))
    return problems


def _lost(name: str, group: GroupPolicy, winner: GroupPolicy) -> List[Problem]:
    ours, theirs = _services(group.variables[name]), _services(winner.variables[name])
    problems = []
    way_out = f"; accepted: a variable {name.partition('__')[0]}__ANYTHING for each group, or ansible_group_priority to say which one holds"
    for service in sorted(ours, key=str):
        if service not in theirs:
            text = f"found {_ports(ours[service])} in the group {group.name}, and the group {winner.name} replaces the variable without the service"
            problems.append(Problem(f"{name}.{service}.source_ports", text + way_out))
            continue
        here, there = _keys(ours[service]), _keys(theirs[service])
        for key in sorted({*here, *there}, key=str):
            if _meaning(key, here.get(key)) != _meaning(key, there.get(key)):
                one, other = (_value(key, keys) for keys in (here, there))
                text = f"found {one} in the group {group.name} and {other} in the group {winner.name}, which Ansible prefers"
                problems.append(Problem(f"{name}.{service}.{key}", text + way_out))
    return problems


def _keys(service: Any) -> Mapping[Any, Any]:
    return service if isinstance(service, Mapping) else {"source_ports": service}


def _meaning(key: Any, value: Any) -> Any:
    """What is compared: ports as sets, however they are written, and everything else as it is."""
    if key != "source_ports":
        return value
    try:
        return PortSet.parse(value)
    except PortSyntaxError:
        return _ports({"source_ports": value})


def _value(key: Any, keys: Mapping[Any, Any]) -> str:
    if key == "source_ports":
        return _ports(keys)
    return shown(keys[key]) if key in keys else "nothing"


def _services(value: Any) -> Dict[Any, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _ports(service: Any) -> str:
    value = service.get("source_ports") if isinstance(service, Mapping) else service
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(shown(item) for item in value) + "]"
    return str(value) if isinstance(value, (int, str)) and len(str(value)) < 60 else shown(value)
