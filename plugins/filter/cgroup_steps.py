# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter C(portfence.egress.cgroup_steps): services and the cgroups that a host has → what is done to these before and after the fence.

A packet is matched by the class that its process has at that moment, so a process must never have one that the fence in force does not know.
Whoever gets a class gets it before the fence. Whoever has another class already keeps it until the fence knows both. Whoever loses a class
keeps it until the fence is proven: there is no way back for a process that no unit puts in again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set

from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.filter.cgroups import cgroups
from ansible_collections.portfence.egress.plugins.module_utils._classid import format_classid
from ansible_collections.portfence.egress.plugins.module_utils._classid_files import Cgroup, parse_record
from ansible_collections.portfence.egress.plugins.module_utils._classid_plan import overlap, parse_list
from ansible_collections.portfence.egress.plugins.plugin_utils._services import each_service

DOCUMENTATION = r"""
name: cgroup_steps
short_description: In which steps cgroups of net_cls change around a fence
version_added: 0.2.0
author:
  - PortFence contributors (@portfence)
description:
  - Takes services and the cgroups that a host has, and gives what the module M(portfence.egress.cgroup_classid) takes, in the steps that leave no
    process in a class which the fence in force does not know. The role P(portfence.egress.rollout#role) takes them.
options:
  _input:
    description: Services, as the filter P(portfence.egress.services#filter) gives them.
    type: list
    elements: dict
    required: true
  units:
    description: Names of services, each with the systemd units that belong into its cgroup.
    type: dict
  record:
    description: The lines of C(/etc/portfence/classids) on the host. Without them everything is in the first step.
    type: list
    elements: str
  purge:
    description: Whether cgroups that the host has and no service calls for are removed.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show what comes before the fence
  ansible.builtin.debug:
    msg: "{{ (services | portfence.egress.cgroup_steps(record=['legacy 0x100001 legacy.service'])).first }}"
  vars:
    services:
      - name: legacy
        source_ports: 54000-54099
        classid: "0x100002"
"""

RETURN = r"""
_value:
  description:
    - The steps C(first) (before the fence), C(second) (behind it) and C(last) (when it is proven), each with C(cgroups) and C(purge) for the module,
      or null where there is nothing to do.
    - C(back) leads from behind the second step to behind the first one.
    - C(renumbered) says whether a cgroup gets another classid in the second step. The fence then knows both until it is loaded once more.
  type: dict
"""


def cgroup_steps(
    services: Any, units: Optional[Mapping[str, Sequence[str]]] = None, record: Optional[Sequence[str]] = None, purge: bool = False
) -> Dict[str, Any]:
    """See DOCUMENTATION. Raises AnsibleFilterError."""
    offered = list(each_service(services, by="cgroup_steps"))
    listed = cgroups(offered, units)
    steps: Dict[str, Any] = {"first": None, "second": None, "last": None, "back": None, "renumbered": False}
    whole = {"cgroups": listed, "purge": purge}
    found, problems = parse_list(listed, state="present")
    wanted = {item.cgroup.name: item.cgroup for item in found if item.present}
    known = _known(record)
    if known is None or problems:
        # The module says what is wrong.
        return {**steps, "first": whole}
    if not wanted:
        return {**steps, "last": whole}
    gone = {name for name in known if name not in wanted and (purge or any(item["name"] == name for item in listed))}
    present = {service["name"] for service in offered if service.get("state", "present") == "present"}
    first = {name: _first(item, known, wanted, gone, present) for name, item in wanted.items()}
    holders = {item.name for item in first.values()}
    steps["first"] = _task(first.values())
    if first != wanted:
        steps["second"] = _task(wanted.values(), absent=holders - set(wanted))
        steps["back"] = _task(first.values(), absent=set(wanted) - holders)
    steps["renumbered"] = any(item.classid != wanted[name].classid for name, item in first.items())
    if gone - holders:
        steps["last"] = whole
    return steps


def _known(record: Optional[Sequence[str]]) -> Optional[Dict[str, Cgroup]]:
    try:
        return None if record is None else parse_record("\n".join(record))
    except ValueError:
        return None


def _first(item: Cgroup, known: Mapping[str, Cgroup], wanted: Mapping[str, Cgroup], gone: Set[str], present: Set[str]) -> Cgroup:
    """A cgroup as it is before the fence: under the name and with the classid that the host has, with the units of before and those that are new.

    :param gone: names of cgroups that go. :param present: names of services that the policy has. Raises AnsibleFilterError.
    """
    before = known.get(item.name)
    holder = next((other for other in known.values() if other.classid == item.classid and other.name != item.name), None)
    if holder is not None and (before is not None or holder.name in present) and (holder.name in wanted or holder.name in gone):
        raise AnsibleFilterError(
            f"{item.name}.classid: found {format_classid(item.classid)}, which the processes of {holder.name} have until this run is over; accepted:"
            f" another number, or this one in a run of its own after {holder.name} has another"
        )
    if before is None and holder is not None and holder.name in gone:
        before = holder
    others = {name: other for name, other in known.items() if name != (before or item).name and (name in wanted or name in gone)}
    units = {unit for unit in item.units if not any(_keeps(other, unit, item, wanted) for other in others.values())}
    if before is None:
        return replace(item, units=tuple(sorted(units)))
    return replace(before, units=tuple(sorted({*units, *before.units})))


def _keeps(other: Cgroup, unit: str, item: Cgroup, wanted: Mapping[str, Cgroup]) -> bool:
    """Whether a unit has the class of another cgroup until the fence knows both. Raises AnsibleFilterError when it never does."""
    if not any(overlap(unit, name) for name in other.units):
        return False
    if other.name not in wanted:
        raise AnsibleFilterError(
            f"{item.name}.classid: found {format_classid(item.classid)} for {unit}, which has the class {format_classid(other.classid)} of {other.name}"
            f" now, and {other.name} goes in the same run; accepted: {format_classid(other.classid)}, and another number in a run of its own"
        )
    # What both want is a mistake, and told by the module.
    return not any(overlap(unit, name) for name in wanted[other.name].units)


def _task(items: Any, *, absent: Any = ()) -> Dict[str, Any]:
    listed: List[Dict[str, Any]] = [{"name": item.name, "classid": format_classid(item.classid), "units": list(item.units)} for item in items]
    return {"cgroups": [*listed, *({"name": name, "state": "absent"} for name in sorted(absent))], "purge": False}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"cgroup_steps": cgroup_steps}
