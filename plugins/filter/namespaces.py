# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter C(portfence.egress.namespaces): services → the network namespaces that they call for."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping

from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.module_utils._errors import shown
from ansible_collections.portfence.egress.plugins.module_utils._namespace_spec import from_services

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
    if not isinstance(services, (list, tuple)):
        raise AnsibleFilterError(f"portfence.egress.namespaces takes a list of services, found {shown(services)}")
    for index, service in enumerate(services):
        if not isinstance(service, Mapping) or not isinstance(service.get("name"), str):
            raise AnsibleFilterError(f"services[{index}]: found {shown(service)}; accepted: a mapping with name, source_ports, …")
        if service.get("assignment") == "namespace" and service.get("state") != "absent" and "source_ports" not in service:
            raise AnsibleFilterError(f"services[{index}].source_ports: missing; accepted: one range such as 50000-50999")
    return from_services(services)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"namespaces": namespaces}
