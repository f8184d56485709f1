# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ten megabytes as the value of any parameter that the modules check themselves: told in a few lines, and nothing is changed.

Ansible checks that a number is one, and that a choice is one of those that there are, and repeats whatever it refuses.
What the module fence takes is in tests/unit/test_hostile_input.py.
"""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import pytest
from lab import Lab

HUGE = "x" * 10_000_000
NUMBER = int("9" * 4000)  # Python's json refuses those of more than 4300 digits
CGROUP: Dict[str, Any] = {"name": "a", "classid": "1:1"}
NAMESPACE: Dict[str, Any] = {"name": "a", "source_ports": "50000"}
IDENTITY: Dict[str, Any] = {"address": "10.0.0.1", "protocol": "tcp", "source_ports": "50000", "service": "a", "hosts": ["web1"]}
SERVICES = [{"name": HUGE, "source_ports": "50000"}, {"name": "a", "user": HUGE, "source_ports": HUGE}]
NAMESPACES: Tuple[Dict[str, Any], ...] = ({"name": HUGE}, {"source_ports": HUGE}, {"dns": [HUGE]}, {"units": [HUGE]}, {"ipv4": HUGE})
# Each run with the places of the mistakes that it has to tell of.
RUNS: List[Tuple[str, Dict[str, Any], Tuple[str, ...]]] = [
    ("service_account", {"accounts": [{"name": HUGE}, {"name": "a", "group": HUGE}]}, ("accounts[0].name", "accounts[1].group")),
    ("service_account", {"accounts": [{"name": "a", "home": f"/{HUGE}"}]}, ("useradd",)),
    ("service_account", {"accounts": [{"name": "a", "comment": HUGE}]}, ("useradd",)),
    ("ephemeral_ports", {"name": HUGE, "reserved_ports": [HUGE], "local_port_range": HUGE}, ("name", "reserved_ports[0]", "local_port_range")),
    ("ephemeral_ports", {"netns": HUGE, "local_port_range": "1024-2000"}, ("netns",)),
    (
        "cgroup_classid",
        {"cgroups": [{**CGROUP, "name": HUGE}, {**CGROUP, "classid": HUGE}, {**CGROUP, "name": "b", "units": [HUGE]}]},
        ("cgroups[0].name", "cgroups[1].classid", "cgroups[2].units[0]"),
    ),
    (
        "network_namespace",
        {"namespaces": [{**NAMESPACE, "name": f"n{number}", **one} for number, one in enumerate(NAMESPACES)]},
        ("namespaces[0].name", "namespaces[1].source_ports", "namespaces[2].dns[0]", "namespaces[3].units[0]", "namespaces[4].ipv4"),
    ),
    ("network_namespace", {"namespaces": [{**NAMESPACE, "protocols": [HUGE]}]}, ("namespaces[0].protocols",)),
    (
        "edge",
        {"identities": [{**IDENTITY, key: HUGE} for key in ("address", "protocol", "source_ports", "service")]},
        tuple(f"identities[{number}]" for number in range(4)),
    ),
    ("metrics", {"directory": f"/{HUGE}"}, ("directory",)),
    ("metrics", {"directory": f"/{HUGE}", "state": "absent"}, ("directory",)),
    ("metrics", {"interval": NUMBER}, ("interval",)),
    ("port_probe", {"services": SERVICES}, ("services[0]", "services[1].user", "services[1].source_ports")),
    (
        "port_probe",
        {"services": [NAMESPACE], "target": {"address4": HUGE, "address6": f"::{HUGE}", "ports": [HUGE]}},
        ("target.address4", "target.address6", "target.ports[0]"),
    ),
    ("port_probe", {"services": [NAMESPACE], "timeout": 1e300}, ("timeout",)),
    ("preview", {"services": SERVICES}, ("services[0]", "services[1].user", "services[1].source_ports")),
    ("preview", {"services": [NAMESPACE], "sample": NUMBER}, ("sample",)),
]


@pytest.mark.parametrize(("name", "params", "places"), RUNS, ids=[f"{name}-{places[0]}" for name, _params, places in RUNS])
def test_ten_megabytes_change_nothing(lab: Lab, name: str, params: Dict[str, Any], places: Tuple[str, ...]) -> None:
    """Within the time that a module has in these tests, after which it is killed."""
    result = lab.module(name, **params)
    assert result["failed"]
    lines = result["msg"].splitlines()
    assert all(any(place in line for line in lines) for place in places), result["msg"]
    assert len(lines) <= len(places) + 1 and all(len(line) < 400 and line.isprintable() for line in lines)
    found = "nft list ruleset; grep '^a:' /etc/passwd /etc/group; find /etc /run -xdev -name '*portfence*' -not -name 'portfence*.lock'"
    assert lab.run(["sh", "-c", found], check=False).out == ""


def test_names_of_hosts_that_are_not_written_do_no_harm(lab: Lab) -> None:
    assert not lab.module("edge", identities=[{**IDENTITY, "hosts": [HUGE]}]).get("failed")
    assert len(lab.run(["sh", "-c", "cat /etc/portfence/edge.nft; nft list ruleset"]).out) < 10_000
