# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files by which runs and boots take turns: how long somebody waits for them, whose they are, and what becomes of a host without them.

With PORTFENCE_LONG=1, runs wait as long as they do for users.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Dict, List

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._boot_lock import WAIT
from ephemeral import RANGE_KEY, RESERVED_KEY, live
from lab import Lab, Result
from net_cls import NetClsLab

LONG = os.environ.get("PORTFENCE_LONG") == "1"
MODULES_LOCK, UNITS_LOCK = "/run/portfence.lock", "/run/portfence-units.lock"
BOTH_LOCKS = [MODULES_LOCK, UNITS_LOCK]
BACKENDS = ["nftables", "iptables"]
MYAPP: Dict[str, Any] = {"name": "myapp", "user": "20001", "source_ports": "50000-50999"}
MOVED: Dict[str, Any] = {**MYAPP, "source_ports": "51000-51999"}
PORTS: Dict[str, Any] = {"reserved_ports": ["50000-50999"], "local_port_range": "40000-49999"}
# Runs a module that waits for locks for so many seconds, or for as long as it wants to.
_PATIENT = """
import importlib, sys
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
name, seconds = sys.argv[1:]
# AnsibleModule looks there.
del sys.argv[1:]
if seconds:
    Host.lock.__wrapped__.__kwdefaults__["wait"] = float(seconds)
importlib.import_module("ansible_collections.portfence.egress.plugins.modules." + name).main()
"""
# Each module that changes a host, and something that it would change.
CHANGES: Dict[str, Dict[str, Any]] = {
    "fence": {"services": [MOVED]},
    "ephemeral_ports": {"reserved_ports": ["51000-51999"], "local_port_range": "30000-39999"},
    "network_namespace": {"namespaces": [{"name": "tenant", "source_ports": "57000-57499"}]},
    "cgroup_classid": {"cgroups": [{"name": "legacy", "classid": "0x100001"}]},
    "edge": {"identities": [{"address": "192.0.2.9", "protocol": "tcp", "source_ports": "50000", "service": "a", "hosts": ["web1"]}]},
}


def succeed(lab: Lab, name: str, **params: Any) -> None:
    result = lab.module(name, **params)
    assert not result.get("failed"), result["msg"]


def state(lab: Lab) -> str:
    """Rules, settings and files of a host."""
    script = f"""
    nft -s list ruleset; sysctl {RANGE_KEY} {RESERVED_KEY}; ip -o link
    find /etc /run /var/lib -xdev -path '*portfence*' -printf '%p %y %m %U %T@ %l\\n' | sort
    """
    return lab.run(["sh", "-c", script]).out


def run_beside(lab: Lab, lock: str, name: str, params: Dict[str, Any]) -> Dict[str, Any]:
    """The result of a module while somebody else has this lock and keeps it."""
    command = [sys.executable, "-c", _PATIENT, name, "" if LONG else "0.3"]
    done = lab.run(
        ["flock", lock, *command], data=json.dumps({"ANSIBLE_MODULE_ARGS": params}), check=False, timeout=240, env={"PYTHONPATH": lab.collections()}
    )
    assert done.out, done.err
    result: Dict[str, Any] = json.loads(done.out)
    return result


@pytest.mark.parametrize("lock", BOTH_LOCKS)
def test_a_run_that_can_not_have_the_lock_fails_and_changes_nothing(lock: str) -> None:
    with NetClsLab() as lab:
        succeed(lab, "fence", services=[MYAPP])
        succeed(lab, "ephemeral_ports", **PORTS)
        before = state(lab)
        for name, params in CHANGES.items():
            result = run_beside(lab, lock, name, params)
            assert result["msg"] == f"another run has held {lock} for {60 if LONG else 0.3} seconds; nothing was changed, try again later"
            assert state(lab) == before
        # Without it, each of them would have changed something.
        for name, params in CHANGES.items():
            assert lab.module(name, **params)["changed"]


def boot(lab: Lab, *around: str, wait: str = "0.3") -> List[Result]:
    """Start portfence.service anew, on a host that has lost what a boot loses, by way of another program; what its commands left."""
    lab.run(["sh", "-c", "nft flush ruleset; for table in raw mangle nat filter; do iptables -t $table -F; ip6tables -t $table -F; done"])
    lab.run(["sysctl", "-qw", f"{RANGE_KEY}=20000 29999", f"{RESERVED_KEY}="])
    commands = [command for command, _must in lab.boot_commands()]
    assert len(commands) == 4 and all(f"--wait {WAIT} " in command[-1] for command in commands)
    return [lab.run([*around, *command[:-1], command[-1].replace(f"--wait {WAIT} ", f"--wait {wait} ")]) for command in commands]


def in_force(lab: Lab) -> List[str]:
    """What a boot brings."""
    saved = "nft -s list ruleset; for program in iptables ip6tables; do $program-save; done | sed '/^#/d'"
    text = lab.run(["sh", "-c", saved]).out
    return [*sorted(line.partition("counter packets")[0] for line in text.splitlines()), live(lab, RANGE_KEY), live(lab, RESERVED_KEY)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("why", ["held", "directory", "link", "dangling link", "no room"])
def test_a_boot_that_can_not_have_the_lock_loads_everything_nevertheless(lab: Lab, backend: str, why: str) -> None:
    succeed(lab, "fence", services=[MYAPP], backend=backend)
    succeed(lab, "ephemeral_ports", **PORTS)
    boot(lab)
    wanted = in_force(lab)
    assert any("50000" in line for line in wanted) and wanted[-2:] == ["40000 49999", "50000-50999"]
    around: List[str] = []
    if why == "held":
        around = ["flock", UNITS_LOCK]
    else:
        lab.run(["rm", UNITS_LOCK])
    if why == "directory":
        lab.run(["mkdir", UNITS_LOCK])
    elif why == "link":
        lab.run(["sh", "-c", f"echo kept >/etc/kept; chmod 644 /etc/kept; ln -s /etc/kept {UNITS_LOCK}"])
    elif why == "dangling link":
        lab.run(["ln", "-s", "/etc/nologin", UNITS_LOCK])
    elif why == "no room":
        lab.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=1", "none", "/run"])
    for done in boot(lab, *around):
        assert done.err.endswith(f"portfence: {UNITS_LOCK} was held for 60 seconds, or is no file that can be opened; going on without it\n")
    assert in_force(lab) == wanted
    if why == "link":
        assert lab.run(["sh", "-c", "stat -c %a /etc/kept; cat /etc/kept"]).out == "644\nkept\n"
    assert lab.run(["test", "-e", "/etc/nologin"], check=False).rc == 1


@pytest.mark.parametrize("lock", BOTH_LOCKS)
def test_a_run_follows_no_link_in_the_place_of_a_lock(lab: Lab, lock: str) -> None:
    succeed(lab, "fence", services=[MYAPP])
    for target in ("/etc/kept", "/etc/nologin"):
        lab.run(["sh", "-c", f"echo kept >/etc/kept; chmod 644 /etc/kept; ln -sf {target} {lock}"])
        before = state(lab)
        result = lab.module("fence", services=[MOVED])
        assert result["failed"] and result["msg"] == f"can't open the lock {lock}: Too many levels of symbolic links"
        assert state(lab) == before
    assert lab.run(["sh", "-c", "stat -c %a /etc/kept; cat /etc/kept"]).out == "644\nkept\n"
    assert lab.run(["test", "-e", "/etc/nologin"], check=False).rc == 1
    lab.run(["rm", lock])
    succeed(lab, "fence", services=[MOVED])


def test_the_files_are_roots_alone_from_the_first_moment(lab: Lab) -> None:
    """Whatever the umask is, and whoever makes them."""
    free = ["sh", "-c", 'umask 000; exec "$@"', "sh"]
    module = [*free, sys.executable, "-m", "ansible_collections.portfence.egress.plugins.modules.fence"]
    look = ["stat", "-c", "%n %a %u %g"]
    data = json.dumps({"ANSIBLE_MODULE_ARGS": {"services": [MYAPP]}})
    assert not json.loads(lab.run(module, data=data, env={"PYTHONPATH": lab.collections()}).out).get("failed")
    assert lab.run([*look, *BOTH_LOCKS]).out == "".join(f"{lock} 600 0 0\n" for lock in BOTH_LOCKS)
    lab.run(["rm", *BOTH_LOCKS])
    boot(lab, *free)
    assert lab.run([*look, UNITS_LOCK]).out == f"{UNITS_LOCK} 600 0 0\n"
    for lock in BOTH_LOCKS:
        assert lab.run(["flock", "--nonblock", lock, "true"], uid=20001, check=False).rc != 0
