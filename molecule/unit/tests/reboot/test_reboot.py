# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""After a reboot, the fence is there before the units."""

from __future__ import annotations

import json
import time

from testinfra.host import Host


def test_the_fence_is_loaded(host: Host) -> None:
    """The slice is there as well, and nothing has failed."""
    assert host.service("portfence.service").is_running
    assert "batch.slice" in host.check_output("nft list map inet portfence marked_units_1")
    assert host.check_output("systemctl --failed --no-legend") == ""


def test_a_unit_that_comes_with_the_boot_is_fenced_from_its_first_packet(host: Host) -> None:
    """Its first program has run when the host is up, or soon after."""
    end = time.monotonic() + 60
    while not (file := host.file("/run/asked/first")).exists:
        assert time.monotonic() < end
        time.sleep(0.2)
    seen = [json.loads(line)["seen"] for line in file.content_string.splitlines()]
    assert len(seen) == 4 and set(seen) <= set(range(50000, 51000))
