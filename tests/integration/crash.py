# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of crashes share: a module goes from one state of a lab to another and back, and is killed on the way each time."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from lab import Lab, LabError, Node
from lab_keeper import PATH, PEER_ADDRESSES, PORT
from module_server import Supervised

# Ports that no policy of these tests allows, one for each socket.
OUTSIDE = 40000

# Sends all the time until its standard input ends, and prints how often it tried, and which attempts of each kind the kernel did not refuse.
_SENDER = """
import errno, json, select, socket, struct, sys
# A port whose last connection is not over yet can't be used again. Any other error is one of the test.
NO = errno.EPERM, errno.ECONNREFUSED, errno.EADDRNOTAVAIL, errno.EADDRINUSE
port, own, tried, pairs = int(sys.argv[1]), int(sys.argv[2]), 0, []
def opened(address, kind, own):
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if own:
        sock.bind(("", own))
    return sock
for number, (address, kind) in enumerate((address, kind) for address in sys.argv[3:] for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
    ours = own and own + number
    pairs.append((kind == socket.SOCK_DGRAM and opened(address, kind, ours), address, ours))
taken = [0] * len(pairs)
while True:
    for number, (sock, address, ours) in enumerate(pairs):
        tried += 1
        try:
            if sock:
                sock.sendto(b"anybody there?", (address, port))
            else:
                # A socket sends one SYN, and is as good as deaf when that is dropped.
                with opened(address, socket.SOCK_STREAM, ours) as opening:
                    opening.connect((address, port))
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in NO:
                raise
            continue
        taken[number] += 1
    if tried == len(pairs):
        print("ready", flush=True)
    # Whoever is tested may be done at once; one more round then.
    elif select.select([sys.stdin], [], [], 0.0002)[0]:
        break
print(json.dumps([tried, taken]))
"""


class Pressure:
    """Somebody who sends all the time from ports that are not theirs: datagrams, and openings of connections, over IPv4 and IPv6."""

    def __init__(self, lab: Lab, *enter: str, port: int = OUTSIDE) -> None:
        """A sender; it begins when it is entered.

        :param enter: a command that becomes that one, and then runs what stands behind it.
        :param port: the first of four, or 0 for those of the kernel's choice.

        When it is over, `tried` says how often it tried, and `taken` how many attempts of each of the four kinds the kernel did not refuse at once.
        """
        addresses = [PEER_ADDRESSES[family] for family in (4, 6)]
        self._command = [*lab.enter, *enter, "/usr/bin/python3", "-I", "-c", _SENDER, str(PORT), str(port), *addresses]
        self.tried = 0
        self.taken: List[int] = []

    def __enter__(self) -> Pressure:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="ascii", env={"PATH": PATH}, start_new_session=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise LabError("the sender did not start")
        return self

    def __exit__(self, *_about: object) -> None:
        said = self._process.communicate()[0]
        if self._process.returncode != 0:
            raise LabError("the sender met an error that no fence gives")
        self.tried, self.taken = json.loads(said)


def either(seen: Any, expected: Sequence[Any]) -> bool:
    """What is seen is all the one or all the other."""
    return seen in expected


def each(seen: Sequence[Any], expected: Sequence[Sequence[Any]]) -> bool:
    """Each part of what is seen is the one or the other."""
    return len(seen) == len(expected[0]) and all(part in parts for part, parts in zip(seen, zip(*expected)))


def remove_fence(lab: Lab) -> None:
    """Take the fence away, whatever it is made of."""
    assert not lab.module("fence", services=[], state="absent", purge=True).get("failed")


@dataclass(frozen=True)
class Press:
    """Whoever must not get out while a module goes from one state to the other.

    :ivar begin: somebody who tries, once the first state is there.
    :ivar let_out: takes away what holds it in the first state.
    :ivar counts: the end of the cable whose counter `leaked` has its packets that got out.
    """

    begin: Callable[[Lab], Pressure]
    let_out: Callable[[Lab], None] = remove_fence
    counts: Callable[[Lab], Node] = lambda lab: lab.peer

    def leaked(self, lab: Lab) -> int:
        """How many of its packets got out so far."""
        return self.counts(lab).counter("inet watch", "leaked")


@dataclass(frozen=True)
class Subject:
    """A module, and two states to go to and fro between.

    :ivar states: the parameters for each.
    :ivar look: what the kernel has of it, or the files that programs read; compared with what it is when all went well.
    :ivar whole: whether what is seen after a crash is good, given what the two states look like.
    :ivar booted: the same for what is seen after a boot.
    :ivar press: whoever must not get out in the meantime.
    """

    module: str
    states: Tuple[Dict[str, Any], Dict[str, Any]]
    look: Callable[[Lab], Any]
    whole: Callable[[Any, Sequence[Any]], bool] = either
    booted: Callable[[Any, Sequence[Any]], bool] = either
    press: Optional[Press] = None


@dataclass
class Crashes:
    """What was seen. :ivar killed: the call that was not made any more, each time. :ivar problems: what should not have been, in words."""

    killed: List[str] = field(default_factory=list)
    problems: List[str] = field(default_factory=list)


def crash(lab: Lab, modules: Supervised, subject: Subject, *, points: Optional[int], among: str = "") -> Crashes:
    """Go from state to state, and be killed on the way.

    :param points: how many calls in each direction, spread evenly; None for all of them, and each in both ways: the process alone that
        makes it, and everything at once.
    :param among: where it is not all of them, those with this in their text.
    """
    if subject.press is not None:
        _would_be_seen(lab, subject, subject.press)
    expected: List[Any] = []
    for state in subject.states:
        assert converge(lab, subject, state) == []
        expected.append(subject.look(lab))
        lab.reboot()
        assert subject.look(lab) == expected[-1], "a boot alone changes what is there"
        assert not lab.module(subject.module, **state)["changed"], "a boot alone is something to mend"
    assert expected[0] != expected[1]
    plans = [list(_sample(_calls(modules, subject, to), points, among)) for to in (0, 1)]
    crashes = Crashes()
    for pair in zip(*_evened(plans)):
        for to, (number, everybody) in enumerate(pair):
            _crash_once(lab, modules, subject, crashes, expected, to=to, kill=number, everybody=everybody)
    return crashes


def _would_be_seen(lab: Lab, subject: Subject, press: Press) -> None:
    """Whoever nothing holds gets out, with every kind of packet, and is counted. The first state is there afterwards, but for what holds."""
    assert converge(lab, subject, subject.states[0]) == []
    press.let_out(lab)
    with press.begin(lab) as pressure:
        pass
    assert all(pressure.taken), f"nothing holds the sender, and of {pressure.tried} attempts the kernel took {pressure.taken}"
    assert press.leaked(lab) >= len(pressure.taken), f"nothing holds the sender, and {press.leaked(lab)} of {pressure.tried} packets are counted"
    press.counts(lab).nft("reset counter inet watch leaked")


def _calls(modules: Supervised, subject: Subject, to: int) -> List[str]:
    """Go to a state, undisturbed; the calls on the way."""
    done = modules.run(subject.module, subject.states[to])
    assert done["rc"] == 0 and done["calls"], done
    return list(done["calls"])


def _sample(calls: List[str], points: Optional[int], among: str) -> Iterator[Tuple[int, bool]]:
    if points is None:
        yield from ((number, everybody) for number in range(len(calls)) for everybody in (False, True))
        return
    numbers = [number for number, call in enumerate(calls) if among in call]
    assert numbers, f"no call with {among}: {calls}"
    # Of two that follow each other, one dies alone.
    for index in range(min(points, len(numbers))):
        yield numbers[index * len(numbers) // min(points, len(numbers))], bool(index % 2)


def _evened(plans: List[List[Tuple[int, bool]]]) -> List[List[Tuple[int, bool]]]:
    """The shorter one begins again where it ends."""
    longest = max(map(len, plans))
    return [[plan[index % len(plan)] for index in range(longest)] for plan in plans]


def converge(lab: Lab, subject: Subject, state: Dict[str, Any]) -> List[str]:
    """Run the module, and again; what was not as it should be."""
    first = lab.module(subject.module, **state)
    if first.get("failed"):
        return [f"the next run fails: {first['msg']}"]
    again = lab.module(subject.module, **state)
    return [f"the second run after that changes {again}"] if again.get("failed") or again["changed"] else []


def _crash_once(
    lab: Lab, modules: Supervised, subject: Subject, crashes: Crashes, expected: List[Any], *, to: int, kill: int, everybody: bool
) -> None:
    how = {"kill": kill, "everybody": everybody}
    if subject.press is None:
        calls = modules.run(subject.module, subject.states[to], **how)["calls"]
    else:
        with subject.press.begin(lab) as pressure:
            calls = modules.run(subject.module, subject.states[to], **how)["calls"]
        if pressure.tried <= 4 or subject.press.leaked(lab):
            # The first round is not enough to have been there all the time.
            crashes.problems.append(f"{subject.module} {how}: of {pressure.tried} packets {subject.press.leaked(lab)} got out so far")
    where = f"{subject.module} to state {to}, {'all' if everybody else 'one'} killed at call {kill}"
    if len(calls) > kill:
        where = f"{where}, {calls[kill]}"
        crashes.killed.append(where)
    seen = subject.look(lab)
    if not subject.whole(seen, expected):
        crashes.problems.append(f"{where}: there is neither the one nor the other: {seen}")
    lab.reboot(check=False)
    seen = subject.look(lab)
    if not subject.booted(seen, expected):
        crashes.problems.append(f"{where}: a boot gives neither the one nor the other: {seen}")
    problems = converge(lab, subject, subject.states[to])
    if not problems and subject.look(lab) != expected[to]:
        problems = [f"the next run gives {subject.look(lab)}"]
    left = lab.run(["find", "/etc", "/run", "/usr/local", "-xdev", "-name", "*.portfence-new"]).out.split()
    problems.extend(f"{path} is left" for path in left)
    crashes.problems.extend(f"{where}: {problem}" for problem in problems)
