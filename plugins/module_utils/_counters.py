# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The counters of a fence, as they were read from the kernel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Tuple


@dataclass(frozen=True)
class Counters:
    """What the fence has counted, by name of the counter, such as violations_myapp.

    :ivar counts: packets and bytes.
    :ivar made: what tells a counter from one of the same name that was there before or will be there after it; nothing for counters of iptables,
        to which the kernel gives no such thing.
    """

    counts: Dict[str, Tuple[int, int]] = field(default_factory=dict)
    made: Dict[str, str] = field(default_factory=dict)

    def packets(self) -> Dict[str, int]:
        """Name to packets alone."""
        return {name: packets for name, (packets, _bytes) in self.counts.items()}
