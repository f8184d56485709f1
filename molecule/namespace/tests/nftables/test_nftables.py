# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""nftables.service was started, reloaded, restarted and stopped, each of which flushes every table."""

from __future__ import annotations

import json

import pytest
from client import RANGE
from testinfra.host import Host

every_moment = pytest.mark.parametrize("moment", ["start", "reload", "restart", "stop"])


def seen(host: Host, who: str) -> int | None:
    """Return the source port that the peer saw of an attempt, or None."""
    port: int | None = json.loads(host.check_output(f"cat /run/{who}"))["seen"]
    return port


def test_without_the_rules_the_host_is_a_router(host: Host) -> None:
    """That is what the next tests are about."""
    assert seen(host, "third-before") is None
    assert seen(host, "third-open") is not None


@every_moment
def test_host_is_no_router(host: Host, moment: str) -> None:
    """Nobody from another network gets through, and the namespace does."""
    assert seen(host, f"third-{moment}") is None
    assert seen(host, f"myapp-{moment}") in RANGE


@every_moment
def test_both_units_are_well(host: Host, moment: str) -> None:
    """Ours is none that fails, nor does theirs."""
    assert host.check_output(f"cat /run/result-{moment}").split() == ["success", "success"]
