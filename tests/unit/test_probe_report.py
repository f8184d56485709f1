# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes: the message about everything that is wrong, what is not proved at all, and what the fence counted."""

from __future__ import annotations

import errno
from typing import Any, Optional, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._probe import (
    BLOCKED,
    PASSES,
    Account,
    Attempt,
    Expectation,
    Line,
    Outcome,
)
from ansible_collections.portfence.egress.plugins.module_utils._probe_report import (
    broken_paths,
    caused,
    failure,
    summary,
    uncounted,
    unproved,
)

NOBODY = Account("nobody", 65534, 65534)
PEER = "the temporary peer"


def line(
    *,
    ok: Optional[bool] = True,
    seen: Optional[int] = None,
    problem: Optional[str] = None,
    path: Tuple[str, str] = ("tcp", "ipv4"),
    expected: Optional[Expectation] = None,
    **outcome: Any,
) -> Line:
    attempt = Attempt("myapp", "unmodified", *path, NOBODY)
    outcome.setdefault("answered", seen is not None)
    return Line(attempt, Outcome(seen=seen, **outcome), expected or Expectation(PASSES), ok, problem)


PASSED = line(seen=1)
STOPPED = line(error=errno.ETIMEDOUT)


def test_everything_is_right() -> None:
    lines = [PASSED, STOPPED, line(ok=None, path=("udp", "ipv6"))]
    assert broken_paths(lines, peer=PEER) == {}
    assert failure(lines, {}) is None
    assert summary(lines) == {"checks": 3, "ok": 2, "failed": 0, "skipped": 1}


def test_every_wrong_line_is_told() -> None:
    lines = [PASSED, line(ok=False, problem="a", seen=2), line(ok=False, problem="b", path=("udp", "ipv4"), seen=3)]
    assert failure(lines, {}) == "2 of 3 checks are not as the policy says:\n  a\n  b"
    assert (failure(lines[:2], {}) or "").splitlines()[0] == "1 of 2 checks is not as the policy says:"


def test_a_path_over_which_nothing_arrives_proves_nothing() -> None:
    lost = line(path=("udp", "ipv6"), error=errno.EPERM, problem="c", ok=False)
    blocked = line(path=("udp", "ipv6"), error=errno.ETIMEDOUT)
    broken = broken_paths([PASSED, blocked, lost], peer=PEER)
    lines = [unproved(item, broken) for item in (PASSED, blocked, lost)]
    assert [item.ok for item in lines] == [True, False, False]
    assert failure(lines, broken) == (
        "2 of 3 checks are not as the policy says:\n"
        "  UDP over IPv6: nothing arrived at the temporary peer, not even from an account that belongs to no service"
        " (Connection timed out, Operation not permitted); nothing is proved; another firewall on this host or on the"
        " way may be in between"
    )


def test_answers_that_never_come_back_have_a_likely_cause() -> None:
    lines = [
        line(ok=False, seen=1, answered=False, error=errno.ETIMEDOUT, problem="d"),
        line(ok=True, error=errno.ETIMEDOUT),
    ]
    assert broken_paths(lines, peer=PEER) == {}
    assert failure(lines, {}) == (
        "1 of 2 checks is not as the policy says:\n"
        "  d\n"
        "  TCP over IPv4: no answer came back at all; another firewall on this host drops what comes in"
    )


VIOLATION = Expectation(BLOCKED, breach=("violation", "myapp"))
INTRUSION = Expectation(BLOCKED, breach=("intrusion", "myapp"))


def test_caused_is_what_was_sent() -> None:
    lines = [
        line(expected=VIOLATION, packets=1, error=errno.EPERM),
        line(expected=VIOLATION, packets=2, error=errno.ETIMEDOUT),
        line(expected=INTRUSION, packets=1, error=errno.EPERM),
        PASSED,
    ]
    # Somebody else broke the policy 7 times meanwhile.
    before = {"violations_myapp": 5, "intrusions_myapp": 0}
    after = {"violations_myapp": 15, "intrusions_myapp": 1}
    assert caused(lines, before=before, after=after) == {"myapp": {"violations": 3, "intrusions": 1}}


def test_caused_is_no_more_than_what_was_counted() -> None:
    lines = [line(expected=VIOLATION, packets=3)]
    assert caused(lines, before={"violations_myapp": 5}, after={"violations_myapp": 6}) == {
        "myapp": {"violations": 1, "intrusions": 0}
    }
    assert caused(lines, before={"violations_myapp": 5}, after={"violations_myapp": 0}) == {
        "myapp": {"violations": 0, "intrusions": 0}
    }
    assert caused(lines, before={}, after={}) == {"myapp": {"violations": 0, "intrusions": 0}}
    assert caused([PASSED], before={}, after={}) == {}


def test_a_counter_that_stands_still_is_told() -> None:
    lines = [line(expected=VIOLATION, packets=1), line(expected=INTRUSION, packets=1)]
    before = {"violations_myapp": 5, "intrusions_myapp": 5}
    assert uncounted(lines, before=before, after={"violations_myapp": 5, "intrusions_myapp": 6}) == ["violations_myapp"]
    assert uncounted(lines, before={}, after={}) == []
    assert uncounted([line(expected=VIOLATION, packets=1, ok=False)], before=before, after=before) == []
