# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter C(portfence.egress.services): the policy in the inventory variables → a checked and complete list."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping

from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, shown
from ansible_collections.portfence.egress.plugins.module_utils._policy import NOT_ALLOCATED, audited, parse_variables
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet, PortSyntaxError
from ansible_collections.portfence.egress.plugins.module_utils._service import PREFIX_BYTES, Allocated
from ansible_collections.portfence.egress.plugins.module_utils._settings import ENFORCEMENTS

DOCUMENTATION = r"""
name: services
short_description: Validate and normalise egress services
version_added: 0.1.0
author:
  - PortFence contributors (@portfence)
description:
  - Merges the variable C(egress_services) and every variable C(egress_services__ANYTHING), and checks them.
  - Gives a list of services, sorted by name, as the modules of this collection take it.
  - Fails with one message that holds every mistake, each with its path.
options:
  _input:
    description: Names of variables, each with its value, a mapping of service names to services.
    type: dict
    required: true
  backend:
    description: The firewall backend whose limits hold. It decides how long a log prefix may be. With V(auto), the limits of nftables hold.
    type: str
    choices: [auto, nftables, iptables]
    default: auto
  enforcement:
    description:
      - With V(audit), C(on_violation) of every service becomes V(log). Violations and intrusions are counted and logged, and pass.
      - With V(enforce), services are what the variables say.
    type: str
    choices: [audit, enforce]
    default: enforce
    version_added: 0.2.0
  allocations:
    description:
      - What the lookup P(portfence.egress.allocations#lookup) found, the ranges of services with C(source_ports) V(auto).
      - Without it, V(auto) is a mistake.
    type: dict
    version_added: 0.2.0
  defaults:
    description:
      - Whether keys are in the list that have their default. C(name) and C(state) always are.
      - Ansible goes through a list value by value, each time that a task is given it, so a long list without them is faster.
    type: bool
    default: true
    version_added: 0.2.0
"""

EXAMPLES = r"""
- name: Show all services of this host
  ansible.builtin.debug:
    msg: "{{ dict(names | zip(query('ansible.builtin.vars', *names))) | portfence.egress.services }}"
  vars:
    names: "{{ query('ansible.builtin.varnames', '^egress_services(__.+)?$') }}"
"""

RETURN = r"""
_value:
  description: The services, sorted by name.
  type: list
  elements: dict
"""


def services(
    variables: Any, backend: str = "auto", enforcement: str = "enforce", allocations: Any = None, defaults: bool = True
) -> List[Dict[str, Any]]:
    """See DOCUMENTATION. Raises AnsibleFilterError."""
    if not isinstance(variables, Mapping):
        raise AnsibleFilterError("portfence.egress.services takes a mapping of variable names to their values")
    if not isinstance(backend, str) or backend not in ("auto", *PREFIX_BYTES):
        raise AnsibleFilterError(f"backend: found {shown(backend)}; accepted: {', '.join(('auto', *PREFIX_BYTES))}")
    if not isinstance(enforcement, str) or enforcement not in ENFORCEMENTS:
        raise AnsibleFilterError(f"egress_enforcement: found {shown(enforcement)}; accepted: {', '.join(ENFORCEMENTS)}")
    try:
        found = parse_variables(variables, backend="nftables" if backend == "auto" else backend, allocated=_allocated(allocations))
    except InputError as error:
        raise AnsibleFilterError(str(error)) from error
    return [service.to_dict(defaults=defaults) for service in (audited(found) if enforcement == "audit" else found)]


def _allocated(allocations: Any) -> Allocated:
    """What the lookup found, as the policy takes it."""
    if allocations is None:
        return NOT_ALLOCATED
    try:
        services_ranges, host_ranges = (
            {str(name): PortSet.parse(ports) for name, ports in allocations[key].items()} for key in ("services", "host")
        )
        return Allocated(services_ranges, host_ranges, scope=str(allocations["scope"]), missing=str(allocations["missing"]))
    except (TypeError, KeyError, AttributeError, PortSyntaxError) as error:
        raise AnsibleFilterError(
            f"allocations: found {shown(allocations)}; accepted: what the lookup portfence.egress.allocations finds"
        ) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"services": services}
