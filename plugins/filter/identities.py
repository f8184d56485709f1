# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter C(portfence.egress.identities): the policies of a fleet → who is behind an address and a source port."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping

from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.module_utils._addresses import read_address
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, shown
from ansible_collections.portfence.egress.plugins.module_utils._identity import identities as identities_of

DOCUMENTATION = r"""
name: identities
short_description: Who is behind an address and a source port
version_added: 0.2.0
author:
  - PortFence contributors (@portfence)
description:
  - Takes the services of all hosts and the addresses under which others see these, and gives the identity map of the fleet.
  - Fails with one message that holds every host without an address, and all ports that would have two meanings behind one address.
options:
  _input:
    description:
      - Names of hosts, each with its variables, of which three are looked at.
      - C(egress_policy) holds services, as the filter P(portfence.egress.services#filter) gives them. A host without any is left out.
      - C(egress_addresses) is a list of addresses or networks. Without it, C(ansible_host) or the name of the host stands for it,
        if that is an address.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the map of two hosts
  ansible.builtin.debug:
    msg: "{{ hosts | portfence.egress.identities }}"
  vars:
    hosts:
      web1:
        ansible_host: 192.0.2.11
        egress_policy:
          - name: myapp
            source_ports: 50000-50999
      web2:
        egress_addresses: [192.0.2.12, "2001:db8::12"]
        egress_policy:
          - name: myapp
            source_ports: 50000-50999
"""

RETURN = r"""
_value:
  description: A list of C(address), C(protocol), C(source_ports) (one range), C(service) and C(hosts), sorted.
  type: list
  elements: dict
"""


def identities(hosts: Any) -> List[Dict[str, Any]]:
    """See DOCUMENTATION. Raises AnsibleFilterError."""
    if not isinstance(hosts, Mapping):
        raise AnsibleFilterError(f"portfence.egress.identities takes a mapping of host names, found {shown(hosts)}")
    found: Dict[str, Dict[str, Any]] = {}
    for name, variables in hosts.items():
        if not isinstance(variables, Mapping):
            raise AnsibleFilterError(f"{name}: found {shown(variables)}; accepted: a mapping of variables")
        if variables.get("egress_policy"):
            found[str(name)] = {"services": variables["egress_policy"], "addresses": _addresses(str(name), variables)}
    try:
        return [entry.to_dict() for entry in identities_of(found)]
    except InputError as error:
        raise AnsibleFilterError(str(error)) from error


def _addresses(name: str, variables: Mapping[str, Any]) -> Any:
    if "egress_addresses" in variables:
        return variables["egress_addresses"]
    for candidate in (variables.get("ansible_host"), name):
        try:
            return [read_address(candidate)]
        except ValueError:
            continue
    return []


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"identities": identities}
