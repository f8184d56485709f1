# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The eBPF programs of a host from their first load to their removal: changes, drift, faults, boot."""

from __future__ import annotations

import json
import threading
from typing import Any, Dict, Iterator, List

import pytest
from bpf_lab import TREE, UDP, BpfLab, job
from lab import PEER_ADDRESSES, PORT

UID = 991
INSIDE = range(50000, 50200)
PEER4 = [PEER_ADDRESSES[4], PORT]
PINS = "/sys/fs/bpf/portfence"
FILES = ["/etc/portfence/bpf.batch", "/etc/portfence/bpf.o", "/etc/portfence/bpf-load"]
UNIT = "/etc/systemd/system/portfence-bpf.service"
LOAD = "attach the eBPF programs to /sys/fs/cgroup"
UPDATE = "change the maps of the eBPF programs"


@pytest.fixture(name="lab")
def fixture_lab() -> Iterator[BpfLab]:
    """A lab whose host has the accounts of two services."""
    with BpfLab() as lab:
        lab.add_user("myapp", uid=UID)
        lab.add_user("other", uid=UID + 1)
        yield lab


def service(**changes: Any) -> Dict[str, Any]:
    """The service, with some keys changed."""
    return {"name": "myapp", "source_ports": "50000-50199", "assignment": "bpf", **changes}


def fence(lab: BpfLab, *services: Dict[str, Any], **params: Any) -> Dict[str, Any]:
    """Run the module; it has to succeed."""
    result = lab.module("fence", services=list(services), **params)
    assert not result.get("failed"), result
    return result


def attached(lab: BpfLab) -> Dict[str, int]:
    """Programs of ours by name, with their ids; each may be there once."""
    programs = json.loads(lab.run(["bpftool", "-j", "cgroup", "show", "/sys/fs/cgroup"]).out.strip() or "[]")
    found = {program["name"]: program["id"] for program in programs}
    assert len(found) == len(programs), programs
    return found


def exist(lab: BpfLab, *paths: str) -> List[str]:
    """Those of the paths that are there."""
    return [path for path in paths if lab.run(["test", "-e", path], check=False).rc == 0]


def port(lab: BpfLab, uid: int = UID) -> Any:
    """The port of an unmodified program when the socket and the peer agree about it; or else both, or the error."""
    (answer,) = lab.client(job(to=PEER4), uid=uid)
    return answer["seen"] if answer["seen"] is not None and answer["local"] == answer["seen"] else answer


def replace_bpftool(lab: BpfLab, script: str) -> None:
    """Put a script in the place of the program, in the lab alone. It finds the real one as $real."""
    path = lab.run(["sh", "-c", "command -v bpftool"]).out.strip()
    text = f"#!/bin/sh\nreal=/var/lib/real-bpftool\n{script}\n"
    lab.run(["sh", "-c", f"cp {path} /var/lib/real-bpftool && cat >/var/lib/bpftool && chmod 755 /var/lib/bpftool"], data=text)
    lab.run(["mount", "--bind", "/var/lib/bpftool", path])


def give_back_bpftool(lab: BpfLab) -> None:
    """Undo replace_bpftool()."""
    lab.run(["sh", "-c", "umount $(command -v bpftool)"])


def test_second_run_changes_nothing_and_check_mode_predicts(lab: BpfLab) -> None:
    """What check mode says is what happens, and it loads nothing."""
    fence(lab, service(assignment="rewrite"))
    predicted = fence(lab, service(), check_mode=True)
    assert attached(lab) == {} and exist(lab, PINS, *FILES, UNIT) == []
    done = fence(lab, service())
    assert predicted["changes"] == done["changes"]
    assert done["changes"] == [
        "write /etc/portfence/services.d/myapp.json",
        "write /etc/portfence/previous.json",
        LOAD,
        "write /etc/portfence/bpf.o",
        "write /etc/portfence/bpf-load",
        "write /etc/portfence/bpf.batch",
        f"write {UNIT}",
        "enable portfence-bpf.service",
    ]
    assert sorted(attached(lab)) == ["portfence_bind4", "portfence_bind6", "portfence_conn4", "portfence_conn6"]
    again = fence(lab, service())
    assert (again["changed"], again["changes"]) == (False, [])


def test_ports_change_in_place(lab: BpfLab) -> None:
    """The programs stay, only maps change, for old and new services alike."""
    fence(lab, service())
    before = attached(lab)
    result = fence(lab, service(source_ports="51000-51009"), service(name="other", source_ports="52000-52009"))
    assert UPDATE in result["changes"] and LOAD not in result["changes"]
    assert attached(lab) == before
    assert port(lab) in range(51000, 51010) and port(lab, UID + 1) in range(52000, 52010)
    fence(lab, service(name="other", assignment="rewrite", source_ports="52000-52009"))
    answer = port(lab, UID + 1)
    assert answer["seen"] in range(52000, 52010) and answer["local"] not in range(52000, 52010)
    assert attached(lab) == before


@pytest.mark.parametrize(
    ("damage", "change"),
    [
        ('bpftool cgroup detach /sys/fs/cgroup connect4 pinned "$PINS/connect4"', LOAD),
        ('bpftool cgroup attach /sys/fs/cgroup bind6 pinned "$PINS/bind6" override', None),
        ('rm "$PINS/bind4"', LOAD),
        ('rm -r "$PINS"', LOAD),
        ('bpftool map delete pinned "$PINS/maps/by_uid" key hex df 03 00 00', UPDATE),
        ('bpftool map update pinned "$PINS/maps/by_uid" key hex 01 00 00 00 value hex 6d 79 61 70 70' + " 00" * 27, UPDATE),
        ('bpftool map update pinned "$PINS/maps/levels" key hex 00 00 00 00 value hex fe 00 00 00', UPDATE),
        ("rm /etc/portfence/bpf.o", "write /etc/portfence/bpf.o"),
        ("echo exit 0 >/etc/portfence/bpf-load", "write /etc/portfence/bpf-load"),
        ("echo >>/etc/systemd/system/portfence-bpf.service", f"write {UNIT}"),
        ("rm /etc/systemd/system/sysinit.target.wants/portfence-bpf.service", "enable portfence-bpf.service"),
    ],
)
def test_drift_is_told_and_mended(lab: BpfLab, damage: str, change: Any) -> None:
    """Whatever somebody detached, deleted or added; the second run finds nothing any more."""
    fence(lab, service())
    rc = lab.run(["sh", "-c", f"PINS={PINS}; {damage}"], check=False).rc
    if change is None:
        assert rc != 0, "the kernel let another kind of attachment replace ours"
        return
    assert rc == 0
    info = lab.module("fence_info")
    assert (info["in_sync"], info["drift"]) == (False, [change])
    assert fence(lab, service())["changes"] == [change]
    assert fence(lab, service())["changes"] == []
    assert len(attached(lab)) == 4 and port(lab) in INSIDE


def test_programs_are_replaced_without_a_moment_without_them(lab: BpfLab) -> None:
    """A program that connects all the time never sees another port than one of the service."""
    fence(lab, service())
    before = attached(lab)
    answers: List[Dict[str, Any]] = []
    replaced = threading.Event()

    def connect() -> None:
        while not replaced.is_set():
            answers.extend(lab.client(*[job(UDP, to=PEER4, close=True)] * 1000, uid=UID))

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        for _number in range(5):
            lab.run(["rm", f"{PINS}/connect4"])
            assert fence(lab, service())["changes"] == [LOAD]
    finally:
        replaced.set()
        thread.join()
    assert len(answers) >= 1000
    wrong = [answer for answer in answers if answer["seen"] != answer["local"] or answer["seen"] not in INSIDE]
    assert wrong == []
    assert not set(before.values()) & set(attached(lab).values()) and len(attached(lab)) == 4


def test_boot(lab: BpfLab) -> None:
    """bpffs is empty after a boot; the unit fills it before there is a network."""
    fence(lab, service())
    lab.reboot()
    assert port(lab) in INSIDE
    assert fence(lab, service())["changes"] == []


def test_a_run_that_does_not_persist(lab: BpfLab) -> None:
    """Nothing for the next boot; the programs are there."""
    fence(lab, service(), persist=False)
    assert exist(lab, *FILES, UNIT) == [] and port(lab) in INSIDE
    lab.reboot()
    assert attached(lab) == {}


@pytest.mark.parametrize("how", ["rewrite", "absent", "purge"])
def test_removal(lab: BpfLab, how: str) -> None:
    """With the last service that has bpf everything of it goes."""
    fence(lab, service(), service(name="other", assignment="rewrite", source_ports="52000-52009"))
    if how == "rewrite":
        predicted = fence(lab, service(assignment="rewrite"), check_mode=True)
        result = fence(lab, service(assignment="rewrite"))
    else:
        chosen = [{"name": "myapp"}] if how == "absent" else []
        predicted = fence(lab, *chosen, state="absent", purge=how == "purge", check_mode=True)
        result = fence(lab, *chosen, state="absent", purge=how == "purge")
    assert predicted["changes"] == result["changes"]
    assert "take the eBPF programs away" in result["changes"]
    assert attached(lab) == {}
    assert lab.run(["find", "/sys/fs/bpf", "-mindepth", "1", "-name", "portfence*"]).out == ""
    assert exist(lab, *FILES, UNIT, "/etc/systemd/system/sysinit.target.wants/portfence-bpf.service") == []
    assert exist(lab, "/etc/portfence") == ([] if how == "purge" else ["/etc/portfence"])
    assert lab.run(["ls", "/run/portfence"], check=False).out.split() == ([] if how == "purge" else ["tried.json"])
    if how != "purge":
        assert fence(lab)["changes"] == []


@pytest.mark.parametrize("call", range(1, 12))
def test_a_fault_in_the_middle_leaves_the_fence_and_the_next_run_mends(lab: BpfLab, call: int) -> None:
    """bpftool fails at one of its calls, while another version of the programs takes the place of the first."""
    fence(lab, service())
    lab.run(["rm", f"{PINS}/connect4"])
    count = 'case "$*" in *"-j"*) exec $real "$@" ;; esac; echo >>/var/lib/calls'
    replace_bpftool(lab, f'{count}\n[ "$(wc -l </var/lib/calls)" != {call + 1} ] || exit 1\nexec $real "$@"')
    failed = lab.module("fence", services=[service()])
    give_back_bpftool(lab)
    if not failed.get("failed"):
        assert call >= 11, "a fault was not told"
    (answer,) = lab.client(job(to=PEER4), uid=UID)
    assert answer["seen"] in INSIDE
    fence(lab, service())
    assert len(attached(lab)) == 4 and port(lab) in INSIDE
    assert fence(lab, service())["changes"] == []


@pytest.mark.parametrize(
    ("breakage", "reason"),
    [
        ("mount --bind /dev/null $(command -v bpftool)", "the program bpftool is missing (package bpftool)"),
        ("umount /sys/fs/cgroup", "cgroup v2 is mounted neither at /sys/fs/cgroup nor at /sys/fs/cgroup/unified"),
        ("refuse", "does not take the programs: libbpf: no"),
    ],
)
def test_where_it_does_not_work(lab: BpfLab, breakage: str, reason: str) -> None:
    """bpf: an error that names service and way out, and nothing is changed. auto: rewritten, and said so."""
    if breakage == "refuse":
        replace_bpftool(lab, 'case "$*" in *loadall*) echo libbpf: no >&2; exit 1 ;; esac; exec $real "$@"')
    else:
        lab.run(["sh", "-c", breakage])
    for check_mode in (True, False):
        refused = lab.module("fence", services=[service()], check_mode=check_mode)
        assert refused["failed"] and reason in refused["msg"]
        assert "services[0].assignment: eBPF can't assign ports to myapp: " in refused["msg"]
        assert refused["msg"].endswith("; use assignment: rewrite, or auto")
        assert exist(lab, "/etc/portfence") == []
    result = fence(lab, service(assignment="auto"))
    assert result["assignments"] == {"myapp": "rewrite"}
    assert list(result["fallbacks"]) == ["myapp"] and reason in result["fallbacks"]["myapp"]
    assert lab.connect(uid=UID).port in INSIDE
    assert fence(lab, service(assignment="auto"))["changes"] == []


def test_too_many_ranges(lab: BpfLab) -> None:
    """A limit of the program is an error of the service that asks for bpf, and rewrite for auto."""
    ports = [50000 + 2 * number for number in range(17)]
    refused = lab.module("fence", services=[service(source_ports=ports)])
    assert "services[0].assignment: eBPF can't assign ports to myapp: its source_ports have 17 ranges, and bpf takes 16" in refused["msg"]
    result = fence(lab, service(source_ports=ports, assignment="auto"), service(name="other", source_ports="52000-52009"))
    assert result["assignments"] == {"myapp": "rewrite", "other": "bpf"}


def test_cgroups_of_units(lab: BpfLab) -> None:
    """Processes of a unit and those below it, whoever they run as, from the unit's start or from the fence's."""
    group = "system.slice/worker.service"
    lab.inside(["true"], group=group)
    # The fence of this lab does not learn the cgroups of units; what eBPF gives has to get past its guard.
    unit = {"name": "worker", "unit": "worker.service", "source_ports": "52000-52099", "assignment": "bpf", "exclusive": False}
    fence(lab, service(), unit)
    for below in ("", "/below"):
        (answer,) = lab.client(job(to=PEER4), uid=1500, group=group + below)
        assert answer["local"] in range(52000, 52100)
    # The unit decides before the user.
    assert lab.client(job(to=PEER4), uid=UID, group=group)[0]["local"] in range(52000, 52100)
    assert lab.client(job(to=PEER4), uid=UID, group="system.slice")[0]["local"] in INSIDE
    # It starts anew, in another cgroup of the same name.
    lab.run(["find", f"/sys/fs/cgroup/{group}", "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"])
    (answer,) = lab.client(job(to=PEER4), uid=1500, group=group)
    assert answer["local"] not in range(52000, 52100)
    script = "sh /etc/portfence/bpf-load"
    lab.inside(["sh", "-c", f"{script} join {TREE} worker"], group=group)
    assert lab.client(job(to=PEER4), uid=1500, group=group)[0]["local"] in range(52000, 52100)
    lab.run(["rm", f"{PINS}/connect4"])
    assert LOAD in fence(lab, service(), unit)["changes"]
    assert lab.client(job(to=PEER4), uid=1500, group=group)[0]["local"] in range(52000, 52100)
    assert fence(lab, service(), unit)["changes"] == []
    lab.inside(["sh", "-c", f"{script} leave {TREE}"], group=group)
    assert lab.client(job(to=PEER4), uid=1500, group=group)[0]["local"] not in range(52000, 52100)
    assert UPDATE in fence(lab, service(), unit)["changes"]


def test_two_runs_at_once(lab: BpfLab) -> None:
    """They wait for each other, and the second finds nothing to do or repeats the work."""
    results: List[Dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: results.append(lab.module("fence", services=[service()]))) for _number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result["changed"] for result in results) == [False, True]
    assert len(attached(lab)) == 4 and port(lab) in INSIDE
