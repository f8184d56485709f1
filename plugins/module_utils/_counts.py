# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the fence has counted, and how much of it was sent by probes."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterable, Mapping, Optional

from ansible_collections.portfence.egress.plugins.module_utils import _json
from ansible_collections.portfence.egress.plugins.module_utils._counters import Counters
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._store import PROBE_COUNTS_FILE

# Service → event ("violations", "intrusions") → what is recorded of its counter: "packets" that probes sent, out of the "of" packets that it
# had counted by then, and in "counter", which one that was.
_Record = Dict[str, Dict[str, Dict[str, Any]]]


def count(
    counters: Counters, probes: Mapping[str, Mapping[str, int]], name: str, event: str
) -> Optional[Dict[str, int]]:
    """``packets``, ``bytes`` and ``by_probes`` of a service; None where the fence has no such counter. Pure.

    :param probes: see :func:`probe_counts`.
    :param event: "violations" or "intrusions".
    """
    counter = f"{event}_{name}"
    if counter not in counters.counts:
        return None
    packets, size = counters.counts[counter]
    return {"packets": packets, "bytes": size, "by_probes": min(packets, probes.get(name, {}).get(event, 0))}


def total(counts: Iterable[Optional[Mapping[str, int]]]) -> Dict[str, int]:
    """The counts of several services together; those that are None have none. Pure."""
    known = [each for each in counts if each is not None]
    return {key: sum(each[key] for each in known) for key in ("packets", "bytes", "by_probes")}


def probe_counts(host: Host, counters: Counters) -> Dict[str, Dict[str, int]]:
    """How much of these counters port_probe wrote down: service → "violations" and "intrusions" → packets. Nothing if it can't be read."""
    record = _recorded(host.read(PROBE_COUNTS_FILE), counters)
    return {name: {event: entry["packets"] for event, entry in events.items()} for name, events in record.items()}


def add_counts(text: Optional[str], counted: Mapping[str, Mapping[str, int]], *, before: Counters, after: Counters) -> str:
    """The text of :data:`PROBE_COUNTS_FILE` with the packets of a probe added. Starts afresh where it can't be read. Pure.

    :param counted: service → event → packets.
    :param before: the counters before the probe, ``after`` likewise.
    """
    record = _recorded(text, before)
    packets = after.packets()
    for name, events in counted.items():
        kept = record.setdefault(name, {})
        for event, number in events.items():
            counter = f"{event}_{name}"
            made = after.made.get(counter, "")
            if made != before.made.get(counter, ""):
                kept.pop(event, None)  # made anew meanwhile: nobody knows what is left in it of the probe
                continue
            sent = number + (kept[event]["packets"] if event in kept else 0)
            kept[event] = {"packets": sent, "of": packets.get(counter, 0), "counter": made}
    return _to_text(record)


def forget_services(host: Host, names: Iterable[str]) -> None:
    """Remove what is recorded of services that are gone, and their counters with them. Raises HostError."""
    gone = set(names)
    record = _parse(host.read(PROBE_COUNTS_FILE))
    kept = {name: events for name, events in record.items() if name not in gone}
    if kept != record:
        host.write(PROBE_COUNTS_FILE, _to_text(kept))


def _recorded(text: Optional[str], counters: Counters) -> _Record:
    """What is recorded of these counters, and of none that had the same name and was made anew or set back since. Pure."""
    packets = counters.packets()

    def same(counter: str, entry: Mapping[str, Any]) -> bool:
        return entry["counter"] in (None, counters.made.get(counter, "")) and packets.get(counter, 0) >= entry["of"]

    return {
        name: {
            event: {**entry, "counter": counters.made.get(f"{event}_{name}", "")} for event, entry in events.items() if same(f"{event}_{name}", entry)
        }
        for name, events in _parse(text).items()
    }


def _parse(text: Optional[str]) -> _Record:
    """Empty if it can't be read. Pure."""
    try:
        return {
            str(name): {str(event): _entry(entry) for event, entry in events.items()}
            for name, events in _json.load(text or "{}").items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _entry(value: Any) -> Dict[str, Any]:
    """Raises ValueError, KeyError and TypeError. Version 0.1.0 wrote the number of packets alone, so that it is taken for that of any counter."""
    if isinstance(value, int):
        entry: Dict[str, Any] = {"packets": value, "of": value, "counter": None}
    else:
        entry = {"packets": int(value["packets"]), "of": int(value["of"]), "counter": str(value["counter"])}
    if entry["packets"] < 0:
        raise ValueError(f"{entry['packets']} packets")
    return entry


def _to_text(record: _Record) -> str:
    return json.dumps(record, indent=2, sort_keys=True) + "\n"
