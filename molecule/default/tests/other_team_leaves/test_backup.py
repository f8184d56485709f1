# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another team's role took its service away again."""

from __future__ import annotations

import pytest
from testhost import WAYS, connect
from testinfra.host import Host


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}{way[1]}")
def test_ports_are_free_again(host: Host, way: tuple[str, int]) -> None:
    """The range belongs to nobody, and the account is held back no more."""
    assert connect(host, user="nobody", way=way, bind=54001).seen == 54001
    assert connect(host, user="backup-agent", way=way, bind=40004).seen == 40004


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}{way[1]}")
def test_other_services_stay(host: Host, way: tuple[str, int]) -> None:
    """The services of the inventory keep their ports, and keep others out."""
    assert connect(host, user="myapp", way=way).seen in range(50000, 51000)
    assert connect(host, user="otel", way=way, bind=52001).seen == 52001
    assert connect(host, user="backup-agent", way=way, bind=50125).seen is None


def test_account_stays(host: Host) -> None:
    """Taking a service away is no reason to delete its account."""
    assert host.user("backup-agent").exists
