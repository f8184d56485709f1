# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the fleet tells about itself and to others."""

from __future__ import annotations

import json
import time

import pytest
from fleet import FOLDER, HOSTS, domain, get, own_service, ports
from testhost import recap, said


def test_another_run_changes_nothing() -> None:
    """On the hosts of one group."""
    assert set(recap("again")) == {name for name in HOSTS if name.startswith("job")}
    assert all(numbers["failed"] == numbers["changed"] == 0 for numbers in recap("again").values())


def test_verify_finds_every_host_as_the_policy_says() -> None:
    """By connecting."""
    assert set(recap("verify")) == {name for name in HOSTS if domain(name) == "west"}
    assert all(numbers["failed"] == numbers["changed"] == 0 for numbers in recap("verify").values())
    assert said("verify").count("probe passed") == 15


def test_a_port_names_its_host() -> None:
    """web06 has just used it, behind the address of its domain."""
    own = ports("web06", "web")
    assert f"web on web06 in the NAT domain west: {own[0]}-{own[-1]} since" in said("identify")


def test_the_map_has_all_hosts() -> None:
    """Address and range name one host for each range of its own."""
    entries = json.loads((FOLDER / "identities" / "identity.json").read_text(encoding="utf-8"))
    for name in HOSTS:
        own = ports(name, own_service(name))
        found = [entry["hosts"] for entry in entries if (entry["service"], entry["source_ports"]) == (own_service(name), f"{own[0]}-{own[-1]}")]
        assert [name] in found


@pytest.mark.parametrize("name", ["job10", "db10"])
def test_a_timer_writes_metrics(name: str) -> None:
    """Again and again."""
    host = get(name)
    path = "/var/lib/prometheus/node-exporter/portfence.prom"
    end = time.monotonic() + 60
    seen: set[str] = set()
    while len(seen) < 3:
        assert time.monotonic() < end, host.run("systemctl status portfence-metrics.timer portfence-metrics.service").stdout
        if host.file(path).exists:
            seen.add(host.check_output(f"stat -c %y {path}"))
        time.sleep(0.5)
    assert f'service="{own_service(name)}"' in host.file(path).content_string
