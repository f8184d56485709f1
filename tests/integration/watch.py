# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""For tests that change a fence under a fenced account: one that never stops trying, sessions that never stop talking, and a peer that counts."""

from __future__ import annotations

import json
import selectors
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, Type

from bpf_lab import BpfLab
from lab import Lab, Session
from no_gap import OUTSIDE

PROGRAM = Path(__file__).with_name("no_gap.py")
STOP = "/run/stop"
PID = "/run/press.pid"
# Ports that the kernel gives sessions, for address translation to replace.
CHOSEN = range(45000, 50000)


def watch(allowed: str) -> str:
    """Rules by which the peer counts what must not arrive there, in both families: all that is not from these ports, which some policy allows."""
    return f"""
table inet watch {{
    counter leaked {{ }}
    chain input {{
        type filter hook input priority 0;
        meta l4proto {{ tcp, udp }} th dport 7000 th sport != {{ {allowed} }} counter name leaked
    }}
}}
"""


@contextmanager
def watched(rules: str, *, uid: int, kind: Type[Lab] = Lab) -> Iterator[Lab]:
    """A lab of this kind with an account myapp, whose peer counts by these rules. It keeps no list of packets: there are too many."""
    with kind(capture=False) as lab:
        lab.add_user("myapp", uid)
        lab.peer.nft(rules)
        yield lab


def start(lab: Lab, pool: ThreadPoolExecutor, *, uid: int, ports: range = OUTSIDE, cgroup: str = "") -> "Future[Dict[str, int]]":
    """Let an account try these ports until there is a file STOP. Its PID in the lab is in the file PID.

    :param cgroup: the folder of a cgroup that it is put into first.
    """
    # Another one may be about to read it.
    place = "cat >/run/no_gap.new && chmod 644 /run/no_gap.new && mv /run/no_gap.new /run/no_gap.py"
    lab.run(["sh", "-c", place], data=PROGRAM.read_text(encoding="utf-8"))
    lab.run(["rm", "-f", STOP, PID])

    enter = ["sh", "-c", f'[ -z "$1" ] || echo $$ >"$1/cgroup.procs" || exit; echo $$ >{PID}; shift; exec "$@"', "sh", cgroup]
    become = [*enter, "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]
    bounds = [str(ports.start), str(ports.stop - 1)]
    run = lab.inside if isinstance(lab, BpfLab) else lab.run

    def work() -> Dict[str, int]:
        said: Dict[str, int] = json.loads(run([*become, "/usr/bin/python3", "-I", "/run/no_gap.py", "press", STOP, *bounds], timeout=600).out)
        return said

    return pool.submit(work)


def leaked(lab: Lab) -> int:
    """Packets that arrived at the peer, and must not have."""
    return lab.peer.counter("inet watch", "leaked")


class Talk:
    """Sessions that talk all the time, in a thread: each sends when it has heard what it said before.

    What a busy peer loses of UDP is sent again after a second.
    """

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

    def _repeat(self, before: List[int]) -> List[int]:
        """Let those that use UDP and have heard nothing since then send again; what all have heard by now."""
        for number, sock in enumerate(self._socks):
            if sock.type == socket.SOCK_DGRAM and self.turns[number] == before[number]:
                try:
                    sock.send(b"?")
                except OSError as error:
                    self.cut.append(f"session {number}: {error}")
        return list(self.turns)

    def _work(self) -> None:
        before, since = [-1] * len(self._socks), time.monotonic()
        while not self._stop.is_set():
            # All of them at full speed would leave the policy no time to change.
            self._stop.wait(0.1)
            if time.monotonic() > since + 1:
                before, since = self._repeat(before), time.monotonic()
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
