# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is behind an address and a source port: the identity map of a fleet. Pure.

A packet of a fenced host bears the address of the host, or that of the NAT in front of it, and a source port that belongs to
one service. So the two of them name the service, and where no other host uses the range behind that address, the host.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._addresses import overlapping, read_network
from ansible_collections.portfence.egress.plugins.module_utils._csv import to_csv as table
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, Problem, shown
from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_list
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange, PortSet, PortSyntaxError
from ansible_collections.portfence.egress.plugins.module_utils._service import NAME, PROTOCOLS, Service

_KEYS = ("address", "protocol", "source_ports", "service", "hosts")
_COLUMNS = ("address", "protocol", "first_port", "last_port", "service", "hosts")


@dataclass(frozen=True)
class Identity:
    """What a source address and a source port say.

    :ivar address: a network in CIDR notation, as others see it.
    :ivar part: the ports, bounds included.
    :ivar hosts: all hosts that it may be, in order.
    """

    address: str
    protocol: str
    part: PortRange
    service: str
    hosts: Tuple[str, ...]

    def to_dict(self) -> Dict[str, Any]:
        """Plain data; :func:`parse` reads it back."""
        data: Dict[str, Any] = {key: getattr(self, key) for key in ("address", "protocol", "service")}
        return {**data, "source_ports": str(self.part), "hosts": list(self.hosts)}


def identities(hosts: Mapping[str, Mapping[str, Any]]) -> Tuple[Identity, ...]:
    """The identity map, sorted by address, protocol and port.

    :param hosts: host name to ``addresses``, a list of those under which others see it, and ``services``, as the filter services
        gives them.
    Raises InputError with everything that has no address, or would have two meanings.
    """
    problems: List[Problem] = []
    found: Dict[Tuple[str, str, PortRange, str], List[str]] = {}
    for host in sorted(hosts):
        own = _addresses(host, hosts[host].get("addresses", ()), problems)
        try:
            declared = parse_list(hosts[host].get("services", ()), where=f"{host}.services")
        except InputError as error:
            problems.extend(error.problems)
            continue
        for service in (item.service for item in declared):
            if service.state != "present":
                continue
            addresses = seen_under(service, own)
            if not addresses:
                problems.append(
                    Problem(
                        f"{host}.egress_addresses",
                        f"missing, and {host} is no address either; accepted: the addresses under which others see the host, or the"
                        " NAT in front of it",
                    )
                )
                break
            for address in addresses:
                for protocol in service.protocols:
                    for part in service.source_ports:
                        found.setdefault((address, protocol, part, service.name), []).append(host)
    entries = [Identity(*key, hosts=tuple(names)) for key, names in sorted(found.items(), key=lambda item: _order(*item[0]))]
    problems.extend(_contradictions(entries))
    if problems:
        raise InputError(what="the identity map", problems=problems)
    return tuple(entries)


def seen_under(service: Service, own: Sequence[str]) -> Tuple[str, ...]:
    """The networks whose addresses the packets of a service bear: what is forwarded without masquerade keeps the address that it has.

    :param own: those under which the host is seen.
    """
    return service.addresses if service.addresses and not service.masquerade else tuple(own)


def _addresses(host: str, given: Any, problems: List[Problem]) -> Tuple[str, ...]:
    networks = []
    if not isinstance(given, (list, tuple)):
        given = [given]
    for index, value in enumerate(given):
        try:
            networks.append(read_network(value))
        except ValueError as error:
            problems.append(Problem(f"{host}.egress_addresses[{index}]", f"found {shown(value)}; {error}"))
    return tuple(networks)


def _order(address: str, protocol: str, part: PortRange, service: str) -> Tuple[Any, ...]:
    import ipaddress

    network = ipaddress.ip_network(address)
    return network.version, int(network.network_address), network.prefixlen, PROTOCOLS.index(protocol), part, service


def _contradictions(entries: Sequence[Identity]) -> List[Problem]:
    """Ports of one address with two meanings, in networks that lie in each other as well."""
    problems = []
    last: Dict[Tuple[str, str], Identity] = {}
    by_address: Dict[Tuple[str, str], List[Identity]] = {}
    for entry in entries:
        key = (entry.address, entry.protocol)
        before = last.get(key)
        if before is not None and before.part.high >= entry.part.low:
            problems.append(_contradiction(entry, before))
        if before is None or entry.part.high > before.part.high:
            last[key] = entry
        by_address.setdefault(key, []).append(entry)
    around = {inner: outer for (inner, _inner), (outer, _outer) in overlapping([(entry, entry) for entry in {entry.address for entry in entries}])}
    for (address, protocol), own in by_address.items():
        outer = around.get(address)
        while outer is not None:
            others = by_address.get((outer, protocol), ())
            problems.extend(
                _contradiction(entry, other)
                for entry in own
                for other in others
                if entry.part.low <= other.part.high and other.part.low <= entry.part.high
            )
            outer = around.get(outer)
    return problems


def _contradiction(entry: Identity, other: Identity) -> Problem:
    return Problem(
        f"{entry.hosts[0]}.{entry.service}",
        f"{entry.address} {entry.protocol} {entry.part} is {other.service} of {other.hosts[0]} as well ({other.address}, {other.part});"
        " behind one address, ports can have one meaning only",
    )


def parse(entries: Any) -> Tuple[Identity, ...]:
    """Read what :meth:`Identity.to_dict` gave. Raises InputError with every mistake."""
    problems: List[Problem] = []
    found: List[Identity] = []
    if not isinstance(entries, (list, tuple)):
        raise InputError(what="the identity map", problems=[Problem("identities", f"found {shown(entries)}; accepted: a list")])
    for index, entry in enumerate(entries):
        path = f"identities[{index}]"
        if isinstance(entry, Mapping):
            mistakes = _mistakes(entry)
            problems.extend(Problem(f"{path}.{key}", text) for key, text in mistakes)
            if not mistakes:
                found.append(_read(entry))
        else:
            problems.append(Problem(path, f"found {shown(entry)}; accepted: a mapping with {', '.join(_KEYS)}"))
    found.sort(key=lambda entry: _order(entry.address, entry.protocol, entry.part, entry.service))
    problems.extend(_contradictions(found))
    if problems:
        raise InputError(what="the identity map", problems=problems)
    return tuple(found)


def _mistakes(entry: Mapping[Any, Any]) -> List[Tuple[str, str]]:
    """Each key that is wrong, and what is wrong with it."""
    protocol, service, hosts = (entry.get(key) for key in ("protocol", "service", "hosts"))
    found = [(shown(key), f"unknown key; accepted: {', '.join(_KEYS)}") for key in entry if key not in _KEYS]
    try:
        read_network(entry.get("address"))
    except ValueError as error:
        found.append(("address", f"found {shown(entry.get('address'))}; {error}"))
    if protocol not in PROTOCOLS:
        found.append(("protocol", f"found {shown(protocol)}; accepted: {', '.join(PROTOCOLS)}"))
    try:
        if len(list(PortSet.parse(entry.get("source_ports")))) != 1:
            found.append(("source_ports", f"found {shown(entry.get('source_ports'))}; accepted: one range"))
    except PortSyntaxError as error:
        found.extend((f"source_ports{where}", text) for where, text in error.mistakes)
    if not isinstance(service, str) or not NAME.match(service):
        found.append(("service", f"found {shown(service)}; accepted: the name of a service"))
    if not isinstance(hosts, (list, tuple)) or not hosts or not all(isinstance(host, str) for host in hosts):
        found.append(("hosts", f"found {shown(hosts)}; accepted: a list of names"))
    return found


def _read(entry: Mapping[str, Any]) -> Identity:
    """One without mistakes."""
    (part,) = PortSet.parse(entry["source_ports"])
    return Identity(read_network(entry["address"]), entry["protocol"], part, entry["service"], tuple(entry["hosts"]))


def to_json(entries: Sequence[Identity]) -> str:
    """A list of objects, one identity a line."""
    lines = ",\n".join(f"  {json.dumps(entry.to_dict(), sort_keys=True)}" for entry in entries)
    return f"[\n{lines}\n]\n" if lines else "[]\n"


def to_csv(entries: Sequence[Identity]) -> str:
    """A table for spreadsheets, a row for each identity."""
    rows = (
        (entry.address, entry.protocol, entry.part.low, entry.part.high, entry.service, " ".join(entry.hosts)) for entry in entries
    )
    return table(_COLUMNS, rows)
