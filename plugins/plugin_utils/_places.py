# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts of an inventory are behind an address.

Most hosts are not: of those only a few variables are read, and no policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Set, Tuple

from ansible.errors import AnsibleError
from ansible_collections.portfence.egress.plugins.module_utils._addresses import holds
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, Problem
from ansible_collections.portfence.egress.plugins.module_utils._identify import Address, Place, networks, plain
from ansible_collections.portfence.egress.plugins.module_utils._policy import VARIABLE
from ansible_collections.portfence.egress.plugins.module_utils._pools import read_name
from ansible_collections.portfence.egress.plugins.plugin_utils._fleet_variables import Fleet, templated


@dataclass(frozen=True)
class Places:
    """Who may be behind an address.

    :ivar seen: hosts that have it, or are seen under it.
    :ivar domains: NAT domains that are seen under it.
    :ivar names: all names by NAT domain and id.
    :ivar unread: what can't be read of hosts that may be seen under it as well.
    """

    seen: List[Place]
    domains: FrozenSet[str]
    names: Dict[Tuple[str, str], str]
    unread: Tuple[str, ...] = ()

    @property
    def automatic(self) -> bool:
        """Whether any of the hosts leaves ports to the allocation."""
        return any(item.size is not None for place in self.seen for item in place.host.policy.declared)


class _Plain:
    """A mapping of hosts to their variables in the place of hostvars, without groups."""

    def __init__(self, hosts: Mapping[str, Any]) -> None:
        self._hosts = hosts
        self._inventory = SimpleNamespace(groups={}, _sources=())
        self._loader = None

    def raw_get(self, name: str) -> Any:
        """The variables of a host."""
        return self._hosts[name]

    def __getitem__(self, name: str) -> Any:
        return self._hosts[name]


def places(hosts: Mapping[str, Any], address: Address) -> Places:
    """Find them. Raises InputError with every mistake in the variables that say where hosts are.

    A template that fails is none: what it says may come from facts, which are not gathered here.
    """
    hostvars = hosts if hasattr(hosts, "raw_get") else _Plain(hosts)
    fleet = Fleet(hostvars)
    problems: List[Problem] = []
    unread: List[Problem] = []
    own: Dict[str, Tuple[str, ...]] = {}
    inside: Set[str] = set()
    domains: Set[str] = set()
    names: Dict[Tuple[str, str], str] = {}
    for host in hosts:
        raw = hostvars.raw_get(host)
        found: List[Problem] = []

        def value(name: str) -> Any:
            plainly = name not in raw or fleet.plain(raw[name])
            try:
                return raw.get(name) if plainly else templated(hostvars[host], name)
            except AnsibleError as error:
                if any(raw[key] for key in raw if key.startswith("egress_services") and VARIABLE.match(key)):
                    unread.append(Problem(f"{host}: {name}", f"found a template that fails: {error.message}"))
                return None

        domain = read_name("egress_nat_domain", value("egress_nat_domain"), found)
        names[domain, read_name("egress_host_id", value("egress_host_id"), found) or host] = host
        given = value("egress_addresses")
        outside = () if given is None else networks("egress_addresses", given, found)
        addresses = [item for item in (_address(host), _address(value("ansible_host"))) if item is not None]
        if address in addresses:
            inside.add(host)
        at_the_nat = holds(outside, address)
        if at_the_nat and domain:
            domains.add(domain)
        if at_the_nat or host in inside or fleet.forwards(raw):
            own[host] = (*outside, *map(str, addresses))
        problems.extend(Problem(f"{host}: {problem.path}", problem.message) for problem in found)
    if problems:
        raise InputError(what="the inventory", problems=problems)
    policies = fleet.read(list(own))
    seen = [Place(policy, own[policy.name], policy.name in inside) for policy in policies]
    for policy in policies:
        mistakes = (*policy.problems, *policy.policy.problems)
        unread.extend(Problem(f"{policy.name}: {problem.path}", problem.message) for problem in mistakes)
    return Places([place for place in seen if place.shows(address)], frozenset(domains), names, tuple(map(str, unread)))


def _address(value: Any) -> Optional[Address]:
    try:
        return plain(ip_address(value)) if isinstance(value, str) else None
    except ValueError:
        return None
