# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence was removed, and the programs with it."""

from __future__ import annotations

import pytest
from testhost import WAYS, connect, snapshot
from testinfra.host import Host

# Accounts stay unless one asks for their removal; the account tools keep copies of their files.
ACCOUNTS = ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")


def test_nothing_is_left(host: Host) -> None:
    """Files, units, sysctls and tables are those of before; no program is attached or pinned."""

    def rest(name: str) -> set[str]:
        kept = [f"/etc/{account}{dash}" for account in ACCOUNTS for dash in ("", "-")]
        return {line for line in snapshot(host, name) if not line.endswith(tuple(kept))}

    assert rest("untouched") ^ rest("removed") == set()
    assert "portfence" not in host.check_output("bpftool cgroup tree /sys/fs/cgroup")
    assert host.check_output("find /sys/fs/bpf -name 'portfence*'") == ""


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}{way[1]}")
def test_nobody_is_held_back(host: Host, way: tuple[str, int]) -> None:
    """Every port is free for everybody again."""
    assert connect(host, user="myapp", way=way, bind=40001).seen == 40001
    assert connect(host, user="nobody", way=way, bind=50124).seen == 50124
