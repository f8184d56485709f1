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
from typing import Any, Dict, FrozenSet, List, Mapping, Set, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, Problem
from ansible_collections.portfence.egress.plugins.module_utils._fleet import HostPolicy
from ansible_collections.portfence.egress.plugins.module_utils._identify import Address, holds_address, plain
from ansible_collections.portfence.egress.plugins.module_utils._pools import read_name
from ansible_collections.portfence.egress.plugins.plugin_utils._fleet_variables import Fleet


@dataclass(frozen=True)
class Places:
    """Hosts that have an address or are seen under it, NAT domains that are, and all names by NAT domain and id."""

    seen: List[HostPolicy]
    domains: FrozenSet[str]
    names: Dict[Tuple[str, str], str]


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
    """Find them. Raises InputError with every mistake in the variables that say where hosts are."""
    hostvars = hosts if hasattr(hosts, "raw_get") else _Plain(hosts)
    fleet = Fleet(hostvars)
    problems: List[Problem] = []
    seen: List[str] = []
    domains: Set[str] = set()
    names: Dict[Tuple[str, str], str] = {}
    for host in hosts:
        raw = hostvars.raw_get(host)
        own: List[Problem] = []

        def value(name: str) -> Any:
            # A template that fails ends the filter: Ansible then says where the value stands.
            plainly = name not in raw or fleet.plain(raw[name])
            return raw.get(name) if plainly else hostvars[host][name]

        domain = read_name("egress_nat_domain", value("egress_nat_domain"), own)
        names[domain, read_name("egress_host_id", value("egress_host_id"), own) or host] = host
        given = value("egress_addresses")
        outside = given is not None and holds_address("egress_addresses", given, address, own)
        if outside or address in (_address(host), _address(value("ansible_host"))):
            seen.append(host)
        if outside and domain:
            domains.add(domain)
        problems.extend(Problem(f"{host}: {problem.path}", problem.message) for problem in own)
    if problems:
        raise InputError(what="the inventory", problems=problems)
    return Places(fleet.read(seen), frozenset(domains), names)


def _address(value: Any) -> Any:
    try:
        return plain(ip_address(value)) if isinstance(value, str) else None
    except ValueError:
        return None
