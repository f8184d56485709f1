# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Other rules came above the fence, or took it away."""

from __future__ import annotations

from testhost import changed
from testinfra.host import Host


def test_fence_follows_a_restore(host: Host) -> None:
    """When the admin's unit restores his rules, the fence is loaded again."""
    assert host.file("/root/rules-after-restore").content_string.count("\n-A POSTROUTING -j portfence\n") == 4


def test_check_mode_notices(host: Host) -> None:
    """Check mode says that the fence is not what it should be."""
    assert changed(host, "above_check") > 0


def test_next_run_mends_and_leaves_the_rule_of_the_tool(host: Host) -> None:
    """The fence is in the first place again, and the other rule behind it."""
    assert changed(host, "above") > 0
    rules = host.check_output("iptables -t mangle -S POSTROUTING").splitlines()
    assert rules[1] == "-A POSTROUTING -j portfence"
    assert "--comment tool" in rules[2]
