# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet is in audit, but for the host that is down."""

from __future__ import annotations

import pytest
from fleet import HOSTS, get, ports, rules
from testhost import WAYS, connect, recap, said

REACHED = [name for name in HOSTS if name != "web10"]


def test_the_host_that_is_down_is_named() -> None:
    """The run is not a success."""
    assert recap("watch")["web10"]["unreachable"] == 1
    assert "NOT done, because they failed or could not be reached: web10." in " ".join(said("watch").split())


@pytest.mark.parametrize("name", REACHED)
def test_every_other_host_is_done(name: str) -> None:
    """Whatever its release."""
    numbers = recap("watch")[name]
    assert (numbers["failed"], numbers["unreachable"]) == (0, 0) and numbers["changed"] > 0
    assert "probe passed" in next(line for line in said("watch").splitlines() if f"{name}: " in line and "violations" in line)
    assert "table inet portfence {" in rules(name)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}{way[1]}")
def test_violations_are_seen_and_pass(way: tuple[str, int]) -> None:
    """replica binds by itself, and nothing keeps it from another port yet."""
    assert connect(get("db01"), user="replica", way=way, bind=40001).seen == 40001


def test_ports_are_assigned_already() -> None:
    """web needs nothing of its own for it."""
    assert all(connect(get("web06"), user="web", way=way).seen in ports("web06", "web") for way in WAYS)
