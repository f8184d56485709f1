# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another team's role added its service, and the site ran again without knowing of it."""

from __future__ import annotations

import pytest
from testhost import WAYS, connect
from testinfra.host import Host

pytestmark = pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}{way[1]}")


def test_service_has_its_ports(host: Host, way: tuple[str, int]) -> None:
    """The service that was added leaves from its own range."""
    assert connect(host, user="backup-agent", way=way).seen in range(54000, 54100)


def test_ports_are_its_own(host: Host, way: tuple[str, int]) -> None:
    """The services of the inventory are kept out of its range, and it out of theirs."""
    assert connect(host, user="nobody", way=way, bind=54001).seen is None
    assert connect(host, user="otel", way=way, bind=54001).seen is None
