# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk with room for none of the files of a fence, for the first of them, and so on: told in one message, and the old fence or the new one is there, whole.

That holds for the kernel and for what a boot gives. The modules other than fence are in test_hostile_disk.py.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Tuple, Type

import pytest
from crash import Subject, converge
from lab import Lab
from test_crash import APP, NOTHING, OTHER, RENAMED, THIRD, UID, fence, in_force, saved
from test_crash_units import ABSENT, CASES, SystemdLab, subject_of
from test_hostile_disk import ETC_OF_ITS_OWN, fill


class Case(NamedTuple):
    """Two fences, the lab, and which variant of iptables it has, if any."""

    subject: Subject
    kind: Type[Lab] = Lab
    variant: Optional[str] = None


def case(old: Dict[str, Any], new: Dict[str, Any], look: Callable[[Lab], Any], variant: Optional[str] = None) -> Case:
    backend = "nftables" if variant is None else "iptables"
    return Case(Subject("fence", ({**old, "backend": backend}, {**new, "backend": backend}), look), Lab, variant)


POLICIES = fence(APP, OTHER), fence(RENAMED, THIRD)
FENCES = {
    "nftables": case(*POLICIES, in_force),
    "nothing and nftables": case(NOTHING, POLICIES[1], in_force),
    "iptables-nft": case(*POLICIES, saved, "nft"),
    "iptables-legacy": case(*POLICIES, saved, "legacy"),
    "nothing and iptables-nft": case(NOTHING, POLICIES[1], saved, "nft"),
    **{name: Case(subject_of(CASES[name]), SystemdLab) for name in ("unit and user", "slice and slice", "unit and nothing")},
}


@contextmanager
def begun(found: Case) -> Iterator[Tuple[Lab, Tuple[Any, Any]]]:
    """A lab whose /etc is a file system of its own, and what both fences look like there."""
    with found.kind() as lab:
        if found.kind is Lab:
            lab.add_user("myapp", UID)
        if found.variant is not None:
            lab.use_iptables(found.variant)
        lab.run(["sh", "-ec", ETC_OF_ITS_OWN])
        expected = []
        for state in found.subject.states:
            assert converge(lab, found.subject, state) == []
            expected.append(found.subject.look(lab))
        assert expected[0] != expected[1]
        yield lab, (expected[0], expected[1])


def empty(lab: Lab) -> None:
    lab.run(["sh", "-c", "rm -f /etc/filler; mount -o remount,size=50% /etc"])


@pytest.mark.parametrize("name", FENCES)
@pytest.mark.parametrize("to", [0, 1])
def test_a_disk_that_gets_full(name: str, to: int) -> None:
    subject = FENCES[name].subject
    with begun(FENCES[name]) as (lab, expected):
        failed = 0
        for pages in range(64):
            assert converge(lab, subject, subject.states[1 - to]) == []
            fill(lab, pages)
            result = lab.module("fence", **subject.states[to])
            if not result.get("failed"):
                break
            failed += 1
            told, where = result["msg"], f"{pages} pages: {result}"
            assert "/etc/" in told and told.count("No space left on device") == 1, where
            assert lab.run(["find", "/etc", "/run", "/usr/local", "-xdev", "-name", "*.portfence-new"]).out == "", where
            seen = subject.look(lab)
            assert seen in expected, where
            # The role rollout has to know, so as to go back.
            assert seen == expected[1 - to] or result["changed"], where
            lab.reboot()
            booted = subject.look(lab)
            assert booted in expected, where
            assert seen == booted or "; the kernel has the " in told and ": mend that, and run again" in told, where
            # It does not stay so when there is room again, whichever of the two is asked for.
            empty(lab)
            again = to if pages % 2 else 1 - to
            assert converge(lab, subject, subject.states[again]) == [], where
            assert subject.look(lab) == expected[again], where
        assert subject.look(lab) == expected[to]
        empty(lab)
        assert not lab.module("fence", **subject.states[to])["changed"]
        # What goes away needs no room.
        assert failed or subject.states[to] in (ABSENT, {**NOTHING, "backend": "nftables"}, {**NOTHING, "backend": "iptables"})
