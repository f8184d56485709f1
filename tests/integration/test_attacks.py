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
from attacks import ATTEMPTS, GO, READY, Attempt
from field_rules import INSIDE, MYAPP, OTHER, PORTS, blocked, fence, passes, until
from lab import REPOSITORY, Lab, LabError, Result

PAGE = REPOSITORY / "docs/threat-model.md"
BEGIN, END = "<!-- attacks: begin -->\n", "<!-- attacks: end -->\n"
ASSIGNMENTS = ("app", "rewrite")
# Ports that the kernel chooses; those of the attempts lie above, and the service's above these.
CHOSEN = range(33000, 36000)
FIRST, EACH = 36000, 100
PYTHON = "/usr/bin/python3"
BLOCKED, MOVED, OUT = "nothing left", "left from inside", "**left from outside**"


class Attacker:
    """A lab in which attempts are made."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._fenced: Optional[Dict[str, object]] = None
        lab.add_user("myapp", MYAPP)
        lab.add_user("other", OTHER)
        lab.run(["sysctl", "-qw", f"net.ipv4.ip_local_port_range={CHOSEN.start} {CHOSEN.stop - 1}", "net.ipv4.tcp_fastopen=1"])
        lab.run(["install", "-d", "-m", "1777", Path(READY).parent])
        self.program = f"{Path(READY).parent}/attacks.py"
        lab.run(["sh", "-c", f"cat > {self.program} && chmod 644 {self.program}"], data=Path(__file__).with_name("attacks.py").read_text("utf-8"))

    def outcome(self, name: str, *, number: int, assignment: str) -> str:
        """Make an attempt, and say what the peer saw and what the program met."""
        attempt = ATTEMPTS[name]
        first = FIRST + number * EACH
        self._fence(None if attempt.early else {"assignment": assignment, **(attempt.service or {})})
        self.lab.peer.packets()
        met = self._run(name, attempt, first=first, assignment=assignment).out.split()
        ports = {packet.source_port for packet in self.lab.peer.packets() if packet.protocol in ("tcp", "udp", "udplite")}
        saw = [MOVED] if ports & set(PORTS) else []
        if ports & ({*CHOSEN} | {*range(first, first + EACH)}):
            saw.append(OUT)
        return (" and ".join(saw) or BLOCKED) + (f" ({', '.join(met)})" if met else "")

    def _run(self, name: str, attempt: Attempt, *, first: int, assignment: str) -> Result:
        uid = {"fenced": MYAPP, "other": OTHER, "root": None}[attempt.account]
        self.lab.run(["rm", "-f", READY, GO])
        results: List[Result] = []
        failures: List[LabError] = []

        def work() -> None:
            try:
                results.append(self.lab.run([PYTHON, "-I", self.program, name, str(first)], uid=uid))
            except LabError as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        if attempt.early or name == "replies":
            assert until(lambda: bool(failures) or self._ready() is not None)
            if attempt.early:
                self._fence({"assignment": assignment})
                self.lab.peer.packets()
                self.lab.run(["touch", GO])
            else:
                port = int(self._ready() or 0)
                for protocol in ("tcp", "udp"):
                    passes(self.lab.peer, protocol, port=port)
        thread.join()
        if failures:
            raise failures[0]
        return results[0]

    def _fence(self, wanted: Optional[Dict[str, object]]) -> None:
        """Have the fence with these keys of the service, or none."""
        if wanted != self._fenced:
            if wanted is None:
                self.lab.module("fence", state="absent", purge=True)
            else:
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


def test_what_the_threat_model_says_of_attempts(lab: Lab, request: pytest.FixtureRequest) -> None:
    attacker = Attacker(lab)
    outcomes: Dict[str, Dict[str, str]] = {}
    for round_, assignment in enumerate(ASSIGNMENTS):
        # Ports of their own in each round: the first may have left connections behind.
        begin = round_ * len(ATTEMPTS)
        outcomes[assignment] = {
            name: attacker.outcome(name, number=begin + number, assignment=assignment) for number, name in enumerate(ATTEMPTS)
        }
    seen = table(outcomes)
    page = PAGE.read_text(encoding="utf-8")
    if request.config.getoption("--update-attacks"):
        head, _begin, rest = page.partition(BEGIN)
        PAGE.write_text(head + BEGIN + seen + END + rest.partition(END)[2], encoding="utf-8")
        return
    assert seen == page.partition(BEGIN)[2].partition(END)[0]


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_who_uses_up_the_own_ports_harms_nobody_else(lab: Lab, assignment: str) -> None:
    """All ports of a service are in use; another service gets its own, and none of the first's."""
    services = [
        {"name": "greedy", "user": str(MYAPP), "source_ports": "50000-50015", "assignment": assignment},
        {"name": "quiet", "user": str(OTHER), "source_ports": "50016-50031", "assignment": assignment},
    ]
    assert not lab.module("fence", services=services).get("failed")
    sessions = [lab.open(uid=MYAPP, source_port=50000 + number) for number in range(16)]
    assert {session.port for session in sessions} == set(range(50000, 50016))
    assert lab.connect(uid=MYAPP, source_port=50016, timeout=0.4).port is None
    assert passes(lab, "tcp", uid=OTHER, source_port=50020) in range(50016, 50032)
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
