# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a packet costs: behind the fence, behind the rules that people paste, and with nothing in its way."""

from __future__ import annotations

from functools import partial
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

from field import Field, Lab, Service, bare_conntrack, bare_nat, fence, least_rewrite, owner_match, prove, services
from harness import Claim, Contender, Measured, Row, interleave

NAME = "packet_path"
SIZES = (1, 100, 1000, 5000)
LOW, PORTS = 20000, 8
OTHER = 99999  # an account of no service
KERNEL_PORTS = "10000 19998"

NONE, BARE, NAT = Contender("no rules"), Contender("bare hook with conntrack"), Contender("the same with one NAT rule")
LEAST = Contender("the same with NAT, zone and check of one account")
OWNER_MATCH, APP, REWRITE = "iptables, owner match", "fence, app", "fence, rewrite"
LINES = (OWNER_MATCH, APP, REWRITE)
TRANSLATING = (REWRITE, NAT.line, LEAST.line)

METHOD = f"""Each contender is a host of its own, with the rules of so many services of {PORTS} ports each, and a cable to a peer. A service
of the last rules sends (governed), and an account of no service (other).

UDP: datagrams of 64 bytes of one connected socket, nanoseconds each, that of the peer's stack included. TCP opened: a connection from socket()
to close(), which resets it; 250 destinations take turns. TCP bulk: what one connection carries until the peer has read it. With iptables and the
assignment `app`, a governed socket is bound to a port of its service, with `rewrite` it is not. All over IPv4; the rules of IPv6 are there.
The fence is as it comes: exclusive ports, logs, counters. Those of iptables have neither. The least that `rewrite` needs is a rule of NAT, a
zone for datagrams, and a check of the port that comes out; with the number of one account in each of these rules, and nothing else, it is a floor."""


class Traffic(NamedTuple):
    """Something to measure.

    :ivar governed: whether a service sends, not somebody else.
    """

    key: str
    title: str
    unit: str
    kind: str
    governed: bool
    scale: float


TRAFFIC = (
    Traffic("udp_governed", "UDP of a governed account", "ns a packet", "udp", True, 1),
    Traffic("udp_other", "UDP of another account", "ns a packet", "udp", False, 1),
    Traffic("open_governed", "TCP opened by a governed account", "µs a connection", "connect", True, 1e-3),
    Traffic("open_other", "TCP opened by another account", "µs a connection", "connect", False, 1e-3),
    Traffic("bulk_governed", "TCP bulk of a governed account", "Gbit/s", "bulk", True, 8e-9),
    Traffic("bulk_other", "TCP bulk of another account", "Gbit/s", "bulk", False, 8e-9),
)
MILLISECONDS = {"udp": 60, "connect": 60, "bulk": 250}


def run(place: Field, *, rounds: int, sizes: Sequence[int] = SIZES) -> Row:
    """Measure."""
    hosts = _hosts(place, sizes)
    row = Row(NAME, "What a packet costs", METHOD, claims=_claims(sizes))
    for traffic in TRAFFIC:
        contenders: Dict[Contender, Callable[[], float]] = {}
        for contender, host in hosts.items():
            service = host.service if traffic.governed else None
            how = {"uid": service.uid if service else OTHER, "milliseconds": MILLISECONDS[traffic.kind]}
            bind = service if service and contender.line not in TRANSLATING else None
            contenders[contender] = partial(place.load, host.lab, traffic.kind, bind=bind, **how)
            if bind is not None and contender == NONE and traffic.kind == "connect":
                # What the kernel does to choose a port is no cost of rules.
                contenders[_unbound(contender)] = partial(place.load, host.lab, traffic.kind, bind=None, **how)
        row.measured.append(Measured(traffic.key, traffic.title, traffic.unit, interleave(contenders, rounds=rounds), traffic.scale))
    row.facts["rounds"] = str(rounds)
    return row


class Host(NamedTuple):
    """A contender's lab, and the service of it that sends."""

    lab: Lab
    service: Service


def _unbound(contender: Contender) -> Contender:
    return Contender(f"{contender.line}, not bound")


def _hosts(place: Field, sizes: Sequence[int]) -> Dict[Contender, Host]:
    def made(number: int, rules: Optional[Callable[[Lab, List[Service]], object]]) -> Host:
        lab, fenced = place.lab(Lab, ports=KERNEL_PORTS), services(number, low=LOW, size=PORTS)
        if rules is not None:
            rules(lab, fenced)
        return Host(lab, fenced[-1])

    hosts = {NONE: made(1, None), BARE: made(1, lambda lab, _fenced: bare_conntrack(lab))}
    hosts[NAT] = made(1, lambda lab, fenced: bare_nat(lab, fenced[0]))
    hosts[LEAST] = made(1, lambda lab, fenced: least_rewrite(lab, fenced[0]))
    for number in sizes:
        column = _column(number)
        hosts[Contender(OWNER_MATCH, column)] = made(number, owner_match)
        for line, assignment in ((APP, "app"), (REWRITE, "rewrite")):
            hosts[Contender(line, column)] = made(number, partial(_fence, assignment))
    for contender, host in hosts.items():
        translates = contender.line in TRANSLATING
        if translates or contender.line in LINES:
            prove(host.lab, host.service, inside=translates, blocks=not translates)
    return hosts


def _fence(assignment: str, lab: Lab, fenced: List[Service]) -> None:
    fence(lab, [one.wanted(assignment) for one in fenced], persist=False)


def _column(number: int) -> str:
    return f"{number} services" if number > 1 else "1 service"


def _claims(sizes: Sequence[int]) -> List[Claim]:
    one, many = _column(sizes[0]), _column(sizes[-1])
    accounts = (("governed", "a governed account"), ("other", "another account"))
    claims = []
    for line in (APP, REWRITE):
        for key, who in accounts:
            for column in (one, many):
                text = f"{line}, {column}, UDP of {who}, to a bare hook with conntrack"
                claims.append(Claim(text, f"udp_{key}", Contender(line, column), BARE, 1.2))
        for kind, what in (("udp", "UDP of"), ("open", "TCP opened by")):
            for key, who in accounts:
                text = f"{line}, {what} {who}, {many} to {one}"
                claims.append(Claim(text, f"{kind}_{key}", Contender(line, many), Contender(line, one), 1.1))
        for key, who in accounts:
            text = f"{line}, {many}, TCP bulk of {who}, to no rules"
            claims.append(Claim(text, f"bulk_{key}", Contender(line, many), NONE, 0.97, at_least=True))
    udp = "UDP of a governed account"
    claims.append(Claim(f"one NAT rule, {udp}, to a bare hook with conntrack", "udp_governed", NAT, BARE))
    for key, who in accounts:
        named = "NAT, zone and check of one account"
        claims.append(Claim(f"{named}, UDP of {who}, to a bare hook with conntrack", f"udp_{key}", LEAST, BARE))
        claims.append(Claim(f"{REWRITE}, {many}, UDP of {who}, to {named}", f"udp_{key}", Contender(REWRITE, many), LEAST))
    claims.append(Claim(f"{REWRITE}, {many}, {udp}, to one NAT rule", "udp_governed", Contender(REWRITE, many), NAT))
    for line in (APP, REWRITE):
        for column in map(_column, sizes):
            pair = Contender(OWNER_MATCH, column), Contender(line, column)
            claims.append(Claim(f"iptables, owner match, {column}, {udp}, to {line}", "udp_governed", *pair))
    return claims
