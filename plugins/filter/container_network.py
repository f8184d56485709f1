# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter C(portfence.egress.container_network): what an engine says of a network → keys of a service."""

from __future__ import annotations

from typing import Any, Callable, Dict

from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.module_utils._containers import ENGINES, network_origin
from ansible_collections.portfence.egress.plugins.module_utils._errors import shown

DOCUMENTATION = r"""
name: container_network
short_description: Where the traffic of a container network comes from
version_added: 0.2.0
author:
  - PortFence contributors (@portfence)
description:
  - Takes what C(podman network inspect NAME) or C(docker network inspect NAME) prints, and gives the keys C(addresses) and
    C(interface) of a service for the containers of that network.
options:
  _input:
    description: What the command printed.
    type: str
    required: true
  engine:
    description: Which command it was.
    type: str
    choices: [podman, docker]
    default: podman
"""

EXAMPLES = r"""
- name: Show where the traffic of a network comes from
  ansible.builtin.debug:
    msg: "{{ printed | portfence.egress.container_network }}"
  vars:
    printed: '[{"name": "shop", "network_interface": "podman1", "subnets": [{"subnet": "10.89.0.0/24", "gateway": "10.89.0.1"}]}]'
"""

RETURN = r"""
_value:
  description: C(addresses), a list of networks, and C(interface), the name of the bridge, or null.
  type: dict
  sample: {"addresses": ["10.89.0.0/24"], "interface": "podman1"}
"""


def container_network(printed: Any, engine: str = "podman") -> Dict[str, Any]:
    """See DOCUMENTATION. Raises AnsibleFilterError."""
    if engine not in ENGINES:
        raise AnsibleFilterError(f"engine: found {shown(engine)}; accepted: {', '.join(ENGINES)}")
    if not isinstance(printed, str):
        raise AnsibleFilterError(f"portfence.egress.container_network takes text, found {shown(printed)}")
    try:
        return network_origin(printed, engine=engine)
    except ValueError as error:
        raise AnsibleFilterError(f"portfence.egress.container_network: {error}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"container_network": container_network}
