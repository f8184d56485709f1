# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The second run has done the rest."""

from __future__ import annotations

import pytest
from fleet import HOSTS, get, own_service, ports, rules
from testhost import WAYS, connect, recap, said


def test_the_rest_was_done() -> None:
    """Nobody else was touched."""
    assert set(recap("go_on")) == {"web10", "db07"}
    for numbers in recap("go_on").values():
        assert (numbers["failed"], numbers["unreachable"]) == (0, 0) and numbers["changed"] > 0
    assert "NOT done" not in said("go_on")


@pytest.mark.parametrize("name", HOSTS)
def test_every_host_has_its_own_range(name: str) -> None:
    """The one of the file, in the rules and at every boot."""
    own = ports(name, own_service(name))
    assert f"{own[0]}-{own[-1]}" in rules(name)
    assert get(name).service("portfence.service").is_enabled


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}{way[1]}")
def test_a_worker_is_refused_outside_of_its_ports(way: tuple[str, int]) -> None:
    """Another account has none of them."""
    host, worker = get("job10"), ports("job10", "worker")
    assert connect(host, user="worker", way=way).seen in worker
    assert connect(host, user="nobody", way=way, bind=worker[3]).seen is None
    assert connect(host, user="backup", way=way).seen in range(50000, 50100)
