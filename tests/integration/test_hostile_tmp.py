# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories that everybody may write to: no module makes, removes or renames anything there, so that nothing that is planted can be in its way.

Ansible itself has a temporary directory of its own for the code of a module; it is not ours.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Dict, Iterator, Type

import pytest
from bpf_lab import BpfLab
from lab import REPOSITORY, Lab
from lab_keeper import PATH
from test_hostile_host import BPF, RUNS

ATTACKER = 66000
SECRET = "/etc/secret"
# Links to what root alone can write to, pipes that nobody reads, and folders, by names that come to mind.
PLANT = f"""
for name in portfence portfence.lock portfence-units.lock .portfence-new fence.nft bpf.o bpf.batch bpf-load nft ip ansible; do
    ln -s {SECRET} $name && mkdir $name.d && ln -s {SECRET} $name.d/x && mkfifo $name.pipe
done
"""

# The collection itself stays where it is, should that be below.
NEW = """
mount --bind "$2" /mnt
mount -t tmpfs -o mode=1777 none "$1"
case $2 in "$1"/*) mkdir -p "$2"; mount --bind /mnt "$2" ;; esac
umount /mnt
"""

# Of an account that does nothing else.
RACE = """
import os
os.chdir("/sys/fs/bpf")
print("ready", flush=True)
while True:
    for name in ("portfence_new", "portfence_old", "portfence"):
        try:
            os.mkdir(name)
        except OSError:
            pass
"""


def open_to_all(lab: Lab) -> Dict[str, str]:
    """The directories that everybody may write to, each new, with what an account without rights plants, and as it looks."""
    where = "find /tmp /var/tmp /dev/shm /etc /home /run /usr/local /var -xdev -type d -perm -0002 -prune ! -path '/run/lab-cgroups/*'"
    found = sorted(set(lab.run(["sh", "-c", where], check=False).out.split()))
    assert {"/tmp", "/var/tmp", "/dev/shm"} <= set(found)
    for path in found:
        lab.run(["sh", "-ec", NEW, "sh", path, str(REPOSITORY)])
        lab.run(["sh", "-c", f"cd {path}; {PLANT}"], uid=ATTACKER)
    return {path: look(lab, path) for path in found}


def look(lab: Lab, path: str) -> str:
    """A directory with all in it. Its time changes with every name that comes or goes, however short it stays."""
    return lab.run(["find", path, "-xdev", "-printf", r"%p %y %u %m %l %T@ %C@\n"]).out


@pytest.mark.parametrize("kind", RUNS)
def test_no_module_uses_a_directory_that_is_open_to_all(kind: Type[Lab]) -> None:
    with kind() as lab:
        lab.add_user("myapp", 991)
        lab.run(["sh", "-c", f"mkdir -p /var/lib/metrics; echo precious >{SECRET}; chmod 600 {SECRET}"])
        before = open_to_all(lab)
        secret = look(lab, SECRET)
        for module, params in RUNS[kind]:
            result = lab.module(module, **params)
            assert not result.get("failed"), result["msg"]
        assert {path: look(lab, path) for path in before} == before
        assert look(lab, SECRET) == secret
        # What is made there is seen, even when it is gone again.
        for path in before:
            lab.run(["sh", "-c", f"rm $(mktemp -p {path})"])
            assert look(lab, path) != before[path]


def loaded(lab: Lab) -> bool:
    """Whether the fence of the account has its programs: attached once, and pinned where root alone can reach them."""
    pinned = lab.run(["sh", "-c", "find /sys/fs/bpf/portfence -printf '%u %y%m\n' | sort -u"], check=False).out.splitlines()
    attached = lab.run(["bpftool", "-j", "cgroup", "show", "/sys/fs/cgroup"]).out
    return pinned == ["root d700", "root f600"] and len(json.loads(attached)) == 4


@pytest.fixture(name="bpf_lab")
def fixture_bpf_lab() -> Iterator[BpfLab]:
    """bpffs is root's alone where systemd mounts it. By itself, as it is here, it is open to everybody, like /tmp."""
    with BpfLab() as lab:
        lab.add_user("myapp", 991)
        lab.run(["sh", "-c", f"echo precious >{SECRET}; chmod 600 {SECRET}"])
        assert lab.run(["stat", "--format=%a", "/sys/fs/bpf"]).out == "1777\n"
        yield lab


@pytest.mark.parametrize("plant", ["mkdir -p $name/maps", f"ln -s {SECRET} $name", "mkdir $name.theirs; ln -s $name.theirs $name"])
def test_what_is_planted_where_programs_are_pinned(bpf_lab: BpfLab, plant: str) -> None:
    bpf_lab.run(["sh", "-c", f"cd /sys/fs/bpf; for name in portfence portfence_new portfence_old; do {plant}; done"], uid=ATTACKER)
    result = bpf_lab.module("fence", services=[BPF])
    assert not result.get("failed"), result["msg"]
    assert loaded(bpf_lab)
    assert not bpf_lab.module("fence", services=[BPF])["changed"]
    assert bpf_lab.run(["cat", SECRET]).out == "precious\n"


def test_who_is_quicker_where_programs_are_pinned(bpf_lab: BpfLab) -> None:
    """Nothing is pinned in a folder of somebody else, who makes it again whenever it is gone."""
    become = ["setpriv", f"--reuid={ATTACKER}", f"--regid={ATTACKER}", "--clear-groups", "--", "/usr/bin/python3", "-I", "-c", RACE]
    with subprocess.Popen([*bpf_lab.enter, *become], stdout=subprocess.PIPE, env={"PATH": PATH}, start_new_session=True) as attacker:
        try:
            assert attacker.stdout is not None and attacker.stdout.readline()
            results = [bpf_lab.module("fence", services=[{**BPF, "source_ports": f"5{number}000-5{number}999"}]) for number in range(3)]
        finally:
            os.killpg(attacker.pid, signal.SIGKILL)
    theirs = bpf_lab.run(["sh", "-c", f"find $(find /sys/fs/bpf -uid {ATTACKER}) /dev/null -uid 0 ! -path /dev/null"]).out
    assert theirs == ""
    for result in results:
        assert "/sys/fs/bpf/portfence" in result["msg"] if result.get("failed") else "bpf" in result["assignments"].values(), result
    assert not bpf_lab.module("fence", services=[BPF]).get("failed")
    assert loaded(bpf_lab)
    assert not bpf_lab.module("fence", services=[BPF])["changed"]


def test_where_programs_are_pinned_is_roots_alone_where_we_mount_it(bpf_lab: BpfLab) -> None:
    bpf_lab.run(["umount", "/sys/fs/bpf"])
    assert not bpf_lab.module("fence", services=[BPF]).get("failed")
    assert bpf_lab.run(["stat", "--format=%a", "/sys/fs/bpf"]).out == "1700\n"
    assert loaded(bpf_lab)
