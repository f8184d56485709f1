# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two at once: modules, what units load at boot, removal. One is held in the middle while the other one tries; it has to wait."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import tempfile
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest
from ansible_collections.portfence.egress.plugins.module_utils import _boot_lock
from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_boot import BOOT_STEPS
from ephemeral import RANGE_KEY, RESERVED_KEY, live
from field_rules import until
from lab import Lab
from lab_keeper import PATH
from module_server import Supervised
from net_cls import ROOT, NetClsLab

OLD: Dict[str, Any] = {"name": "old", "user": "20001", "source_ports": "50000-50999"}
NEW: Dict[str, Any] = {"name": "new", "user": "20001", "source_ports": "51000-51999"}
OTHER: Dict[str, Any] = {"name": "other", "user": "20002", "source_ports": "53000-53999"}
HELD = "/run/held"
LOCKS = ("/run/portfence.lock", "/run/portfence-units.lock")
BACKENDS = ["nftables", "iptables"]
FILES = {"nftables": "/etc/portfence/fence.nft", "iptables": "/etc/portfence/fence.iptables"}


def fence(*services: Dict[str, Any], **params: Any) -> Dict[str, Any]:
    return {"services": list(services), "purge": True, **params}


def rules(lab: Lab) -> List[str]:
    """All rules of the kernel, without counts."""
    text = lab.run(["nft", "-s", "list", "ruleset"]).out
    return sorted(line.partition("counter packets")[0] for line in text.splitlines() if line.strip())


def boot_command(lab: Lab) -> List[str]:
    """What loads the fence, as nftables.service and our own unit run it."""
    line = lab.run(["sed", "-n", "s/^ExecStartPost=-//p", "/etc/systemd/system/nftables.service.d/portfence.conf"]).out
    return shlex.split(line)


def opened(lab: Lab) -> int:
    """How many open files there are of the locks."""
    script = "for file in /proc/[0-9]*/fd/*; do readlink $file; done | grep -c '^/run/portfence[a-z-]*[.]lock'"
    return int(lab.run(["sh", "-c", script], check=False).out)


class Held:
    """Something that stands still at a system call, until the end of the block, while others come."""

    def __init__(self, lab: Lab, begin: Callable[..., None], *args: Any, at: str, skip: int = 0) -> None:
        self._lab = lab
        self._begin = partial(begin, *args, hold=at, skip=skip, file=HELD)
        self._at = at
        self._second: Optional[subprocess.Popen[str]] = None

    def __enter__(self) -> Held:
        self._lab.run(["rm", "-f", f"{HELD}.held", f"{HELD}.go"])
        self._begin()
        assert until(lambda: self._lab.run(["test", "-e", f"{HELD}.held"], check=False).rc == 0), f"it never came to {self._at}"
        return self

    def meets(self, *command: str, data: str = "") -> None:
        """Start a program, and wait until it has either ended or come to a lock."""
        before = opened(self._lab)
        environment = {"PATH": PATH, "LC_ALL": "C.UTF-8", "PYTHONPATH": self._lab.collections()}
        with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
            file.write(data)
            file.seek(0)
            process = subprocess.Popen(
                [*self._lab.enter, *command], stdin=file, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", env=environment
            )
        self._second = process
        assert until(lambda: process.poll() is not None or opened(self._lab) > before)

    def meets_module(self, name: str, params: Dict[str, Any]) -> None:
        """The same for a module."""
        data = json.dumps({"ANSIBLE_MODULE_ARGS": params})
        self.meets(sys.executable, "-m", f"ansible_collections.portfence.egress.plugins.modules.{name}", data=data)

    def waits(self) -> bool:
        """Whether the second one goes on to wait; it has the time in which it would have ended."""
        assert self._second is not None
        try:
            self._second.wait(1.5)
            return False
        except subprocess.TimeoutExpired:
            return True

    def __exit__(self, *_about: object) -> None:
        self._lab.run(["touch", f"{HELD}.go"])
        if self._second is not None:
            self.said = self._second.communicate(timeout=90)[0]
            self.rc = self._second.returncode


@pytest.fixture(name="modules")
def fixture_modules(lab: Lab) -> Iterator[Supervised]:
    with Supervised(lab) as modules:
        yield modules


def succeed(lab: Lab, name: str, params: Dict[str, Any]) -> None:
    result = lab.module(name, **params)
    assert not result.get("failed"), result["msg"]


def go_back(lab: Lab, backend: str) -> List[str]:
    """Give the host the new fence and then the old one; the rules of the new."""
    succeed(lab, "fence", fence(NEW, backend=backend))
    wanted = rules(lab)
    succeed(lab, "fence", fence(OLD, backend=backend))
    return wanted


def has_come(lab: Lab, backend: str, wanted: List[str]) -> None:
    """The new fence is there, whole, in the kernel and on disk."""
    assert rules(lab) == wanted
    assert not lab.module("fence", **fence(NEW, backend=backend))["changed"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_load_waits_for_an_apply(lab: Lab, modules: Supervised, backend: str) -> None:
    """The kernel has the new fence, and the file is the old one: to load it now would undo the change."""
    wanted = go_back(lab, backend)
    with Held(lab, modules.begin, "fence", fence(NEW, backend=backend), at=f"rename {FILES[backend]}") as apply:
        apply.meets(*boot_command(lab))
    assert (apply.rc, apply.said) == (0, "")
    assert modules.finish()["rc"] == 0
    has_come(lab, backend, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_apply_waits_for_a_load(lab: Lab, modules: Supervised, backend: str) -> None:
    """The load has read the old file: it must not come after the new fence."""
    wanted = go_back(lab, backend)
    lab.nft("flush ruleset")
    with Held(lab, modules.begin_command, boot_command(lab), at="sendmsg netlink 16") as load:
        load.meets_module("fence", fence(NEW, backend=backend))
    assert modules.finish()["rc"] == 0
    assert load.rc == 0, load.said
    has_come(lab, backend, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_load_waits_for_a_removal(lab: Lab, modules: Supervised, backend: str) -> None:
    """The kernel has no fence any more, and the file is still there: it must not bring it back."""
    succeed(lab, "fence", fence(OLD, backend=backend))
    command = boot_command(lab)
    with Held(lab, modules.begin, "fence", {"state": "absent", "purge": True}, at=f"unlink {FILES[backend]}") as removal:
        removal.meets(*command)
    assert removal.rc != 0
    assert modules.finish()["rc"] == 0
    assert not [line for line in rules(lab) if "portfence" in line]


def test_an_apply_waits_for_a_removal(lab: Lab, modules: Supervised) -> None:
    """The removal takes the files of the locks away: the next run must not take one that nobody else would look at."""
    succeed(lab, "fence", fence(OLD))
    with Held(lab, modules.begin, "fence", {"state": "absent", "purge": True}, at="unlink /run/portfence-units.lock") as removal:
        removal.meets_module("fence", fence(NEW))
    assert modules.finish()["rc"] == 0
    assert removal.rc == 0, removal.said
    assert lab.run(["ls", "/etc/portfence/services.d"]).out == "new.json\n"
    assert not lab.module("fence", **fence(NEW))["changed"]


def test_a_removal_waits_for_an_apply(lab: Lab, modules: Supervised) -> None:
    succeed(lab, "fence", fence(OLD))
    with Held(lab, modules.begin, "fence", fence(NEW), at="rename /etc/portfence/fence.nft") as apply:
        apply.meets_module("fence", {"state": "absent", "purge": True})
    assert modules.finish()["rc"] == 0
    assert apply.rc == 0, apply.said
    assert rules(lab) == []
    assert lab.run(["sh", "-c", "find /etc /run -xdev -name '*portfence*'"]).out == ""


def test_two_applies(lab: Lab, modules: Supervised) -> None:
    """Neither is lost, wherever the first one stands."""
    succeed(lab, "fence", fence(OLD))
    with Held(lab, modules.begin, "fence", {"services": [NEW, {"name": "old", "state": "absent"}]}, at="nft: sendmsg") as apply:
        apply.meets_module("fence", {"services": [OTHER]})
    assert modules.finish()["rc"] == 0
    assert apply.rc == 0, apply.said
    info = lab.module("fence_info")
    assert set(info["services"]) == {"new", "other"} and info["in_sync"]


def test_the_programs_of_a_run_that_was_killed_keep_the_lock(lab: Lab, modules: Supervised) -> None:
    """nft goes on without the module that started it. The next run waits for it, and has the last word."""
    succeed(lab, "fence", fence(OLD))
    # After the batch in a throwaway network namespace.
    with Held(lab, modules.begin, "fence", fence(NEW), at="nft: sendmsg", skip=1) as killed:
        parent = 'for process in /proc/[0-9]*; do read -r name <$process/comm; test "$name" != nft || cut -d " " -f 4 $process/stat; done'
        lab.run(["kill", "-KILL", lab.run(["sh", "-c", parent]).out.strip()])
        killed.meets_module("fence", fence(OTHER))
    assert modules.finish()["rc"] == -signal.SIGKILL
    assert killed.rc == 0, killed.said
    assert not lab.module("fence", **fence(OTHER))["changed"]


def test_a_load_does_not_wait_for_a_probe(lab: Lab) -> None:
    """A probe holds the lock of the modules: it may take long, and changes nothing."""
    succeed(lab, "fence", fence(OLD))
    wanted = rules(lab)
    lab.nft("flush ruleset")
    assert lab.run(["flock", LOCKS[0], *boot_command(lab)]).out == ""
    assert rules(lab) == wanted


def test_after_the_wait_the_fence_is_loaded_nevertheless(lab: Lab) -> None:
    """Whoever holds the lock so long is stuck. The stated wait is 60 seconds; the test has a shorter one."""
    succeed(lab, "fence", fence(OLD))
    wanted = rules(lab)
    lab.nft("flush ruleset")
    command = [part.replace(f"--wait {_boot_lock.WAIT}", "--wait 0.3") for part in boot_command(lab)]
    done = lab.run(["flock", LOCKS[1], *command])
    assert done.err == f"portfence: {LOCKS[1]} was held for 60 seconds, or is no file that can be opened; going on without it\n"
    assert rules(lab) == wanted


def test_nobody_else_can_hold_the_locks(lab: Lab) -> None:
    """flock(2) takes a file that is open for reading; with such a file, an account without rights could keep the fence from being loaded."""
    succeed(lab, "fence", fence(OLD))
    lab.reboot()
    modes = ["stat", "-c", "%a", LOCKS[1]]
    assert lab.run(modes).out == "600\n"
    assert lab.run(["flock", "--nonblock", LOCKS[1], "true"], uid=20001, check=False).rc != 0
    lab.run(["chmod", "644", LOCKS[1]])
    succeed(lab, "fence", fence(OLD))
    assert lab.run(modes).out == "600\n"


def test_a_unit_without_the_lock_is_taken_over(lab: Lab) -> None:
    succeed(lab, "fence", fence(OLD))
    units = ["/etc/systemd/system/portfence.service", "/etc/systemd/system/nftables.service.d/portfence.conf"]
    # As versions before had them: "/bin/sh -c 'if …; exec nft …'".
    lab.run(["sed", "-i", "s/-c '.*; done; /-c '/", *units])
    assert "flock" not in lab.run(["cat", *units]).out
    assert lab.module("fence", **fence(OLD))["changes"] == [f"write {path}" for path in units]
    assert not lab.module("fence", **fence(OLD))["changed"]
    assert "flock" in lab.run(["cat", units[0]]).out and "flock" in lab.run(["cat", units[1]]).out


KINDS: Dict[str, Dict[str, Any]] = {
    "fence": fence(NEW),
    "ephemeral_ports": {"reserved_ports": ["51000-51999"], "local_port_range": "30000-39999"},
    "network_namespace": {"namespaces": [{"name": "tenant", "source_ports": "57000-57499"}]},
    "cgroup_classid": {"cgroups": [{"name": "legacy", "classid": "0x100001"}]},
    "service_account": {"accounts": [{"name": "myapp"}]},
}


@pytest.mark.parametrize(
    ("first", "at", "second"),
    [
        ("fence", "rename /etc/portfence/fence.nft", "ephemeral_ports"),
        ("ephemeral_ports", "rename /etc/sysctl.d/60-portfence.conf", "fence"),
        ("fence", "rename /etc/portfence/fence.nft", "network_namespace"),
        ("network_namespace", "nft: sendmsg", "fence"),
        ("fence", "rename /etc/portfence/fence.nft", "cgroup_classid"),
        ("cgroup_classid", "net_cls.classid", "fence"),
        ("fence", "rename /etc/portfence/fence.nft", "service_account"),
    ],
)
def test_modules_of_different_kinds_wait_for_each_other(first: str, at: str, second: str) -> None:
    """What each of them wants is there afterwards, as if the other one had not been."""
    with NetClsLab() as lab, Supervised(lab) as modules:
        succeed(lab, "fence", fence(OLD))
        with Held(lab, modules.begin, first, KINDS[first], at=at) as held:
            held.meets_module(second, KINDS[second])
            assert held.waits()
        assert modules.finish()["rc"] == 0
        assert held.rc == 0, held.said
        for name in (first, second):
            assert not lab.module(name, **KINDS[name])["changed"], name


def test_ephemeral_ports_of_a_boot_wait_for_a_change(lab: Lab, modules: Supervised) -> None:
    old = {"reserved_ports": ["50000-50999"], "local_port_range": "40000-49999"}
    new = {"reserved_ports": ["51000-51999"], "local_port_range": "30000-39999"}
    succeed(lab, "ephemeral_ports", old)
    for step in BOOT_STEPS[:2]:
        succeed(lab, "ephemeral_ports", old)
        with Held(lab, modules.begin, "ephemeral_ports", new, at="rename /etc/sysctl.d/60-portfence.conf") as change:
            change.meets(*shlex.split(step))
        assert (change.rc, change.said) == (0, "")
        assert modules.finish()["rc"] == 0
        assert (live(lab, RANGE_KEY), live(lab, RESERVED_KEY)) == ("30000 39999", "51000-51999")


def test_namespaces_wait_for_a_boot(lab: Lab, modules: Supervised) -> None:
    old = {"namespaces": [{"name": "myapp", "source_ports": "50000-50999"}]}
    new = {"namespaces": [{"name": "myapp", "source_ports": "51000-51999"}]}
    succeed(lab, "network_namespace", old)
    commands = [command for command, _must in lab.boot_commands()]
    assert len(commands) == 2
    for command in commands:
        succeed(lab, "network_namespace", old)
        with Held(lab, modules.begin_command, command, at="nft: sendmsg") as load:
            load.meets_module("network_namespace", new)
        assert modules.finish()["rc"] == 0
        assert load.rc == 0, load.said
        assert not lab.module("network_namespace", **new)["changed"]


def test_cgroups_wait_for_a_boot() -> None:
    old = {"cgroups": [{"name": "legacy", "classid": "0x100001"}]}
    new = {"cgroups": [{"name": "legacy", "classid": "0x100002"}]}
    with NetClsLab() as lab, Supervised(lab) as modules:
        succeed(lab, "cgroup_classid", old)
        lab.run(["sh", "-c", f"echo 1 >{ROOT}/legacy/net_cls.classid"])
        (command,) = [command for command, _must in lab.boot_commands()]
        with Held(lab, modules.begin_command, command, at="net_cls.classid") as load:
            load.meets_module("cgroup_classid", new)
        assert modules.finish()["rc"] == 0
        assert load.rc == 0, load.said
        assert int(lab.run(["cat", f"{ROOT}/legacy/net_cls.classid"]).out) == 0x100002
