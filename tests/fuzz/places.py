# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is fuzzed, and how long in every run of the tests."""

from __future__ import annotations

from typing import Dict, NamedTuple


class Place(NamedTuple):
    """Where a target is.

    :ivar module: the module of this package that has it.
    :ivar runs: inputs in a run without a time.
    """

    module: str
    runs: int


PLACES: Dict[str, Place] = {
    "policy": Place("compiler", 2200),
    "nft": Place("firewall", 3000),
    "iptables": Place("firewall", 3000),
    "sockets": Place("proc", 1500),
    "accounts": Place("proc", 4000),
    "records": Place("records", 2000),
    "lock_file": Place("records", 3000),
    "questions": Place("questions", 1200),
    "page": Place("writers", 250),
    "files": Place("writers", 1000),
}
