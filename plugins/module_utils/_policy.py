# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user may write, and what it means: the services of a host, each checked and all of them together. Pure.

Both doors, the inventory variables and the module parameters, lead through :func:`parse_variables` or
:func:`parse_list` to :class:`Service` objects. Every mistake is collected with its path before anything is raised.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._addresses import overlapping
from ansible_collections.portfence.egress.plugins.module_utils._classid import format_classid
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, Problem, shown
from ansible_collections.portfence.egress.plugins.module_utils._service import NAME, Allocated, Declared, Service
from ansible_collections.portfence.egress.plugins.module_utils._service_reader import Reader, as_text

# The variables whose services may leave their ports to the playbook allocate.
VARIABLE = re.compile(r"egress_services(__.+)?\Z")
NOT_ALLOCATED = Allocated({}, missing="was given; accepted: what the lookup portfence.egress.allocations finds, or ports written by hand")

# Overlaps that are told one by one: of 5,000 services with the same ports there would be 12 million.
_MOST_OVERLAPS = 1000
# In a message; nobody writes one by hand that is longer.
_LONGEST_VARIABLE = 200


def parse_variables(
    variables: Mapping[str, Any], *, backend: str = "nftables", allocated: Allocated = NOT_ALLOCATED
) -> Tuple[Service, ...]:
    """Merge and read ``egress_services`` and every ``egress_services__*``.

    :param variables: variable name to its value, a mapping of service names to services.
    :param backend: which of :data:`PREFIX_BYTES` holds.
    :param allocated: the ranges of services with ``source_ports: auto``.
    :returns: services sorted by name.
    Raises InputError with every mistake.
    """
    declared, problems = read_variables(variables, backend=backend, allocated=allocated)
    if problems:
        raise InputError(what="the egress policy", problems=problems)
    return tuple(sorted((item.service for item in declared), key=lambda service: service.name))


def read_variables(
    variables: Mapping[str, Any], *, backend: str, allocated: Allocated
) -> Tuple[Tuple[Declared, ...], List[Problem]]:
    """The services of :func:`parse_variables` in the order in which they are written, and every mistake."""
    problems: List[Problem] = []
    declared: List[Declared] = []
    owners: Dict[str, str] = {}
    for key in sorted(variables, key=as_text):
        value = variables[key]
        variable = key if isinstance(key, str) and len(key) <= _LONGEST_VARIABLE and key.isidentifier() and key.isascii() else shown(key)
        if value is None:
            continue
        if not isinstance(value, Mapping):
            problems.append(Problem(variable, f"found {shown(value)}; accepted: a mapping of service names to services"))
            continue
        ours = allocated if VARIABLE.match(variable) else None
        for name in value:
            path = f"{variable}.{_label(name)}"
            if as_text(name) in owners:
                problems.append(
                    Problem(path, f"the service is already defined in {owners[as_text(name)]}; define it in one of the two")
                )
                continue
            owners[as_text(name)] = variable
            _read_into(declared, problems, path=path, name=name, value=value[name], backend=backend, allocated=ours)
    problems.extend(conflicts(declared))
    return tuple(declared), problems


def parse_list(
    services: Sequence[Any], *, where: str = "services", backend: str = "nftables"
) -> Tuple[Declared, ...]:
    """Read a list of services that carry their ``name``, as modules take it.

    Checks each service and that no name comes twice; whether services contradict each other is asked with
    :func:`conflicts` once all services of the host are known. Raises InputError with every mistake.
    """
    problems: List[Problem] = []
    declared: List[Declared] = []
    owners: Dict[str, str] = {}
    for index, item in enumerate(services):
        path = f"{where}[{index}]"
        if not isinstance(item, Mapping):
            problems.append(Problem(path, f"found {shown(item)}; accepted: a mapping with name, source_ports, …"))
            continue
        if item.get("name") is None:
            problems.append(Problem(f"{path}.name", "missing; every service of a list needs a name"))
            continue
        name = item["name"]
        if as_text(name) in owners:
            problems.append(Problem(f"{path}.name", f"{_label(name)} is already {owners[as_text(name)]}.name"))
            continue
        owners[as_text(name)] = path
        rest = {key: value for key, value in item.items() if key != "name"}
        _read_into(declared, problems, path=path, name=name, value=rest, backend=backend)
    if problems:
        raise InputError(what="the list of services", problems=problems)
    return tuple(declared)


def audited(services: Sequence[Service]) -> Tuple[Service, ...]:
    """The same services, of which nothing is blocked: violations and intrusions are counted and logged."""
    return tuple(replace(service, on_violation="log") for service in services)


def conflicts(declared: Sequence[Declared]) -> List[Problem]:
    """Mistakes that only show when services of one host are seen together."""
    present = [item for item in declared if item.service.state == "present"]
    return [
        *_overlaps(present),
        *_shared_selectors(present),
        *_shared_addresses(present),
        *_second_host_range(present),
    ]


def _overlaps(present: Sequence[Declared]) -> List[Problem]:
    ranges = sorted(
        (part.low, part.high, index) for index, item in enumerate(present) for part in item.service.source_ports
    )
    found: Dict[Tuple[int, int], List[str]] = {}
    open_ranges: List[Tuple[int, int, int]] = []
    problems: List[Problem] = []
    for low, high, index in ranges:
        if len(found) >= _MOST_OVERLAPS:
            more = f"more services share ports; only the first {_MOST_OVERLAPS} pairs are listed"
            problems.append(Problem(f"{present[index].path}.source_ports", more))
            break
        open_ranges = [other for other in open_ranges if other[1] >= low]
        for _other_low, other_high, other in open_ranges:
            if other != index:
                pair = (min(index, other), max(index, other))
                end = min(high, other_high)
                found.setdefault(pair, []).append(str(low) if low == end else f"{low}-{end}")
        open_ranges.append((low, high, index))
    told = [
        Problem(
            f"{present[second].path}.source_ports",
            f"{', '.join(shared)} also belongs to {present[first].path}; services of one host can't share source ports",
        )
        for (first, second), shared in sorted(found.items())
    ]
    return told + problems


def _shared_selectors(present: Sequence[Declared]) -> List[Problem]:
    problems = []
    owners: Dict[Tuple[str, str], str] = {}
    for item in present:
        service = item.service
        classids = () if service.classid is None else (format_classid(service.classid),)
        for selector, names in (
            ("user", service.users),
            ("group", service.groups),
            ("classid", classids),
            ("unit", service.units),
        ):
            for name in names:
                owner = owners.setdefault((selector, name), item.path)
                if owner != item.path:
                    problems.append(
                        Problem(
                            f"{item.path}.{selector}",
                            f"{name} is already the {selector} of {owner}; one {selector} can belong to one service only",
                        )
                    )
    return problems


def _shared_addresses(present: Sequence[Declared]) -> List[Problem]:
    networks = [(network, item.path) for item in present for network in item.service.addresses]
    return [
        Problem(f"{path}.addresses", f"{network} overlaps with {other} of {owner}; an address can belong to one service only")
        for (network, path), (other, owner) in overlapping(networks)
    ]


def _second_host_range(present: Sequence[Declared]) -> List[Problem]:
    takers = [item for item in present if item.service.assignment == "host"]
    return [
        Problem(
            f"{item.path}.assignment",
            f"found host, which {takers[0].path} has as well; a host has one ip_local_port_range, so only one service"
            " can be assigned its ports that way; use rewrite or app",
        )
        for item in takers[1:]
    ]


def _read_into(
    declared: List[Declared],
    problems: List[Problem],
    *,
    path: str,
    name: object,
    value: object,
    backend: str,
    allocated: Optional[Allocated] = None,
) -> None:
    reader = Reader(path=path, problems=problems, allocated=allocated)
    if not isinstance(name, str) or not NAME.match(name):
        reader.wrong(
            "",
            f"found the service name {shown(name)}; accepted: 1 to 32 letters, digits, '_', '-' or '.', not starting"
            " with '-' or '.'",
        )
    if not isinstance(value, Mapping):
        reader.wrong("", f"found {shown(value)}; accepted: a mapping with at least source_ports")
        return
    # Kept in spite of mistakes: what it contradicts shall be told in the same run.
    service = reader.service(as_text(name), value, backend)
    declared.append(Declared(path, service, size=reader.size, scope=reader.scope))


def _label(name: object) -> str:
    """A service name as a part of a path: as it is when it is a good one, else quoted."""
    return name if isinstance(name, str) and NAME.match(name) else shown(name)
