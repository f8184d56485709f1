# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service gets a class of net_cls, loses it or gets another one, by the playbook: no moment is open, and none stays open.

All the while a process of it opens connections and sends datagrams from ports that neither policy allows. The other end of the cable counts.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Dict, Iterator, NamedTuple, Tuple

import pytest
from field_rules import until
from lab import Lab, Result
from net_cls import ROOT, NetClsLab
from no_gap import OUTSIDE
from test_playbooks import Control
from watch import PID, STOP, leaked, start, watch

UID = 991
NAME = "legacy"
FOLDER = f"{ROOT}/{NAME}"
KILLER = "/usr/local/bin/killing-python"
PLAYBOOK = "/run/playbook.pid"
# What is tried of them before the file STOP is looked for.
PORTS = range(OUTSIDE.start + 1, OUTSIDE.stop)
LEAST = 49 * 8


def service(**more: Any) -> Dict[str, Any]:
    return {"source_ports": "50000-50999", **more}


USER = {NAME: service()}
CLASS = {NAME: service(classid="0x100001")}
OTHER_CLASS = {NAME: service(classid="0x100002")}


class Change(NamedTuple):
    """From one policy to another."""

    before: Dict[str, Any]
    after: Dict[str, Any]


CHANGES = {
    "class to user": Change(CLASS, USER),
    "user to class": Change(USER, CLASS),
    "class to class": Change(CLASS, OTHER_CLASS),
}
changes = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
backends = pytest.mark.parametrize("control", ["nftables", "iptables"], indirect=True)


@pytest.fixture(name="control")
def fixture_control(request: pytest.FixtureRequest) -> Iterator[Control]:
    """A host whose peer counts what comes from outside."""
    with NetClsLab(capture=False) as lab:
        if getattr(request, "param", "") == "iptables":
            lab.use_iptables("nft")
        lab.add_user(NAME, UID)
        lab.peer.nft(watch("50000-50999"))
        yield Control(lab)


def site(control: Control, policy: Dict[str, Any], *options: str, **more: Any) -> Result:
    """Run the playbook."""
    return control.play("portfence.egress.site", *options, egress_services=policy, egress_backend=control.lab.backend, **more)


def good(result: Result) -> str:
    """What a run said that has to succeed."""
    assert result.rc == 0, result.out
    return result.out


@contextmanager
def pressed(lab: Lab) -> Iterator[None]:
    """A process of the service tries all the time, and is put into its class as soon as there is one, as the start of a unit does it."""
    inside = lab.run(["test", "-d", FOLDER], check=False).rc == 0
    with ThreadPoolExecutor(2) as pool:
        said = start(lab, pool, uid=UID, ports=PORTS, cgroup=FOLDER if inside else "")
        try:
            assert until(lambda: lab.run(["test", "-s", PID], check=False).rc == 0)
            if not inside:
                follow = f"until [ -e {STOP} ] || echo $(cat {PID}) >{FOLDER}/cgroup.procs; do sleep 0.01; done 2>/dev/null"
                pool.submit(lab.run, ["sh", "-c", follow])
            yield
        finally:
            lab.run(["touch", STOP])
    assert said.result()["tried"] >= LEAST


def classid(lab: Lab) -> str:
    """The class of the service, as the host makes it at boot."""
    found = lab.run(["grep", "-s", f"^{NAME} ", "/etc/portfence/classids"], check=False).out.split()
    return found[1] if found else ""


@backends
@changes
def test_nothing_leaks_while_the_policy_changes(control: Control, change: Change) -> None:
    good(site(control, change.before))
    with pressed(control.lab):
        assert "changed, probe passed" in good(site(control, change.after))
    assert leaked(control.lab) == 0
    assert classid(control.lab) == change.after[NAME].get("classid", "")
    assert "1 service, unchanged, probe passed" in good(site(control, change.after))


def test_nothing_leaks_where_namespaces_are_left_out(control: Control) -> None:
    good(site(control, CLASS))
    with pressed(control.lab):
        good(site(control, USER, "--skip-tags", "namespaces"))
    assert leaked(control.lab) == 0
    assert classid(control.lab) == ""


@changes
def test_nothing_leaks_on_the_way_back(control: Control, change: Change) -> None:
    good(site(control, change.before))
    lab = control.lab
    rules = lab.run(["nft", "-s", "list", "ruleset"]).out
    with pressed(lab):
        # A session of the peer's side that can't be proved, and does not concern the process above.
        lab.nft("table ip other { chain c { type nat hook postrouting priority 90; tcp dport != 7000 meta l4proto tcp masquerade to :1000-2000; }; }")
        done = site(control, change.after)
        lab.nft("delete table ip other")
    assert done.rc != 0 and "The fence that was in force before this run was put back." in done.out + done.err, done.out
    assert leaked(lab) == 0
    assert classid(lab) == change.before[NAME].get("classid", "")
    assert sorted(lab.run(["nft", "-s", "list", "ruleset"]).out.split("\n")) == sorted(rules.split("\n"))


def kill_before(control: Control, module: str, nth: int, policy: Dict[str, Any]) -> None:
    """Run the playbook, and kill it when it is about to run this module for the so-manieth time."""
    script = f"""#!/bin/sh
case $* in *AnsiballZ_{module}.py*)
    echo >>/run/killer
    [ $(wc -l </run/killer) != {nth} ] || {{ kill -KILL $(cat {PLAYBOOK}); exit 1; }} ;;
esac
exec {sys.executable} "$@"
"""
    control.lab.run(["sh", "-c", f"cat >{KILLER} && chmod 755 {KILLER} && rm -f /run/killer"], data=script)
    done = site(control, policy, ansible_python_interpreter=KILLER)
    assert done.rc != 0 and "PLAY RECAP" not in done.out, done.out


TAKEN = {NAME: service(classid="0x100002"), "other": {"source_ports": "52000-52999", "classid": "0x100001"}}


@pytest.mark.parametrize("options", [(), ("--check",)])
def test_a_number_that_is_not_free_yet_is_refused(control: Control, options: Tuple[str, ...]) -> None:
    good(site(control, CLASS))
    before = control.state()
    done = site(control, TAKEN, "--skip-tags", "accounts,ephemeral_ports", *options)
    assert done.rc != 0
    said = " ".join((done.out + done.err).split())
    assert "other.classid: found 0x100001, which the processes of legacy have until this run is over; accepted: another number" in said, done.out
    assert "This run had not changed the fence." in said
    assert control.state() == before


def test_another_name_takes_the_class_over(control: Control) -> None:
    lab = control.lab
    good(site(control, CLASS))
    renamed = {NAME: {"state": "absent"}, "renamed": service(classid="0x100001")}
    with pressed(lab):
        assert "probe passed" in good(site(control, renamed))
        assert lab.run(["cat", f"{ROOT}/renamed/cgroup.procs"]).out == lab.run(["cat", PID]).out
    assert leaked(lab) == 0
    assert lab.run(["ls", ROOT]).out.split().count("renamed") == 1 and classid(lab) == ""
    assert "1 service, unchanged, probe passed" in good(site(control, renamed))


# Where a run that changes the class is cut short: before each module that follows the first one that could open something.
KILLS = [
    ("class to user", "fence", 1),
    ("class to user", "port_probe", 1),
    ("class to user", "cgroup_classid", 1),
    ("user to class", "fence", 1),
    ("user to class", "port_probe", 1),
    ("class to class", "fence", 1),
    ("class to class", "cgroup_classid", 2),
    ("class to class", "port_probe", 1),
    ("class to class", "fence", 2),
]


@pytest.mark.parametrize("name, module, nth", KILLS)
def test_nothing_leaks_when_a_run_is_killed(control: Control, name: str, module: str, nth: int) -> None:
    """Nor after the boot that follows, and the next run goes on from there."""
    lab, change = control.lab, CHANGES[name]
    good(site(control, change.before))
    with pressed(lab):
        kill_before(control, module, nth, change.after)
    assert leaked(lab) == 0
    lab.reboot()
    with pressed(lab):
        pass
    assert leaked(lab) == 0
    good(site(control, change.after))
    assert leaked(lab) == 0
    assert "1 service, unchanged, probe passed" in good(site(control, change.after))
    assert classid(lab) == change.after[NAME].get("classid", "")
