# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who was behind an address and a port: hosts, their policies and the file of allocated ports → services. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple, Union

from ansible_collections.portfence.egress.plugins.module_utils._addresses import holds
from ansible_collections.portfence.egress.plugins.module_utils._allocator import Holding, Key
from ansible_collections.portfence.egress.plugins.module_utils._errors import Problem, shown
from ansible_collections.portfence.egress.plugins.module_utils._fleet import HostPolicy
from ansible_collections.portfence.egress.plugins.module_utils._identity import seen_under
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange

_ADDRESS = "an IPv4 or IPv6 address, with or without a port: 10.1.2.3, 10.1.2.3:50432, 2001:db8::1, [2001:db8::1]:50432"
_PORT = "a port from 1 to 65535"
_TIME = "a day 2026-01-31 or a time 2026-01-31T23:15:00+01:00 (UTC where it does not say)"
_NETWORKS = "an IPv4 or IPv6 address, or a network such as 10.1.0.0/16, or a list of them"
# The calendar of UTC+14, the first one in which a day begins: a log with local times may be that far ahead.
_AHEAD = timedelta(hours=14)
# Hosts that an answer in words names.
_NAMED = 3

Address = Union[IPv4Address, IPv6Address]


@dataclass(frozen=True)
class Question:
    """Address and port as a log shows them, and the day in UTC; None for now.

    :ivar past: whether the day is over.
    """

    address: Address
    port: int
    day: Optional[date] = None
    past: bool = False

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
    :ivar moved: the NAT domain in which the host is now, where that is another; empty for none.
    :ivar same: False where nothing says that the host of now is that of then.
    """

    service: str
    host: str
    hosts: Tuple[str, ...]
    domain: str
    ports: PortRange
    since: Optional[date] = None
    until: Optional[date] = None
    surely: bool = True
    moved: Optional[str] = None
    same: bool = True

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
            "certain": self.surely and self.same and bool(self.host),
        }

    def __str__(self) -> str:
        if not self.host:
            more = len(self.hosts) - _NAMED
            place = f"one of {', '.join(self.hosts[:_NAMED])}{f' and {more} more' if more > 0 else ''}"
        elif self.hosts == (self.host,) and self.moved is None and self.same:
            place = self.host
        else:
            place = f"{self.host} ({self._now()})"
        domain = f" in the NAT domain {self.domain}" if self.domain else ""
        end = f" until {self.until}" if self.until else ""
        history = f" since {self.since}{end}" if self.since else ", written by hand"
        doubt = "" if self.surely else ", if the service was there then"
        return f"{self.service} on {place}{domain}{doubt}: {self.ports}{history}"

    def _now(self) -> str:
        """What became of the host."""
        if not self.hosts:
            return "not in the inventory any more"
        name = "" if self.hosts == (self.host,) else f" {self.hosts[0]}"
        domain = "" if self.moved is None else f" in the NAT domain {self.moved}" if self.moved else " in no NAT domain"
        return f"now{name}{domain}{'' if self.same else ', if that is the same host'}"


@dataclass(frozen=True)
class Place:
    """A host that the address may stand for.

    :ivar own: networks under which it is seen, and its address inside.
    :ivar inside: whether the address asked about is the latter, which stays when the host moves to another NAT domain.
    """

    host: HostPolicy
    own: Tuple[str, ...]
    inside: bool

    def shows(self, address: Address) -> bool:
        """Whether the host, or what it forwards as it is, is seen under an address."""
        return holds(self.own, address) or any(self.shows_service(item.service.name, address) for item in self.host.policy.declared)

    def shows_service(self, name: str, address: Address) -> bool:
        """Whether a service of the host is; of one that it has not, what the host itself is seen under counts."""
        service = next((item.service for item in self.host.policy.declared if item.service.name == name), None)
        return holds(self.own if service is None else seen_under(service, self.own), address)


def read_question(*, address: object, port: object, time: object, now: datetime, problems: List[Problem]) -> Optional[Question]:
    """What was asked. Notes every mistake, and gives None then.

    :param now: with a time zone. A day that has begun nowhere on Earth is a mistake.
    """
    before = len(problems)
    found, its_port = _socket(address)
    if found is None:
        problems.append(Problem("address", f"{_found(address)}; accepted: {_ADDRESS}"))
    if its_port is not None and port is not None and (port if isinstance(port, str) else shown(port)) != its_port:
        problems.append(Problem("port", f"found {shown(port)}, and {its_port} in the address; accepted: one of the two"))
    number = _port(its_port if port is None else port)
    if number is None and not (found is None and port is None):
        problems.append(Problem("port", f"{_found(its_port if port is None else port)}; accepted: {_PORT}"))
    day = None
    if time is not None:
        day = _day(time)
        if day is None:
            problems.append(Problem("time", f"{_found(time)}; accepted: {_TIME}"))
        elif day > (now + _AHEAD).astimezone(timezone.utc).date():
            problems.append(Problem("time", f"{_found(time)}, which is still to come; accepted: {_TIME}"))
    if len(problems) > before or found is None or number is None:
        return None
    return Question(found, number, day, day is not None and day < now.astimezone(timezone.utc).date())


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


def networks(variable: str, value: Any, problems: List[Problem]) -> Tuple[str, ...]:
    """The addresses and networks of a variable. Notes every mistake in it."""
    listed = value if isinstance(value, (list, tuple)) else [value]
    found = []
    for index, item in enumerate(listed):
        try:
            # A zone (fe80::1%eth0) means something on one host only.
            found.append(str(ip_network(item.strip() if isinstance(item, str) and "%" not in item else "", strict=False)))
        except ValueError:
            path = f"{variable}[{index}]" if listed is value else variable
            problems.append(Problem(path, f"found {shown(item)}; accepted: {_NETWORKS}"))
    return tuple(found)


def identify(
    question: Question,
    *,
    seen: Sequence[Place],
    domains: FrozenSet[str],
    hosts: Mapping[Tuple[str, str], str],
    holdings: Sequence[Holding],
) -> List[Match]:
    """Everybody who had the port on that day, with this address.

    :param seen: hosts that have the address, or are seen under it.
    :param domains: NAT domains that are seen under it. Hosts that are not in the inventory any more were, too.
    :param hosts: names in the inventory by NAT domain and the id under which a host holds ranges.
    :param holdings: of the file of allocated ports, with the past.
    :returns: matches in the order of service and host. Several only where the answer is not clear: on the day of a change, or where
        hosts have the same address.
    """
    places = {place.host.name: place for place in seen}
    owners: Dict[Key, List[str]] = {}
    written: Dict[Tuple[str, str, PortRange], List[str]] = {}
    for name, place in places.items():
        for item in place.host.policy.declared:
            if not place.shows_service(item.service.name, question.address):
                continue
            if item.size is not None:
                owners.setdefault(place.host.key(item), []).append(name)
                continue
            for part in item.service.source_ports:
                if part.low <= question.port <= part.high:
                    written.setdefault((item.service.name, place.host.domain, part), []).append(name)
    matches = [
        Match(service, _only(found), found, domain, part, surely=not question.past) for (service, domain, part), found in _sorted(written)
    ]
    past = _Past(holdings, hosts)
    present = {domain for domain, _host in hosts}
    for holding in holdings:
        if not seen or not holding.ports.low <= question.port <= holding.ports.high or not _then(holding, question.day):
            continue
        key = holding.key
        if key.domain:
            name, moved, same = past.now(holding)
            place = places.get(name or "")
            was_there = key.domain in domains and (name is None or moved is not None or not same)
            is_there = place is not None and (place.inside if moved is not None else place.shows_service(key.service, question.address))
            # A NAT domain that has gone may be one with another name; nothing says where it was seen.
            renamed = key.domain not in present and place is not None and holds(place.own, question.address)
            if was_there or is_there or renamed:
                names = () if name is None else (name,)
                found_there = Match(key.service, key.host, names, key.domain, holding.ports, holding.since, holding.until)
                matches.append(replace(found_there, moved=moved, same=same and (was_there or is_there)))
        elif key in owners or holding.until is not None:
            # Where the range is a service's no more, the policies of now can't say which hosts had the service.
            found = tuple(sorted(owners.get(key) or (name for name, place in places.items() if holds(place.own, question.address))))
            if found:
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


class _Past:
    """What became of hosts that held ranges."""

    def __init__(self, holdings: Sequence[Holding], hosts: Mapping[Tuple[str, str], str]) -> None:
        self._holdings = holdings
        self._hosts = hosts
        # An id stands for one host of the inventory, whatever its NAT domain.
        self._anywhere = {host: (domain, name) for (domain, host), name in hosts.items()}

    def now(self, holding: Holding) -> Tuple[Optional[str], Optional[str], bool]:
        """The name of a host in the inventory, None where it is not there; its NAT domain where it is another; and whether that is sure."""
        same = True
        seen = {holding}
        while True:
            key = holding.key
            if holding.renamed:
                key = key._replace(host=holding.renamed)
            elif (key.domain, key.host) in self._hosts:
                return self._hosts[key.domain, key.host], None, same
            elif key.host in self._anywhere:
                domain, name = self._anywhere[key.host]
                return name, domain, same and self._went(holding, domain)
            later = self._next(holding, key.host if holding.renamed else None)
            if later is None or later in seen:
                break
            same = same and bool(holding.renamed)
            seen.add(later)
            holding = later
        name = self._hosts.get((key.domain, key.host))
        if name is None and key.host in self._anywhere:
            return self._anywhere[key.host][1], self._anywhere[key.host][0], False
        return name, None, same or name is None

    def _went(self, holding: Holding, domain: str) -> bool:
        """Whether a host took ranges in another domain on the day on which it gave back its own: who comes later may be another."""
        host = holding.key.host
        return holding.until is None or any(
            other.key.domain == domain and other.key.host == host and other.since == holding.until for other in self._holdings
        )

    def _next(self, holding: Holding, host: Optional[str]) -> Optional[Holding]:
        """Who had the same range from the day on which it was given back.

        Files that were written before there was "renamed" do not tell a host with a new name from another that took its range without
        quarantine: without a name, it may be either.
        """
        begin = (holding.key.domain, holding.key.service, holding.ports, holding.until)
        for other in self._holdings:
            if (other.key.domain, other.key.service, other.ports, other.since) == begin and other.key.host != holding.key.host:
                if (other.key.host == host) if host else self._may_be_renamed(holding, other):
                    return other
        return None

    def _may_be_renamed(self, holding: Holding, later: Holding) -> bool:
        """A rename moves everything that a host holds, to a name that holds nothing."""
        day = later.since
        return not any(
            other.since < day and (other.until is None or other.until > day if other.key.host == holding.key.host else _then(other, day))
            for other in self._holdings
            if other.key.domain and other.key.host in (holding.key.host, later.key.host)
        )
