# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task says about network namespaces, checked and complete. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._cgroups import LONGEST_UNIT
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, Problem, shown
from ansible_collections.portfence.egress.plugins.module_utils._namespace import (
    FAMILIES,
    Pair,
    default_ipv4,
    default_ipv6,
    interface_of,
    overlapping,
    pair_of,
)
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange, PortSet, PortSyntaxError
from ansible_collections.portfence.egress.plugins.module_utils._service import ON_VIOLATION, PROTOCOLS

# net.ipv4.ip_unprivileged_port_start of a new namespace: the kernel takes no range that begins below.
LOWEST_PORT = 1024
KINDS = (".service", ".socket")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\Z")
# systemd.unit(5): what a unit's name consists of.
_UNIT = re.compile(r"[A-Za-z0-9:_.\\-]+@?[A-Za-z0-9:_.\\-]*\Z")


@dataclass(frozen=True)
class Namespace:
    """One network namespace. ``pairs`` has the families in the order of FAMILIES."""

    name: str
    ports: PortRange
    pairs: Mapping[str, Pair]
    dns: Tuple[str, ...] = ()
    units: Tuple[str, ...] = ()
    protocols: Tuple[str, ...] = ("tcp", "udp")
    on_violation: str = "drop"

    @property
    def path(self) -> str:
        """Where the namespace is, for ip-netns(8), setns(2) and systemd."""
        return f"/run/netns/{self.name}"

    @property
    def interface(self) -> str:
        """The host's end of the veth pair."""
        return interface_of(self.name)

    def to_dict(self) -> Dict[str, Any]:
        """The namespace as the module takes it, with every key; :func:`parse` reads it back."""
        return {
            "name": self.name,
            "source_ports": str(self.ports),
            **{family: str(self.pairs[family].network) for family in FAMILIES},
            "dns": list(self.dns),
            "units": list(self.units),
            "protocols": list(self.protocols),
            "on_violation": self.on_violation,
        }


@dataclass(frozen=True)
class Request:
    """What a task asks for.

    :ivar wanted: by name; paths likewise, for messages.
    :ivar unwanted: names of those that go.
    :ivar purge: whether all others go.
    """

    wanted: Mapping[str, Namespace]
    paths: Mapping[str, str]
    unwanted: Sequence[str]
    purge: bool


def parse_request(params: Mapping[str, Any]) -> Request:
    """Read the parameters of the module. Raises InputError with every mistake."""
    items = params["namespaces"]
    names = [item["name"] for item in items]
    if params["state"] == "absent":
        return Request({}, {}, names, params["purge"])
    problems: List[Problem] = []
    wanted: Dict[str, Namespace] = {}
    paths: Dict[str, str] = {}
    unwanted: List[str] = []
    for index, item in enumerate(items):
        path = f"namespaces[{index}]"
        if item["name"] in names[:index]:
            problems.append(Problem(f"{path}.name", f"found {shown(item['name'])} a second time; each name once"))
        elif item.get("state") == "absent":
            unwanted.append(item["name"])
        else:
            wanted[item["name"]] = parse(item, path=path, problems=problems)
            paths[item["name"]] = path
    if problems:
        raise InputError(what="the list of namespaces", problems=problems)
    return Request(wanted, paths, unwanted, params["purge"])


def parse(item: Mapping[str, Any], *, path: str, problems: List[Problem]) -> Namespace:
    """Read one namespace. Mistakes are added to ``problems``; the result is only good without any."""

    def wrong(below: str, message: str) -> None:
        problems.append(Problem(f"{path}.{below}", message))

    name = item["name"]
    if not _NAME.match(name):
        accepted = "accepted: 1 to 32 letters, digits, '_', '-' or '.', not starting with '-' or '.'"
        wrong("name", f"found {shown(name)}; {accepted}")
    ports = _ports(item.get("source_ports"), wrong)
    pairs: Dict[str, Pair] = {}
    defaults = {"ipv4": default_ipv4(ports.low), "ipv6": default_ipv6(ports.low)}
    for family in FAMILIES:
        try:
            pairs[family] = pair_of(item.get(family) or defaults[family], family)
        except ValueError as error:
            wrong(family, str(error))
    on_violation = item.get("on_violation") or "drop"
    if on_violation not in ON_VIOLATION:
        wrong("on_violation", f"found {shown(on_violation)}; accepted: {', '.join(ON_VIOLATION)}")
    protocols = ("tcp", "udp") if item.get("protocols") is None else tuple(item["protocols"])
    for index, protocol in enumerate(protocols):
        if protocol not in PROTOCOLS:
            wrong(f"protocols[{index}]", f"found {shown(protocol)}; accepted: {', '.join(PROTOCOLS)}")
    return Namespace(
        name=name,
        ports=ports,
        pairs=pairs,
        dns=_dns(item.get("dns") or (), wrong),
        units=_units(item.get("units") or (), wrong),
        protocols=tuple(protocol for protocol in PROTOCOLS if protocol in protocols),
        on_violation=on_violation,
    )


def _ports(value: object, wrong: Callable[[str, str], None]) -> PortRange:
    fallback = PortRange(LOWEST_PORT, LOWEST_PORT)
    if value is None:
        wrong("source_ports", "missing; accepted: one range such as 50000-50999")
        return fallback
    try:
        ranges = PortSet.parse(value).ranges
    except PortSyntaxError as error:
        for below, text in error.mistakes:
            wrong(f"source_ports{below}", text)
        return fallback
    if len(ranges) > 1:
        one = "the namespace's ip_local_port_range holds one"
        wrong("source_ports", f"found {len(ranges)} ranges; {one}; accepted: one range, or another assignment")
    elif ranges[0].low < LOWEST_PORT:
        wrong("source_ports", f"found {ranges[0]}; the kernel takes no ip_local_port_range that begins below {LOWEST_PORT}")
    return ranges[0]


def _dns(value: Sequence[Any], wrong: Callable[[str, str], None]) -> Tuple[str, ...]:
    found = []
    for index, item in enumerate(value):
        try:
            found.append(str(ipaddress.ip_address(item)))
        except ValueError:
            wrong(f"dns[{index}]", f"found {shown(item)}; accepted: the IPv4 or IPv6 address of a name server")
    return tuple(found)


def _units(value: Sequence[Any], wrong: Callable[[str, str], None]) -> Tuple[str, ...]:
    found: List[str] = []
    for index, item in enumerate(value):
        unit = unit_name(item) if isinstance(item, str) else None
        if unit is None:
            wrong(f"units[{index}]", f"found {shown(item)}; accepted: a unit such as myapp.service, worker@.service, myapp.socket")
        elif unit not in found:
            found.append(unit)
    return tuple(found)


def unit_name(text: str) -> Optional[str]:
    """The full name of a unit that can be given a namespace, or None. Without a suffix it is a service."""
    if len(text) > LONGEST_UNIT or not _UNIT.match(text) or text.startswith((".", "-")):
        return None
    if text.endswith(KINDS):
        return text if not text.startswith(KINDS) else None
    # Any other suffix that systemd knows is a mistake, not a part of a name.
    known = (".slice", ".target", ".mount", ".automount", ".swap", ".timer", ".path", ".scope", ".device", ".snapshot")
    return None if text.endswith(known) or len(text) > LONGEST_UNIT - len(".service") else f"{text}.service"


def conflicts(target: Mapping[str, Namespace], paths: Mapping[str, str]) -> List[Problem]:
    """Mistakes that only show when all namespaces of a host are seen together.

    :param paths: where each was written, by name; a stored one is named by its file.
    """
    problems: List[Problem] = []
    seen: List[Namespace] = []
    units: Dict[str, str] = {}
    for name, namespace in target.items():
        path = paths[name]
        for other in seen:
            if namespace.ports.low <= other.ports.high and other.ports.low <= namespace.ports.high:
                problems.append(Problem(f"{path}.source_ports", f"{namespace.ports} overlaps with {other.ports} of {paths[other.name]}"))
            for family in FAMILIES:
                network = namespace.pairs[family].network
                if overlapping(network, [str(other.pairs[family].network)]):
                    problems.append(
                        Problem(f"{path}.{family}", f"{network} overlaps with the network of {paths[other.name]}; give each its own")
                    )
            if namespace.interface == other.interface:
                problems.append(Problem(f"{path}.name", f"{name} would have the same interface as {other.name}; choose another name"))
        for unit in namespace.units:
            if units.setdefault(unit, path) != path:
                problems.append(Problem(f"{path}.units", f"{unit} already belongs to {units[unit]}; a unit has one namespace"))
        seen.append(namespace)
    return problems


def from_services(services: Sequence[Mapping[str, Any]]) -> List[Dict[str, Any]]:
    """The namespaces that a policy calls for, as the module takes them.

    Of every other service, a namespace that the host may have since it was assigned its ports that way is absent.

    :param services: services as the filter ``portfence.egress.services`` gives them.
    """
    found: List[Dict[str, Any]] = []
    for service in services:
        if service.get("assignment") != "namespace" or service.get("state", "present") != "present":
            found.append({"name": service["name"], "state": "absent"})
            continue
        given = service.get("namespace") or {}
        units = service.get("unit") or []
        item = {
            "name": service["name"],
            "source_ports": service["source_ports"],
            "units": [units] if isinstance(units, str) else list(units),
            **{key: given[key] for key in ("ipv4", "ipv6", "dns") if given.get(key)},
            **{key: service[key] for key in ("protocols", "on_violation") if service.get(key)},
        }
        found.append(item)
    return found
