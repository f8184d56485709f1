# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the programs of this scenario have heard from the peer."""

from __future__ import annotations

import json
import time

from testhost import WAYS
from testinfra.host import Host

MYAPP, BATCH = range(50000, 51000), range(52000, 53000)


def asked(host: Host, name: str) -> list[dict[str, object]]:
    """Return the outcomes of a program that asks when they are gone, from now on: the first ones may be half of before."""
    for _round in range(2):
        host.check_output(f"rm -f /run/asked/{name}")
        outcomes = heard(host, name)
    return outcomes


def heard(host: Host, name: str) -> list[dict[str, object]]:
    """Return the four outcomes that a program has left, once they are there."""
    end = time.monotonic() + 30
    # Tests of one host may run at the same time.
    while (file := host.run(f"cat /run/asked/{name}")).failed:
        assert time.monotonic() < end, f"{name} was never heard of"
        time.sleep(0.2)
    return [json.loads(line) for line in file.stdout.splitlines()]


def ports(outcomes: list[dict[str, object]]) -> list[object]:
    """Return the source ports that the peer saw."""
    assert len(outcomes) == len(WAYS)
    return [outcome["seen"] for outcome in outcomes]
