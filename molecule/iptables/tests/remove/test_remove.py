# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence was removed."""

from __future__ import annotations

import pytest
from testhost import WAYS, connect
from testinfra.host import Host


def test_nothing_is_left(host: Host) -> None:
    """The rules are those of the admin, and there is no file or unit of ours."""
    theirs = [line for line in host.file("/root/rules-of-the-admin").content_string.splitlines() if line.startswith("-A")]
    now = [line for line in host.check_output("iptables-save; ip6tables-save").splitlines() if line.startswith("-A")]
    assert sorted(now) == sorted(theirs)
    for variant in ("nft", "legacy"):
        assert "portfence" not in host.check_output(f"iptables-{variant}-save; ip6tables-{variant}-save")
    assert host.check_output("find /etc /var -xdev -name '*portfence*'") == ""
    assert "portfence" not in host.check_output("systemctl list-unit-files --no-legend --no-pager")


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}{way[1]}")
def test_nobody_is_held_back(host: Host, way: tuple[str, int]) -> None:
    """Every port is free for everybody again."""
    assert connect(host, user="nobody", way=way, bind=50124).seen == 50124
    assert connect(host, user="myapp", way=way, bind=40001).seen == 40001
