# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter C(portfence.egress.reserved_ports): services → the ports that the kernel shall not choose by itself."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

from ansible_collections.portfence.egress.plugins.plugin_utils._services import each_service, texts

DOCUMENTATION = r"""
name: reserved_ports
short_description: The ports of services that the kernel shall not choose by itself
version_added: 0.2.0
author:
  - PortFence contributors (@portfence)
description:
  - Takes services and gives the list that the module M(portfence.egress.ephemeral_ports) takes as O(portfence.egress.ephemeral_ports#module:reserved_ports).
  - A reserved port is never chosen by the kernel, so the ports of a service with the assignment V(host), which leaves the choice to
    the kernel, are not in it.
options:
  _input:
    description: Services, as the filter P(portfence.egress.services#filter) gives them. They need not have every key.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the ports that a policy reserves
  ansible.builtin.debug:
    msg: "{{ services | portfence.egress.reserved_ports }}"
  vars:
    services:
      - name: myapp
        source_ports: 50000-50999
"""

RETURN = r"""
_value:
  description: Ports and ranges, in the order of their services.
  type: list
  elements: str
"""


def reserved_ports(services: Any) -> List[str]:
    """See DOCUMENTATION. Raises AnsibleFilterError."""
    found: List[str] = []
    for service in each_service(services, by="reserved_ports"):
        if service.get("state", "present") != "absent" and service.get("assignment") != "host":
            found.extend(texts(service.get("source_ports", [])))
    return found


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"reserved_ports": reserved_ports}
