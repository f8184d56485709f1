# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is seen of a fence → text for Prometheus. Pure.

The format is the one that the textfile collector of node_exporter reads ("Exposition formats", text-based format, of the
Prometheus documentation). Names follow its "Metric and label naming": base units, ``_total`` for what only grows.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

_Sample = Tuple[Mapping[str, str], float]

# Name → type, help.
_METRICS = {
    "portfence_collect_success": ("gauge", "Whether the state of the fence could be read."),
    "portfence_collect_timestamp_seconds": ("gauge", "When the state of the fence was read last, in seconds since 1970."),
    "portfence_in_sync": ("gauge", "Whether the fence is what was applied: 0 when somebody changed it."),
    "portfence_service_info": ("gauge", "A service of the host, always 1."),
    "portfence_source_ports": ("gauge", "Source ports of a service, for each protocol."),
    "portfence_source_ports_in_use": ("gauge", "Source ports of a service that are in use."),
    "portfence_use_ratio": ("gauge", "Share of a service's ports in use; with rewrite, towards its busiest destination."),
    "portfence_sockets": ("gauge", "Open sockets of a service, without those that listen."),
    "portfence_violation_packets_total": ("counter", "Packets of a service with a source port outside, those of probes included."),
    "portfence_violation_bytes_total": ("counter", "Bytes of these packets."),
    "portfence_violation_probe_packets_total": ("counter", "Those of these packets that were sent by the module port_probe."),
    "portfence_intrusion_packets_total": ("counter", "Packets of others with a source port of the service, those of probes included."),
    "portfence_intrusion_bytes_total": ("counter", "Bytes of these packets."),
    "portfence_intrusion_probe_packets_total": ("counter", "Those of these packets that were sent by the module port_probe."),
}


def to_text(info: Optional[Mapping[str, Any]], *, now: float) -> str:
    """The content of a ``.prom`` file.

    :param info: what :func:`_info.gather` gives, or None when it failed.
    :param now: seconds since 1970.
    """
    samples: Dict[str, List[_Sample]] = {name: [] for name in _METRICS}
    samples["portfence_collect_success"].append(({}, 0 if info is None else 1))
    samples["portfence_collect_timestamp_seconds"].append(({}, now))
    if info is not None:
        samples["portfence_in_sync"].append(({}, int(info["in_sync"])))
        for name, service in sorted(info["services"].items()):
            for metric, labels, value in _of_service(service):
                samples[metric].append(({"service": name, **labels}, value))
    return "".join(_block(name, found) for name, found in samples.items() if found)


def _of_service(service: Mapping[str, Any]) -> Iterator[Tuple[str, Dict[str, str], float]]:
    described = {key: str(service[key]) for key in ("assignment", "on_violation")}
    yield "portfence_service_info", {**described, "source_ports": ",".join(service["source_ports"])}, 1
    yield "portfence_source_ports", {}, service["capacity"]
    for metric, key in (("portfence_source_ports_in_use", "ports_in_use"), ("portfence_sockets", "sockets")):
        for protocol, count in (service[key] or {}).items():
            yield metric, {"protocol": protocol}, count
    if service["use"] is not None:
        yield "portfence_use_ratio", {}, service["use"]
    for event in ("violation", "intrusion"):
        counts = service[f"{event}s"]
        if counts is not None:
            yield f"portfence_{event}_packets_total", {}, counts["packets"]
            yield f"portfence_{event}_bytes_total", {}, counts["bytes"]
            yield f"portfence_{event}_probe_packets_total", {}, counts["by_probes"]


def _block(name: str, samples: List[_Sample]) -> str:
    kind, text = _METRICS[name]
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *(_line(name, *sample) for sample in samples)]
    return "\n".join([*lines, ""])


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value!r}" if labels else f"{name} {value!r}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
