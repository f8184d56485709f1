# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role ephemeral_ports: what it makes of a policy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, List

from ephemeral import RANGE_KEY, live, ports, state
from lab import Lab, Result

ROLE = "portfence.egress.ephemeral_ports"
POLICY = {
    "egress_services": {
        "myapp": {"source_ports": "50000-50999"},
        "collector": {"source_ports": ["52000-52999", 53500], "assignment": "app", "exclusive": False},
        "gone": {"state": "absent"},
    },
    "egress_services__team": {"everything": {"source_ports": "40000-49999", "assignment": "host"}},
}
RESERVED = "50000-50999,52000-52999,53500"


def play(lab: Lab, *roles: Dict[str, Any], options: str = "", **variables: Any) -> Result:
    """Include the role in one play, once for each of these, with their variables."""
    tasks: List[Dict[str, Any]] = [
        {"ansible.builtin.include_role": {"name": ROLE, "tasks_from": role.pop("tasks_from", "main")}, "vars": role}
        for role in map(dict, roles)
    ]
    book = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}]
    lab.run(["sh", "-c", "cat > /root/play.yml"], data=json.dumps(book))
    program = Path(sys.executable).with_name("ansible-playbook")
    extra = json.dumps({**POLICY, "ansible_python_interpreter": sys.executable, **variables})
    command = [program, "-i", "localhost,", "-e", extra, *options.split(), "/root/play.yml"]
    done = lab.run(command, env={"ANSIBLE_COLLECTIONS_PATH": lab.collections(), "NO_COLOR": "1"}, check=False)
    assert done.rc == 0, done.out + done.err
    return done


def test_ports_of_a_policy(lab: Lab) -> None:
    start = state(lab)
    assert "changed=1 " in play(lab, {}, options="--check").out
    assert state(lab) == start
    assert "changed=1 " in play(lab, {}).out
    assert (live(lab), live(lab, RANGE_KEY)) == (RESERVED, "40000 49999")
    assert "changed=0 " in play(lab, {}).out
    play(lab, {}, egress_services__team={})
    assert (live(lab), live(lab, RANGE_KEY)) == (RESERVED, "32768 60999")
    play(lab, {}, egress_services={}, egress_services__team={})
    assert state(lab) == start


def test_owners_of_a_policy(lab: Lab) -> None:
    start = state(lab)
    theirs = {"ephemeral_ports_owner": "team", "ephemeral_ports_services": [{"name": "x", "source_ports": 54000}]}
    play(lab, {}, theirs)
    assert live(lab) == f"{RESERVED},54000"
    play(lab, {"ephemeral_ports_state": "absent", "ephemeral_ports_owner": "team"})
    assert live(lab) == RESERVED
    play(lab, theirs, {"ephemeral_ports_state": "absent", "ephemeral_ports_purge": True})
    assert state(lab) == start


def test_the_way_back(lab: Lab) -> None:
    ports(lab, name="team", reserved_ports=["54000"])
    ports(lab, reserved_ports=["50000"], local_port_range="30000-39999", persist=False)
    before = state(lab)
    play(lab, {"ephemeral_ports_purge": True}, {"tasks_from": "restore"})
    assert state(lab) == before
    play(lab, {"tasks_from": "restore"})
    assert state(lab) == before
