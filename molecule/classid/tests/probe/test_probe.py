# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe proves a class by sockets that are in it; portfence-run starts commands there."""

from __future__ import annotations

import pytest
from launched import launched, own, probed, results
from netcls import INSIDE
from testinfra.host import Host


def test_the_class_is_proved(host: Host) -> None:
    """Every check exists over every way, and passed."""
    result = probed(host, "good")
    assert result["summary"]["failed"] == result["summary"]["skipped"] == 0
    for lines in own(result, "legacy").values():
        assert len(lines) == 4
        assert {line["account"] for line in lines} == {"nobody in the class 0x100001"}
        assert results(lines) == {True}
        assert all(line["seen"] in INSIDE for line in lines)


def test_a_fence_that_is_gone_is_caught(host: Host) -> None:
    """Nobody is given the ports of the class."""
    lines = own(probed(host, "broken"), "legacy")
    assert results(lines["unmodified"]) == results(lines["bind_outside"]) == {False}


def test_another_class_is_caught(host: Host) -> None:
    """The cgroup is there, and the fence does not recognise it; the other service is as it was."""
    result = probed(host, "mistaken")
    for lines in own(result, "legacy").values():
        assert results(lines) == {False}
    for lines in own(result, "printing").values():
        assert results(lines) == {True}


@pytest.mark.parametrize("program", ["curl", "dig", "ssh"])
def test_a_command_is_fenced_from_its_first_packet(host: Host, program: str) -> None:
    """portfence-run puts it into the cgroup of the class first."""
    assert launched(host, "legacy", program) <= set(INSIDE)
