# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fenced account as an attacker: every attempt of attacks.py, and what the peer saw of it, is the table of docs/threat-model.md.

``pytest tests/integration/test_attacks.py --update-attacks`` writes the table that was seen, for ``git diff`` to judge.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Dict, List, Optional

import pytest
from attacks import ATTEMPTS, FILES
from attempt import FEW, GO, NO_FENCE, OWN_PORTS, READY, UNTOUCHED, Attempt
from bpf_lab import BpfLab
from field_rules import BOTH, INSIDE, MYAPP, OTHER, PORTS, blocked, fence, passes, until
from lab import REPOSITORY, Lab, LabError, Packet, Result

PAGE = REPOSITORY / "docs/threat-model.md"
BEGIN, END = "<!-- attacks: begin -->\n", "<!-- attacks: end -->\n"
ASSIGNMENTS = ("app", "rewrite", "bpf", "host")
# Ports that the kernel chooses, but with host; those of the attempts lie above, and the service's above these.
CHOSEN = range(33000, 36000)
FIRST, EACH = 36000, 100
PYTHON = "/usr/bin/python3"
NOBODY = 65534  # an account without a service
BLOCKED, MOVED, OUT, ICMP, NOT_POSSIBLE = "nothing left", "left from inside", "**left from outside**", "ICMP left", "–"
OTHERWISE = "**left otherwise**"  # without a port, or from one that is nobody's
UNKNOWN = "EPROTONOSUPPORT"  # to the kernel


def said_of(packets: List[Packet], *, first: int, met: List[str], icmp: bool = False) -> str:
    """A cell of the table.

    :param packets: what arrived at the peer.
    :param first: the first of the ports of the attempt.
    :param met: names of the errors that the program met.
    :param icmp: whether the attempt sends ICMP.
    """
    ports = {packet.source_port for packet in packets if packet.protocol in ("tcp", "udp", "udplite", "sctp")}
    saw = [MOVED] if ports & {*PORTS, *FEW} else []
    if ports & ({*CHOSEN} | {*range(first, first + EACH)}):
        saw.append(OUT)
    if icmp and any(packet.protocol in ("icmp", "icmpv6") for packet in packets):
        saw.append(ICMP)
    if not saw and any(packet.protocol not in ("icmp", "icmpv6") for packet in packets):
        saw.append(OTHERWISE)
    return (" and ".join(saw) or BLOCKED) + (f" ({', '.join(met)})" if met else "")


class Attacker:
    """A lab in which attempts are made."""

    def __init__(self, lab: BpfLab) -> None:
        self.lab = lab
        self._fenced: Optional[Dict[str, object]] = None
        lab.add_user("myapp", MYAPP)
        lab.add_user("other", OTHER)
        lab.run(["sysctl", "-qw", "net.ipv4.tcp_fastopen=5", "net.ipv4.ping_group_range=0 2147483647"])
        lab.run(["install", "-d", "-m", "1777", Path(READY).parent])
        lab.peer.serve(UNTOUCHED)
        self.program = f"{Path(READY).parent}/attacks.py"
        for name in FILES:
            path = Path(self.program).with_name(name)
            lab.run(["sh", "-c", f"cat > {path} && chmod 644 {path}"], data=Path(__file__).with_name(name).read_text("utf-8"))

    def outcome(self, name: str, *, number: int, assignment: str) -> str:
        """Make an attempt, and say what the peer saw and what the program met."""
        attempt = ATTEMPTS[name]
        if assignment in attempt.without:
            return NOT_POSSIBLE
        first = FIRST + number * EACH
        usual: Dict[str, object] = {"assignment": assignment, **(attempt.service or {})}
        if attempt.before == NO_FENCE:
            self._fence(None)
        elif attempt.before == OWN_PORTS:
            self._fence({**usual, "source_ports": f"{first}-{first + EACH - 1}"})
        else:
            self._fence(usual)
        self.lab.peer.packets()
        met = self._run(name, attempt, first=first, then=usual).out.split()
        packets = self.lab.peer.packets()
        said = said_of(packets, first=first, met=met, icmp=attempt.icmp)
        if OTHERWISE in said:
            print(f"{name}, {assignment}: {packets}")
        return said

    def _run(self, name: str, attempt: Attempt, *, first: int, then: Dict[str, object]) -> Result:
        uid = {"fenced": MYAPP, "other": OTHER, "root": None}[attempt.account]
        become = [] if uid is None else ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]
        self.lab.run(["rm", "-f", READY, GO])
        results: List[Result] = []
        failures: List[LabError] = []

        def work() -> None:
            try:
                results.append(self.lab.inside([*become, PYTHON, "-EsB", self.program, name, str(first)]))
            except LabError as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        if attempt.before or name == "replies":
            # It may have ended with less.
            assert until(lambda: bool(failures or results) or self._ready() is not None)
            if attempt.before:
                self._fence(then)
                self.lab.peer.packets()
                self.lab.run(["touch", GO])
            elif self._ready() is not None:
                for protocol in ("tcp", "udp"):
                    passes(self.lab.peer, protocol, port=int(self._ready() or 0))
        thread.join()
        if failures:
            raise failures[0]
        return results[0]

    def _fence(self, wanted: Optional[Dict[str, object]]) -> None:
        """Have the fence with these keys of the service, or none."""
        if wanted == self._fenced:
            return
        if wanted is None:
            self.lab.module("fence", state="absent", purge=True)
        else:
            chosen = f"{CHOSEN.start}-{CHOSEN.stop - 1}"
            if wanted["assignment"] == "host":
                chosen = str(wanted.get("source_ports", f"{PORTS.start}-{PORTS.stop - 1}"))
            self.lab.run(["sysctl", "-qw", f"net.ipv4.ip_local_port_range={chosen.replace('-', ' ')}"])
            fence(self.lab, **wanted)
        self._fenced = wanted

    def _ready(self) -> Optional[str]:
        result = self.lab.run(["cat", READY], check=False)
        return result.out if result.rc == 0 else None


def table(outcomes: Dict[str, Dict[str, str]]) -> str:
    """The attempts as Markdown, a line each."""
    lines = [f"| the account … | {' | '.join(f'`{name}`' for name in ASSIGNMENTS)} | |", f"|---{'|---' * len(ASSIGNMENTS)}|---|"]
    for name, attempt in ATTEMPTS.items():
        lines.append(f"| {attempt.words} | {' | '.join(outcomes[assignment][name] for assignment in ASSIGNMENTS)} | {attempt.note} |")
    return "".join(f"{line}\n" for line in lines)


def comparable(name: str, seen: str, said: str) -> str:
    """What is said of an attempt, where it is the one with SCTP and one of the two kernels does not know that; or else what was seen.

    What is fenced on a kernel that knows it does not leave from outside.
    """
    return said if name == "sctp" and (UNKNOWN in seen or (UNKNOWN in said and OUT not in seen)) else seen


def test_what_the_threat_model_says_of_attempts(request: pytest.FixtureRequest) -> None:
    outcomes: Dict[str, Dict[str, str]] = {}
    for assignment in ASSIGNMENTS:
        with BpfLab() as lab:
            attacker = Attacker(lab)
            outcomes[assignment] = {name: attacker.outcome(name, number=number, assignment=assignment) for number, name in enumerate(ATTEMPTS)}
    page = PAGE.read_text(encoding="utf-8")
    if request.config.getoption("--update-attacks"):
        head, _begin, rest = page.partition(BEGIN)
        PAGE.write_text(head + BEGIN + table(outcomes) + END + rest.partition(END)[2], encoding="utf-8")
        return
    said = page.partition(BEGIN)[2].partition(END)[0]
    rows = [[cell.strip() for cell in line.split(" | ")] for line in said.splitlines()[2:]]
    for name, row in zip(ATTEMPTS, rows):
        for assignment, cell in zip(ASSIGNMENTS, row[1:]):
            outcomes[assignment][name] = comparable(name, outcomes[assignment][name], cell)
    assert table(outcomes) == said


@pytest.mark.parametrize("assignment", ["app", "rewrite"])
def test_who_uses_up_the_own_ports_harms_nobody_else(lab: Lab, assignment: str) -> None:
    """All ports of a service are in use; another service gets its own, and none of the first's."""
    services = [
        {"name": "greedy", "user": str(MYAPP), "source_ports": "50000-50015", "assignment": assignment},
        {"name": "quiet", "user": str(OTHER), "source_ports": "50016-50031", "assignment": assignment},
    ]
    assert not lab.module("fence", services=services).get("failed")
    for protocol, family in BOTH:
        lab.peer.packets()
        sessions = [lab.open(protocol, family=family, uid=MYAPP, source_port=50000 + number) for number in range(16)]
        assert {session.port for session in sessions} == set(range(50000, 50016))
        for more in (None, 50016, 40000):
            refused = lab.connect(protocol, family=family, uid=MYAPP, source_port=more, timeout=0.4)
            assert refused.port is None and (assignment != "rewrite" or refused.error == ("timeout" if protocol == "tcp" else "EPERM"))
        assert {packet.source_port for packet in lab.peer.packets() if packet.protocol == protocol} == set(range(50000, 50016))
        assert passes(lab, protocol, family=family, uid=OTHER, source_port=50020) in range(50016, 50032)
        assert passes(lab, protocol, family=family, uid=NOBODY, source_port=40001) == 40001
        # They serve what they have.
        assert all(session.alive() for session in sessions)
        for session in sessions:
            session.close()


def test_a_port_that_another_account_holds_can_not_be_bound(lab: Lab) -> None:
    """A limit to know: the others can't use the range, but they can keep a service from it that binds its ports itself."""
    fence(lab, assignment="app")
    with lab.socket(uid=OTHER) as squatter:
        squatter.bind(("0.0.0.0", INSIDE))
        assert lab.connect(uid=MYAPP, source_port=INSIDE).error == "EADDRINUSE"
        assert blocked(lab, "tcp", uid=OTHER, source_port=INSIDE + 1)
        fence(lab, assignment="rewrite")
        assert passes(lab, "tcp", uid=MYAPP) in PORTS
