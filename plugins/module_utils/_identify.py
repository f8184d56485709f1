# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who was behind an address and a port: hosts, their policies and the file of allocated ports → services. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timezone
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from ansible_collections.portfence.egress.plugins.module_utils._allocator import Holding, Key
from ansible_collections.portfence.egress.plugins.module_utils._errors import Problem, shown
from ansible_collections.portfence.egress.plugins.module_utils._fleet import HostPolicy
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange

_ADDRESS = "an IPv4 or IPv6 address, with or without a port: 10.1.2.3, 10.1.2.3:50432, 2001:db8::1, [2001:db8::1]:50432"
_PORT = "a port from 1 to 65535"
_TIME = "a day 2026-01-31 or a time 2026-01-31T23:15:00+01:00 (UTC where it does not say)"
_NETWORKS = "an IPv4 or IPv6 address, or a network such as 10.1.0.0/16, or a list of them"
# Hosts that an answer in words names.
_NAMED = 3

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

    :ivar host: its name then; empty where it may be several hosts.
    :ivar hosts: names in the inventory now, of all hosts that it may be.
    :ivar since: the day on which the range became theirs; None for ports written by hand, which have no history.
    :ivar until: the day on which it was given back; None while it is theirs.
    :ivar surely: False where nothing says which hosts had the service then.
    """

    service: str
    host: str
    hosts: Tuple[str, ...]
    domain: str
    ports: PortRange
    since: Optional[date] = None
    until: Optional[date] = None
    surely: bool = True

    def to_dict(self) -> Dict[str, Any]:
        """Plain data."""
        return {
            "service": self.service,
            "host": self.host,
            "hosts": list(self.hosts),
            "nat_domain": self.domain,
            "ports": str(self.ports),
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat() if self.until else None,
            "allocated": self.since is not None,
            "certain": self.surely and bool(self.host),
        }

    def __str__(self) -> str:
        if not self.host:
            more = len(self.hosts) - _NAMED
            place = f"one of {', '.join(self.hosts[:_NAMED])}{f' and {more} more' if more > 0 else ''}"
        elif self.hosts == (self.host,):
            place = self.host
        else:
            place = f"{self.host} ({f'now {self.hosts[0]}' if self.hosts else 'not in the inventory any more'})"
        domain = f" in the NAT domain {self.domain}" if self.domain else ""
        end = f" until {self.until}" if self.until else ""
        history = f" since {self.since}{end}" if self.since else ", written by hand"
        doubt = "" if self.surely else ", if the service was there then"
        return f"{self.service} on {place}{domain}{doubt}: {self.ports}{history}"


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
            # A zone (fe80::1%eth0) means something on one host only.
            network = ip_network(item.strip() if isinstance(item, str) and "%" not in item else "", strict=False)
        except ValueError:
            path = f"{variable}[{index}]" if listed is value else variable
            problems.append(Problem(path, f"found {shown(item)}; accepted: {_NETWORKS}"))
            continue
        inside = inside or address in network
    return inside


def identify(
    question: Question,
    *,
    seen: Sequence[HostPolicy],
    domains: FrozenSet[str],
    hosts: Mapping[Tuple[str, str], str],
    holdings: Iterable[Holding],
) -> List[Match]:
    """Everybody who had the port on that day, with this address.

    :param seen: hosts that have the address, or are seen under it.
    :param domains: NAT domains that are seen under it. Hosts that are not in the inventory any more were, too.
    :param hosts: names in the inventory by NAT domain and the id under which a host holds ranges.
    :param holdings: of the file of allocated ports, with the past.
    :returns: matches in the order of service and host. Several only where the answer is not clear: on the day of a change, or where
        hosts have the same address.
    """
    names = {host.name for host in seen}
    owners: Dict[Key, List[str]] = {}
    written: Dict[Tuple[str, str, PortRange], List[str]] = {}
    for host in seen:
        for item in host.policy.declared:
            if item.size is not None:
                owners.setdefault(host.key(item), []).append(host.name)
                continue
            for part in item.service.source_ports:
                if part.low <= question.port <= part.high:
                    written.setdefault((item.service.name, host.domain, part), []).append(host.name)
    matches = [Match(service, _only(found), found, domain, part) for (service, domain, part), found in _sorted(written)]
    known = [holding for holding in holdings if holding.ports.low <= question.port <= holding.ports.high]
    for holding in known:
        if not seen or not _then(holding, question.day):
            continue
        key, last = holding.key, _last(holding, known).key
        if key.domain:
            name = hosts.get((last.domain, last.host))
            if (key.domain in domains) if name is None else (name in names):
                present = () if name is None else (name,)
                matches.append(Match(key.service, key.host, present, key.domain, holding.ports, holding.since, holding.until))
        elif key in owners or holding.until is not None:
            # Where the range is a service's no more, the policies of now can't say which hosts had the service.
            found = tuple(sorted(owners.get(key, names)))
            matches.append(Match(key.service, _only(found), found, "", holding.ports, holding.since, holding.until, key in owners))
    return sorted(matches, key=lambda match: (match.service, match.host, match.domain, match.since or date.min))


def _sorted(found: Mapping[Any, List[str]]) -> List[Tuple[Any, Tuple[str, ...]]]:
    return [(key, tuple(sorted(names))) for key, names in found.items()]


def _only(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ""


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
