# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hands out ranges of ports: what is held and what is asked for → what is held then. Pure; today's date comes in.

A range belongs to a service everywhere (no domain, no host), or to a service on one host within a NAT domain. Ranges of services
are apart from each other and from those of every domain; ranges of one domain are apart from each other. Blocks have a power of
two of ports and start at a multiple of it, so that one mask in an access list covers each.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import AbstractSet, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._errors import Problem
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange, PortSet

# Outside of the kernel's default ip_local_port_range, 32768-60999 (ip-sysctl), and of the node ports of Kubernetes, 30000-32767.
DEFAULT_POOLS = (PortRange(16384, 28671), PortRange(61440, 65535))
_PORTS = 65536


class Key(NamedTuple):
    """Who a range belongs to. An empty domain and host mean the service wherever it runs."""

    domain: str
    host: str
    service: str

    def __str__(self) -> str:
        return f"{self.service} on {self.host} in {self.domain}" if self.domain else self.service


class Holding(NamedTuple):
    """A range, its owner, since when, and until when it was the owner's; None while it still is. Sorts as the file does.

    :ivar renamed: the name under which the host went on with it; empty where it gave the range back.
    """

    key: Key
    ports: PortRange
    since: date
    until: Optional[date] = None
    renamed: str = ""


@dataclass(frozen=True)
class Request:
    """What one owner needs.

    :ivar path: of the value that asks for it, for messages.
    :ivar one_range: whether one block has to do, because the kernel takes the ports as one range.
    """

    key: Key
    size: int
    path: str
    pools: Tuple[PortRange, ...] = DEFAULT_POOLS
    one_range: bool = False


@dataclass(frozen=True)
class Outcome:
    """What is held afterwards, sorted; what was handed out and what was given back; and what could not be done."""

    holdings: Tuple[Holding, ...]
    taken: Tuple[Holding, ...] = ()
    released: Tuple[Holding, ...] = ()
    problems: Tuple[Problem, ...] = ()


def order(holding: Holding) -> Tuple[object, ...]:
    """The order of the file."""
    return (holding.key, holding.ports, holding.since, holding.until or date.max)


def blocks_of(size: int) -> int:
    """The number of ports that a request for a number of ports gets: the next power of two."""
    return 1 << (size - 1).bit_length()


def held_by(holdings: Iterable[Holding]) -> Dict[Key, PortSet]:
    """The ports of every present owner."""
    ranges: Dict[Key, List[PortRange]] = {}
    for holding in holdings:
        if holding.until is None:
            ranges.setdefault(holding.key, []).append(holding.ports)
    return {key: PortSet.of(parts) for key, parts in ranges.items()}


def rename(holdings: Sequence[Holding], *, renames: Mapping[str, str], hosts: AbstractSet[str], today: date) -> Outcome:
    """Let hosts go on under other names: their ranges stay where they are, and the history says since when the name is new.

    :param renames: old name to new name. A name is one or the other: done again, a chain or a swap would move other hosts' ranges.
        A rename that was done before changes nothing.
    :param hosts: ids of all hosts of the inventory: new names are among them, old ones are not.
    """
    problems = []
    holders = {holding.key.host for holding in holdings if holding.until is None and holding.key.host}
    targets: Dict[str, str] = {}
    for old, new in sorted(renames.items()):
        mistake = _no_rename(old, new, renames=renames, targets=targets, hosts=hosts, holders=holders) or (
            "" if old in holders else _not_done(holdings, old, new)
        )
        if mistake:
            problems.append(Problem(f"egress_renamed_hosts.{old}", mistake))
        targets[new] = old
    if problems:
        return Outcome(tuple(holdings), problems=tuple(problems))
    result: List[Holding] = []
    taken: List[Holding] = []
    released: List[Holding] = []
    for holding in holdings:
        new = holding.key.host if holding.until is not None else renames.get(holding.key.host, holding.key.host)
        if new == holding.key.host:
            result.append(holding)
            continue
        # Also on the day on which it was handed out: that line alone tells this name from one that nobody had.
        released.append(holding._replace(until=today, renamed=new))
        taken.append(holding._replace(key=holding.key._replace(host=new), since=today))
        result.extend((released[-1], taken[-1]))
    return Outcome(tuple(sorted(_joined(sorted(result, key=order)), key=order)), taken=tuple(taken), released=tuple(released))


def _no_rename(
    old: str, new: str, *, renames: Mapping[str, str], targets: Mapping[str, str], hosts: AbstractSet[str], holders: AbstractSet[str]
) -> str:
    """What keeps two names from being the old and the new one of a host; empty for nothing."""
    if new in targets:
        return f"found {new}, the new name of {targets[new]} as well; accepted: a name of its own for each host"
    if new in renames:
        return f"found {new}, which is renamed as well; accepted: a name that is not, and a run for each step"
    if new not in hosts:
        return f"found {new}, and the inventory has no such host; accepted: the name that the host has there now, or its egress_host_id"
    if old in hosts:
        return f"found {new}, and the inventory has a host {old} as well; accepted: an old name that no host has any more"
    if old in holders and new in holders:
        return f"found {new}, which holds ranges of its own; accepted: a name that holds none"
    return ""


def _not_done(holdings: Sequence[Holding], old: str, new: str) -> str:
    """Why a rename from a name that holds nothing is no rename that was done before; empty where it is one."""
    past = [holding for holding in holdings if holding.key.host == old and holding.until is not None]
    if not past:
        return f"found {new}, and {old} never held a range; accepted: the old name of a host that does"
    if any(holding.renamed == new for holding in past):
        return ""
    last = max(past, key=lambda holding: holding.until or date.min)
    what = f"went on as {last.renamed}" if last.renamed else "gave its ranges back"
    return f"found {new}, and {old} {what} on {last.until}; accepted: the old name of a host that holds ranges, or the file of before from git"


def missing_hosts(holdings: Iterable[Holding], *, hosts: AbstractSet[Tuple[str, str]], many: float) -> Tuple[str, ...]:
    """Hosts that hold ranges and are not where they hold them, if they are several and a large part of all that do.

    That is what a part of an inventory looks like: a slice, or a source that answered with half of its hosts; and a NAT domain
    with another name.

    :param hosts: NAT domain and id of all hosts.
    :param many: the part that is large, from 0 to 1.
    :returns: their ids and domains, sorted; none where one or a few left.
    """
    holders = {(holding.key.domain, holding.key.host) for holding in holdings if holding.until is None and holding.key.host}
    missing = holders - hosts
    if len(missing) < 2 or len(missing) < many * len(holders):
        return ()
    moved = {host: domain for domain, host in hosts}
    return tuple(
        f"{host} in {domain}" + (f" (now in {moved[host] or 'no NAT domain'})" if host in moved else "")
        for host, domain in sorted((host, domain) for domain, host in missing)
    )


def allocate(*, holdings: Sequence[Holding], requests: Sequence[Request], today: date, quarantine: int) -> Outcome:
    """Give every request its ports, and take back what nobody asks for any more.

    :param holdings: present and past owners.
    :param requests: one for each owner; owners that hold ranges and are not among them give them back.
    :param quarantine: days that have to pass before a range that was given back goes to another owner. Its last owner may
        have it again at any time.
    :returns: the outcome, the same for the same holdings and requests in any order. A range that is held and asked for
        never changes. With problems, everything that could be handed out was.
    """
    wanted = {request.key: request for request in requests}
    kept: List[Holding] = []
    released: List[Holding] = []
    for holding in holdings:
        if holding.until is None and holding.key not in wanted:
            released.append(holding._replace(until=today))
            kept.append(released[-1])
        else:
            kept.append(holding)
    have: Dict[Key, int] = {}
    for holding in kept:
        if holding.until is None:
            have[holding.key] = have.get(holding.key, 0) + holding.ports.size
    # Large blocks first leave the fewest gaps; the name decides between equals.
    lacking = sorted(
        (request for key, request in wanted.items() if have.get(key, 0) < request.size),
        key=lambda request: (-blocks_of(request.size), request.key),
    )
    by_domain: Dict[str, List[Request]] = {}
    for request in lacking:
        by_domain.setdefault(request.key.domain, []).append(request)

    fleet: Dict[str, List[Holding]] = {}
    for holding in kept:
        fleet.setdefault(holding.key.domain, []).append(holding)
    taken: List[Holding] = []
    problems: List[Problem] = []
    # Services first (the domain of a service is ""): their ranges are to be free in all domains.
    for domain in sorted(by_domain):
        near = kept if not domain else [*fleet.get("", ()), *fleet.get(domain, ())]
        desk = _Desk(near, today=today, quarantine=quarantine)
        for again in (True, False):
            for request in by_domain[domain]:
                if have.get(request.key, 0) >= request.size:
                    continue
                missing = _missing(request, have.get(request.key, 0))
                if request.one_range and have.get(request.key):
                    if not again:
                        problems.append(_cannot_grow(request, have[request.key]))
                    continue
                parts = desk.again(request, missing) if again else desk.fresh(request, missing)
                for part in parts:
                    holding = Holding(request.key, part, today)
                    taken.append(holding)
                    fleet.setdefault(domain, []).append(holding)
                    have[request.key] = have.get(request.key, 0) + part.size
                if not again and have.get(request.key, 0) < request.size:
                    problems.append(_exhausted(request, have.get(request.key, 0), desk))
    return Outcome(
        tuple(sorted(_joined([*kept, *taken]), key=order)),
        taken=tuple(sorted(taken, key=order)),
        released=tuple(sorted(released, key=order)),
        problems=tuple(problems),
    )


def _missing(request: Request, have: int) -> List[int]:
    """Sizes of the blocks that a request still needs, the largest first."""
    rest = max(0, blocks_of(request.size) - have) if have < request.size else 0
    return [1 << bit for bit in reversed(range(rest.bit_length())) if rest >> bit & 1]


def _joined(holdings: Iterable[Holding]) -> List[Holding]:
    """Given back and handed out again on one day is not given back."""
    result: Dict[Tuple[Key, PortRange, date], Holding] = {}
    given_back: Dict[Tuple[Key, PortRange], Holding] = {}
    for holding in holdings:
        before = given_back.get((holding.key, holding.ports))
        if holding.until is None and before is not None and before.until == holding.since:
            del result[(before.key, before.ports, before.since)]
            holding = holding._replace(since=before.since)
        if holding.until is not None:
            last = given_back.get((holding.key, holding.ports))
            if last is None or (last.until or date.min) < holding.until:
                given_back[(holding.key, holding.ports)] = holding
        result[(holding.key, holding.ports, holding.since)] = holding
    return list(result.values())


def _exhausted(request: Request, have: int, desk: _Desk) -> Problem:
    pools = ", ".join(str(pool) for pool in request.pools)
    where = f"the NAT domain {request.key.domain}" if request.key.domain else "all NAT domains"
    free, cooling = desk.left(request.pools)
    return Problem(
        f"{request.path}.size",
        f"found {request.size} for {request.key}, and the pools {pools} have no free block of {blocks_of(request.size - have)} ports left in"
        f" {where} ({free} ports are free, {cooling} in quarantine); accepted: a smaller size, or more pools in egress_port_pools",
    )


def _cannot_grow(request: Request, have: int) -> Problem:
    return Problem(
        f"{request.path}.size",
        f"found {request.size} for {request.key}, which holds {have} ports and has an assignment that takes one range; a range that"
        f" was handed out does not move; accepted: at most {have}, or another assignment",
    )


class _Desk:
    """The ports of one domain: which are held, and which are in quarantine, port by port."""

    def __init__(self, holdings: Sequence[Holding], *, today: date, quarantine: int) -> None:
        self.held = bytearray(_PORTS)
        self.busy = bytearray(_PORTS)
        self.past: Dict[Key, List[Holding]] = {}
        self.cooling: List[Holding] = []
        # By pool and size: where the first block may be that is free. Nothing is given back at a desk, so that none before it is.
        self._first: Dict[Tuple[PortRange, int], int] = {}
        for holding in holdings:
            if holding.until is None:
                self.take(holding.ports)
            else:
                self.past.setdefault(holding.key, []).append(holding)
                if (today - holding.until).days < quarantine:
                    self.cooling.append(holding)
                    _mark(self.busy, holding.ports)

    def take(self, ports: PortRange) -> None:
        """These are held from now on."""
        _mark(self.held, ports)
        _mark(self.busy, ports)

    def again(self, request: Request, missing: Sequence[int]) -> List[PortRange]:
        """Ranges that the owner had before and that nobody else had since, as far as they fit what is missing."""
        found: List[PortRange] = []
        sizes = list(missing)
        past = sorted(self.past.get(request.key, ()), key=lambda holding: (holding.until or date.max, holding.since, holding.ports))
        for holding in reversed(past):
            ports = holding.ports
            fits = ports.size in sizes and any(pool.low <= ports.low and ports.high <= pool.high for pool in request.pools)
            if not fits or self.held.find(1, ports.low, ports.high + 1) >= 0:
                continue
            if any(_had_since(other, holding) for other in self.cooling):
                continue
            sizes.remove(ports.size)
            found.append(ports)
            self.take(ports)
        return found

    def fresh(self, request: Request, missing: Sequence[int]) -> List[PortRange]:
        """The lowest free blocks, pool by pool."""
        found: List[PortRange] = []
        for size in missing:
            ports = self.lowest(request.pools, size)
            if ports is None:
                break
            found.append(ports)
            self.take(ports)
        return found

    def lowest(self, pools: Sequence[PortRange], size: int) -> Optional[PortRange]:
        """The first free block of a size that starts at a multiple of it."""
        for pool in pools:
            low = self._first.get((pool, size), -(-pool.low // size) * size)
            free = False
            while not free and low + size - 1 <= pool.high:
                taken = self.busy.rfind(1, low, low + size)
                free = taken < 0
                low = low if free else -(-(taken + 1) // size) * size
            self._first[(pool, size)] = low
            if free:
                return PortRange(low, low + size - 1)
        return None

    def left(self, pools: Sequence[PortRange]) -> Tuple[int, int]:
        """How many ports of pools are free, and how many are in quarantine."""
        free = sum(self.busy.count(0, pool.low, pool.high + 1) for pool in pools)
        cooling = sum(self.held.count(0, pool.low, pool.high + 1) for pool in pools) - free
        return free, cooling


def _had_since(other: Holding, holding: Holding) -> bool:
    """Whether another owner gave back some of these ports after this one did."""
    shared = other.ports.low <= holding.ports.high and holding.ports.low <= other.ports.high
    return other.key != holding.key and shared and (other.until or date.max) > (holding.until or date.max)


def _mark(ports: bytearray, part: PortRange) -> None:
    ports[part.low : part.high + 1] = b"\x01" * part.size
