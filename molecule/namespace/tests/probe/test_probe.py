# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe proves a namespace by sockets inside; portfence-run starts commands there."""

from __future__ import annotations

import pytest
from client import RANGE
from launched import launched, own, probed, results
from testinfra.host import Host

INSIDE = "daemon in the network namespace myapp"


def inner(lines: list[dict]) -> list[dict]:
    """Return those of sockets in the namespace."""
    return [line for line in lines if line["account"] == INSIDE]


def test_the_namespace_is_proved(host: Host) -> None:
    """Every check exists over every way, and passed; what the fence inside has counted is known to be the probe's."""
    result = probed(host, "good")
    assert result["summary"]["failed"] == result["summary"]["skipped"] == 0
    lines = own(result, "myapp")
    for check in lines:
        assert len(inner(lines[check])) == 4
        assert results(inner(lines[check])) == {True}
    assert all(line["seen"] in RANGE and line["local"] in RANGE for line in inner(lines["unmodified"] + lines["bind_inside"]))
    assert {line["seen"] for line in inner(lines["bind_outside"])} == {None}
    assert result["counted"]["myapp"]["namespace_violations"] >= 4


def test_a_namespace_without_its_fence_is_caught(host: Host) -> None:
    """The host translates what leaves, and the probe knows that it had another port inside."""
    lines = own(probed(host, "broken"), "myapp")
    assert results(inner(lines["bind_outside"])) == {False}
    assert all(line["seen"] in RANGE for line in inner(lines["bind_outside"]))


@pytest.mark.parametrize("program", ["curl", "git", "python3"])
def test_a_command_is_fenced_from_its_first_packet(host: Host, program: str) -> None:
    """portfence-run starts it in the namespace."""
    assert launched(host, "myapp", program) <= set(RANGE)
