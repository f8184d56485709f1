# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What fence_info says of a service, for tests of what reads it."""

from __future__ import annotations

from typing import Any, Dict

SERVICE: Dict[str, Any] = {
    "assignment": "rewrite",
    "on_violation": "drop",
    "source_ports": ["50000-50009", "50100"],
    "capacity": 11,
    "ports_in_use": {"tcp": 3, "udp": 0},
    "sockets": {"tcp": 4, "udp": 1},
    "use": 0.25,
    "violations": {"packets": 7, "bytes": 420, "by_probes": 2},
    "intrusions": None,
}
