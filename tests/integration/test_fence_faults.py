# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input and broken hosts: module fence ends in one clear message, and the old fence or the new one stands, whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any, Dict, List

import pytest
from lab import Lab
from listing import rules

MYAPP = {"name": "myapp", "source_ports": "50000-50999"}
RUN_FILES = {"/run/portfence", "/run/portfence/tried.json", "/run/portfence.lock", "/run/portfence-units.lock"}
MOVED = {"name": "myapp", "source_ports": "51000-51999"}


@pytest.fixture(name="host")
def fixture_host(lab: Lab) -> Lab:
    lab.add_user("myapp", 991)
    return lab


def refusal(lab: Lab, *services: Dict[str, Any], **params: Any) -> str:
    """The message of a run that must fail, and must not touch the kernel."""
    before = rules(lab)
    result = lab.module("fence", services=list(services), **params)
    assert result.get("failed"), result
    assert rules(lab) == before
    return str(result["msg"])


def test_every_mistake_is_told_at_once(host: Lab) -> None:
    lab_services = [
        {"name": "a", "user": "ghost", "source_ports": "50000-50999"},
        {"name": "b", "user": "root", "source_ports": "50500"},
    ]
    message = refusal(host, *lab_services)
    assert "has 3 mistakes" in message
    assert "services[0].user: there is no user ghost on this host" in message
    assert "services[1].user: UID 0 is root, which is not fenced unless the service sets allow_admin: true" in message
    assert "services[1].source_ports: 50500 also belongs to services[0]" in message


def test_root_is_fenced_only_in_so_many_words(host: Lab) -> None:
    result = host.module("fence", services=[{"name": "r", "user": "root", "source_ports": "50000", "allow_admin": True}])
    assert result["owners"] == {"r": {"uids": [0], "gids": []}}


def test_the_account_that_became_root_is_not_fenced(host: Lab) -> None:
    command = "SUDO_UID=991 python3 -m ansible_collections.portfence.egress.plugins.modules.fence"
    data = '{"ANSIBLE_MODULE_ARGS": {"services": [{"name": "myapp", "source_ports": "50000"}]}}'
    environment = {"PYTHONPATH": host.collections(), "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    result = host.run(["sh", "-c", command], data=data, check=False, env=environment)
    assert "UID 991 is the account that Ansible connects with" in result.out


def test_who_made_a_change_is_remembered(host: Lab) -> None:
    host.add_user("admin", 992)
    command = "SUDO_UID=992 python3 -m ansible_collections.portfence.egress.plugins.modules.fence"
    data = '{"ANSIBLE_MODULE_ARGS": {"services": [{"name": "myapp", "source_ports": "50000"}]}}'
    environment = {"PYTHONPATH": host.collections(), "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    host.run(["sh", "-c", command], data=data, env=environment)
    assert host.module("fence_info")["last_change"]["by"] == "admin"


def test_ports_of_a_service_of_another_team(host: Lab) -> None:
    host.add_user("other", 992)
    host.module("fence", services=[MYAPP])
    message = refusal(host, {"name": "other", "source_ports": "50999-51000"})
    assert "services[0].source_ports: 50999 also belongs to /etc/portfence/services.d/myapp.json" in message


def test_without_root(host: Lab) -> None:
    result = host.run(
        [sys.executable, "-m", "ansible_collections.portfence.egress.plugins.modules.fence"],
        uid=991,
        data='{"ANSIBLE_MODULE_ARGS": {"services": []}}',
        check=False,
        env={"PYTHONPATH": host.collections()},
    )
    assert "Traceback" not in result.out + result.err
    assert "needs root" in result.out


def fake_nft(lab: Lab, script: str) -> None:
    """Puts a program over nft, for this lab's eyes only. The true one is at /run/nft."""
    lab.run(["sh", "-c", "touch /run/nft && mount --bind /usr/sbin/nft /run/nft"])
    lab.run(["sh", "-c", "cat > /run/fake && chmod 755 /run/fake && mount --bind /run/fake /usr/sbin/nft"], data=script)


def remove_fake(lab: Lab) -> None:
    lab.run(["umount", "/usr/sbin/nft"])


def test_nft_is_missing(host: Lab) -> None:
    fake_nft(host, "")
    host.run(["chmod", "644", "/run/fake"])
    result = host.module("fence", services=[MYAPP], backend="nftables")
    nothing_to_do = [host.module("fence", state="absent", purge=True), host.module("fence_info")]
    remove_fake(host)
    assert [(answer.get("failed"), answer["changed"]) for answer in nothing_to_do] == [(None, False)] * 2
    assert result["failed"]
    assert "the program nft was not found" in result["msg"] and "install the package nftables" in result["msg"]


def test_nft_is_too_old(host: Lab) -> None:
    fake_nft(host, "#!/bin/sh\necho 'nftables v0.9.0 (Fearless Fosdick)'\n")
    result = host.module("fence", services=[MYAPP], backend="nftables")
    remove_fake(host)
    assert "is version 0.9.0; the fence needs nft 0.9.8 or newer" in result["msg"]


@pytest.mark.parametrize("when", ["list", "-f"])
def test_nft_crashes(host: Lab, when: str) -> None:
    host.module("fence", services=[MYAPP])
    before = rules(host)
    crash = f'#!/bin/sh\ncase " $* " in *" {when} "*) kill -SEGV $$;; esac\nexec /run/nft "$@"\n'
    fake_nft(host, crash)
    result = host.module("fence", services=[MOVED])
    remove_fake(host)
    assert result["failed"]
    assert "crashed (signal 11)" in result["msg"]
    assert rules(host) == before
    assert not host.module("fence", services=[MYAPP])["changed"]


@pytest.mark.parametrize("when", ["--version", "list"])
def test_nft_is_killed_before_there_is_a_fence(host: Lab, when: str) -> None:
    """That is no reason to take iptables, which the host has as well."""
    before = rules(host)
    fake_nft(host, f'#!/bin/sh\ncase " $* " in *" {when} "*) kill -KILL $$;; esac\nexec /run/nft "$@"\n')
    results = [host.module("fence", services=[MYAPP]), host.module("fence_info")]
    remove_fake(host)
    assert all(result.get("failed") and "signal 9" in result["msg"] for result in results), results
    assert rules(host) == before
    assert host.module("fence", services=[MYAPP])["backend"] == "nftables"


def test_kernel_refuses_at_the_last_moment(host: Lab) -> None:
    """The dry run passes, then the real load fails: nothing is left half-done."""
    host.module("fence", services=[MYAPP])
    before = rules(host)
    # Only the dry run has another network namespace than PID 1 of the lab.
    script = '#!/bin/sh\nif [ "$1" = -f ] && [ "$(readlink /proc/self/ns/net)" = "$(cat /run/own)" ]; then echo busy >&2; exit 1; fi\nexec /run/nft "$@"\n'
    host.run(["sh", "-c", "readlink /proc/self/ns/net > /run/own"])
    fake_nft(host, script)
    result = host.module("fence", services=[MOVED])
    remove_fake(host)
    assert "failed with status 1: busy" in result["msg"]
    assert rules(host) == before
    assert host.run(["ls", "/etc/portfence"]).out.split() == ["fence.nft", "previous.json", "services.d"]
    assert not host.module("fence", services=[MYAPP])["changed"]


def test_kernel_refuses_when_new_chains_are_there_already(host: Lab) -> None:
    """What was prepared for a change that then fails is taken away again."""
    host.module("fence", services=[MYAPP])
    before = rules(host)
    fails = 'data=$(cat); case "$data" in *"delete element"*) echo no >&2; exit 1;; esac; printf "%s\\n" "$data" | exec /run/nft -f -'
    fake_nft(host, f'#!/bin/sh\ntest "$*" = "-f -" || exec /run/nft "$@"\n{fails}\n')
    result = host.module("fence", services=[{**MYAPP, "name": "renamed", "user": "myapp"}], purge=True)
    remove_fake(host)
    assert result["failed"] and "-f - failed with status 1: no" in result["msg"]
    assert rules(host) == before
    assert host.module("fence", services=[{**MYAPP, "name": "renamed", "user": "myapp"}], purge=True)["changed"]


def test_a_service_with_another_name_is_told_from_a_second_one(host: Lab) -> None:
    host.module("fence", services=[MYAPP])
    before = rules(host)
    result = host.module("fence", services=[{**MYAPP, "name": "renamed", "user": "myapp"}])
    assert result["failed"]
    assert (
        "/etc/portfence/services.d/myapp.json: myapp is on this host and not among the services that are given; accepted: the same name as"
        " before, myapp with state: absent, or purge (egress_purge: true) to remove every service that is not given"
    ) in result["msg"]
    assert rules(host) == before
    renamed = [{"name": "myapp", "state": "absent"}, {**MYAPP, "name": "renamed", "user": "myapp"}]
    assert host.module("fence", services=renamed)["changed"]


@pytest.mark.parametrize("family", ["inet", "ip", "ip6"])
@pytest.mark.parametrize("state", ["present", "absent"])
def test_table_of_our_name_that_we_did_not_write(host: Lab, family: str, state: str) -> None:
    host.nft(f"table {family} portfence {{ chain precious {{ counter; }}; }}")
    message = refusal(host, MYAPP, state=state)
    assert f"table {family} portfence exists and was not written by this collection" in message
    assert f"nft delete table {family} portfence" in message


def test_unit_of_our_name_that_we_did_not_write(host: Lab) -> None:
    host.run(["sh", "-c", "echo '[Unit]' > /etc/systemd/system/portfence.service"])
    message = refusal(host, MYAPP)
    assert "/etc/systemd/system/portfence.service exists and was not written by this collection" in message


def test_read_only_etc(host: Lab) -> None:
    host.module("fence", services=[MYAPP])
    host.run(["mount", "-o", "remount,ro", "/etc"])
    message = refusal(host, MOVED)
    assert "/etc/portfence/fence.nft" in message and "Read-only file system" in message
    host.run(["mount", "-o", "remount,rw", "/etc"])
    assert host.module("fence", services=[MOVED])["changed"]


def test_python_without_files_in_memory(host: Lab) -> None:
    host.run(["sh", "-c", "mkdir /run/old; echo 'import os; del os.memfd_create' >/run/old/sitecustomize.py"])
    before = host.run(["find", "/run"]).out
    command = [sys.executable, "-m", "ansible_collections.portfence.egress.plugins.modules.fence"]
    data = json.dumps({"ANSIBLE_MODULE_ARGS": {"services": [MYAPP], "persist": False}})
    environment = {"PYTHONPATH": f"/run/old:{host.collections()}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = host.run(command, data=data, check=False, env=environment)
    assert done.rc == 0 and json.loads(done.out)["changed"], done
    assert not host.module("fence", services=[MYAPP], persist=False)["changed"]
    assert set(host.run(["find", "/run"]).out.split()) - set(before.split()) <= RUN_FILES


def test_namespaces_are_not_permitted(host: Lab) -> None:
    host.run(["sh", "-c", "printf '#!/bin/sh\\necho unshare: unshare failed: Operation not permitted >&2; exit 1\\n' > /run/fake-unshare"])
    host.run(["sh", "-c", "chmod 755 /run/fake-unshare && mount --bind /run/fake-unshare /usr/bin/unshare"])
    message = refusal(host, MYAPP)
    host.run(["umount", "/usr/bin/unshare"])
    assert "can't make a throwaway network namespace" in message and "CAP_SYS_ADMIN" in message


@pytest.mark.parametrize(
    "harm, told",
    [
        ("ln -s /tmp /etc/portfence", "not a directory (a symbolic link is refused as well)"),
        ("mkdir /etc/portfence; chown 991 /etc/portfence", "belongs to UID 991"),
        ("mkdir -m 777 /etc/portfence", "with mode 0777"),
        ("echo x > /etc/portfence", "/etc/portfence"),
    ],
)
def test_directory_that_others_could_write_to(host: Lab, harm: str, told: str) -> None:
    host.run(["sh", "-c", harm])
    assert told in refusal(host, MYAPP)


@pytest.mark.parametrize("params", [{"services": [MYAPP]}, {"services": []}, {"state": "absent", "purge": True}], ids=["same", "none", "absent"])
@pytest.mark.parametrize(
    "harm, told",
    [
        ("mv /etc/portfence /home/mine; chown 991 /home/mine; ln -s /home/mine /etc/portfence", "not a directory (a symbolic link is refused as well)"),
        ("chown 991 /etc/portfence", "belongs to UID 991"),
        ("chmod 777 /etc/portfence/services.d", "/etc/portfence/services.d belongs to UID 0 with mode 0777"),
        ("mkdir -m 777 /etc/portfence/namespaces.d", "with mode 0777"),
    ],
)
def test_directory_that_others_can_write_to_since(host: Lab, harm: str, told: str, params: Dict[str, Any]) -> None:
    """The fence in it is in force: root loads it at the next boot."""
    host.module("fence", services=[MYAPP])
    host.run(["sh", "-c", harm])
    before = rules(host), host.run(["sh", "-c", "ls -lR /etc/portfence/ /home"]).out
    result = host.module("fence", **params)
    assert result["failed"] and told in result["msg"]
    for module in ("fence_info", "port_probe", "network_namespace", "cgroup_classid", "edge", "preview"):
        required = {"port_probe": {"services": [MYAPP]}, "preview": {"services": [MYAPP]}, "edge": {"identities": []}}
        answer = host.module(module, **required.get(module, {}))
        assert answer["failed"] and told in answer["msg"], module
    assert (rules(host), host.run(["sh", "-c", "ls -lR /etc/portfence/ /home"]).out) == before


def test_stored_service_that_can_not_be_read(host: Lab) -> None:
    host.module("fence", services=[MYAPP])
    host.run(["sh", "-c", "echo '{' > /etc/portfence/services.d/x.json; echo '{\"name\": \"z\"}' > /etc/portfence/services.d/y.json"])
    message = refusal(host, MYAPP)
    assert "/etc/portfence/services.d/x.json: " in message
    assert '/etc/portfence/services.d/y.json: the key name must be "y", like the file' in message
    assert host.module("fence", state="absent", purge=True)["changed"]
    assert host.run(["ls", "/etc/portfence"], check=False).rc != 0


def start(lab: Lab, *services: Dict[str, Any]) -> "subprocess.Popen[str]":
    import json

    process = subprocess.Popen(
        [*lab.enter, sys.executable, "-m", "ansible_collections.portfence.egress.plugins.modules.fence"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        env={"PYTHONPATH": lab.collections(), "PATH": os.environ["PATH"]},
        start_new_session=True,
    )
    assert process.stdin
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": {"services": list(services)}}))
    process.stdin.close()
    process.stdin = None
    return process


def test_apply_killed_midway(host: Lab) -> None:
    host.module("fence", services=[MYAPP])
    old = rules(host)
    host.module("fence", services=[MOVED])
    new = rules(host)
    host.module("fence", services=[MYAPP])
    found: List[str] = []
    for step in range(12):
        process = start(host, MOVED)
        time.sleep(0.08 + step * 0.04)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert rules(host) in (old, new)
        found.append("old" if rules(host) == old else "new")
        host.reboot()
        assert rules(host) in (old, new)
        assert not host.module("fence", services=[MOVED]).get("failed")
        assert rules(host) == new
        assert not host.module("fence", services=[MYAPP]).get("failed")
        assert host.run(["ls", "/etc/portfence"]).out.split() == ["fence.nft", "previous.json", "services.d"]
    assert found[0] == "old"


def test_two_applies_at_once(host: Lab) -> None:
    host.add_user("other", 992)
    processes = [start(host, MYAPP), start(host, {"name": "other", "source_ports": "53000-53999"})]
    for process in processes:
        assert '"changed": true' in process.communicate(timeout=90)[0]
    info = host.module("fence_info")
    assert set(info["services"]) == {"myapp", "other"} and info["in_sync"]


def test_a_lock_that_is_never_released(host: Lab) -> None:
    """Waits, then says so. The stated wait is 60 seconds; the test has a shorter one."""
    code = (
        "from ansible_collections.portfence.egress.plugins.module_utils._host import Host\n"
        "with Host().lock(wait=0.3): pass"
    )
    holder = subprocess.Popen([*host.enter, "flock", "/run/portfence.lock", "sh", "-c", "echo held; sleep 30"], stdout=subprocess.PIPE, encoding="utf-8")
    assert holder.stdout and holder.stdout.readline() == "held\n"
    result = host.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": host.collections()})
    host.run(["sh", "-c", "pkill -f 'echo held'"], check=False)
    holder.kill()
    holder.communicate()
    assert "another run has held /run/portfence.lock for 0.3 seconds; nothing was changed" in result.err
