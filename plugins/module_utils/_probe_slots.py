# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which ports the attempts of a probe have, on this host and on the peer.

Connection tracking remembers a datagram's addresses and ports for half a minute, and lets no two connections have the
same ones. Attempts must not meet each other's traces there, so they differ in one port or the other.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Deque, Dict, Iterator, Optional, Sequence, Set, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet
from ansible_collections.portfence.egress.plugins.module_utils._probe import Attempt

# More attempts at the same time would not end sooner on two cores.
_MOST_SLOTS = 200
# Files that are open for other reasons.
_OTHER_FILES = 100

_Path = Tuple[str, str]


def slots_for(attempts: Sequence[Attempt], *, files: int) -> int:
    """How many ports of the peer are worth having: so many attempts can be made at a time over each path. Pure.

    :param files: how many files a process may have open.
    """
    paths: Dict[_Path, int] = {}
    for attempt in attempts:
        if attempt.skipped is None:
            paths[attempt.path] = paths.get(attempt.path, 0) + 1
    room = (files - _OTHER_FILES) // 4  # a socket for each of two protocols and two families
    return max(1, min(max(paths.values(), default=1), room, _MOST_SLOTS))


class Slots:
    """The ports of the peer. Each attempt under way has one of them to itself on its path."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = tuple(ports)
        self._free: Dict[_Path, Deque[int]] = {}
        self._taken: Dict[Tuple[str, _Path], Set[int]] = {}

    def take(self, attempt: Attempt) -> Optional[int]:
        """A free port that no attempt of the same service had on this path, or None.

        When a service has had all of them, it begins again.
        """
        free = self._free.setdefault(attempt.path, deque(self._ports))
        taken = self._taken.setdefault((attempt.service, attempt.path), set())
        if len(taken) == len(self._ports):
            taken.clear()
        for number, port in enumerate(free):
            if port not in taken:
                del free[number]
                taken.add(port)
                return port
        return None

    def release(self, attempt: Attempt, port: int) -> None:
        """The attempt is over. Its port is taken again last: its traces have the most time to fade."""
        self._free[attempt.path].append(port)

    def put_back(self, attempt: Attempt, port: int) -> None:
        """The attempt did not take place."""
        self._free[attempt.path].append(port)
        self._taken[(attempt.service, attempt.path)].discard(port)


def shuffled(ports: PortSet) -> Iterator[int]:
    """Every port once, from a random one on."""
    count = ports.size
    start = random.randrange(count) if count else 0
    for number in range(count):
        offset = (start + number) % count
        for part in ports:
            if offset < part.size:
                yield part.low + offset
                break
            offset -= part.size
