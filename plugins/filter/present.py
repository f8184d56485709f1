# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter C(portfence.egress.present): services → those that are not absent."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping

from ansible_collections.portfence.egress.plugins.plugin_utils._services import each_present

DOCUMENTATION = r"""
name: present
short_description: The services that are not absent
version_added: 0.2.0
author:
  - PortFence contributors (@portfence)
description:
  - Takes services and gives those that are present. A service without C(state) is.
  - It goes through the list once; with C(selectattr), which fails where a service has no C(state), that would be three times.
options:
  _input:
    description: Services, as the filter P(portfence.egress.services#filter) gives them. They need not have every key.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the services that are present
  ansible.builtin.debug:
    msg: "{{ services | portfence.egress.present | map(attribute='name') }}"
  vars:
    services:
      - name: myapp
        source_ports: 50000-50999
      - name: gone
        state: absent
"""

RETURN = r"""
_value:
  description: The services that are present, in their order.
  type: list
  elements: dict
"""


def present(services: Any) -> List[Mapping[str, Any]]:
    """See DOCUMENTATION. Raises AnsibleFilterError."""
    return list(each_present(services, by="present"))


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"present": present}
