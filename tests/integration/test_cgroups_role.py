# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role cgroups: which cgroups it makes of a policy. Its units are tested where there is a systemd, in molecule/classid."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest
from lab import Lab, Result
from net_cls import ROOT, NetClsLab, state
from test_playbooks import Control

POLICY = {
    "egress_services": {
        "legacy": {"source_ports": "50000-50999", "classid": "10:1"},
        "myapp": {"source_ports": "51000-51999"},
        "gone": {"source_ports": "52000-52999", "classid": "10:2", "state": "absent"},
    },
    "egress_services__team": {"batch": {"source_ports": "53000-53999", "classid": "0x100003"}},
}


def play(lab: Lab, *options: str, then: str = "main", **variables: Any) -> Result:
    """Run the role, and after it another task file of it."""
    roles = [{"ansible.builtin.include_role": {"name": "portfence.egress.cgroups", "tasks_from": name}} for name in dict.fromkeys(["main", then])]
    plays = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": roles}]
    lab.run(["sh", "-c", "cat > /root/play.yml"], data=json.dumps(plays))
    program = Path(sys.executable).with_name("ansible-playbook")
    extra = json.dumps({**POLICY, "ansible_python_interpreter": sys.executable, **variables})
    command = [program, "-i", "localhost,", "-e", extra, *options, "/root/play.yml"]
    return lab.run(command, env={"ANSIBLE_COLLECTIONS_PATH": lab.collections(), "NO_COLOR": "1"}, check=False)


def cgroups(lab: Lab) -> Dict[str, int]:
    """The classids of the cgroups there are."""
    shown = lab.run(["sh", "-c", f"cd {ROOT} && grep -H . */net_cls.classid"], check=False).out
    return {line.partition("/")[0]: int(line.partition(":")[2]) for line in shown.splitlines()}


@pytest.fixture(name="lab")
def fixture_lab() -> Iterator[Lab]:
    """A throwaway host with a hierarchy of net_cls of its own."""
    with NetClsLab() as lab:
        yield lab


def test_cgroups_of_a_policy(lab: Lab) -> None:
    start = state(lab)
    assert "changed=1" in play(lab, "--check").out
    assert state(lab) == start
    assert "changed=1" in play(lab).out
    assert cgroups(lab) == {"legacy": 0x100001, "batch": 0x100003}
    assert "changed=0" in play(lab).out
    # Another service is recognised by its account from now on, and somebody else's cgroup is left alone.
    lab.module("cgroup_classid", cgroups=[{"name": "theirs", "classid": "0x5"}])
    before = state(lab)
    assert "changed=1" in play(lab, egress_services={"legacy": {"source_ports": "50000-50999"}}).out
    assert cgroups(lab) == {"theirs": 5, "batch": 0x100003}
    changed = play(lab, then="restore", cgroups_purge=True)
    assert "changed=2" in changed.out
    assert cgroups(lab) == {"theirs": 5, "batch": 0x100003}
    assert "changed=1" in play(lab).out
    assert state(lab) == before
    assert "changed=1" in play(lab, cgroups_services=[], cgroups_purge=True).out
    assert state(lab) == start


def test_rollback_to_a_fence_without_the_class(lab: Lab) -> None:
    """Units in the inventory, of a service that the fence of before had not, don't keep it from coming back."""
    control = Control(lab)
    lab.narrow()
    both = {"myapp": {"source_ports": "51000-51999"}, "legacy": {"source_ports": "50000-50999", "classid": "10:1"}}
    assert control.play("portfence.egress.site", egress_services={"myapp": both["myapp"]}).rc == 0
    assert control.play("portfence.egress.site", egress_services=both, egress_classid_units={"legacy": []}).rc == 0
    assert cgroups(lab) == {"legacy": 0x100001}
    back = control.play("portfence.egress.rollback", egress_classid_units={"legacy": []})
    assert back.rc == 0 and "1 service, changed, probe passed" in back.out, back.out
    assert cgroups(lab) == {}


def test_units_of_unknown_services(lab: Lab) -> None:
    start = state(lab)
    done = play(lab, cgroups_units={"legacy": [], "myapp": ["myapp.service"], "nobody": ["x"]})
    assert done.rc != 0
    assert "cgroups_units names myapp, nobody, which no service of the policy with a classid is called" in " ".join((done.out + done.err).split())
    assert state(lab) == start
