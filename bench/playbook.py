# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the playbook takes for one host, against the same policy task by task, and against tasks that do nothing."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from control import BOOKS, ROUND_TRIPS, by_hand, check, environment, policy, program
from field import Field, Lab, LabError, Service, fence, prove, services
from harness import Claim, Contender, Measured, Row, interleave

NAME = "site"
SIZES = (1, 20, 100, 1000)
BUILTIN_SIZES = (1, 20)
LOW, PORTS = 20000, 8
KERNEL_PORTS = "10000 19998"
INVENTORY = "/var/lib/inventory.json"
RULES = "/var/tmp/fence.nft"
PATIENCE = 3600.0

FIRST, AGAIN = "site, first run", "site, second run"
BUILTIN, BUILTIN_AGAIN = "builtin modules, first run", "builtin modules, second run"
FLOOR = f"{ROUND_TRIPS} × ping, nft -f"

METHOD = f"""Seconds of the whole command `ansible-playbook`, for one host, which is also the controller (connection `local`, no pipelining). Each
first run finds a fresh host. One service has {PORTS} ports and an account to be made; everything else is as it comes: source NAT, wrong ports and
intrusions dropped and logged, ports exclusive, for TCP and UDP over IPv4 and IPv6. `portfence.egress.site` makes the accounts, reserves the ports,
loads the fence, keeps it for boot, proves each service by connecting (20 connections a service; 20 services by chance when nothing changed), and
reads counters. Builtin: the same policy with `ansible.builtin.user`, `ansible.builtin.iptables` and `ansible.posix.sysctl` (`playbooks/builtin.yml`):
13 tasks a service, nothing kept for boot, nothing proved. It is measured up to {BUILTIN_SIZES[-1]} services, because its time grows with each. The
floor: as many modules that do nothing (`ansible.builtin.ping`) as there are times that site comes to the host, and `nft -f` of the same rules."""


def run(
    _place: Field,
    *,
    rounds: int,
    sizes: Sequence[int] = SIZES,
    builtin_sizes: Sequence[int] = BUILTIN_SIZES,
    builtin_again: bool = True,
) -> Row:
    """Measure.

    :param builtin_again: whether second runs of the builtin modules are measured.
    """
    contenders: Dict[Contender, Callable[[], float]] = {}
    with ExitStack() as stack:
        for number in sizes:
            column = f"{number} services" if number > 1 else "1 service"
            fenced = services(number, low=LOW, size=PORTS)
            # The rules that the floor loads are those of the fence.
            rules = fence(stack.enter_context(Lab(capture=False)), [one.wanted("rewrite") for one in fenced])["fence"]
            ours = stack.enter_context(Host(fenced, "portfence.egress.site", {"egress_services": policy(fenced)}))
            contenders[Contender(FIRST, column)] = ours.first
            contenders[Contender(AGAIN, column)] = ours.again
            if number in builtin_sizes:
                builtin = stack.enter_context(Host(fenced, str(BOOKS / "builtin.yml"), by_hand(fenced)))
                contenders[Contender(BUILTIN, column)] = builtin.first
                if builtin_again:
                    contenders[Contender(BUILTIN_AGAIN, column)] = builtin.again
            floor = stack.enter_context(Host(fenced, str(BOOKS / "floor.yml"), {"round_trips": ROUND_TRIPS, "rules": RULES}, rules=rules))
            contenders[Contender(FLOOR, column)] = floor.first
        samples = interleave(contenders, rounds=rounds, warm_up=False)
    return Row(
        NAME,
        "What a run of the playbook takes",
        METHOD,
        measured=[Measured("seconds", "ansible-playbook, one host", "seconds", samples)],
        claims=_claims(samples),
        facts={"rounds": str(rounds)},
    )


def _claims(samples: Mapping[Contender, Sequence[float]]) -> List[Claim]:
    """Of what was measured."""
    columns = list(dict.fromkeys(contender.column for contender in samples))
    one, many = columns[0], columns[-1]
    built = [contender.column for contender in samples if contender.line == BUILTIN]
    wanted = [(f"builtin modules, {column}, to site, first run", BUILTIN, column, FIRST, column) for column in built]
    wanted += [(f"builtin modules, {column}, to site, second run", BUILTIN_AGAIN, column, AGAIN, column) for column in built]
    wanted += [(f"site, {line}, {many} to {one}", f"site, {line}", many, f"site, {line}", one) for line in ("first run", "second run")]
    wanted += [(f"site, {column}, first run, to {FLOOR}", FIRST, column, FLOOR, column) for column in columns]
    limits: Dict[str, Tuple[Optional[float], bool]] = {
        f"builtin modules, {BUILTIN_SIZES[-1]} services, to site, first run": (10.0, True),
        f"site, first run, {many} to {one}": (4.0, False),
        f"site, second run, {many} to {one}": (1.5, False),
    }
    claims = []
    for text, line, column, other, other_column in wanted:
        of, against = Contender(line, column), Contender(other, other_column)
        limit, at_least = limits.get(text, (None, False))
        if of in samples and against in samples:
            claims.append(Claim(text, "seconds", of, against, limit, at_least))
    return claims


class Host:
    """A fresh host for each first run of a playbook; the runs after it find what that left."""

    def __init__(self, fenced: List[Service], book: str, variables: Dict[str, Any], *, rules: str = "") -> None:
        """
        :param rules: what lies on the host before, as a file.
        """
        self._service = fenced[-1]
        self._book = book
        self._variables = variables
        self._rules = rules
        self._lab: Optional[Lab] = None

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_about: object) -> None:
        if self._lab is not None:
            self._lab.close()
            self._lab = None

    def first(self) -> float:
        """Seconds on a host that was not fenced before. Raises LabError unless it is fenced then."""
        self.__exit__()
        self._lab = Lab(capture=False).__enter__()
        self._lab.run(["sysctl", "-qw", f"net.ipv4.ip_local_port_range={KERNEL_PORTS}"])
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, **self._variables}
        self._lab.run(["sh", "-c", f"cat >{INVENTORY}"], data=json.dumps({"all": {"hosts": {"lab": here}}}))
        self._lab.run(["sh", "-c", f"cat >{RULES}"], data=self._rules)
        seconds = self._run(self._lab, "")
        self._prove(self._lab)
        return seconds

    def again(self) -> float:
        """Seconds on a host where the same has run before. Raises LabError if anything changes."""
        if self._lab is None:
            self.first()
        assert self._lab is not None
        return self._run(self._lab, "changed=0")

    def _run(self, lab: Lab, wanted: str) -> float:
        collections = lab.collections()
        begin = time.monotonic()
        done = lab.run(
            ["sh", "-c", 'cd / && exec "$@"', "sh", program("ansible-playbook"), "-i", INVENTORY, self._book],
            check=False,
            env=environment(collections),
            timeout=PATIENCE,
        )
        seconds = time.monotonic() - begin
        check(done.out + done.err, done.rc, wanted=wanted)
        return seconds

    def _prove(self, lab: Lab) -> None:
        service = self._service
        prove(lab, service, inside=True, blocks=False)
        # Connection tracking may give it another port, if the service has this one towards the peer.
        port = lab.connect("udp", uid=service.uid + 1, source_port=service.low, timeout=0.2).port
        if port is not None and service.low <= port <= service.high:
            raise LabError(f"an account of no service got through from port {port}")
