# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions that were open before the host had any fence."""

from __future__ import annotations

from testhost import session, still_answers
from testinfra.host import Host


def test_inbound_session_lives(host: Host) -> None:
    """A client of the collector's server goes on being served."""
    assert still_answers(host, "early-inbound")


def test_outbound_session_lives(host: Host) -> None:
    """The collector's own session lives, from a port that it could not use for a new one."""
    assert still_answers(host, "early-outbound")
    assert session(host, "early-outbound")["seen"] == 40000
