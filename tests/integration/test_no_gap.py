# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No moment open: the policy changes hundreds of times under a fenced account that never stops trying, and under 1,000 sessions that talk."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, Iterator, List

import pytest
from field_rules import MYAPP, OTHER, fence, until
from lab import Lab
from watch import PROGRAM, STOP, WATCH, Talk, leaked, start, watched

SESSIONS = 1000


def service(assignment: str, ports: str = "50000-51999", **changes: Any) -> Dict[str, Any]:
    return {"name": "myapp", "user": str(MYAPP), "source_ports": ports, "assignment": assignment, **changes}


def policies(assignment: str) -> List[List[Dict[str, Any]]]:
    """Policies that differ in everything, and all forbid the account the ports OUTSIDE."""
    others = [{"name": f"s{number}", "user": str(21000 + number), "source_ports": f"{60000 + number}"} for number in range(20)]
    return [
        [service(assignment)],
        [service(assignment, on_violation="reject"), *others],
        [service(assignment, "50000-52999"), *others[:7]],
        [service(assignment, "50000-51999", exclusive=False)],
        [service(assignment, ["50000-51999", "53000"]), {"name": "other", "user": str(OTHER), "source_ports": "54000-54999"}],
        # Under another name, the account goes to other chains.
        [{**service(assignment), "name": "renamed"}],
    ]


@pytest.fixture(name="busy")
def fixture_busy() -> Iterator[Lab]:
    with watched(WATCH, uid=MYAPP) as lab:
        yield lab


def change(lab: Lab, assignment: str, count: int) -> None:
    """Change the policy so many times."""
    lab.run(["sh", "-c", "cat >/run/apply.py"], data=PROGRAM.read_text(encoding="utf-8"))
    command = [sys.executable, "/run/apply.py", "apply", str(count)]
    assert lab.run(command, data=json.dumps(policies(assignment)), env={"PYTHONPATH": lab.collections()}, timeout=900).out == f"{count}\n"


def test_a_leak_would_be_seen(busy: Lab) -> None:
    """The same under rules that are deleted and loaded again."""
    fence(busy, assignment="app")
    rules = busy.run(["nft", "list", "table", "inet", "portfence"]).out
    with ThreadPoolExecutor(1) as pool:
        said = start(busy, pool, uid=MYAPP)
        try:
            for _number in range(20):
                busy.nft("delete table inet portfence")
                busy.nft(rules)
        finally:
            busy.run(["touch", STOP])
    assert said.result()["tried"] > 0
    assert leaked(busy) > 0


@pytest.mark.parametrize(("assignment", "count"), [("app", 500), ("rewrite", 100)])
def test_nothing_leaks_and_nothing_is_cut_while_the_policy_changes(busy: Lab, assignment: str, count: int) -> None:
    fence(busy, assignment=assignment, source_ports="50000-53999")
    sessions = [busy.open(uid=MYAPP, source_port=50000 + number) for number in range(SESSIONS)]
    with ThreadPoolExecutor(1) as pool, Talk(sessions) as talk:
        said = start(busy, pool, uid=MYAPP)
        try:
            change(busy, assignment, count)
        finally:
            during = list(talk.turns)
            busy.run(["touch", STOP])
        goes_on = until(lambda: all(after > before for before, after in zip(during, talk.turns)))
    last = policies(assignment)[(count - 1) % len(policies(assignment))]
    assert not busy.module("fence", services=last, purge=True)["changed"]
    assert said.result()["tried"] > 10 * count
    assert leaked(busy) == 0
    assert talk.cut == []
    assert all(during) and goes_on
