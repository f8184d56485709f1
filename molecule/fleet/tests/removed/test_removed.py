# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence of one group was removed."""

from __future__ import annotations

import pytest
from fleet import get, rules
from testhost import recap, snapshot

COPIES = {"/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-"}


def test_all_of_the_group() -> None:
    """And nobody else."""
    assert set(recap("remove")) == {f"web{number:02d}" for number in range(1, 11)}
    assert "table inet portfence {" in rules("job01")


@pytest.mark.parametrize("name", ["web01", "web06"])
def test_nothing_is_left(name: str) -> None:
    """Every file, unit, sysctl and table is what it was before the first run, but for copies that the account tools keep of their files."""
    different = set(snapshot(get(name), "untouched")) ^ set(snapshot(get(name), "removed"))
    assert {line for line in different if line.split()[-1] not in COPIES} == set()
