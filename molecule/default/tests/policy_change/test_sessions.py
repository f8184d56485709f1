# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions that were open when the service moved from 50000-50999 to 51000-51499."""

from __future__ import annotations

import pytest
from testhost import WAYS, connect, session, still_answers
from testinfra.host import Host


def test_inbound_session_lives(host: Host) -> None:
    """A client of the service's server goes on being served."""
    assert still_answers(host, "late-inbound")


def test_outbound_session_lives_and_keeps_its_port(host: Host) -> None:
    """The service's own session goes on from the port that it had."""
    before = session(host, "late-outbound", folder="/run/sessions-before")["seen"]
    assert before in range(50000, 51000)
    assert still_answers(host, "late-outbound")
    assert session(host, "late-outbound")["seen"] == before


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}{way[1]}")
def test_new_connections_follow_the_new_policy(host: Host, way: tuple[str, int]) -> None:
    """What opens now leaves from the new range."""
    assert connect(host, user="myapp", way=way).seen in range(51000, 51500)
