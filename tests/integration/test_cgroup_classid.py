# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module cgroup_classid, on the real kernel: which packets a rule for a classid finds, and what stays on the host."""

from __future__ import annotations

import os
from typing import Iterator, List

import pytest
from lab import Lab, Result
from lab_keeper import PORT
from net_cls import (
    CLASSID,
    INSIDE,
    MOUNT,
    ROOT,
    WAYS,
    NetClsLab,
    controllers,
    load_rule,
    port,
    refusal,
    start_program,
    state,
    task,
    tell,
)

APP = {"name": "labapp", "classid": "10:1"}
OTHER = {"name": "labOther", "classid": "0x100002"}

_PAM = """
import ctypes, os, socket, sys
pam = ctypes.CDLL("libpam.so.0")
class Conversation(ctypes.Structure):
    _fields_ = [("talk", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)), ("data", ctypes.c_void_p)]
talk = Conversation._fields_[0][1](lambda *_: 19)
handle = ctypes.c_void_p()
if pam.pam_start(sys.argv[1].encode(), b"root", ctypes.byref(Conversation(talk, None)), ctypes.byref(handle)):
    sys.exit("pam_start failed")
if pam.pam_acct_mgmt(handle, 0):
    sys.exit("no account")
if pam.pam_open_session(handle, 0):
    sys.exit("no session")
print(pam.pam_authenticate(handle, 0), flush=True)
with socket.create_connection((sys.argv[2], int(sys.argv[3])), timeout=10) as sock:
    print(sock.recv(100).decode().strip())
"""


@pytest.fixture(name="lab")
def fixture_lab() -> Iterator[Lab]:
    """A throwaway host with a hierarchy of net_cls of its own."""
    with NetClsLab() as lab:
        yield lab


def members(lab: Lab, name: str) -> List[int]:
    """The processes in a cgroup."""
    return [int(pid) for pid in lab.run(["cat", f"{ROOT}/{name}/cgroup.procs"]).out.split()]


# ---- what is recognised ----


def test_processes_and_their_children_are_recognised(lab: Lab) -> None:
    pid = start_program(lab)
    load_rule(lab)
    for protocol, family in WAYS:
        assert port(lab, f"{protocol} {family}") not in INSIDE
    assert task(lab, cgroups=[{**APP, "pids": [pid]}, OTHER])["changed"]
    for protocol, family in WAYS:
        assert port(lab, f"{protocol} {family}") in INSIDE
        assert port(lab, f"child {protocol} {family}") in INSIDE
        assert lab.connect(protocol, family=family).port not in INSIDE
    assert task(lab, cgroups=[{**OTHER, "pids": [pid]}])["changed"]
    assert port(lab, "tcp 4") not in INSIDE
    assert members(lab, "labapp") == []


@pytest.mark.parametrize("protocol, family", WAYS)
def test_sockets_that_are_open_already_follow(lab: Lab, protocol: str, family: int) -> None:
    pid = start_program(lab)
    load_rule(lab)
    assert tell(lab, f"open {protocol} {family}") == "opened"
    task(lab, cgroups=[{**APP, "pids": [pid]}])
    assert port(lab, "use") in INSIDE


def test_another_classid_of_a_cgroup_holds_for_what_is_in_it(lab: Lab) -> None:
    pid = start_program(lab)
    load_rule(lab)
    task(lab, cgroups=[{**APP, "classid": "0x100007", "pids": [pid]}])
    assert port(lab, "tcp 4") not in INSIDE
    assert task(lab, cgroups=[APP])["changed"]
    assert port(lab, "tcp 4") in INSIDE
    assert members(lab, "labapp") == [pid]


def test_all_threads_of_a_process_are_put_in(lab: Lab) -> None:
    program = "import threading, time; [threading.Thread(target=time.sleep, args=(600,)).start() for _ in range(3)]; print(1, flush=True)"
    started = f"setsid /usr/bin/python3 -c '{program}' >/run/threads </dev/null 2>&1 & echo $!; until grep -q 1 /run/threads; do sleep 0.01; done"
    pid = int(lab.run(["sh", "-c", started]).out)
    task(lab, cgroups=[{**APP, "pids": [pid]}])
    assert len(lab.run(["cat", f"{ROOT}/labapp/tasks"]).out.split()) == 4


def test_only_root_can_put_a_process_in(lab: Lab) -> None:
    lab.add_user("svc", uid=991)
    task(lab, cgroups=[APP])
    for file in ("cgroup.procs", "tasks", "net_cls.classid"):
        assert lab.run(["sh", "-c", f"echo $$ >{ROOT}/labapp/{file}"], user="svc", check=False).rc != 0
    assert lab.run(["sh", "/etc/portfence/classid.sh", "join", "labapp", "0x100001"], user="svc", check=False).rc != 0
    assert members(lab, "labapp") == []


# ---- what stays on the host ----


def test_life_of_two_cgroups(lab: Lab) -> None:
    start = state(lab)
    expected = task(lab, cgroups=[APP, OTHER], check_mode=True, diff=True)
    assert state(lab) == start
    done = task(lab, cgroups=[APP, OTHER], diff=True)
    assert {**done, "invocation": {}} == {**expected, "invocation": {}}
    assert done["changed"]
    assert [(item["name"], item["classid"]) for item in done["cgroups"]] == [("labOther", "0x100002"), ("labapp", "0x100001")]
    assert f"labapp: {ROOT}/labapp with classid 0x100001\n" in done["diff"]["after"]
    assert "labapp" not in done["diff"]["before"]
    both = state(lab)
    assert not task(lab, cgroups=[APP, OTHER])["changed"]
    assert not task(lab, cgroups=[APP])["changed"]
    assert not task(lab)["changed"]
    assert state(lab) == both
    pid = start_program(lab)
    task(lab, cgroups=[{**APP, "pids": [pid]}])
    assert not task(lab, cgroups=[{**APP, "pids": [pid]}])["changed"]
    gone = [{"name": "labapp", "state": "absent"}]
    before = state(lab)
    assert task(lab, cgroups=gone, check_mode=True)["changed"]
    assert state(lab) == before
    load_rule(lab)
    assert port(lab, "tcp 4") in INSIDE
    removed = task(lab, cgroups=gone)
    assert removed["changed"]
    assert port(lab, "tcp 4") not in INSIDE
    assert [item["name"] for item in removed["cgroups"]] == ["labOther"]
    assert not task(lab, cgroups=gone)["changed"]
    assert task(lab, cgroups=[OTHER], purge=True)["changed"] is False
    last = task(lab, purge=True)
    assert last["changed"] and last["mount"] is None
    assert state(lab) == start
    assert not task(lab, purge=True)["changed"]
    again = task(lab, cgroups=last["previous"]["cgroups"], purge=True)
    assert again["cgroups"] == removed["cgroups"]


def test_what_somebody_changed_is_mended(lab: Lab) -> None:
    task(lab, cgroups=[APP, OTHER])
    start = state(lab)
    for damage in (
        f"echo 5 >{ROOT}/labapp/net_cls.classid",
        f"rmdir {ROOT}/labapp",
        f"rmdir {ROOT}/* {ROOT}; umount {MOUNT}",
        "rm /etc/systemd/system/sysinit.target.wants/portfence-classid.service",
        "echo session optional pam_permit.so >>/etc/pam.d/portfence-0x100001",
        "rm /etc/portfence/classid.sh",
    ):
        lab.run(["sh", "-c", damage])
        assert state(lab) != start, damage
        assert task(lab, cgroups=[APP], check_mode=True)["changed"], damage
        assert task(lab, cgroups=[APP])["changed"], damage
        assert state(lab) == start, damage
        assert not task(lab, cgroups=[APP])["changed"], damage


@pytest.mark.parametrize(
    "damage",
    [
        "rm /etc/portfence/classids",
        "rm -r /etc/portfence",
        "rm -r /etc/portfence /etc/pam.d/portfence-* /etc/systemd/system/*portfence* /etc/systemd/system/*/*portfence*",
        "echo nonsense >>/etc/portfence/classids",
    ],
)
def test_removal_without_a_record(lab: Lab, damage: str) -> None:
    start = state(lab)
    pid = start_program(lab)
    task(lab, cgroups=[{**APP, "pids": [pid]}, OTHER])
    load_rule(lab)
    assert port(lab, "tcp 4") in INSIDE
    lab.run(["sh", "-c", damage])
    lab.run(["find", "/etc/systemd/system", "-mindepth", "1", "-type", "d", "-empty", "-delete"])
    bad = state(lab)
    expected = task(lab, state="absent", purge=True, check_mode=True, diff=True)
    assert state(lab) == bad
    done = task(lab, state="absent", purge=True, diff=True)
    assert {**done, "invocation": {}} == {**expected, "invocation": {}}
    assert done["changed"]
    assert f"labapp: process {pid}\n" in done["diff"]["before"] and "labapp" not in done["diff"]["after"]
    assert port(lab, "tcp 4") not in INSIDE
    assert state(lab) == start
    assert not task(lab, state="absent", purge=True)["changed"]


def test_removal_of_a_mount_that_nobody_remembers(lab: Lab) -> None:
    start = state(lab)
    task(lab, cgroups=[APP])
    lab.run(["sh", "-c", f"rmdir {ROOT}/labapp {ROOT}; rm /etc/portfence/classids"])
    assert task(lab, state="absent", purge=True)["changed"]
    assert state(lab) == start


def test_reboot(lab: Lab) -> None:
    pid = start_program(lab)
    task(lab, cgroups=[{**APP, "pids": [pid]}, OTHER])
    assert [result.rc for result in lab.reboot()] == [0]
    assert members(lab, "labapp") == []
    assert not task(lab, cgroups=[APP, OTHER])["changed"]
    pid = start_program(lab)
    load_rule(lab)
    task(lab, cgroups=[{**APP, "pids": [pid]}])
    assert port(lab, "tcp 4") in INSIDE


# ---- the session that puts a unit's main process in ----


def session(lab: Lab) -> Result:
    """Open the session of labapp as systemd does, and connect."""
    return lab.run(["/usr/bin/python3", "-c", _PAM, "portfence-0x100001", lab.peer.addresses[4], str(PORT)], check=False)


def test_session_puts_the_process_in_or_fails(lab: Lab) -> None:
    task(lab, cgroups=[APP])
    load_rule(lab)
    authenticated, seen = session(lab).out.split()
    assert authenticated != "0", "somebody can log in with the PAM service"
    assert int(seen) in INSIDE
    # A cgroup that somebody removed is made again, with its classid.
    lab.run(["rmdir", f"{ROOT}/labapp"])
    assert int(session(lab).out.split()[1]) in INSIDE
    # Where net_cls should be is a folder, in which anything can be written.
    lab.run(["sh", "-c", f"rmdir {ROOT}/labapp {ROOT}; umount {MOUNT}; mkdir -p {ROOT}/labapp; touch {ROOT}/labapp/cgroup.procs"])
    failed = session(lab)
    assert (failed.rc, failed.out, failed.err.strip()) == (1, "", "no session")


# ---- beside others ----


def test_controllers_that_share_the_hierarchy() -> None:
    with NetClsLab(wanted="net_cls,net_prio") as lab:
        shared = controllers()
        pid = start_program(lab)
        load_rule(lab)
        task(lab, cgroups=[{**APP, "pids": [pid]}])
        assert set(shared.split(",")) <= set(lab.run(["findmnt", "--noheadings", "--output", "OPTIONS", MOUNT]).out.strip().split(","))
        assert port(lab, "tcp 6") in INSIDE


def test_hierarchy_that_is_mounted_elsewhere_is_the_same(lab: Lab) -> None:
    lab.run(["sh", "-c", f"mkdir -p /run/elsewhere && mount -t cgroup -o {controllers()} theirs /run/elsewhere"])
    pid = start_program(lab)
    load_rule(lab)
    task(lab, cgroups=[{**APP, "pids": [pid]}])
    assert lab.run(["cat", "/run/elsewhere/portfence/labapp/cgroup.procs"]).out.split() == [str(pid)]
    assert port(lab, "udp 6") in INSIDE
    lab.run(["umount", "/run/elsewhere"])
    assert not task(lab, cgroups=[APP])["changed"]
    assert port(lab, "udp 6") in INSIDE
    task(lab, purge=True)
    assert lab.run(["mountpoint", MOUNT], check=False).rc != 0


def test_host_that_is_the_first_to_mount_it() -> None:
    """As far as nobody else on the machine has done it meanwhile."""
    name = f"lab{os.getpid()}"
    with Lab() as lab:
        pid = start_program(lab)
        load_rule(lab)
        try:
            task(lab, cgroups=[{"name": name, "classid": CLASSID, "pids": [pid]}])
            assert port(lab, "udp 4") in INSIDE
        finally:
            result = task(lab, purge=True)
        assert result["changed"]
        assert port(lab, "udp 4") not in INSIDE
        assert lab.run(["ls", ROOT], check=False).rc != 0


@pytest.mark.parametrize("elsewhere", [False, True])
def test_cgroups_of_others_stay_in_sight(lab: Lab, elsewhere: bool) -> None:
    task(lab, cgroups=[APP])
    lab.run(["mkdir", "-p", f"{MOUNT}/foreign/labtheirs"])
    if elsewhere:
        lab.run(["sh", "-c", f"mkdir -p /run/elsewhere && mount -t cgroup -o {controllers()} theirs /run/elsewhere"])
    result = task(lab, purge=True)
    assert (lab.run(["mountpoint", MOUNT], check=False).rc != 0) == elsewhere
    assert [f"{MOUNT} stays mounted" in warning for warning in result["warnings"]] == ([] if elsewhere else [True])
    assert not task(lab, purge=True)["changed"]


def test_child_cgroups_of_others_are_not_removed(lab: Lab) -> None:
    task(lab, cgroups=[APP])
    lab.run(["mkdir", f"{ROOT}/labapp/labchild"])
    result = lab.module("cgroup_classid", purge=True)
    assert f"can't remove the cgroup {ROOT}/labapp" in result["msg"]
    assert lab.run(["cat", f"{ROOT}/labapp/labchild/net_cls.classid"]).out.strip() == str(CLASSID)
    lab.run(["rmdir", f"{ROOT}/labapp/labchild"])
    assert task(lab, purge=True)["changed"]


# ---- what is refused ----


def test_every_mistake_at_once(lab: Lab) -> None:
    message = refusal(
        lab,
        cgroups=[
            {"name": "-x", "classid": "0x1"},
            {"name": "a"},
            {"name": "b", "classid": 601},
            {"name": "b", "classid": "0", "pids": [0], "units": ["a b", "x.slice"]},
        ],
    )
    for part in (
        "cgroup_classid has 8 mistakes",
        "cgroups[0].name: found '-x'; accepted:",
        "cgroups[1].classid: found nothing; accepted:",
        "cgroups[2].classid: found the number 601, which is what YAML makes of 10:1",
        "cgroups[3].name: b is named in cgroups[2] already",
        "cgroups[3].classid: found '0'; accepted:",
        "cgroups[3].pids[0]: found 0;",
        "cgroups[3].units[0]: found 'a b';",
    ):
        assert part in message, message


def test_what_contradicts_the_host(lab: Lab) -> None:
    task(lab, cgroups=[APP])
    pid = start_program(lab)
    message = refusal(
        lab,
        cgroups=[
            {"name": "labtwin", "classid": "0x100001"},
            {**OTHER, "pids": [pid, 4194303], "units": ["myapp"]},
            {"name": "labthird", "classid": "0x3", "pids": [pid]},
        ],
    )
    for part in (
        "cgroups[0].classid: 0x100001 belongs to the cgroup labapp",
        "cgroups[1].pids[1]: found 4194303, which is no process",
        "cgroups[1].units: myapp.service needs systemd, which is not running here",
        f"cgroups[2].pids[0]: process {pid} can't be in labOther as well",
    ):
        assert part in message, message


def test_kernel_without_net_cls(lab: Lab) -> None:
    for pattern in ("/net_cls/d", "/net_cls/s/1$/0/"):
        lab.run(["sh", "-c", f"sed '{pattern}' /proc/cgroups >/run/cgroups; mount --bind /run/cgroups /proc/cgroups"])
        message = refusal(lab, cgroups=[APP])
        assert "this kernel has no net_cls" in message and "labapp can't have a classid" in message and "by unit instead" in message
        lab.run(["umount", "/proc/cgroups"])


def test_files_of_others(lab: Lab) -> None:
    lab.run(["sh", "-c", "echo session required pam_permit.so >/etc/pam.d/portfence-0x100001"])
    assert "/etc/pam.d/portfence-0x100001 exists and was not written by this collection" in refusal(lab, cgroups=[APP])
    lab.run(["rm", "/etc/pam.d/portfence-0x100001"])
    task(lab, cgroups=[APP])
    lab.run(["sh", "-c", "echo nonsense >>/etc/portfence/classids"])
    assert "/etc/portfence/classids: line 3 is not NAME CLASSID UNIT" in refusal(lab, cgroups=[APP])


def test_nothing_is_left_of_a_task_that_failed(lab: Lab) -> None:
    lab.run(["sh", "-c", f"mkdir -p /run/portfence; touch {MOUNT}"])
    message = refusal(lab, cgroups=[APP])
    assert "nothing was changed" in message
    lab.run(["rm", MOUNT])
    task(lab, cgroups=[APP])
    lab.run(["sh", "-c", "mkdir /run/empty; printf '#!/bin/sh\nexit 1\n' >/run/mkdir; chmod +x /run/mkdir; mount --bind /run/mkdir /usr/bin/mkdir"])
    assert "can't make" in refusal(lab, cgroups=[{**APP, "classid": "0x100005"}, OTHER])


def test_a_unit_that_does_not_start_is_told_with_what_was_before(lab: Lab) -> None:
    """By then, the cgroups are made."""
    task(lab, cgroups=[APP])
    lab.run(["mkdir", "-p", "/run/systemd/system"])
    script = "#!/bin/sh\ncase $1 in is-active | start) exit 1 ;; esac\n"
    lab.run(["sh", "-c", "cat >/usr/local/sbin/systemctl && chmod 755 /usr/local/sbin/systemctl"], data=script)
    result = lab.module("cgroup_classid", cgroups=[OTHER])
    assert result["failed"] and "systemctl start portfence-classid.service" in result["msg"]
    assert result["changed"] and [item["name"] for item in result["previous"]["cgroups"]] == [APP["name"]]
    lab.run(["rm", "/usr/local/sbin/systemctl"])
    lab.run(["rmdir", "/run/systemd/system"])
    task(lab, **result["previous"], purge=True)
    assert not lab.module("cgroup_classid", cgroups=[APP])["changed"]
