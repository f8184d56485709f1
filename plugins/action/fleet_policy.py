# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at the policies of the whole inventory, on the controller. The documentation is that of the module of the same name."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._fleet import survey, unallocated
from ansible_collections.portfence.egress.plugins.module_utils._lock_file import COMMAND
from ansible_collections.portfence.egress.plugins.plugin_utils._fleet_action import held, read_inventory


class ActionModule(ActionBase):
    """No connection is made."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: Optional[Mapping[str, Any]] = None) -> Dict[str, Any]:
        """Fail with every finding."""
        result = super().run(tmp, task_vars)
        _validation, params = self.validate_argument_spec(argument_spec={"path": {"type": "str"}})
        try:
            inventory = read_inventory(task_vars or {}, params["path"])
            ranges = held(inventory)
            findings, _requests = survey(inventory.hosts, ranges)
            place = f"is in {inventory.path}; run: {COMMAND}" if inventory.path else f"was handed out: {inventory.location}"
            findings.hosts.update(unallocated(inventory.hosts, ranges, message=place).hosts)
            if findings.hosts:
                raise findings.error(count=len(inventory.hosts))
        except PortFenceError as error:
            raise AnsibleActionFail(str(error)) from error
        services = sum(len(host.policy.declared) for host in inventory.hosts)
        return {**result, "changed": False, "hosts": len(inventory.hosts), "services": services}
