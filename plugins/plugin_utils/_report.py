# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What fence_info says of many hosts → a page, a table and data. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._csv import to_csv as table
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange, PortSet
from ansible_collections.portfence.egress.plugins.plugin_utils._report_page import PAGE
from jinja2 import Environment, StrictUndefined

# Unicode's explicit directional formatting characters (UAX #9, 2): what stands behind them can be shown in another order.
_DIRECTIONS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Share of a service's ports beyond which it is in want of more.
NARROW = 0.8


@dataclass(frozen=True)
class Line:
    """One service of one host.

    :ivar violations: packets, without those that probes sent. None where nothing counts them.
    :ivar use: share of the ports in use, 0 to 1, or None where that is not known.
    """

    host: str
    service: str
    source_ports: str
    assignment: str
    on_violation: str
    capacity: int
    use: Optional[float]
    violations: Optional[int]
    intrusions: Optional[int]


@dataclass(frozen=True)
class Bar:
    """A range of the port map: where it begins and how wide it is, in percent of the map."""

    service: str
    ports: str
    left: float
    width: float
    fill: float
    known: bool


@dataclass(frozen=True)
class Report:
    """All that is shown.

    :ivar silent: hosts that were not reached or could not be read, each with the reason.
    :ivar bare: hosts that have no service, so no fence, and are to have none.
    :ivar drifted: hosts whose fence is not what was applied, each with what would have to be done.
    :ivar changed: hosts with the time of the last change of their services and who made it, the latest first.
    """

    when: str
    hosts: int
    lines: Tuple[Line, ...]
    silent: Tuple[Tuple[str, str], ...]
    bare: Tuple[str, ...]
    drifted: Tuple[Tuple[str, str], ...]
    changed: Tuple[Tuple[str, str, str], ...]

    @property
    def events(self) -> List[Line]:
        """Services with violations or intrusions, most first."""
        found = [line for line in self.lines if line.violations or line.intrusions]
        return sorted(found, key=lambda line: -((line.violations or 0) + (line.intrusions or 0)))

    @property
    def narrow(self) -> List[Line]:
        """Services whose ports run out, fullest first."""
        return sorted((line for line in self.lines if (line.use or 0) > NARROW), key=lambda line: -(line.use or 0))

    @property
    def bounds(self) -> Tuple[int, int]:
        """The first and the last port of the map."""
        parts = [part for line in self.lines for part in PortSet.parse(line.source_ports)]
        return (min(part.low for part in parts), max(part.high for part in parts)) if parts else (1, 65535)

    def map(self) -> List[Tuple[str, List[Bar]]]:
        """Bars of each host that has services."""
        low, high = self.bounds
        rows: Dict[str, List[Bar]] = {}
        for line in self.lines:
            for part in PortSet.parse(line.source_ports):
                rows.setdefault(line.host, []).append(_bar(line, part, low, high - low + 1))
        return list(rows.items())


def _bar(line: Line, part: PortRange, low: int, span: int) -> Bar:
    return Bar(
        service=line.service,
        ports=str(part),
        left=round(100 * (part.low - low) / span, 3),
        width=round(100 * part.size / span, 3),
        fill=round(100 * min(line.use or 0, 1), 1),
        known=line.use is not None,
    )


def build(hosts: Mapping[str, Mapping[str, Any]], *, when: str) -> Report:
    """Gather the lines.

    :param hosts: name to what fence_info returned, or to ``failed`` or ``unreachable`` and ``msg``.
    :param when: the time for people.
    """
    lines, silent, bare, drifted, changed = [], [], [], [], []
    for name in sorted(hosts):
        info = hosts[name]
        if info.get("unreachable") or info.get("failed") or "services" not in info:
            reason = "not reached" if info.get("unreachable") else "could not be read"
            silent.append((name, f"{reason}: {info.get('msg', 'nothing was said')}"))
            continue
        try:
            own = [_line(name, service, info["services"][service]) for service in sorted(info["services"])]
            drift = None if info["in_sync"] else "; ".join(info["drift"])
            change = info.get("last_change") or {"at": None, "by": None}
            changes = [(name, str(change["at"]), str(change["by"]))] if change["at"] is not None else []
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            # One host that is not what it says must not cost the report of all others.
            silent.append((name, "could not be read: what it said is not what fence_info returns"))
            continue
        if not own and drift is None:
            # Else it may well have a fence, whose services can't be told.
            bare.append(name)
        lines.extend(own)
        changed.extend(changes)
        if drift is not None:
            drifted.append((name, drift))
    changed.sort(key=lambda item: item[1], reverse=True)
    return Report(when, len(hosts), tuple(lines), tuple(silent), tuple(bare), tuple(drifted), tuple(changed))


def _line(host: str, name: str, service: Mapping[str, Any]) -> Line:
    """Raises ValueError, KeyError, TypeError, AttributeError or OverflowError where a value is not what fence_info returns."""
    ports = ", ".join(service["source_ports"])
    PortSet.parse(ports)
    use = None if service["use"] is None else float(service["use"])
    if use is not None and not 0 <= use < 1e6:
        raise ValueError(use)
    return Line(
        host=host,
        service=name,
        source_ports=ports,
        assignment=str(service["assignment"]),
        on_violation=str(service["on_violation"]),
        capacity=_count(service["capacity"]),
        use=use,
        violations=_without_probes(service["violations"]),
        intrusions=_without_probes(service["intrusions"]),
    )


def _count(value: Any) -> int:
    """A number that a host can count to. Raises ValueError or TypeError."""
    number = int(value)
    if not 0 <= number < 2**64:
        raise ValueError("out of range")
    return number


def _without_probes(counts: Optional[Mapping[str, int]]) -> Optional[int]:
    return None if counts is None else max(0, _count(counts["packets"]) - _count(counts["by_probes"]))


def to_html(report: Report) -> str:
    """One page that needs nothing else. Whatever comes from hosts is escaped by the template engine, and changes no direction of text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_undirected)
    return environment.from_string(PAGE).render(report=report, narrow=NARROW)


def _undirected(value: Any) -> Any:
    """A value as it is, with characters that direct text as they are written in JSON."""
    return _DIRECTIONS.sub(lambda found: f"\\u{ord(found[0]):04x}", value) if isinstance(value, str) else value


def to_json(report: Report) -> str:
    """The same as data."""
    data = {
        "when": report.when,
        "hosts": report.hosts,
        "services": [asdict(line) for line in report.lines],
        "not_read": dict(report.silent),
        "without_services": list(report.bare),
        "drift": dict(report.drifted),
        "changed": {host: {"at": at, "by": by} for host, at, by in report.changed},
    }
    return json.dumps(data, indent=2, sort_keys=True) + "\n"


def to_csv(report: Report) -> str:
    """A table for spreadsheets, a row for each service of each host."""
    return table(list(Line.__dataclass_fields__), (list(asdict(line).values()) for line in report.lines))
