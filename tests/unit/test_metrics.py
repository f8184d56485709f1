# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics of a fence as text, and the archive that collects them."""

from __future__ import annotations

import io
import zipfile
from typing import Dict

import pytest
from ansible_collections.portfence.egress.plugins.module_utils import _metrics_host
from ansible_collections.portfence.egress.plugins.module_utils._metrics import to_text
from ansible_collections.portfence.egress.tests.unit.info_sample import SERVICE

UNKNOWN = {"ports_in_use": None, "sockets": None, "use": None, "violations": None}


def samples(text: str) -> Dict[str, float]:
    """Metric with labels → value."""
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


def test_every_figure_of_a_service() -> None:
    found = samples(to_text({"in_sync": False, "services": {"b": {**SERVICE, **UNKNOWN}, "a": SERVICE}}, now=12.5))
    assert found == {
        "portfence_collect_success": 1,
        "portfence_collect_timestamp_seconds": 12.5,
        "portfence_in_sync": 0,
        'portfence_service_info{service="a",assignment="rewrite",on_violation="drop",source_ports="50000-50009,50100"}': 1,
        'portfence_service_info{service="b",assignment="rewrite",on_violation="drop",source_ports="50000-50009,50100"}': 1,
        'portfence_source_ports{service="a"}': 11,
        'portfence_source_ports{service="b"}': 11,
        'portfence_source_ports_in_use{service="a",protocol="tcp"}': 3,
        'portfence_source_ports_in_use{service="a",protocol="udp"}': 0,
        'portfence_sockets{service="a",protocol="tcp"}': 4,
        'portfence_sockets{service="a",protocol="udp"}': 1,
        'portfence_use_ratio{service="a"}': 0.25,
        'portfence_violation_packets_total{service="a"}': 7,
        'portfence_violation_bytes_total{service="a"}': 420,
        'portfence_violation_probe_packets_total{service="a"}': 2,
    }


def test_each_metric_is_described_once_and_stands_together() -> None:
    lines = to_text({"in_sync": True, "services": {"a": SERVICE, "b": SERVICE}}, now=1).splitlines()
    names = [line.split("{")[0].split()[0] for line in lines if line[0] != "#"]
    assert [name for index, name in enumerate(names) if name in names[:index] and names[index - 1] != name] == []
    described = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert described == list(dict.fromkeys(names)) == [line.split()[2] for line in lines if line.startswith("# HELP")]


def test_a_fence_that_cannot_be_read() -> None:
    assert samples(to_text(None, now=3)) == {"portfence_collect_success": 0, "portfence_collect_timestamp_seconds": 3}


def test_labels_are_escaped() -> None:
    text = to_text({"in_sync": True, "services": {'a"} 1\\\n': {**SERVICE, **UNKNOWN}}}, now=1)
    assert 'portfence_source_ports{service="a\\"} 1\\\\\\n"} 11\n' in text


def test_the_archive_holds_what_it_imports_and_nothing_of_ansible() -> None:
    packed = _metrics_host.program()
    assert packed == _metrics_host.program()
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
        texts = b"".join(archive.read(name) for name in archive.namelist())
    assert {"__main__.py", "_metrics_program.py", "_info.py", "_namespace.py", "_iptables.py"} <= names
    assert "_metrics_host.py" not in names and "_probe.py" not in names
    assert b"ansible.module_utils" not in texts


@pytest.mark.parametrize("interval", [5, 3600])
def test_the_units(interval: int) -> None:
    texts = _metrics_host.files(_metrics_host.Settings(directory="/srv/metrics", interval=interval))
    service, timer = (texts[path].decode() for path in (_metrics_host.SERVICE, _metrics_host.TIMER))
    assert f"-I {_metrics_host.PROGRAM} /srv/metrics\n" in service and "ReadWritePaths=/srv/metrics\n" in service
    assert f"OnUnitActiveSec={interval}\n" in timer
