# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter C(portfence.egress.cgroups): services → the cgroups of net_cls that they call for."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from ansible_collections.portfence.egress.plugins.plugin_utils._services import each_service

DOCUMENTATION = r"""
name: cgroups
short_description: The cgroups of net_cls that services call for
version_added: 0.2.0
author:
  - PortFence contributors (@portfence)
description:
  - Takes services and gives the list that the module M(portfence.egress.cgroup_classid) takes. Services without C(classid), and those
    that are absent, are in it as absent, so that they lose the cgroup that they may have had.
options:
  _input:
    description: Services, as the filter P(portfence.egress.services#filter) gives them.
    type: list
    elements: dict
    required: true
  units:
    description: Names of services, each with the systemd units that belong into its cgroup.
    type: dict
"""

EXAMPLES = r"""
- name: Show the cgroups of a policy
  ansible.builtin.debug:
    msg: "{{ services | portfence.egress.cgroups({'legacy': ['legacy.service']}) }}"
  vars:
    services:
      - name: legacy
        source_ports: 54000-54099
        classid: "0x100001"
"""

RETURN = r"""
_value:
  description: The cgroups; those that shall be there first.
  type: list
  elements: dict
"""


def cgroups(services: Any, units: Optional[Mapping[str, Sequence[str]]] = None) -> List[Dict[str, Any]]:
    """See DOCUMENTATION. Raises AnsibleFilterError."""
    wanted: List[Dict[str, Any]] = []
    absent: List[Dict[str, Any]] = []
    for service in each_service(services, by="cgroups"):
        name = service["name"]
        if service.get("state", "present") == "present" and service.get("classid"):
            wanted.append({"name": name, "classid": service["classid"], "units": (units or {}).get(name, [])})
        else:
            absent.append({"name": name, "state": "absent"})
    return [*wanted, *absent]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"cgroups": cgroups}
