# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Units of network namespaces: where their processes are, which DNS file they see, and what they can't do to a run.

Their processes are real, and in mount namespaces as systemd makes them. What stands for systemd here says which they are; in Molecule it is
systemd itself.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator

import pytest
from lab import PATIENCE, Lab
from namespaces import MYAPP, namespaces, refusal, state

SYSTEMCTL = """#!/bin/sh
case "$1" in
    list-units) test ! -e /run/main-pid || echo myapp.service loaded active running ;;
    show) cat /run/main-pid ;;
    is-active) ! grep -qx start /run/refuses ;;
    start | restart) ! grep -qx "$1" /run/refuses || { echo "$* is refused" >&2; exit 1; } ;;
esac
"""
DNS: Dict[str, Any] = {**MYAPP, "dns": ["192.0.2.53"], "units": ["myapp.service"]}
OTHER_DNS: Dict[str, Any] = {**DNS, "dns": ["192.0.2.54"]}

# As BindReadOnlyPaths= of the drop-in has it.
AS_TOLD = "mount --bind /etc/netns/myapp/resolv.conf /etc/resolv.conf"

# A file system that is mounted, and never answers whoever asks for anything in it (fuse(4)). In a user namespace no account needs rights for it.
MUTE = """
import ctypes, os, signal
handle = os.open("/dev/fuse", os.O_RDWR)
data = f"fd={handle},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
assert ctypes.CDLL(None).mount(b"mute", b"/etc", b"fuse", 0, data) == 0
with open("/run/ready", "w") as told:
    print("ready", file=told)
signal.pause()
"""


@pytest.fixture(name="host")
def fixture_host(lab: Lab) -> Lab:
    lab.run(["mkdir", "-p", "/run/systemd/system"])
    lab.run(["sh", "-c", "cat >/usr/local/sbin/systemctl && chmod 755 /usr/local/sbin/systemctl; touch /etc/resolv.conf /run/refuses"], data=SYSTEMCTL)
    return lab


def start(lab: Lab, script: str = AS_TOLD, *, name: str = "myapp") -> None:
    """Let the unit run in a network namespace, from where its main process does what a script says."""
    inside = f"{script}\necho ready >/run/ready\nexec sleep infinity"
    lab.run(["mkfifo", "/run/ready"])
    command = f'nsenter --net=/run/netns/{name} unshare --mount -- sh -ec "$1" sh >/dev/null 2>&1 & echo $! >/run/main-pid'
    lab.run(["sh", "-c", command, "sh", inside])
    assert lab.run(["timeout", f"{PATIENCE:g}", "cat", "/run/ready"]).out == "ready\n"
    lab.run(["rm", "/run/ready"])


@pytest.fixture(name="running")
def fixture_running(host: Lab) -> Iterator[Lab]:
    namespaces(host, DNS)
    yield host


def to_restart(lab: Lab, item: Dict[str, Any], **params: Any) -> bool:
    """Whether the unit has to be started anew, as check mode says and the run after it."""
    expected = namespaces(lab, item, check_mode=True, **params)
    result = namespaces(lab, item, **params)
    assert result["units_to_restart"] == expected["units_to_restart"]
    return bool(result["units_to_restart"])


def test_the_dns_file_of_before(running: Lab) -> None:
    """A file that is replaced is still seen by who saw it before."""
    start(running)
    assert not to_restart(running, DNS)
    assert to_restart(running, OTHER_DNS)
    assert to_restart(running, OTHER_DNS), "nobody has restarted it yet"


@pytest.mark.parametrize("script", ["true", f"{AS_TOLD}; umount /etc/resolv.conf", "mount --bind /etc/hosts /etc/resolv.conf"])
def test_no_dns_file_of_ours(running: Lab, script: str) -> None:
    start(running, script)
    assert to_restart(running, DNS)


def test_a_network_namespace_of_somebody_else(running: Lab) -> None:
    running.run(["ip", "netns", "add", "other"])
    start(running, name="other")
    assert to_restart(running, DNS)


@pytest.mark.parametrize(
    "script",
    [
        "mount -t tmpfs none /etc; mkfifo /etc/resolv.conf",
        "mount -t tmpfs none /etc; ln -s /dev/zero /etc/resolv.conf",
        f"exec python3 -c '{MUTE}'",
    ],
    ids=["fifo", "endless", "mute"],
)
def test_a_service_does_not_keep_a_run_waiting(running: Lab, script: str) -> None:
    """In a mount namespace of its own, which needs no rights, a service has what it likes for /etc/resolv.conf."""
    start(running, script)
    assert to_restart(running, DNS)


PLANTS = ["mkfifo /run/resolve/stub", "truncate -s 200G /run/resolve/stub", "ln -s /dev/zero /run/resolve/stub"]


@pytest.mark.parametrize("plant", PLANTS)
def test_nor_does_who_writes_the_dns_file_of_the_host(host: Lab, plant: str) -> None:
    """As the account of systemd-resolved does. Namespaces of others, which ip-netns(8) makes, have theirs from there as well."""
    host.run(["sh", "-c", f"mkdir -p /run/resolve /etc/netns/theirs; {plant}; ln -sf /run/resolve/stub /etc/resolv.conf"])
    host.run(["ln", "-s", "/run/resolve/stub", "/etc/netns/theirs/resolv.conf"])
    assert namespaces(host, MYAPP)["changed"]
    assert not namespaces(host, MYAPP)["changed"]
    refused = refusal(host, {"name": "theirs", "source_ports": "52000-52099", "dns": ["192.0.2.53"]})
    assert "/etc/netns/theirs/resolv.conf exists and was not written by this collection" in refused


def test_a_local_name_server_behind_a_link(host: Lab) -> None:
    host.run(["sh", "-c", "mkdir /run/resolve; echo nameserver 127.0.0.53 >/run/resolve/stub; ln -sf /run/resolve/stub /etc/resolv.conf"])
    assert "set dns" in " ".join(namespaces(host, MYAPP)["warnings"])


def test_a_restart_that_fails_is_told_with_what_puts_things_back(host: Lab) -> None:
    namespaces(host, DNS)
    start(host, "true")
    before = state(host)
    host.run(["sh", "-c", "echo restart >/run/refuses"])
    result = host.module("network_namespace", namespaces=[OTHER_DNS], restart_units=True)
    assert result["failed"] and "restart myapp.service is refused" in result["msg"]
    assert result["changed"] and result["units_to_restart"] == ["myapp.service"]
    assert state(host) != before
    host.run(["truncate", "--size=0", "/run/refuses"])
    namespaces(host, *result["namespaces_before"], purge=True)
    assert state(host) == before


def test_a_first_namespace_whose_unit_does_not_start(host: Lab) -> None:
    before = state(host)
    host.run(["sh", "-c", "echo start >/run/refuses"])
    result = host.module("network_namespace", namespaces=[DNS])
    assert result["failed"] and "portfence-namespace@myapp.service is refused" in result["msg"]
    assert result["changed"] and result["namespaces_before"] == []
    host.run(["truncate", "--size=0", "/run/refuses"])
    namespaces(host, state="absent", purge=True)
    assert state(host) == before


def test_a_run_that_changed_nothing_does_not_say_so(host: Lab) -> None:
    """Where the disk takes no file, nothing is to be put back."""
    namespaces(host, DNS)
    host.run(["sh", "-c", "cp -a /etc/portfence /run/kept; mount -t tmpfs -o ro none /etc/portfence"])
    result = host.module("network_namespace", namespaces=[{**OTHER_DNS, "source_ports": "50000-50998"}], purge=True)
    assert result["failed"] and not result.get("changed") and "namespaces_before" not in result
