# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No moment open: the policy changes hundreds of times under a fenced account that never stops trying, and under 1,000 sessions that talk."""

from __future__ import annotations

import json
import selectors
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from field_rules import MYAPP, OTHER, fence, until
from lab import Lab, Session
from no_gap import OUTSIDE

PROGRAM = Path(__file__).with_name("no_gap.py")
SESSIONS = 1000
STOP = "/run/stop"
# Counts at the peer what must not arrive there: the fenced account's from its ports outside, and its openings in both families.
WATCH = f"""
table inet watch {{
    counter leaked {{ }}
    counter arrived {{ }}
    chain input {{
        type filter hook input priority 0;
        meta l4proto {{ tcp, udp }} th sport {OUTSIDE.start}-{OUTSIDE.stop - 1} counter name leaked
        meta l4proto {{ tcp, udp }} th dport 7000 counter name arrived
    }}
}}
"""


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
    """A lab whose peer keeps no list of packets: there are too many."""
    with Lab(capture=False) as lab:
        lab.add_user("myapp", MYAPP)
        lab.peer.nft(WATCH)
        yield lab


def start(lab: Lab, pool: ThreadPoolExecutor, *, uid: int = MYAPP) -> "Future[Dict[str, int]]":
    """Let an account try until there is a file STOP."""
    lab.run(["sh", "-c", "cat >/run/no_gap.py && chmod 644 /run/no_gap.py"], data=PROGRAM.read_text(encoding="utf-8"))
    lab.run(["rm", "-f", STOP])

    def work() -> Dict[str, int]:
        said: Dict[str, int] = json.loads(lab.run(["/usr/bin/python3", "-I", "/run/no_gap.py", "press", STOP], uid=uid, timeout=600).out)
        return said

    return pool.submit(work)


def counted(lab: Lab, name: str) -> int:
    listed = json.loads(lab.peer.run(["nft", "-j", "list", "counter", "inet", "watch", name]).out)
    return int(next(item["counter"]["packets"] for item in listed["nftables"] if "counter" in item))


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
        said = start(busy, pool)
        try:
            for _number in range(20):
                busy.nft("delete table inet portfence")
                busy.nft(rules)
        finally:
            busy.run(["touch", STOP])
    assert said.result()["tried"] > 0
    assert counted(busy, "leaked") > 0


class Talk:
    """Sessions that talk all the time, in a thread: each sends when it has heard what it said before."""

    def __init__(self, sessions: List[Session]) -> None:
        self._sessions = sessions
        self.turns = [0] * len(sessions)
        self.cut: List[str] = []
        self._stop = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._socks = [session.sock for session in sessions]
        for number, session in enumerate(sessions):
            session.sock.setblocking(True)
            session.sock.sendall(b"0")
            self._selector.register(session.sock, selectors.EVENT_READ, number)
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.is_set():
            for key, _events in self._selector.select(0.1):
                number, sock = key.data, self._socks[key.data]
                try:
                    if sock.recv(100):
                        self.turns[number] += 1
                        sock.sendall(b"%d" % self.turns[number])
                        continue
                    self.cut.append(f"session {number} was closed")
                except OSError as error:
                    self.cut.append(f"session {number}: {error}")
                self._selector.unregister(sock)

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_about: object) -> None:
        """Stop talking, and hang up."""
        self._stop.set()
        self._thread.join()
        self._selector.close()
        for session in self._sessions:
            session.close()


@pytest.mark.parametrize(("assignment", "count"), [("app", 500), ("rewrite", 100)])
def test_nothing_leaks_and_nothing_is_cut_while_the_policy_changes(busy: Lab, assignment: str, count: int) -> None:
    fence(busy, assignment=assignment, source_ports="50000-53999")
    sessions = [busy.open(uid=MYAPP, source_port=50000 + number) for number in range(SESSIONS)]
    with ThreadPoolExecutor(1) as pool, Talk(sessions) as talk:
        said = start(busy, pool)
        try:
            change(busy, assignment, count)
        finally:
            during = list(talk.turns)
            busy.run(["touch", STOP])
        goes_on = until(lambda: all(after > before for before, after in zip(during, talk.turns)))
    last = policies(assignment)[(count - 1) % len(policies(assignment))]
    assert not busy.module("fence", services=last, purge=True)["changed"]
    assert said.result()["tried"] > 10 * count
    assert counted(busy, "leaked") == 0
    assert talk.cut == []
    assert all(during) and goes_on
