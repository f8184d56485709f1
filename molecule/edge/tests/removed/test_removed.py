# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway is as it was."""

from __future__ import annotations

import pytest
from seen import HOSTS, get
from testhost import WAYS, connect, snapshot


def test_nothing_is_left() -> None:
    """Every file, unit, sysctl and table is what it was before the first run."""
    assert set(snapshot(get("gateway"), "untouched")) ^ set(snapshot(get("gateway"), "removed")) == set()


@pytest.mark.parametrize("name", HOSTS)
def test_everybody_passes(name: str) -> None:
    """As before."""
    assert all(connect(get(name), user="nobody", way=way).seen is not None for way in WAYS)
