# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How often a playbook comes to a host: as often for many services as for one. docs/scale.md says how often."""

from __future__ import annotations

import re
import sys
from typing import Any, Dict

import pytest
from lab import Lab
from net_cls import NetClsLab
from test_playbooks import INVENTORY, Control

COUNTING = "/usr/local/bin/counting-python"
CALLS = "/run/calls"

# Per host: accounts, ephemeral ports, a look at what there is, fence, probe, fence_info. The look is a command, the others are modules.
SITE = 6
# A fence that was found as it should be is not read again.
UNCHANGED = 5
# That it ran, and was not skipped.
LOOK = re.compile(r"^TASK \[portfence\.egress\.fence : Look at the host\] \*+\nok: ", re.MULTILINE)

WATCHED = "/run/watched"
LOADS = "/run/loads"
# For each of the collection's filters that a Python loads, the process.
WATCH = f"""
import os, sys

def watch(event, arguments):
    if event == "exec" and "/portfence/egress/plugins/filter/" in arguments[0].co_filename:
        descriptor = os.open({LOADS!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{{os.getpid()}} {{arguments[0].co_filename}}\\n".encode())
        os.close(descriptor)

sys.addaudithook(watch)
"""


@pytest.fixture(name="control")
def fixture_control(lab: Lab) -> Control:
    return counted(lab)


def counted(lab: Lab) -> Control:
    """Every module runs in an interpreter that leaves a line for each start."""
    lab.run(["sh", "-c", f"cat > {COUNTING} && chmod 755 {COUNTING}"], data=f'#!/bin/sh\necho >> {CALLS}\nexec {sys.executable} "$@"\n')
    return Control(lab)


def round_trips(control: Control, playbook: str, *options: str, services: Dict[str, Any]) -> int:
    """Run a playbook of the collection, and count the modules that it ran on the host, and the looks."""
    control.lab.run(["sh", "-c", f": > {CALLS}"])
    done = control.play(f"portfence.egress.{playbook}", *options, egress_services=services, ansible_python_interpreter=COUNTING)
    assert done.rc == 0, done.out
    return len(control.lab.run(["cat", CALLS]).out.splitlines()) + len(LOOK.findall(done.out))


def policy(count: int, **more: Any) -> Dict[str, Any]:
    """Services with 20 ports each."""
    return {f"svc{index}": {"source_ports": f"{30000 + 20 * index}-{30019 + 20 * index}", **more} for index in range(count)}


def test_site_needs_as_many_for_one_service_as_for_many(control: Control) -> None:
    few = round_trips(control, "site", services=policy(1))
    assert few == SITE
    assert round_trips(control, "site", services=policy(1)) == UNCHANGED
    assert round_trips(control, "site", services=policy(40)) == SITE
    assert round_trips(control, "site", services=policy(40, assignment="app", on_violation="reject")) == SITE
    assert round_trips(control, "site", services=policy(40, assignment="app", on_violation="reject")) == UNCHANGED
    assert round_trips(control, "site", services=policy(3, assignment="auto")) == SITE


def test_parts_that_few_services_need_are_asked_only_where_they_are(control: Control) -> None:
    with_namespaces = policy(2, assignment="namespace")
    # The role looks for the programs that namespaces need before it makes them.
    assert round_trips(control, "site", services=with_namespaces) == SITE + 2
    assert control.lab.run(["ls", "/run/netns"]).out.split() == ["svc0", "svc1"]
    assert round_trips(control, "site", services=policy(2)) == SITE + 1, "what is left is taken away"
    assert control.lab.run(["ls", "/run/netns"]).out == ""
    assert round_trips(control, "site", services=policy(2)) == UNCHANGED


def test_cgroups_take_steps_only_where_they_change() -> None:
    # One of them has an account.
    plain = policy(3)
    first = {**plain, "svc0": {**plain["svc0"], "classid": "0x100001"}, "svc1": {**plain["svc1"], "classid": "0x100002"}}
    other = {**first, "svc1": {**plain["svc1"], "classid": "0x100003"}}
    fewer = {**other, "svc0": plain["svc0"]}
    with NetClsLab() as lab:
        control = counted(lab)
        assert round_trips(control, "site", services=first) == SITE + 1
        assert round_trips(control, "site", services=first) == UNCHANGED + 1
        # The cgroup gets the class after the fence knows it, and the fence forgets the one of before.
        assert round_trips(control, "site", services=other) == SITE + 3
        assert round_trips(control, "site", services=other) == UNCHANGED + 1
        assert round_trips(control, "site", services=fewer) == SITE + 2, "what goes, goes when the fence is proven"
        assert round_trips(control, "site", services=plain) == SITE + 1, "what is left is taken away"
        assert round_trips(control, "site", services=plain) == UNCHANGED


def test_other_playbooks_too(control: Control) -> None:
    counts = []
    for count in (1, 20):
        control.play("portfence.egress.site", egress_services=policy(count), egress_purge=True)
        counts.append({name: round_trips(control, name, services=policy(count)) for name in ("verify", "preview", "report", "rollback", "remove")})
    assert counts[0] == counts[1]


def test_the_controller_loads_its_filters_once(control: Control) -> None:
    """Not again in each of the processes that it starts for a task of a host."""
    control.lab.run(["sh", "-c", f"mkdir {WATCHED} && cat > {WATCHED}/sitecustomize.py"], data=WATCH)
    control.play("portfence.egress.validate", egress_services=policy(1))
    done = control.run("ansible-playbook", "-i", INVENTORY, "portfence.egress.site", PYTHONPATH=WATCHED)
    assert done.rc == 0, done.out
    loads = [line.split() for line in control.lab.run(["cat", LOADS]).out.splitlines()]
    assert any(path.endswith("/service_accounts.py") for _process, path in loads)
    assert len({process for process, _path in loads}) == 1
