# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One group has the fence of before its last change."""

from __future__ import annotations

import pytest
from fleet import HOSTS, get
from testhost import WAYS, connect, recap, said

DB = [name for name in HOSTS if name.startswith("db")]


def test_the_group_went_back() -> None:
    """Each host proved it, and no other host was touched."""
    assert set(recap("rollback")) == set(DB)
    assert all(numbers["failed"] == 0 and numbers["changed"] > 0 for numbers in recap("rollback").values())
    assert said("rollback").count("probe passed") == len(DB)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}{way[1]}")
def test_violations_pass_as_before(way: tuple[str, int]) -> None:
    """The fence of before was in audit."""
    assert connect(get("db01"), user="replica", way=way, bind=40002).seen == 40002
