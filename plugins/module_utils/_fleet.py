# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policies of all hosts at once: what contradicts what, and which ranges are to be allocated. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._allocator import DEFAULT_POOLS, Key, Request
from ansible_collections.portfence.egress.plugins.module_utils._classid import format_classid
from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError, Problem
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange, PortSet
from ansible_collections.portfence.egress.plugins.module_utils._service import Declared, is_id
from ansible_collections.portfence.egress.plugins.module_utils._service_reader import ONE_RANGE

# Hosts that a line of the report names, and lines for one kind of clash: 10,000 hosts can disagree in 50 million ways.
_NAMED = 3
_MOST_CLASHES = 1000


class FleetError(PortFenceError):
    """Findings of a validation, all of them at once."""


@dataclass(frozen=True, eq=False)
class Policy:
    """What the variables of a host say, read once for all hosts that have the same.

    :ivar declared: the services; those with ``source_ports: auto`` without ports.
    """

    declared: Tuple[Declared, ...] = ()
    problems: Tuple[Problem, ...] = ()


@dataclass(frozen=True)
class HostPolicy:
    """A host of the inventory.

    :ivar host_id: the name under which it holds ranges.
    :ivar domain: its NAT domain; empty for none.
    :ivar pools: what ``egress_port_pools`` says; None where it does not.
    :ivar problems: mistakes in other variables than those of services.
    """

    name: str
    policy: Policy
    host_id: str
    domain: str = ""
    pools: Optional[Tuple[PortRange, ...]] = None
    problems: Tuple[Problem, ...] = ()

    def key(self, item: Declared) -> Key:
        """Who the ports of a service belong to."""
        return Key(self.domain, self.host_id, item.service.name) if self.scope(item) == "host" else Key("", "", item.service.name)

    def scope(self, item: Declared) -> str:
        """The scope of a service: behind a common address, a range is one host's unless the service says otherwise."""
        return item.scope or ("host" if self.domain else "service")


@dataclass
class Findings:
    """Collects findings; the same one on many hosts is told once."""

    hosts: Dict[Tuple[str, str], List[str]] = field(default_factory=dict)

    def add(self, host: str, problem: Problem) -> None:
        """Note a problem of one host."""
        self.hosts.setdefault((problem.path, problem.message), []).append(host)

    def lines(self) -> List[str]:
        """One line a finding, in the order of paths."""
        return [
            f"{_some(names)}: {path}: {message}" if any(names) else f"{path}: {message}"
            for (path, message), names in sorted(self.hosts.items())
        ]

    def error(self, *, count: int) -> FleetError:
        """All findings as one error."""
        lines = self.lines()
        head = f"{len(lines)} finding{'' if len(lines) == 1 else 's'} in the policies of {count} host{'' if count == 1 else 's'}:"
        return FleetError("\n".join([head, *(f"  {line}" for line in lines)]))


class _Use(NamedTuple):
    """A range as it is seen from outside of a NAT domain: the host matters unless the range is the service's on all hosts."""

    ports: PortRange
    service: str
    host: str


def survey(hosts: Sequence[HostPolicy], held: Mapping[Key, PortSet]) -> Tuple[Findings, Tuple[Request, ...]]:
    """Look at the whole inventory.

    :param held: the ranges that were handed out so far.
    :returns: what is wrong, whatever may still be handed out; and what is to be handed out, one request an owner.
    """
    findings = Findings()
    automatic = any(item.size is not None for policy in _policies(hosts) for item in policy.declared)
    for host in hosts:
        for problem in (*host.policy.problems, *host.problems):
            findings.add(host.name, problem)
    _same_id(findings, hosts)
    _numbers(findings, hosts)
    requests = _requests(findings, hosts)
    pools = _PoolCheck()
    for host in hosts:
        if host.pools is not None or automatic:
            for problem in pools.problems(host):
                findings.add(host.name, problem)
        _on_one_host(findings, host, held)
    _in_domains(findings, hosts, held)
    return findings, requests


def unallocated(hosts: Sequence[HostPolicy], held: Mapping[Key, PortSet], *, message: str) -> Findings:
    """A finding for every service whose range is still to be handed out."""
    findings = Findings()
    for host in hosts:
        for item in host.policy.declared:
            if item.size is not None and item.service.state == "present":
                have = held.get(host.key(item))
                if have is None or have.size < item.size:
                    text = "no range" if have is None else f"only {have.size} of {item.size} ports"
                    findings.add(host.name, Problem(f"{item.path}.source_ports", f"found auto, and {text} for it {message}"))
    return findings


def _policies(hosts: Iterable[HostPolicy]) -> List[Policy]:
    return list({id(host.policy): host.policy for host in hosts}.values())


def _present(host: HostPolicy) -> Iterable[Declared]:
    return (item for item in host.policy.declared if item.service.state == "present")


def _same_id(findings: Findings, hosts: Sequence[HostPolicy]) -> None:
    owners: Dict[str, str] = {}
    for host in hosts:
        owner = owners.setdefault(host.host_id, host.name)
        if owner != host.name:
            findings.add(host.name, Problem("egress_host_id", f"found {host.host_id}, which is {owner}'s; accepted: an id of its own"))


class _Meaning(NamedTuple):
    """A number that stands for a service, and where the account has a name, for that account."""

    number: str
    account: str
    service: str


def _numbers(findings: Findings, hosts: Sequence[HostPolicy]) -> None:
    """A UID or a classid stands for one thing in the whole inventory."""
    uids: Dict[_Meaning, Tuple[str, str]] = {}
    classids: Dict[_Meaning, Tuple[str, str]] = {}
    for host in _one_host_each(hosts):
        for item in _present(host):
            service = item.service
            for user in service.users:
                if is_id(user):
                    uids.setdefault(_Meaning(user, "", service.name), (host.name, f"{item.path}.user"))
            if service.uid is not None and service.users:
                uids.setdefault(_Meaning(str(service.uid), service.users[0], service.name), (host.name, f"{item.path}.uid"))
            if service.classid is not None:
                number = format_classid(service.classid)
                classids.setdefault(_Meaning(number, "", service.name), (host.name, f"{item.path}.classid"))
    for kind, meanings in (("UID", uids), ("classid", classids)):
        # An account and a service that runs as it are one meaning.
        accounts = {(found.number, found.service): found.account for found in meanings if found.account}
        first: Dict[str, Tuple[str, str, str]] = {}
        for found, (host_name, path) in meanings.items():
            account = found.account or accounts.get((found.number, found.service))
            label = f"account {account}" if account else f"service {found.service}"
            other, *where = first.setdefault(found.number, (label, host_name, path))
            if other != label:
                text = f"found the {kind} {found.number} for the {label}, and it stands for the {other} on {where[0]} ({where[1]})"
                findings.add(host_name, Problem(path, f"{text}; accepted: one meaning of a {kind} in the whole inventory"))


def _one_host_each(hosts: Sequence[HostPolicy]) -> Iterable[HostPolicy]:
    """The first host of every policy."""
    seen: Set[int] = set()
    for host in hosts:
        if id(host.policy) not in seen:
            seen.add(id(host.policy))
            yield host


def _requests(findings: Findings, hosts: Sequence[HostPolicy]) -> Tuple[Request, ...]:
    requests: Dict[Key, Request] = {}
    first: Dict[Key, str] = {}
    for host in hosts:
        pools = DEFAULT_POOLS if host.pools is None else host.pools
        for item in _present(host):
            if item.size is None:
                continue
            if host.scope(item) == "host" and not host.domain:
                message = "found host on a host without egress_nat_domain; accepted: service, or a NAT domain"
                findings.add(host.name, Problem(f"{item.path}.scope", message))
                continue
            key = host.key(item)
            one_range = item.service.assignment in ONE_RANGE
            known = requests.get(key)
            if known is None:
                path = f"{host.name}: {item.path}" if key.host else item.path
                requests[key] = Request(key, item.size, path, pools, one_range)
                first[key] = host.name
                continue
            if item.size != known.size:
                message = f"found {item.size}, and {known.size} on {first[key]}; accepted: one size, as the range is the same on every host"
                findings.add(host.name, Problem(f"{item.path}.size", message))
            if pools != known.pools:
                message = (
                    f"found other pools than on {first[key]} for {item.path}; accepted: the same pools on all hosts of a service"
                    " that has one range on every host"
                )
                findings.add(host.name, Problem("egress_port_pools", message))
            if one_range and not known.one_range:
                requests[key] = replace(known, one_range=True)
    return tuple(requests.values())


class _PoolCheck:
    """Ports that are written by hand lie outside of the pools. Asked once for hosts that have the same."""

    def __init__(self) -> None:
        self._known: Dict[Tuple[int, Optional[Tuple[PortRange, ...]]], List[Problem]] = {}

    def problems(self, host: HostPolicy) -> List[Problem]:
        """What lies inside."""
        at = (id(host.policy), host.pools)
        if at not in self._known:
            pools = PortSet.of(DEFAULT_POOLS if host.pools is None else host.pools)
            self._known[at] = [
                Problem(
                    f"{item.path}.source_ports",
                    f"found {shared}, which lies inside the pools {_listed(pools)} of egress_port_pools; accepted: ports outside of them, or auto",
                )
                for item in _present(host)
                for shared in [item.service.source_ports & pools]
                if shared
            ]
        return self._known[at]


def _listed(ports: PortSet) -> str:
    return ", ".join(str(part) for part in ports)


def _on_one_host(findings: Findings, host: HostPolicy, held: Mapping[Key, PortSet]) -> None:
    """Ranges handed out against those written by hand; the rest was looked at when the policy was read."""
    uses = [
        (part, item.service.name, f"{item.path}.source_ports", item.size is not None)
        for item in _present(host)
        for part in (item.service.source_ports if item.size is None else held.get(host.key(item), PortSet()))
    ]
    if not any(use[3] for use in uses):
        return
    uses.sort()
    for (part, name, path, mine), (other, other_name, _path, given) in zip(uses[1:], uses):
        if name != other_name and part.low <= other.high and (mine or given):
            findings.add(host.name, Problem(path, f"found {part}, which overlaps with {other} of {other_name} on the same host"))


def _in_domains(findings: Findings, hosts: Sequence[HostPolicy], held: Mapping[Key, PortSet]) -> None:
    """Behind one address, a port names one host and service, or a service that wants to be the same everywhere."""
    domains: Dict[str, Dict[_Use, Tuple[str, str]]] = {}
    for host in hosts:
        if not host.domain:
            continue
        uses = domains.setdefault(host.domain, {})
        for item in _present(host):
            ports = item.service.source_ports if item.size is None else held.get(host.key(item), PortSet())
            owner = host.name if host.scope(item) == "host" else ""
            for part in ports:
                uses.setdefault(_Use(part, item.service.name, owner), (host.name, f"{item.path}.source_ports"))
    told = 0
    for domain, uses in sorted(domains.items()):
        opened: List[_Use] = []
        for use in sorted(uses):
            opened = [other for other in opened if other.ports.high >= use.ports.low]
            for other in opened:
                host_name, path = uses[use]
                other_name = uses[other][0]
                same_service = use.service == other.service and not use.host and not other.host
                if same_service or host_name == other_name:
                    continue
                told += 1
                if told > _MOST_CLASHES:
                    findings.add("", Problem("egress_nat_domain", f"more ranges overlap; only the first {_MOST_CLASHES} are listed"))
                    return
                message = (
                    f"found {use.ports} in the NAT domain {domain}, where {other.ports} is {other.service}'s on {other_name}; accepted: ports"
                    " that no other host of the domain has, auto, or scope: service for a service that has the same ports on all hosts"
                )
                findings.add(host_name, Problem(path, message))
            opened.append(use)


def _some(names: Sequence[str]) -> str:
    """Host names, the first few of many."""
    listed = ", ".join(names[:_NAMED])
    return f"{listed} and {len(names) - _NAMED} more" if len(names) > _NAMED else listed
