# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup C(portfence.egress.allocations): the file of allocated ports → what one host may use."""

from __future__ import annotations

DOCUMENTATION = r"""
name: allocations
short_description: The ranges of source ports that were handed out to this host
version_added: 0.2.0
author:
  - PortFence contributors (@portfence)
description:
  - Finds what M(portfence.egress.port_allocations) handed out to the services of this host, for the filter
    P(portfence.egress.services#filter).
  - Reads the variables C(egress_lock_file), C(egress_host_id) and C(egress_nat_domain) of the host.
  - A file that is not there is no error as long as no service has C(source_ports) V(auto).
options:
  _terms:
    description: None are taken.
    required: false
"""

EXAMPLES = r"""
- name: Show all services of this host with their ports
  ansible.builtin.debug:
    msg: >-
      {{ dict(names | zip(query('ansible.builtin.vars', *names)))
         | portfence.egress.services(allocations=lookup('portfence.egress.allocations')) }}
  vars:
    names: "{{ query('ansible.builtin.varnames', '^egress_services(__.+)?$') }}"
"""

RETURN = r"""
_raw:
  description:
    - One mapping, with C(services), the ranges of services that are the same on every host, C(host), the ranges of this host's services,
      C(scope), which of the two a service takes that does not say, and C(missing), what to say about a service that is not there.
  type: list
  elements: dict
"""

from typing import Any, Dict, List, Mapping, Optional, Sequence

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._lock_file import COMMAND, ranges_of
from ansible_collections.portfence.egress.plugins.module_utils._pools import read_name
from ansible_collections.portfence.egress.plugins.plugin_utils._lock_store import lock_path, read


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms: Sequence[Any], variables: Optional[Mapping[str, Any]] = None, **kwargs: Any) -> List[Dict[str, Any]]:
        """What the host may use. Raises AnsibleLookupError."""
        if terms or kwargs:
            raise AnsibleLookupError("portfence.egress.allocations takes no terms and no options; it reads the variables of the host")
        known = variables or {}
        problems: List[Any] = []
        try:
            domain = read_name("egress_nat_domain", self._value(known, "egress_nat_domain"), problems)
            host = read_name("egress_host_id", self._value(known, "egress_host_id"), problems) or str(known.get("inventory_hostname", ""))
            if problems:
                raise InputError(what="the place of the host", problems=problems)
            return [self._found(known, domain=domain, host=host)]
        except PortFenceError as error:
            raise AnsibleLookupError(str(error)) from error

    def _value(self, variables: Mapping[str, Any], name: str) -> Any:
        return self._templar.template(variables[name]) if name in variables else None

    def _found(self, variables: Mapping[str, Any], *, domain: str, host: str) -> Dict[str, Any]:
        given = self._value(variables, "egress_lock_file")
        found: Dict[str, Any] = {"services": {}, "host": {}, "scope": "host" if domain else "service"}
        try:
            path = lock_path(given, variables.get("ansible_inventory_sources"))
        except PortFenceError as error:
            if given is not None:
                raise
            return {**found, "missing": f"was handed out: {error}"}
        text = read(path)
        if text is not None:
            services, own = ranges_of(text, domain=domain, host=host, path=path)
            found["services"] = {name: [str(part) for part in ports] for name, ports in services.items()}
            found["host"] = {name: [str(part) for part in ports] for name, ports in own.items()}
        return {**found, "missing": f"is in {path}; run: {COMMAND}"}
