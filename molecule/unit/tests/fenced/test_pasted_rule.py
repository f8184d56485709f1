# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rule that people paste goes stale when its unit starts again; the fence keeps matching."""

from __future__ import annotations

import re

from asking import MYAPP, asked, ports
from testinfra.host import Host

PASTED = """
table inet pasted {
    chain output {
        type filter hook output priority 20;
        socket cgroupv2 level 2 "system.slice/myapp.service" counter
    }
}
"""


def matched(host: Host) -> int:
    """Return how many packets the pasted rule has matched."""
    found = re.search(r"packets (\d+)", host.check_output("nft list chain inet pasted output"))
    assert found
    return int(found[1])


def test_a_pasted_rule_goes_stale_without_a_word(host: Host) -> None:
    """It matches the directory that systemd has made anew no more, and shows a bare number in its place."""
    host.check_output("echo %s | nft -f -", PASTED)
    try:
        assert set(ports(asked(host, "now"))) <= set(MYAPP)
        assert matched(host) > 0
        host.check_output("systemctl restart myapp.service")
        before = matched(host)
        assert set(ports(asked(host, "now"))) <= set(MYAPP)
        assert matched(host) == before
        assert "myapp.service" not in host.check_output("nft list chain inet pasted output")
    finally:
        host.check_output("nft delete table inet pasted")
