# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What it costs to get a source port: a TCP connection with each assignment, and one of an account without."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Dict

from field import BpfLab, Field, Service, bare_conntrack, bare_nat, fence, prove
from harness import Claim, Contender, Measured, Row, interleave

NAME = "connect"
SERVICE = Service("myapp", 100000, 50000, 1000)
OTHER = 99999  # an account of no service
KERNEL_PORTS = "10000 19998"
MILLISECONDS = 60

PLAIN, TRACKED, NAT = Contender("plain"), Contender("plain, bare hook with conntrack"), Contender("the same with one NAT rule")
APP, HOST, REWRITE, BPF = (Contender(assignment) for assignment in ("app", "host", "rewrite", "bpf"))
ALONE = Contender("bpf, without the fence behind it")

METHOD = """A connection from socket() to close(), which resets it, to 250 destinations in turn. Each contender is a host of its own, with one
service of 1,000 ports. Plain is the same client on a host without rules, whose ports the kernel chooses from 9,999. With `app` the
program binds, with `host` the kernel chooses from the ports of the service for everybody, `rewrite` is source NAT, and with `bpf` eBPF programs
bind when the program connects. Another account is no service's. These four have the fence behind them, as it comes; `bpf` also runs without,
which is what the assignment costs by itself. The rule of NAT gives the service its ports, and sees the first packet of everybody."""


def run(place: Field, *, rounds: int) -> Row:
    """Measure."""
    labs = {PLAIN: _lab(place), TRACKED: _lab(place), NAT: _lab(place), ALONE: _lab(place), HOST: _lab(place, ports=f"{SERVICE.low} {SERVICE.high}")}
    labs.update({contender: _lab(place) for contender in (APP, REWRITE, BPF)})
    bare_conntrack(labs[TRACKED])
    bare_nat(labs[NAT], SERVICE)
    for contender in (APP, HOST, REWRITE, BPF, ALONE):
        assignment = "bpf" if contender is ALONE else contender.line
        fence(labs[contender], [SERVICE.wanted(assignment)])
    labs[ALONE].nft("flush ruleset\n")
    for contender, lab in labs.items():
        if contender not in (PLAIN, TRACKED, ALONE):
            prove(lab, SERVICE, inside=contender is not APP, blocks=contender in (APP, HOST))
    governed = {contender: partial(_connect, place, lab, uid=SERVICE.uid) for contender, lab in labs.items()}
    governed[APP] = partial(_connect, place, labs[APP], uid=SERVICE.uid, bind=SERVICE)
    # With the assignment host, the kernel gives other accounts ports of the service as well, and the fence drops those.
    other = {contender: partial(_connect, place, lab, uid=OTHER) for contender, lab in labs.items() if contender is not HOST}
    order = (PLAIN, TRACKED, NAT, APP, HOST, REWRITE, BPF, ALONE)
    return Row(
        NAME,
        "What it costs to get a source port",
        METHOD,
        measured=[
            _measured("governed", "TCP opened by a governed account", {one: governed[one] for one in order}, rounds),
            _measured("other", "TCP opened by another account", {one: other[one] for one in order if one in other}, rounds),
        ],
        claims=[
            Claim("bpf without the fence behind it, governed account, to plain", "governed", ALONE, PLAIN, 1.05),
            Claim("bpf without the fence behind it, another account, to plain", "other", ALONE, PLAIN, 1.05),
            Claim("bpf, governed account, to plain", "governed", BPF, PLAIN, 1.05),
            Claim("rewrite, governed account, to plain", "governed", REWRITE, PLAIN, 1.6),
            Claim("bpf, another account, to plain", "other", BPF, PLAIN, 1.05),
            Claim("app, governed account, to plain", "governed", APP, PLAIN),
            Claim("host, governed account, to plain", "governed", HOST, PLAIN),
            Claim("a bare hook with conntrack, to plain", "governed", TRACKED, PLAIN),
            Claim("one NAT rule, another account, to a bare hook with conntrack", "other", NAT, TRACKED),
            Claim("bpf, governed account, to a bare hook with conntrack", "governed", BPF, TRACKED),
            Claim("bpf, another account, to a bare hook with conntrack", "other", BPF, TRACKED),
            Claim("bpf, another account, to one NAT rule", "other", BPF, NAT),
            Claim("rewrite, governed account, to one NAT rule", "governed", REWRITE, NAT),
        ],
        facts={"rounds": str(rounds)},
    )


def _lab(place: Field, *, ports: str = KERNEL_PORTS) -> BpfLab:
    return place.lab(BpfLab, ports=ports)


def _connect(place: Field, lab: BpfLab, **how: Any) -> float:
    with lab.joined():
        return place.load(lab, "connect", milliseconds=MILLISECONDS, **how)


def _measured(key: str, title: str, contenders: Dict[Contender, Callable[[], float]], rounds: int) -> Measured:
    return Measured(key, title, "µs a connection", interleave(contenders, rounds=rounds), 1e-3)
