# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence was removed."""

from __future__ import annotations

import pytest
from testhost import WAYS, connect, snapshot
from testinfra.host import Host

# Accounts stay unless one asks for their removal, and so does the package of nft; what the package manager and the
# account tools keep for themselves has changed with them.
KEPT = (
    "/etc/passwd", "/etc/passwd-", "/etc/shadow", "/etc/shadow-", "/etc/group", "/etc/group-", "/etc/gshadow",
    "/etc/gshadow-", "/etc/subuid", "/etc/subuid-", "/etc/subgid", "/etc/subgid-", "/var/lib/dpkg/", "/var/lib/apt/",
)


def test_nothing_is_left(host: Host) -> None:
    """Every file, unit, sysctl and table is what it was before the first run."""

    def rest(name: str) -> set[str]:
        return {line for line in snapshot(host, name) if not any(path in line for path in KEPT)}

    assert rest("untouched") ^ rest("removed") == set()


def test_accounts_stay(host: Host) -> None:
    """Removing the fence is no reason to delete accounts."""
    assert host.user("myapp").exists
    assert host.user("otel").exists


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}{way[1]}")
def test_nobody_is_held_back(host: Host, way: tuple[str, int]) -> None:
    """Every port is free for everybody again."""
    assert connect(host, user="nobody", way=way, bind=50124).seen == 50124
    assert connect(host, user="myapp", way=way, bind=40001).seen == 40001
    assert connect(host, user="otel", way=way).seen is not None
