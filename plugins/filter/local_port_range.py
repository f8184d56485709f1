# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter C(portfence.egress.local_port_range): source ports → the sysctl of a container."""

from __future__ import annotations

from typing import Any, Callable, Dict

from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.module_utils._containers import local_port_range as of_ports
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSyntaxError

DOCUMENTATION = r"""
name: local_port_range
short_description: The automatic source ports of a container
version_added: 0.2.0
author:
  - PortFence contributors (@portfence)
description:
  - Gives the value of the sysctl C(net.ipv4.ip_local_port_range) for a container that may use these source ports, which is
    their largest range. It holds for IPv4 and IPv6.
options:
  _input:
    description: Source ports of a service, a range such as C(50000-50999) or a list.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: Show the sysctl of a container
  ansible.builtin.debug:
    msg: "{{ '50000-50999' | portfence.egress.local_port_range }}"
"""

RETURN = r"""
_value:
  description: First and last port.
  type: str
  sample: 50000 50999
"""


def local_port_range(source_ports: Any) -> str:
    """See DOCUMENTATION. Raises AnsibleFilterError."""
    try:
        return of_ports(source_ports)
    except PortSyntaxError as error:
        raise AnsibleFilterError(f"portfence.egress.local_port_range: {error}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"local_port_range": local_port_range}
