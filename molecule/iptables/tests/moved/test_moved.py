# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host was moved to nftables."""

from __future__ import annotations

from testhost import changed
from testinfra.host import Host


def test_run_changed_the_host(host: Host) -> None:
    """The move was told."""
    assert changed(host, "move") > 0


def test_host_has_one_fence(host: Host) -> None:
    """The new fence is there, and of the old one nothing is left."""
    assert "table inet portfence" in host.check_output("nft list tables")
    assert "portfence" not in host.check_output("iptables-save; ip6tables-save")
    assert host.file("/etc/portfence/fence.nft").exists
    assert not host.file("/etc/portfence/fence.iptables").exists


def test_rules_of_the_admin_stay(host: Host) -> None:
    """Everything that the admin has is still there."""
    theirs = [line for line in host.file("/root/rules-of-the-admin").content_string.splitlines() if line.startswith("-A")]
    now = host.check_output("iptables-save; ip6tables-save").splitlines()
    assert theirs and [rule for rule in theirs if rule not in now] == []
