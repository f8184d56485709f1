# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter C(portfence.egress.assignments): services → the assignments that are among them."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

from ansible_collections.portfence.egress.plugins.plugin_utils._services import each_present

DOCUMENTATION = r"""
name: assignments
short_description: The assignments that are among services
version_added: 0.2.0
author:
  - PortFence contributors (@portfence)
description:
  - Takes services and gives the values of C(assignment) that those have which are not absent. A service without one counts as V(rewrite).
options:
  _input:
    description: Services, as the filter P(portfence.egress.services#filter) gives them. They need not have every key.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the assignments of a policy
  ansible.builtin.debug:
    msg: "{{ services | portfence.egress.assignments }}"
  vars:
    services:
      - name: myapp
        source_ports: 50000-50999
        assignment: bpf
"""

RETURN = r"""
_value:
  description: The assignments, each once, sorted. Empty when no service is present.
  type: list
  elements: str
"""


def assignments(services: Any) -> List[str]:
    """See DOCUMENTATION. Raises AnsibleFilterError."""
    return sorted({str(service.get("assignment") or "rewrite") for service in each_present(services, by="assignments")})


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"assignments": assignments}
