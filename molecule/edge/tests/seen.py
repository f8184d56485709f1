# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of this scenario ask: ranges that were handed out, and what the gateway has counted."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

import testinfra
import yaml
from testinfra.host import Host

HOSTS = ["east1", "east2", "west1", "west2"]
# IPv4 is that of the NAT in front of the host.
ADDRESSES = {
    "east1": ("198.51.100.1", "2001:db8:e1::2"),
    "east2": ("198.51.100.1", "2001:db8:e2::2"),
    "west1": ("198.51.100.5", "2001:db8:f1::2"),
    "west2": ("198.51.100.5", "2001:db8:f2::2"),
}
FOLDER = pathlib.Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])


def get(name: str) -> Host:
    """Return a host."""
    return testinfra.get_host(f"podman://{name}")


def ports(host: str, service: str) -> range:
    """Return the range that a service has on a host."""
    entries = yaml.safe_load((FOLDER / "port-allocations.yml").read_text(encoding="utf-8"))["ranges"]
    found = [entry["ports"] for entry in entries if entry["service"] == service and entry.get("host", host) == host]
    assert len(found) == 1
    low, high = found[0].split("-")
    return range(int(low), int(high) + 1)


def counted(service: str) -> int:
    """Return how many connections of a service the gateway has let pass; those of "unknown" are of nobody."""
    listing = json.loads(get("gateway").check_output("nft -j list counters table inet portfence_edge"))["nftables"]
    counters = {entry["counter"]["name"]: entry["counter"]["packets"] for entry in listing if "counter" in entry}
    return counters["unknown" if service == "unknown" else f"service_{service}"]


def identified(address: str, port: int) -> str:
    """Return what the playbook identify says of an address and a port."""
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    command = ["ansible-playbook", "portfence.egress.identify", "--inventory", str(FOLDER / "inventory"), "-e", f"address={where}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
