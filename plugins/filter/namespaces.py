# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter C(portfence.egress.namespaces): services → the network namespaces that they call for."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.module_utils._namespace_spec import from_services
from ansible_collections.portfence.egress.plugins.plugin_utils._services import each_service

DOCUMENTATION = r"""
name: namespaces
short_description: The network namespaces that services call for
version_added: 0.2.0
author:
  - PortFence contributors (@portfence)
description:
  - Takes services and gives the list that the module M(portfence.egress.network_namespace) takes. Services whose assignment
    is not V(namespace) are in it as absent, so that they lose the namespace that they may have had.
  - The units of a namespace are those of the service's selector C(unit).
options:
  _input:
    description: Services, as the filter P(portfence.egress.services#filter) gives them.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the namespaces of a policy
  ansible.builtin.debug:
    msg: "{{ services | portfence.egress.namespaces }}"
  vars:
    services:
      - name: myapp
        source_ports: 50000-50999
        unit: myapp.service
        assignment: namespace
"""

RETURN = r"""
_value:
  description: The namespaces, in the order of their services.
  type: list
  elements: dict
"""


def namespaces(services: Any) -> List[Dict[str, Any]]:
    """See DOCUMENTATION. Raises AnsibleFilterError."""
    listed = list(each_service(services, by="namespaces"))
    for index, service in enumerate(listed):
        if service.get("assignment") == "namespace" and service.get("state") != "absent" and "source_ports" not in service:
            raise AnsibleFilterError(f"services[{index}].source_ports: missing; accepted: one range such as 50000-50999")
    return from_services(listed)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"namespaces": namespaces}
