# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of this scenario, and what the file of allocated ports says of them."""

from __future__ import annotations

import os
import pathlib
import subprocess

import testinfra
import yaml
from testinfra.host import Host

GROUPS = {"web": "web", "db": "replica", "job": "worker"}
HOSTS = [f"{group}{number:02d}" for group in GROUPS for number in range(1, 11)]
FOLDER = pathlib.Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])


def domain(name: str) -> str:
    """Return the NAT domain of a host."""
    return "east" if int(name[-2:]) <= 5 else "west"


def own_service(name: str) -> str:
    """Return the service of a host that has a range of its own."""
    return GROUPS[name[:-2]]


def allocated() -> list[dict[str, str]]:
    """Return the ranges of the file of allocated ports."""
    return yaml.safe_load((FOLDER / "port-allocations.yml").read_text(encoding="utf-8"))["ranges"]


def ports(host: str, service: str) -> range:
    """Return the range that a service has on a host."""
    found = [entry["ports"] for entry in allocated() if entry["service"] == service and entry.get("host", host) == host]
    assert len(found) == 1
    low, high = found[0].split("-")
    return range(int(low), int(high) + 1)


def get(name: str) -> Host:
    """Return a host."""
    return testinfra.get_host(f"podman://{name}")


def rules(name: str) -> str:
    """Return the live rules of a host, with no counts."""
    command = ["podman", "exec", name, "nft", "-s", "list", "ruleset"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
