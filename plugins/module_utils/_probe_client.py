# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the attempts of a probe, many at a time, each with a socket that the account itself opens."""

from __future__ import annotations

import errno
import heapq
import resource
import selectors
import socket
import time
from collections import deque
from dataclasses import dataclass
from typing import Callable, Deque, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._probe import Attempt, Outcome
from ansible_collections.portfence.egress.plugins.module_utils._probe_accounts import acting_as
from ansible_collections.portfence.egress.plugins.module_utils._probe_peer import PATIENCE, Peer
from ansible_collections.portfence.egress.plugins.module_utils._probe_place import Place
from ansible_collections.portfence.egress.plugins.module_utils._probe_slots import Slots, shuffled
from ansible_collections.portfence.egress.plugins.module_utils._probe_sockets import NotOpened, Sockets

# Longer than any answer: a responder never sends more than it got.
_DATAGRAM = b"portfence probe\n"
_LONGEST_ANSWER = 256
# Sockets to open in search of one whose port on this host was not used towards the same port of the peer.
_MOST_TRIES = 50
_RETRANSMITS = 2  # struct tcp_info, <linux/tcp.h>: the third byte is tcpi_retransmits
# The kernel found none to choose: EAGAIN for UDP, EADDRNOTAVAIL for TCP.
_NO_LOCAL_PORT = (errno.EAGAIN, errno.EADDRNOTAVAIL)
# An attempt that should be held has no end of its own. Seconds to give it, unless others need longer by the same way; how many times as
# long as the slowest of those; and the most, as the opening segment is sent again after a second.
_SOONEST, _TIMES, _LATEST = 0.25, 5, 0.9
_UNUSABLE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def open_files_limit() -> int:
    """How many files this process may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


@dataclass(frozen=True)
class Destination:
    """Where the attempts go.

    :ivar addresses: the peer's address by family.
    :ivar sources: this host's address towards it, by family.
    :ivar ports: each attempt under way has one of these to itself, which tells it from the others.
    :ivar peer: the temporary peer that reports what arrives; None for a target, where only answers count.
    """

    addresses: Mapping[str, str]
    sources: Mapping[str, str]
    ports: Sequence[int]
    peer: Optional[Peer] = None


class _Flight:
    """An attempt under way."""

    def __init__(self, *, index: int, attempt: Attempt, port: int, sock: socket.socket) -> None:
        self.index = index
        self.attempt = attempt
        self.port = port
        self.sock = sock
        self.local: Optional[int] = None
        self.seen: Optional[int] = None
        self.answer: Optional[int] = None
        self.received = b""
        self.sent = 0
        self.over = False
        self.asked = 0
        self.since = time.monotonic()
        # When it is given up: the latest.
        self.until = self.since
        # Whether it should not arrive.
        self.held = False

    @property
    def key(self) -> Tuple[str, str, int]:
        """What tells it from all others that are under way."""
        return (*self.attempt.path, self.port)

    @property
    def way(self) -> Tuple[Tuple[str, str], Optional[Place]]:
        """What it shares with attempts that take about as long to arrive."""
        return (self.attempt.path, self.attempt.account.place)


class _NotBound(Exception):
    """An attempt could not get a port to bind to. :ivar error: the errno; None where that is nobody's fault."""

    def __init__(self, why: str, *, error: Optional[int]) -> None:
        self.why = why
        self.error = error
        super().__init__(why)


class Client:
    """Makes attempts. Use once."""

    def __init__(
        self, *, destination: Destination, sockets: Sockets, timeout: float, held: Callable[[Attempt, Optional[int]], bool]
    ) -> None:
        """
        :param sockets: what opens the sockets.
        :param timeout: seconds to wait for each attempt.
        :param held: whether an attempt should not arrive, given the port of its socket.
        """
        self._to = destination
        self._sockets = sockets
        self._timeout = timeout
        self._held = held
        # Seconds that the slowest of those that arrived has taken, by each way.
        self._slowest: Dict[Tuple[Tuple[str, str], Optional[Place]], float] = {}
        # A cable loses nothing, a network may.
        self._sends = 1 if destination.peer is not None else 3
        self._selector = selectors.DefaultSelector()
        self._outcomes: Dict[int, Outcome] = {}
        self._flights: Dict[Tuple[str, str, int], _Flight] = {}
        self._alarms: List[Tuple[float, int, _Flight]] = []
        # Those whose time is over, until the peer has said whether they arrived: it may be slower than the time that they had.
        self._doubtful: List[_Flight] = []
        self._slots = Slots(destination.ports)
        self._datagrams: Set[Tuple[str, Optional[int], int]] = set()

    def run(self, attempts: Sequence[Attempt]) -> List[Outcome]:
        """Make all attempts; their outcomes in the same order. Raises HostError."""
        waiting: Dict[Tuple[str, str], Deque[int]] = {}
        for index, attempt in enumerate(attempts):
            if attempt.skipped is None:
                waiting.setdefault(attempt.path, deque()).append(index)
        peer = self._to.peer
        if peer is not None:
            self._selector.register(peer.reports, selectors.EVENT_READ)
        try:
            while any(waiting.values()) or self._flights:
                for indexes in waiting.values():
                    while indexes and self._start(indexes[0], attempts[indexes[0]]):
                        indexes.popleft()
                self._wait()
        finally:
            for flight in self._flights.values():
                flight.sock.close()
            self._selector.close()
        if peer is not None:
            peer.check_complete()
        return [self._outcomes.get(index, Outcome()) for index in range(len(attempts))]

    def _start(self, index: int, attempt: Attempt) -> bool:
        """Begin an attempt; False when it has to wait until a port of the peer is free."""
        port = self._slots.take(attempt)
        if port is None:
            return False
        with acting_as(attempt.account):
            try:
                sock = self._sockets.open(attempt)
            except NotOpened as problem:
                self._slots.put_back(attempt, port)
                self._outcomes[index] = Outcome(**{"skipped" if problem.gone else "text": problem.why})
                return True
            flight = _Flight(index=index, attempt=attempt, port=port, sock=sock)
            self._flights[flight.key] = flight
            try:
                error = self._connect(flight)
            except _NotBound as problem:
                skipped = problem.error is None
                self._end(flight, unbound=problem.error, **{"skipped" if skipped else "text": problem.why})
                return True
            except NotOpened as problem:
                self._end(flight, **{"skipped" if problem.gone else "text": problem.why})
                return True
        if error is None or (error in _NO_LOCAL_PORT and attempt.ports is None and not self._alone(flight)):
            self._put_back(flight)
            return False
        if error not in (0, errno.EINPROGRESS):
            self._end(flight, error=error)
            return True
        self._selector.register(flight.sock, selectors.EVENT_READ, flight)
        self._set_alarms(flight)
        return True

    def _alone(self, flight: _Flight) -> bool:
        """Whether no other attempt holds a local port that this one could have."""
        protocol = flight.attempt.protocol
        return not any(other.attempt.protocol == protocol for other in self._flights.values() if other is not flight)

    def _put_back(self, flight: _Flight) -> None:
        """Undo the beginning of an attempt, which is tried again when others have given back what it lacks."""
        flight.sock.close()
        del self._flights[flight.key]
        self._slots.put_back(flight.attempt, flight.port)

    def _connect(self, flight: _Flight) -> Optional[int]:
        """Bind if the attempt says so, and send what opens the connection. Raises _NotBound and NotOpened.

        :returns: an errno, or None when others under way have the ports that would not meet an earlier trace.
        """
        to = (self._to.addresses[flight.attempt.family], flight.port)
        if flight.attempt.protocol == "tcp":
            self._bind(flight)
            error = flight.sock.connect_ex(to)
            flight.local = flight.sock.getsockname()[1] or None
            flight.sent = 1
            return error
        # connect() sends nothing here, so a port that was used already can be given back.
        for number in range(_MOST_TRIES):
            if number:
                before, flight.sock = flight.sock, self._sockets.open(flight.attempt)
                before.close()
            self._bind(flight)
            error = flight.sock.connect_ex(to)
            flight.local = flight.sock.getsockname()[1] or None
            trace = (flight.attempt.family, flight.local, flight.port)
            if error or trace not in self._datagrams:
                break
        else:
            if not self._alone(flight):
                return None
        self._datagrams.add(trace)
        return error or self._send(flight)

    def _bind(self, flight: _Flight) -> None:
        """Bind to any of the attempt's ports that is free. Raises _NotBound."""
        attempt = flight.attempt
        if attempt.ports is None:
            return
        # Attempts may share a port with each other, since each has a port of the peer to itself. On an address that
        # programs of this host use, datagrams for one of them could go astray.
        if attempt.protocol == "tcp" or self._to.peer is not None:
            flight.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        inner = dict(attempt.account.place.sources) if attempt.account.place is not None else {}
        source = inner.get(attempt.family, self._to.sources[attempt.family])
        for port in shuffled(attempt.ports):
            try:
                flight.sock.bind((source, port))
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise _NotBound(f"bind: {error.strerror}", error=error.errno) from error
        raise _NotBound(f"every port of {attempt.ports} is in use", error=None)

    def _send(self, flight: _Flight) -> int:
        """Send a datagram; 0 or an errno."""
        flight.sent += 1
        try:
            flight.sock.send(_DATAGRAM)
        except OSError as error:
            return error.errno or 0
        return 0

    def _set_alarms(self, flight: _Flight) -> None:
        now = time.monotonic()
        udp = flight.attempt.protocol == "udp"
        tries, wait = (self._sends, self._timeout) if udp else (1, off_beat(self._timeout))
        flight.until = now + wait
        if self._to.peer is not None and self._held(flight.attempt, flight.local):
            flight.held = True
            self._set_alarm(flight, now + min(wait, _SOONEST))
            return
        for number in range(1, tries + 1):
            self._set_alarm(flight, now + wait * number / tries)

    def _set_alarm(self, flight: _Flight, when: float) -> None:
        # The index keeps the heap from comparing flights.
        heapq.heappush(self._alarms, (when, flight.index, flight))

    def _wait(self) -> None:
        """Let something happen, and see what it was."""
        while self._alarms and self._alarms[0][2].over:
            heapq.heappop(self._alarms)
        if not self._alarms and not self._doubtful:
            return
        events = self._selector.select(max(0.0, self._alarms[0][0] - time.monotonic()) if self._alarms else PATIENCE)
        if not events and not self._alarms:
            raise HostError(f"the temporary peer has given no sign of life for {PATIENCE:g} seconds")
        for key, _events in events:
            if key.data is None:
                self._note_arrivals()
            elif not key.data.over:
                self._read(key.data)
        now = time.monotonic()
        ended = []
        while self._alarms and self._alarms[0][0] <= now:
            flight = heapq.heappop(self._alarms)[2]
            if not flight.over and not self._again(flight, now):
                ended.append(flight)
        if ended and self._to.peer is not None:
            number = self._to.peer.ask()
            for flight in ended:
                flight.asked = number
            self._doubtful.extend(ended)
        else:
            for flight in ended:
                self._give_up(flight)

    def _again(self, flight: _Flight, now: float) -> bool:
        """An alarm of this attempt has gone off: wait longer or send once more, unless that was the last."""
        if flight.held:
            end = min(flight.until, flight.since + held_for(self._slowest.get(flight.way), self._timeout))
            if now < end:
                self._set_alarm(flight, end)
            return now < end
        if flight.attempt.protocol != "udp" or flight.sent >= self._sends:
            return False
        error = self._send(flight)
        if error:
            self._end(flight, error=error)
        return True

    def _give_up(self, flight: _Flight) -> None:
        """The time of this attempt is over."""
        if flight.answer is None:
            self._read(flight)  # what came at the last moment
        if not flight.over:
            self._end(flight, error=errno.ETIMEDOUT if flight.answer is None else None)

    def _note_arrivals(self) -> None:
        if self._to.peer is None:
            return
        for arrival in self._to.peer.arrivals():
            flight = self._flights.get((arrival.protocol, arrival.family, arrival.port))
            if flight is not None and flight.seen is None:
                flight.seen = arrival.source_port
                self._slowest[flight.way] = max(self._slowest.get(flight.way, 0.0), arrival.when - flight.since)
                if flight.answer is not None:
                    self._end(flight)
        known = [flight for flight in self._doubtful if flight.over or flight.asked <= self._to.peer.answered]
        self._doubtful = [flight for flight in self._doubtful if not flight.over and flight.asked > self._to.peer.answered]
        for flight in known:
            if not flight.over:
                self._give_up(flight)

    def _read(self, flight: _Flight) -> None:
        """Take what came back: an answer, a part of it, the end of the connection or an error."""
        try:
            data = flight.sock.recv(_LONGEST_ANSWER)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(flight, error=error.errno)
            return
        flight.received += data
        whole = b"\n" in flight.received or len(flight.received) >= _LONGEST_ANSWER
        if data and flight.attempt.protocol == "tcp" and not whole:
            return
        flight.answer = read_answer(flight.received)
        if flight.answer is None:
            self._end(flight, text=f"the answer was {flight.received[:60]!r} instead of a port")
        elif self._to.peer is None or flight.seen is not None:
            self._end(flight)
        else:
            # The peer's report is on its way. The answer is known, so nothing more is to be read.
            self._selector.unregister(flight.sock)

    def _end(
        self,
        flight: _Flight,
        *,
        error: Optional[int] = None,
        text: Optional[str] = None,
        unbound: Optional[int] = None,
        skipped: Optional[str] = None,
    ) -> None:
        if error in _UNUSABLE:
            raise HostError(f"can't go on with the probe: {errno.errorcode[error]}")
        if flight.attempt.protocol == "tcp" and flight.sent:
            info = flight.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
            flight.sent = 1 + info[_RETRANSMITS]
        if flight.sock in self._selector.get_map():
            self._selector.unregister(flight.sock)
        flight.sock.close()
        flight.over = True
        del self._flights[flight.key]
        self._slots.release(flight.attempt, flight.port)
        self._outcomes[flight.index] = Outcome(
            local=flight.local,
            seen=flight.answer if flight.seen is None else flight.seen,
            answered=flight.answer is not None,
            error=error,
            text=text,
            unbound=unbound,
            packets=flight.sent,
            skipped=skipped,
        )


def off_beat(timeout: float) -> float:
    """A time to wait for TCP, at least this long, whose end is not near a retransmission. Pure.

    The kernel sends the opening segment again after whole seconds, up to 80 ms late (its timer wheel). How many were
    sent is asked for just before the socket is closed, and must still be true then.
    """
    beat = int(timeout + 0.05)
    return max(timeout, beat + 0.2) if beat else timeout


def held_for(slowest: Optional[float], timeout: float) -> float:
    """Seconds to wait for an attempt that should not arrive. Pure.

    :param slowest: seconds that the slowest of the others by the same way has taken to arrive; None when none has.
    :param timeout: seconds to wait where that does not tell, at least.
    """
    if slowest is None:
        return off_beat(timeout)
    enough = max(_SOONEST, _TIMES * slowest)
    return enough if enough <= _LATEST else off_beat(timeout)


def read_answer(data: bytes) -> Optional[int]:
    """The port in a responder's answer, or None. Pure."""
    text = data.strip()
    return int(text) if text.isdigit() and len(text) <= 5 else None
