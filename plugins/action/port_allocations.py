# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hands out ranges of ports to the whole inventory, on the controller. The documentation is that of the module of the same name."""

from __future__ import annotations

from datetime import date, datetime, timezone
from typing import Any, Dict, Mapping, Optional, Sequence

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.portfence.egress.plugins.module_utils._allocator import Outcome, allocate, held_by, missing_hosts, rename
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, PortFenceError, Problem, shown
from ansible_collections.portfence.egress.plugins.module_utils._fleet import survey
from ansible_collections.portfence.egress.plugins.module_utils._lock_file import LockFile, render
from ansible_collections.portfence.egress.plugins.module_utils._pools import read_name
from ansible_collections.portfence.egress.plugins.plugin_utils._fleet_action import Inventory, read_inventory
from ansible_collections.portfence.egress.plugins.plugin_utils._lock_store import replace

_SPEC: Dict[str, Any] = {
    "path": {"type": "str"},
    "quarantine": {"type": "int", "default": 30},
    "renamed_hosts": {"type": "dict", "default": {}},
    "date": {"type": "str"},
    "missing_hosts": {"type": "bool", "default": False},
}
# From this part on, hosts that are missing are taken for a mistake.
_MANY = 0.25
_NAMED = 5


class ActionModule(ActionBase):
    """No connection is made; the one thing that changes is a file of the controller."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: Optional[Mapping[str, Any]] = None) -> Dict[str, Any]:
        """Plan, and write unless this is check mode."""
        result = super().run(tmp, task_vars)
        _validation, params = self.validate_argument_spec(argument_spec=_SPEC)
        try:
            inventory = read_inventory(task_vars or {}, params["path"])
            plan = _plan(inventory, params)
            text = inventory.text or ""
            after = render(LockFile(inventory.lock.serial + 1, plan.holdings)) if plan.holdings != inventory.lock.holdings else text
            if after != text and not self._task.check_mode:
                replace(inventory.path, after, expected=inventory.text)
        except PortFenceError as error:
            raise AnsibleActionFail(str(error)) from error
        result.update(
            changed=after != text,
            path=inventory.path,
            handed_out=len(plan.taken),
            given_back=len(plan.released),
            held=sum(holding.until is None for holding in plan.holdings),
        )
        if self._task.diff:
            result["diff"] = {
                "before": text,
                "after": after,
                "before_header": inventory.path,
                "after_header": inventory.path,
            }
        return result


def _plan(inventory: Inventory, params: Mapping[str, Any]) -> Outcome:
    """What would be held. Raises PortFenceError with everything that is wrong."""
    problems = []
    if params["quarantine"] < 0:
        problems.append(Problem("egress_quarantine_days", f"found {params['quarantine']}; accepted: a number of days, 0 or more"))
    try:
        today = date.fromisoformat(params["date"]) if params["date"] else datetime.now(timezone.utc).date()
    except ValueError:
        problems.append(Problem("egress_allocation_date", f"found {shown(params['date'])}; accepted: a day such as 2026-01-31"))
        # One mistake is enough: no day of the file is later.
        today = date.max
    renames = {
        read_name("egress_renamed_hosts", old, problems, required=True): read_name(f"egress_renamed_hosts.{old}", new, problems, required=True)
        for old, new in params["renamed_hosts"].items()
    }
    latest = max((day for holding in inventory.lock.holdings for day in (holding.since, holding.until or holding.since)), default=today)
    if latest > today:
        problems.append(Problem(inventory.path, f"found the day {latest}, and today is {today} in UTC; accepted: the right date on the controller"))
    named = {old: new for old, new in renames.items() if old and new}
    renamed = rename(inventory.lock.holdings, renames=named, hosts={host.host_id for host in inventory.hosts}, today=today)
    problems.extend(renamed.problems)
    missing = missing_hosts(renamed.holdings, hosts={(host.domain, host.host_id) for host in inventory.hosts}, many=_MANY)
    if missing and not params["missing_hosts"]:
        problems.append(_missing(missing, count=len(inventory.hosts)))
    if inventory.automatic and not inventory.path:
        raise PortFenceError(inventory.location)
    findings, requests = survey(inventory.hosts, held_by(renamed.holdings))
    outcome = allocate(holdings=renamed.holdings, requests=requests, today=today, quarantine=params["quarantine"])
    problems.extend(outcome.problems)
    if problems and not findings.hosts:
        raise InputError(what="the allocation of ports", problems=problems)
    for problem in problems:
        findings.add("", problem)
    if outcome.taken and not findings.hosts:
        # A new range may lie on ports that another host has by hand: each host's own are checked against its own pools only.
        findings, _requests = survey(inventory.hosts, held_by(outcome.holdings))
    if findings.hosts:
        raise findings.error(count=len(inventory.hosts))
    return Outcome(outcome.holdings, taken=(*renamed.taken, *outcome.taken), released=(*renamed.released, *outcome.released))


def _missing(hosts: Sequence[str], *, count: int) -> Problem:
    more = f" and {len(hosts) - _NAMED} more" if len(hosts) > _NAMED else ""
    return Problem(
        "inventory",
        f"found {count} host{'' if count == 1 else 's'}, and {len(hosts)} that hold ranges are not among them: {', '.join(hosts[:_NAMED])}{more};"
        " accepted: the whole inventory with the NAT domains as they were, egress_renamed_hosts for hosts with a new name, or"
        " -e egress_missing_hosts=true to take the ranges of all these back",
    )
