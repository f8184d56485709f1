# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who was behind an address and a port: hosts, their policies and the file of allocated ports → services. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timezone
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from ansible_collections.portfence.egress.plugins.module_utils._allocator import Holding
from ansible_collections.portfence.egress.plugins.module_utils._errors import Problem, shown
from ansible_collections.portfence.egress.plugins.module_utils._fleet import HostPolicy
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange

_ADDRESS = "an IPv4 or IPv6 address, with or without a port: 10.1.2.3, 10.1.2.3:50432, 2001:db8::1, [2001:db8::1]:50432"
_PORT = "a port from 1 to 65535"
_TIME = "a day 2026-01-31 or a time 2026-01-31T23:15:00+01:00 (UTC where it does not say)"
_NETWORKS = "an IPv4 or IPv6 address, or a network such as 10.1.0.0/16, or a list of them"

Address = Union[IPv4Address, IPv6Address]


@dataclass(frozen=True)
class Question:
    """Address and port as a log shows them, and the day in UTC; None for now."""

    address: Address
    port: int
    day: Optional[date] = None

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


@dataclass(frozen=True)
class Match:
    """A service that had the port.

    :ivar host: its name then; empty where the port tells the service alone.
    :ivar present_host: its name in the inventory now; empty where it is not there any more.
    :ivar since: the day on which the range became theirs; None for ports written by hand, which have no history.
    :ivar until: the day on which it was given back; None while it is theirs.
    """

    service: str
    host: str
    present_host: str
    domain: str
    ports: PortRange
    since: Optional[date] = None
    until: Optional[date] = None

    def to_dict(self) -> Dict[str, Any]:
        """Plain data."""
        return {
            "service": self.service,
            "host": self.host,
            "present_host": self.present_host,
            "nat_domain": self.domain,
            "ports": str(self.ports),
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat() if self.until else None,
            "allocated": self.since is not None,
        }

    def __str__(self) -> str:
        place = f" on {self.host}" if self.host else ", which has these ports on every host"
        if self.host and self.present_host != self.host:
            place += f" (now {self.present_host})" if self.present_host else " (not in the inventory any more)"
        domain = f" in the NAT domain {self.domain}" if self.domain else ""
        if self.since is None:
            return f"{self.service}{place}{domain}: {self.ports}, written by hand"
        return f"{self.service}{place}{domain}: {self.ports} since {self.since}{f' until {self.until}' if self.until else ''}"


def read_question(*, address: object, port: object, time: object, problems: List[Problem]) -> Optional[Question]:
    """What was asked. Notes every mistake, and gives None then."""
    before = len(problems)
    found, its_port = _socket(address)
    if found is None:
        problems.append(Problem("address", f"{_found(address)}; accepted: {_ADDRESS}"))
    if its_port is not None and port is not None and str(port) != its_port:
        problems.append(Problem("port", f"found {shown(port)}, and {its_port} in the address; accepted: one of the two"))
    number = _port(its_port if port is None else port)
    if number is None and not (found is None and port is None):
        problems.append(Problem("port", f"{_found(port if its_port is None else its_port)}; accepted: {_PORT}"))
    day = None
    if time is not None:
        day = _day(time)
        if day is None:
            problems.append(Problem("time", f"{_found(time)}; accepted: {_TIME}"))
    if len(problems) > before or found is None or number is None:
        return None
    return Question(found, number, day)


def _found(value: object) -> str:
    return "missing" if value is None else f"found {shown(value)}"


def _socket(value: object) -> Tuple[Optional[Address], Optional[str]]:
    """An address and the port behind it."""
    text = value.strip() if isinstance(value, str) else ""
    port = None
    if text.startswith("["):
        text, _bracket, rest = text[1:].partition("]")
        if rest and not rest.startswith(":"):
            return None, None
        port = rest[1:] if rest else None
    elif text.count(":") == 1:
        text, _colon, port = text.partition(":")
    try:
        return plain(ip_address(text)), port
    except ValueError:
        return None, None


def plain(address: Address) -> Address:
    """An IPv4 address that is written as an IPv6 one (RFC 4291, 2.5.5.2) is the IPv4 address."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _port(value: object) -> Optional[int]:
    if isinstance(value, str) and value.isascii() and value.strip().isdigit() and len(value) < 8:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535 else None


def _day(value: object) -> Optional[date]:
    """The day in UTC. Python 3.9 reads no Z for the zone."""
    try:
        if isinstance(value, str):
            text = value.strip()
            value = datetime.fromisoformat(f"{text[:-1]}+00:00" if text[-1:] in ("Z", "z") else text)
        if isinstance(value, datetime):
            return value.astimezone(timezone.utc).date() if value.tzinfo else value.date()
    except (ValueError, OverflowError):
        return None
    return value if isinstance(value, date) else None


def holds_address(variable: str, value: Any, address: Address, problems: List[Problem]) -> bool:
    """Whether an address is among the addresses and networks of a variable. Notes every mistake in it."""
    listed = value if isinstance(value, (list, tuple)) else [value]
    inside = False
    for index, item in enumerate(listed):
        try:
            network = ip_network(item.strip() if isinstance(item, str) else "", strict=False)
        except ValueError:
            path = f"{variable}[{index}]" if listed is value else variable
            problems.append(Problem(path, f"found {shown(item)}; accepted: {_NETWORKS}"))
            continue
        inside = inside or address in network
    return inside


def identify(
    question: Question,
    *,
    inside: Sequence[HostPolicy],
    behind: Sequence[HostPolicy],
    hosts: Mapping[Tuple[str, str], str],
    holdings: Iterable[Holding],
) -> List[Match]:
    """Everybody who had the port on that day, with this address.

    :param inside: hosts that have the address themselves.
    :param behind: hosts that others see under this address.
    :param hosts: names in the inventory by NAT domain and the id under which a host holds ranges.
    :param holdings: of the file of allocated ports, with the past.
    :returns: matches in the order of service and host. Several only where the answer is not clear: on the day of a change, or where
        hosts have the same address.
    """
    known = [holding for holding in holdings if question.port in range(holding.ports.low, holding.ports.high + 1)]
    domains = {host.domain for host in behind if host.domain}
    ours = {(host.domain, host.host_id) for host in inside if host.domain}
    present = {host.key(item) for host in (*inside, *behind) for item in host.policy.declared if item.size is not None}
    alone = inside[0].name if len(inside) == 1 and not behind else ""
    matches = []
    for holding in known:
        if not _then(holding, question.day):
            continue
        key, last = holding.key, _last(holding, known).key
        if not key.domain:
            # Where the range is a service's no more, today's policies can't say who had the service.
            if key in present or holding.until is not None:
                matches.append(Match(key.service, alone, alone, "", holding.ports, holding.since, holding.until))
        elif key.domain in domains or last[:2] in ours:
            name = hosts.get(last[:2], "")
            matches.append(Match(key.service, key.host, name, key.domain, holding.ports, holding.since, holding.until))
    for host, seen in (*((host, True) for host in inside), *((host, False) for host in behind)):
        for item in host.policy.declared:
            # From outside, what all hosts have alike tells the service alone.
            name = host.name if seen or host.scope(item) == "host" else ""
            for part in item.service.source_ports if item.size is None else ():
                if part.low <= question.port <= part.high:
                    matches.append(Match(item.service.name, name, name, host.domain, part))
    return sorted(set(matches), key=lambda match: (match.service, match.host, match.domain, match.since or date.min))


def _then(holding: Holding, day: Optional[date]) -> bool:
    """Whether a range was its owner's on a day. The days of both ends count: the file knows no hours."""
    if day is None:
        return holding.until is None
    return holding.since <= day and (holding.until is None or day <= holding.until)


def _last(holding: Holding, known: Sequence[Holding]) -> Holding:
    """The holding under the last name of its owner: a renamed host gives its range back on the day on which its new name takes it."""
    seen = {holding}
    while holding.until is not None:
        begin = (holding.key.domain, holding.key.service, holding.ports, holding.until)
        later = [other for other in known if other not in seen and (other.key.domain, other.key.service, other.ports, other.since) == begin]
        if not later:
            break
        holding = later[0]
        seen.add(holding)
    return holding
