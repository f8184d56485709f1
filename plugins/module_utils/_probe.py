# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a probe tries, what the policy says should be seen, and what to make of what was seen. Pure.

The checks of a service, each for every protocol and family:

``unmodified``
    an account of the service connects with a socket that it did not bind;
``bind_inside``, ``bind_outside``
    it binds to a port of the service first, or to a port that belongs to no service;
``other_inside``
    an account of no service binds to a port of the service;
``other_elsewhere``
    an account of no service connects with a socket that it did not bind.

An account of a service is one that the fence looks for, or any account in the unit, class or network namespace of the service.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any, Collection, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._netns import FAMILIES
from ansible_collections.portfence.egress.plugins.module_utils._ports import HIGHEST, PortRange, PortSet
from ansible_collections.portfence.egress.plugins.module_utils._probe_place import Account
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import Packet, Ruleset, ServiceRules

# sctp, dccp and udplite need programs and kernel modules on both sides that hosts rarely have.
PROBED_PROTOCOLS = ("tcp", "udp")

PASSES = "passes"
INSIDE = "inside"
ELSEWHERE = "elsewhere"
BLOCKED = "blocked"
REFUSED = "refused"
UNBOUND = "unbound"

# How a firewall, on this host or on the way, makes itself felt at the socket.
_BLOCKING = (
    errno.ETIMEDOUT,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EPERM,
    errno.EACCES,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
)


@dataclass(frozen=True)
class Circumstances:
    """What a plan depends on beside the policy.

    :ivar accounts: the accounts of each service.
    :ivar host_range: services whose ports are the host's own ip_local_port_range.
    :ivar other: an account that belongs to no service.
    :ivar unreachable: families that can't be probed, each with the reason.
    :ivar first_free_port: the lowest port that an account without privileges may bind to
        (net.ipv4.ip_unprivileged_port_start).
    :ivar strict: services that eBPF does not let bind to a port outside.
    :ivar walled: services whose units may be kept from binding to a port outside, by systemd, and the ports beside the
        source ports that they may bind to.
    """

    accounts: Mapping[str, Sequence[Account]]
    host_range: Collection[str]
    other: Account
    unreachable: Mapping[str, str]
    first_free_port: int
    strict: Collection[str] = ()
    walled: Mapping[str, PortSet] = field(default_factory=dict)


@dataclass(frozen=True)
class Attempt:
    """One connection to try.

    :ivar ports: where to bind, any free one of them; None for a socket that is not bound.
    :ivar assigned: whether the host has to see to it that the connection gets a port of the service.
    :ivar unbindable: whether eBPF has to refuse the bind.
    :ivar walled: whether systemd may refuse the bind. It does where it is new enough, from the next start of the unit on.
    :ivar skipped: why it can't be tried.
    """

    service: str
    check: str
    protocol: str
    family: str
    account: Account
    ports: Optional[PortSet] = None
    assigned: bool = False
    unbindable: bool = False
    walled: bool = False
    skipped: Optional[str] = None

    @property
    def path(self) -> Tuple[str, str]:
        """What it shares with the attempts that must work or fail together with it when the network is to blame."""
        return (self.protocol, self.family)


@dataclass(frozen=True)
class Outcome:
    """What became of an attempt.

    :ivar local: the port of the socket; None when it is not known (an unbound socket that was refused at once).
    :ivar seen: the source port that the peer saw; None when nothing arrived.
    :ivar answered: whether the peer's answer came back.
    :ivar error: what the socket met, an errno; ETIMEDOUT when there was nothing in time. None when there was an answer.
    :ivar text: an error that has no errno.
    :ivar unbound: the errno of bind() when it failed, which is in the text as well.
    :ivar packets: opening segments or datagrams that were sent.
    :ivar skipped: why it could not be tried after all.
    """

    local: Optional[int] = None
    seen: Optional[int] = None
    answered: bool = False
    error: Optional[int] = None
    text: Optional[str] = None
    unbound: Optional[int] = None
    packets: int = 0
    skipped: Optional[str] = None

    @property
    def said(self) -> Optional[str]:
        """The error in words."""
        return self.text or (None if self.error is None else os.strerror(self.error))


@dataclass(frozen=True)
class Expectation:
    """What the policy says about an attempt.

    :ivar kind: PASSES (with any port), INSIDE (with one of these ports), ELSEWHERE (with a port that no service has to
        itself), BLOCKED (nothing arrives), REFUSED (nothing arrives, and the socket is told at once) or UNBOUND (bind() is
        refused).
    :ivar breach: the event that the fence counts, such as ``("violation", "myapp")``.
    """

    kind: str
    ports: PortSet = PortSet()
    breach: Optional[Tuple[str, str]] = None

    def __str__(self) -> str:
        if self.kind == INSIDE:
            return f"port {self.ports}"
        if self.kind == ELSEWHERE:
            return "a port of no exclusive service"
        return {PASSES: "any port", BLOCKED: "blocked", REFUSED: "refused", UNBOUND: "refused by bind()"}[self.kind]


@dataclass(frozen=True)
class Line:
    """An attempt with its result. ``ok`` is None where it was skipped; ``problem`` is set where it is False."""

    attempt: Attempt
    outcome: Outcome
    expected: Optional[Expectation]
    ok: Optional[bool]
    problem: Optional[str] = None

    def to_dict(self) -> Dict[str, Any]:
        """The line as a module returns it."""
        attempt = self.attempt
        data: Dict[str, Any] = {
            "service": attempt.service,
            "check": attempt.check,
            "protocol": attempt.protocol,
            "family": attempt.family,
            "account": attempt.account.name,
            "local": self.outcome.local,
            "expected": None if self.expected is None else str(self.expected),
            "seen": self.outcome.seen,
            "error": self.outcome.said,
            "ok": self.ok,
        }
        skipped = attempt.skipped or self.outcome.skipped
        if skipped is not None:
            data["skipped"] = skipped
        return data


class Law:
    """The ruleset of a host, with quick answers however many services it has."""

    def __init__(self, ruleset: Ruleset) -> None:
        self.services = ruleset.services
        self._by_uid = {uid: rules for rules in ruleset.services for uid in rules.uids}
        self._by_gid = {gid: rules for rules in ruleset.services for gid in rules.gids}
        ranges = ((part.low, part.high, rules) for rules in ruleset.services for part in rules.ports)
        self._ranges = sorted(ranges, key=lambda item: item[0])
        self._lows = [low for low, _high, _rules in self._ranges]
        self._by_place = [rules for rules in ruleset.services if rules.units or rules.classids]
        self._by_name = {rules.name: rules for rules in ruleset.services}

    def service(self, name: str) -> ServiceRules:
        """The rules of a service."""
        return self._by_name[name]

    def near(self, packet: Packet) -> Ruleset:
        """The services whose account, place or port a packet has: the only ones that can have a say about it."""
        found = [self._by_uid.get(-1 if packet.uid is None else packet.uid)]
        found.append(self._by_gid.get(-1 if packet.gid is None else packet.gid))
        if packet.unit is not None or packet.classid is not None:
            found.extend(self._by_place)
        # Services of one host share no port, so the last range that begins before it is the only one to look at.
        place = bisect_right(self._lows, packet.source_port) - 1
        if place >= 0 and packet.source_port <= self._ranges[place][1]:
            found.append(self._ranges[place][2])
        unique = {rules.name: rules for rules in found if rules is not None}
        return Ruleset(tuple(unique.values()))


def plan(ruleset: Ruleset, *, names: Collection[str], given: Circumstances) -> Tuple[Attempt, ...]:
    """Every attempt of the services with these names. The ruleset holds all services of the host."""
    attempts: List[Attempt] = []
    unclaimed = outside(ruleset, given.first_free_port)
    for rules in ruleset.services:
        if rules.name not in names:
            continue
        checks: List[Tuple[str, Account, Optional[PortSet], bool]] = []
        for account in given.accounts[rules.name]:
            checks.append(("unmodified", account, None, rules.rewrite or rules.name in given.host_range))
            checks.append(("bind_inside", account, rules.ports, rules.rewrite))
            checks.append(("bind_outside", account, unclaimed - given.walled.get(rules.name, PortSet()), rules.rewrite))
        checks.append(("other_inside", given.other, rules.ports, False))
        checks.append(("other_elsewhere", given.other, None, False))
        for protocol in PROBED_PROTOCOLS:
            if protocol not in rules.protocols:
                continue
            for family in FAMILIES:
                for check, account, ports, assigned in checks:
                    bindable, why = _bindable(ports, account, given.first_free_port)
                    attempts.append(
                        Attempt(
                            service=rules.name,
                            check=check,
                            protocol=protocol,
                            family=family,
                            account=account,
                            ports=bindable,
                            assigned=assigned,
                            unbindable=check == "bind_outside" and rules.name in given.strict,
                            walled=check == "bind_outside" and rules.name in given.walled,
                            skipped=account.absent or given.unreachable.get(family, why),
                        )
                    )
    return tuple(attempts)


def outside(ruleset: Ruleset, first_free_port: int) -> PortSet:
    """Ports to bind to that belong to no service of the host."""
    claimed = PortSet.of(part for rules in ruleset.services for part in rules.ports)
    return PortSet((PortRange(max(1024, first_free_port), HIGHEST),)) - claimed


def _bindable(
    ports: Optional[PortSet], account: Account, first_free_port: int
) -> Tuple[Optional[PortSet], Optional[str]]:
    if ports is None:
        return None, None
    if not ports:
        return ports, "every port belongs to a service"
    if account.uid == 0 or first_free_port <= 1:
        return ports, None
    left = ports - PortSet((PortRange(1, first_free_port - 1),))
    return left, None if left else f"{account.name} may not bind to ports below {first_free_port}"


def not_probed(ruleset: Ruleset, names: Collection[str]) -> Dict[str, List[str]]:
    """Protocols that are fenced but that a probe does not try, by service."""
    left = {
        rules.name: [protocol for protocol in rules.protocols if protocol not in PROBED_PROTOCOLS]
        for rules in ruleset.services
        if rules.name in names
    }
    return {name: protocols for name, protocols in left.items() if protocols}


def expect(attempt: Attempt, *, local: Optional[int], law: Law) -> Expectation:
    """What the policy says about an attempt.

    :param local: the port of its socket, None for one that was refused before one could look, or could not be bound.
    """
    if attempt.unbindable:
        return Expectation(UNBOUND)
    if attempt.account.in_namespace:
        return _expect_in_namespace(attempt, local, law.service(attempt.service))
    if local is None:
        # Port 0 is no service's: an unbound socket that was refused at once did not have a port of its service.
        local = attempt.ports.ranges[0].low if attempt.ports else 0
    packet = _packet(attempt, local)
    near = law.near(packet)
    own = near.owner(packet)
    if own is not None and attempt.assigned:
        return Expectation(INSIDE, own.ports)
    verdict, name = near.judge(packet)
    if name is None:
        if own is not None:
            return Expectation(INSIDE, PortSet((PortRange(packet.source_port, packet.source_port),)))
        return Expectation(ELSEWHERE if attempt.check == "other_elsewhere" else PASSES)
    judge = next(rules for rules in near.services if rules.name == name)
    breach = (verdict, name)
    if not judge.blocks:
        return Expectation(PASSES, breach=breach)
    return Expectation(REFUSED if verdict == "violation" and judge.refuse else BLOCKED, breach=breach)


def held(attempt: Attempt, local: Optional[int], *, law: Law) -> bool:
    """Whether nothing of an attempt should arrive. For the parameters see :func:`expect`."""
    return expect(attempt, local=local, law=law).kind in (BLOCKED, REFUSED)


def _expect_in_namespace(attempt: Attempt, local: Optional[int], rules: ServiceRules) -> Expectation:
    """What the fence in a namespace lets out, the host translates into a port of the service."""
    if attempt.ports is None or (local or attempt.ports.ranges[0].low) in rules.ports:
        return Expectation(INSIDE, rules.ports)
    breach = ("namespace_violation", rules.name)
    if not rules.blocks:
        return Expectation(INSIDE, rules.ports, breach=breach)
    return Expectation(REFUSED if rules.on_violation == "reject" else BLOCKED, breach=breach)


def _packet(attempt: Attempt, source_port: int) -> Packet:
    account = attempt.account
    return Packet(
        attempt.protocol, source_port, uid=account.uid, gid=account.gid, classid=account.classid, unit=account.unit
    )


def judge(attempt: Attempt, outcome: Outcome, *, law: Law) -> Line:
    """Compare what was seen with what the policy says."""
    if attempt.skipped is not None or outcome.skipped is not None:
        return Line(attempt, outcome, None, None)
    if attempt.walled and outcome.unbound == errno.EPERM:
        return Line(attempt, outcome, Expectation(UNBOUND), True)
    expected = expect(attempt, local=outcome.local, law=law)
    wrong = _wrong(expected, outcome, welcome=_welcome(attempt, outcome, law))
    if wrong is None:
        return Line(attempt, outcome, expected, True)
    how = f"as {attempt.account.name}" + ("" if outcome.local is None else f" from port {outcome.local}")
    where = f"{attempt.service} {attempt.protocol} {attempt.family} {attempt.check}"
    return Line(attempt, outcome, expected, False, f"{where}: expected {expected}, {wrong} ({how})")


def _welcome(attempt: Attempt, outcome: Outcome, law: Law) -> bool:
    """Whether the account may have the port that was seen on the wire."""
    # What leaves a namespace is translated on its way: its port on the wire does not tell which one it had inside.
    if outcome.seen is None or attempt.account.in_namespace:
        return False
    packet = _packet(attempt, outcome.seen)
    return law.near(packet).judge(packet)[1] is None


def _wrong(expected: Expectation, outcome: Outcome, *, welcome: bool) -> Optional[str]:
    """What is wrong, or None."""
    if expected.kind == UNBOUND:
        if outcome.unbound is None and outcome.text is None:
            return f"it was let, and the peer saw {outcome.seen or 'nothing'}"
        return None if outcome.unbound == errno.EPERM else f"could not bind: {outcome.said}"
    if outcome.text is not None or (outcome.error is not None and outcome.error not in _BLOCKING):
        return f"could not connect: {outcome.said}"
    if expected.kind in (BLOCKED, REFUSED):
        # The kernel moves a connection to another port when it still remembers one with the same addresses and ports.
        # It is the port on the wire that counts.
        if outcome.seen is not None and not welcome:
            return f"peer saw {outcome.seen}"
        if expected.kind == REFUSED and outcome.error == errno.ETIMEDOUT and outcome.seen is None:
            return "nothing arrived, but the client was not told"
        return None
    if outcome.seen is None:
        return f"nothing arrived: {outcome.said}"
    if (expected.kind == INSIDE and outcome.seen not in expected.ports) or (expected.kind == ELSEWHERE and not welcome):
        return f"peer saw {outcome.seen}"
    if not outcome.answered:
        return f"peer saw {outcome.seen}, but its answer did not come back: {outcome.said}"
    return None
