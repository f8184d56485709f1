# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policies of a whole inventory, read on the controller.

Ansible builds the variables of a host when they are asked for, in a fraction of a millisecond, and templates values when they
are looked at, in several. Most hosts have their services from a group: the very same object, without a template in it. Such
a policy is read once, and so is any other that comes out equal.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.vars.plugins import get_vars_from_inventory_sources
from ansible_collections.portfence.egress.plugins.module_utils._errors import Problem, shown
from ansible_collections.portfence.egress.plugins.module_utils._fleet import HostPolicy, Policy
from ansible_collections.portfence.egress.plugins.module_utils._group_variables import GroupPolicy, contradictions
from ansible_collections.portfence.egress.plugins.module_utils._identify import networks
from ansible_collections.portfence.egress.plugins.module_utils._policy import VARIABLE, read_variables
from ansible_collections.portfence.egress.plugins.module_utils._pools import read_name, read_pools
from ansible_collections.portfence.egress.plugins.module_utils._service import PREFIX_BYTES, Allocated
from ansible_collections.portfence.egress.plugins.module_utils._settings import check_settings
from jinja2 import Undefined, UndefinedError

_TEMPLATE_MARKS = ("{{", "{%", "{#")


class Fleet:
    """Reads hosts one after the other and remembers what it has read."""

    def __init__(self, hostvars: Any) -> None:
        self._hostvars = hostvars
        self._plain: Dict[int, bool] = {}
        self._forwarding: Dict[int, bool] = {}
        self._by_object: Dict[Tuple[Any, ...], Policy] = {}
        self._by_content: Dict[Tuple[str, str], Policy] = {}
        # Keeps objects alive whose id is a key.
        self._kept: List[Any] = []
        self._groups = _Groups(hostvars)

    def read(self, names: Sequence[str]) -> List[HostPolicy]:
        """The policies of these hosts."""
        return [self._host(name) for name in names]

    def _host(self, name: str) -> HostPolicy:
        raw = self._hostvars.raw_get(name)
        problems: List[Problem] = []
        values = _Values(self, name, raw, problems)
        backend = values.get("egress_backend") or "auto"
        if backend not in ("auto", *PREFIX_BYTES):
            problems.append(Problem("egress_backend", f"found {shown(backend)}; accepted: {', '.join(('auto', *PREFIX_BYTES))}"))
            backend = "auto"
        host_id = read_name("egress_host_id", values.get("egress_host_id"), problems) or read_name("inventory_hostname", name, problems)
        domain = read_name("egress_nat_domain", values.get("egress_nat_domain"), problems)
        pools = read_pools(values.get("egress_port_pools"), problems)
        check_settings(values.get, problems)
        # Only where it is written out: for those who ask who is where, it may come from facts.
        addresses = raw.get("egress_addresses")
        if addresses is not None and self.plain(addresses):
            networks("egress_addresses", addresses, problems)
        policy = self._policy(values, "nftables" if backend == "auto" else backend)
        if policy.declared:
            problems.extend(self._groups.problems(name))
        return HostPolicy(name=name, policy=policy, host_id=host_id, domain=domain, pools=pools, problems=tuple(problems))

    def _policy(self, values: _Values, backend: str) -> Policy:
        names = [name for name in values.raw if name.startswith("egress_services") and VARIABLE.match(name)]
        at: Optional[Tuple[Any, ...]] = None
        if all(self.plain(values.raw[name]) for name in names):
            at = (backend, *((name, id(values.raw[name])) for name in sorted(names)))
            known = self._by_object.get(at)
            if known is not None:
                return known
        variables = {name: values.get(name) for name in names}
        content = (backend, json.dumps(variables, sort_keys=True, default=repr)) if _has_text_keys(variables) else None
        policy = self._by_content.get(content) if content else None
        if policy is None:
            declared, problems = read_variables(variables, backend=backend, allocated=Allocated())
            policy = Policy(declared, tuple(problems))
            if content:
                self._by_content[content] = policy
        if at:
            self._by_object[at] = policy
            self._kept.extend(values.raw[name] for name in names)
        return policy

    def forwards(self, raw: Mapping[str, Any]) -> bool:
        """Whether a host with these variables may have a service that is forwarded as it is; only its policy says so for certain."""
        return any(self._keeps_addresses(raw[key]) for key in raw if key.startswith("egress_services") and VARIABLE.match(key))

    def _keeps_addresses(self, services: Any) -> bool:
        known = self._forwarding.get(id(services))
        if known is None:
            values = services.values() if isinstance(services, Mapping) else [services]
            known = any("masquerade" in value if isinstance(value, Mapping) else not self.plain(value) for value in values)
            self._forwarding[id(services)] = known
            self._kept.append(services)
        return known

    def plain(self, value: Any) -> bool:
        """Whether a value is what it stands for, without a template in it."""
        if isinstance(value, str):
            return type(value).__name__ in ("str", "_AnsibleTaggedStr") and not any(mark in value for mark in _TEMPLATE_MARKS)
        if value is None or isinstance(value, (bool, int, float)):
            return True
        if not isinstance(value, (dict, list, tuple)):
            return False
        known = self._plain.get(id(value))
        if known is None:
            parts = [*value, *value.values()] if isinstance(value, dict) else value
            known = all(self.plain(part) for part in parts)
            self._plain[id(value)] = known
            self._kept.append(value)
        return known


def _has_text_keys(value: Any) -> bool:
    """Whether JSON tells this value from others: it writes a number and its text alike as the key of a mapping."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _has_text_keys(item) for key, item in value.items())
    return not isinstance(value, (list, tuple)) or all(_has_text_keys(item) for item in value)


def templated(variables: Mapping[str, Any], name: str) -> Any:
    """A variable of a host with all templates in it done.

    Raises AnsibleError where one fails. Within a filter, Ansible gives an Undefined of Jinja in its place, that raises where it is used.
    """
    try:
        return _settled(variables[name])
    except UndefinedError as error:
        raise AnsibleUndefinedVariable(str(error)) from error


def _settled(value: Any) -> Any:
    if isinstance(value, Undefined):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _settled(item) for key, item in value.items()}
    return [_settled(item) for item in value] if isinstance(value, (list, tuple)) else value


class _Values:
    """The variables of one host, templated when they are asked for."""

    def __init__(self, fleet: Fleet, host: str, raw: Mapping[str, Any], problems: List[Problem]) -> None:
        self.raw = raw
        self._fleet = fleet
        self._host = host
        self._problems = problems
        self._templated: Any = None

    def get(self, name: str) -> Any:
        """The value of a variable, None where there is none or where it can't be told."""
        if name not in self.raw:
            return None
        if self._fleet.plain(self.raw[name]):
            return self.raw[name]
        if self._templated is None:
            self._templated = self._fleet._hostvars[self._host]
        try:
            return templated(self._templated, name)
        except AnsibleError as error:
            self._problems.append(Problem(name, f"found a template that fails before any host is touched: {error.message}"))
            return None


class _Groups:
    """What groups say about services. Without an inventory behind the variables there is nothing to say."""

    def __init__(self, hostvars: Any) -> None:
        self._inventory = hostvars._inventory
        self._loader = hostvars._loader
        self._known: Dict[Tuple[str, ...], List[Problem]] = {}
        self._policies: Dict[str, GroupPolicy] = {}
        for name, group in self._inventory.groups.items():
            variables = self._variables(group)
            if variables:
                ancestors = frozenset(parent.name for parent in group.get_ancestors())
                rank = (name != "all", group.depth, group.priority, group.name)
                self._policies[name] = GroupPolicy(name, rank, group.priority, ancestors, variables)

    def _variables(self, entity: Any) -> Dict[str, Any]:
        found = {**entity.get_vars(), **get_vars_from_inventory_sources(self._loader, self._inventory._sources, [entity], "task")}
        return {name: value for name, value in found.items() if VARIABLE.match(name)}

    def problems(self, host: str) -> List[Problem]:
        """The contradictions between the groups of a host."""
        if len(self._policies) < 2:
            return []
        entity = self._inventory.get_host(host)
        names = tuple(sorted(group.name for group in entity.get_groups() if group.name in self._policies))
        if names not in self._known:
            self._known[names] = contradictions([self._policies[name] for name in names], own=frozenset())
        if not self._known[names]:
            return []
        own = frozenset(self._variables(entity))
        return contradictions([self._policies[name] for name in names], own=own)
