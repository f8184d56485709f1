# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the fence has counted, and how much of it was sent by probes."""

from __future__ import annotations

from typing import Dict, Iterable, Mapping, Optional, Tuple

from ansible_collections.portfence.egress.plugins.module_utils import _json
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._store import PROBE_COUNTS_FILE


def count(
    counters: Mapping[str, Tuple[int, int]], probes: Mapping[str, Mapping[str, int]], name: str, event: str
) -> Optional[Dict[str, int]]:
    """``packets``, ``bytes`` and ``by_probes`` of a service; None where the fence has no such counter. Pure.

    :param counters: counter name to packets and bytes.
    :param probes: see :func:`probe_counts`.
    :param event: "violations" or "intrusions".
    """
    counter = f"{event}_{name}"
    if counter not in counters:
        return None
    packets, size = counters[counter]
    return {"packets": packets, "bytes": size, "by_probes": min(packets, probes.get(name, {}).get(event, 0))}


def total(counts: Iterable[Optional[Mapping[str, int]]]) -> Dict[str, int]:
    """The counts of several services together; those that are None have none. Pure."""
    known = [each for each in counts if each is not None]
    return {key: sum(each[key] for each in known) for key in ("packets", "bytes", "by_probes")}


def probe_counts(host: Host) -> Dict[str, Dict[str, int]]:
    """What port_probe wrote down: service → "violations" and "intrusions" → packets. Nothing if it can't be read."""
    try:
        content = _json.load(host.read(PROBE_COUNTS_FILE) or "{}")
        return {name: {event: int(packets) for event, packets in events.items()} for name, events in content.items()}
    except (ValueError, AttributeError, TypeError):
        return {}
