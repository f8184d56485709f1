# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role accounts: which accounts it makes of a policy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, List

from lab import Lab, Result

POLICY = {
    "egress_services": {
        "myapp": {"source_ports": "50000-50999"},
        "collector": {"source_ports": "52000-52999", "user": "otel", "uid": 480},
        "theirs": {"source_ports": "53000-53999", "user": "nobody", "manage_account": False},
        "number": {"source_ports": "54000-54999", "user": 1001},
        "gone": {"source_ports": "55000-55999", "state": "absent"},
        "crew": {"source_ports": "56000-56999", "group": "daemon"},
    },
    "egress_services__team": {"two": {"source_ports": "57000-57999", "user": ["first", "second"]}},
}
PLAY = [
    {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "tasks": [
            {"ansible.builtin.include_role": {"name": "portfence.egress.accounts"}},
            {
                "ansible.builtin.copy": {"content": "{{ accounts_result }}", "dest": "/root/result.json", "mode": "0600"},
                "check_mode": False,
                "changed_when": False,
            },
        ],
    }
]


def play(lab: Lab, *options: str, **variables: Any) -> Result:
    lab.run(["sh", "-c", "cat > /root/play.yml"], data=json.dumps(PLAY))
    program = Path(sys.executable).with_name("ansible-playbook")
    extra = json.dumps({**POLICY, "ansible_python_interpreter": sys.executable, **variables})
    command = [program, "-i", "localhost,", "-e", extra, *options, "/root/play.yml"]
    return lab.run(command, env={"ANSIBLE_COLLECTIONS_PATH": lab.collections(), "NO_COLOR": "1"}, check=False)


def result(lab: Lab) -> Dict[str, Any]:
    found: Dict[str, Any] = json.loads(lab.run(["cat", "/root/result.json"]).out)
    return found


def uids(lab: Lab, *names: str) -> List[str]:
    return [lab.run(["id", "--user", name], check=False).out.strip() for name in names]


def test_accounts_of_a_policy(lab: Lab) -> None:
    done = play(lab, "--check")
    assert done.rc == 0, done.out
    assert sorted(result(lab)["created"]) == ["first", "myapp", "otel", "second"]
    assert uids(lab, "first", "myapp", "otel", "second") == ["", "", "", ""]

    done = play(lab)
    assert done.rc == 0, done.out
    assert sorted(result(lab)["created"]) == ["first", "myapp", "otel", "second"]
    assert uids(lab, "otel", "1001", "gone", "collector", "crew") == ["480", "", "", "", ""]

    done = play(lab)
    assert "changed=0" in done.out and result(lab)["created"] == []

    done = play(lab, accounts_remove=["first", "second", "otel"])
    assert done.rc != 0
    assert "accounts_remove names first, second, otel, which services of the policy run as" in done.out + done.err
    assert "" not in uids(lab, "first", "second", "otel")

    done = play(lab, accounts_remove=["first", "second"], egress_services__team={})
    assert done.rc == 0, done.out
    assert uids(lab, "first", "second", "otel") == ["", "", "480"]


def test_a_policy_without_accounts(lab: Lab) -> None:
    done = play(lab, egress_services={}, egress_services__team={})
    assert done.rc == 0 and "changed=0" in done.out, done.out
