# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy that is given to Ansible, and what all runs of Ansible have in common."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Dict, List

from field import LabError, Service

BOOKS = Path(__file__).resolve().parent / "playbooks"
# How often site comes to a host, whatever the number of services: tests/integration/test_round_trips.py counts. Once with a command, else with modules.
ROUND_TRIPS = 6
# A fence that was found as it should be is not read again.
UNCHANGED_ROUND_TRIPS = 5


def environment(collections: str) -> Dict[str, str]:
    """Variables for a program of Ansible. Everything that is not named here is as Ansible comes."""
    return {
        "ANSIBLE_COLLECTIONS_PATH": collections,
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCALHOST_WARNING": "0",
        "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
    }


def program(name: str) -> str:
    """Path of a program of Ansible."""
    return str(Path(sys.executable).with_name(name))


def policy(fenced: List[Service]) -> Dict[str, Any]:
    """``egress_services``: nothing but the ports, and the UID, as there are not enough for so many system accounts."""
    return {one.name: {"source_ports": f"{one.low}-{one.high}", "uid": one.uid} for one in fenced}


def by_hand(fenced: List[Service]) -> Dict[str, Any]:
    """What the playbook builtin.yml takes."""
    services = [{"name": one.name, "uid": one.uid, "ports": f"{one.low}:{one.high}", "to_ports": f"{one.low}-{one.high}"} for one in fenced]
    # One range, as they lie one behind the other: the kernel would merge them, and the module would see another value each time.
    return {"services": services, "reserved": f"{fenced[0].low}-{fenced[-1].high}"}


def check(output: str, rc: int, *, wanted: str, times: int = 1) -> None:
    """Raises LabError unless a run of Ansible ended well and printed this so many times."""
    if rc or output.count(wanted) < times:
        raise LabError(f"Ansible ended with status {rc}, and should have said {times} times {wanted!r}:\n{output[-4000:]}")
