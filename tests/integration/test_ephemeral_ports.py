# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ephemeral_ports, on the real kernel and the files of a throwaway host."""

from __future__ import annotations

import errno
import json
import socket
import sys
from typing import Any, Dict, List, Tuple

import pytest
from ephemeral import FILE, RANGE_KEY, RECORD, RESERVED_KEY, boot_steps, live, path_of, ports, put, refusal, state, write
from lab import Lab

SERVER = 9999


# ---- facts about the kernel that the module relies on ----


@pytest.mark.parametrize(
    "key, value, accepted",
    [
        (RANGE_KEY, "1024 2000", True),
        (RANGE_KEY, "1023 2000", False),
        (RANGE_KEY, "60000 50000", False),
        (RANGE_KEY, "50000 65536", False),
        (RANGE_KEY, "50000 50000", True),
        (RESERVED_KEY, "0-65535", True),
        (RESERVED_KEY, "80,90,", True),
        (RESERVED_KEY, "80, 90", False),
        (RESERVED_KEY, "90-80", False),
        (RESERVED_KEY, "65536", False),
    ],
)
def test_what_the_kernel_takes(lab: Lab, key: str, value: str, accepted: bool) -> None:
    before = live(lab, key)
    done = lab.run(["tee", path_of(key)], data=f"{value}\n", check=False)
    assert (done.rc == 0) == accepted
    assert (live(lab, key) == before) != accepted


def test_low_bound_follows_the_unprivileged_ports(lab: Lab) -> None:
    put(lab, "2000", "net.ipv4.ip_unprivileged_port_start")
    assert "which is 2000 here" in refusal(lab, local_port_range="1999-2999")
    ports(lab, local_port_range="2000-2999")


def choices(lab: Lab, kind: str, family: int) -> Tuple[List[int], int]:
    """Use up all ports that the kernel chooses for clients of one server: the ports, and the errno of the end."""
    address = {4: "127.0.0.1", 6: "::1"}[family]
    found: List[int] = []
    clients = []
    lab.serve(SERVER)
    try:
        while True:
            client = lab.socket(kind, family=family)
            clients.append(client)
            client.connect((address, SERVER))
            found.append(client.getsockname()[1])
    except OSError as error:
        return sorted(found), error.errno or 0
    finally:
        for client in clients:
            # Without this, ports of closed connections stay in use for a minute.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kind, end", [("tcp", errno.EADDRNOTAVAIL), ("udp", errno.EAGAIN)])
def test_programs_get_free_ports_of_the_range(lab: Lab, family: int, kind: str, end: int) -> None:
    ports(lab, local_port_range="40000-40009", reserved_ports=["40002-40007", "50000"])
    assert choices(lab, kind, family) == ([40000, 40001, 40008, 40009], end)


# ---- reservations ----


def test_reserve_and_take_back(lab: Lab) -> None:
    put(lab, "80,1005-1010")
    start = state(lab)
    expected = ports(lab, reserved_ports=["50000-50999", 1008, "1009-1012"], check_mode=True, diff=True)
    assert state(lab) == start
    result = ports(lab, reserved_ports=["50000-50999", 1008, "1009-1012"], diff=True)
    assert {**result, "invocation": {}} == {**expected, "invocation": {}}
    assert result["changed"]
    assert live(lab) == "80,1005-1012,50000-50999"
    assert result["reserved_ports"] == ["80", "1005-1012", "50000-50999"]
    assert result["own_reserved_ports"] == ["1008-1012", "50000-50999"]
    assert result["local_port_range"] == "32768-60999"
    assert f"-{RESERVED_KEY} = 80,1005-1010\n" in diff_lines(result)
    assert f"+{RESERVED_KEY} = 1008-1012,50000-50999\n" in diff_lines(result)
    once = state(lab)
    assert not ports(lab, reserved_ports=["50000-50999", 1008, "1009-1012"])["changed"]
    assert state(lab) == once
    assert ports(lab, reserved_ports=["52000"])["changed"]
    assert live(lab) == "80,1005-1010,52000"
    assert ports(lab, state="absent")["changed"]
    assert state(lab) == start
    assert not ports(lab, state="absent")["changed"]


def diff_lines(result: Dict[str, Any]) -> str:
    """The lines that a diff takes away and adds."""
    before, after = (result["diff"][side].splitlines() for side in ("before", "after"))
    lines = [f"-{line}\n" for line in before if line not in after]
    return "".join([*lines, *(f"+{line}\n" for line in after if line not in before)])


def test_owners(lab: Lab) -> None:
    start = state(lab)
    first = ports(lab, reserved_ports=["50000-50009"], local_port_range="40000-49999")
    second = ports(lab, name="telemetry", reserved_ports=["50005-50019"])
    assert live(lab) == "50000-50019"
    both = state(lab)
    third = ports(lab, state="absent")
    assert (live(lab), live(lab, RANGE_KEY)) == ("50005-50019", "32768 60999")
    ports(lab, owners=third["previous"]["owners"])
    assert state(lab) == both
    purged = ports(lab, name="new", reserved_ports=["1"], purge=True)
    assert live(lab) == "1"
    ports(lab, owners=purged["previous"]["owners"])
    assert state(lab) == both
    ports(lab, owners=second["previous"]["owners"])
    assert live(lab) == "50000-50009"
    ports(lab, owners=first["previous"]["owners"])
    assert state(lab) == start


def test_thousand_separate_ranges(lab: Lab) -> None:
    put(lab, "7")
    wanted = [f"{1024 + index * 60}-{1024 + index * 60 + 49}" for index in range(1000)]
    result = ports(lab, reserved_ports=wanted)
    assert live(lab) == ",".join(["7", *wanted])
    assert result["reserved_ports"] == ["7", *wanted]
    assert "is longer than the 4090 bytes" in " ".join(result["warnings"])
    assert not ports(lab, reserved_ports=wanted)["changed"]
    lab.run(["sysctl", "--quiet", "--load", FILE])
    assert not live(lab).endswith(wanted[-1])  # as the warning says
    put(lab, "8")
    boot_steps(lab)
    assert live(lab) == ",".join(["8", *wanted])
    ports(lab, state="absent")
    assert live(lab) == "8"


# ---- drift ----


def test_changed_by_hand(lab: Lab) -> None:
    task: Dict[str, Any] = {"reserved_ports": ["50000-50999"], "local_port_range": "40000-49999"}
    ports(lab, name="telemetry", reserved_ports=["60000"])
    ports(lab, **task)
    good = state(lab)
    for damage in (
        f"echo 60000 > {path_of(RESERVED_KEY)}",
        f"echo > {path_of(RESERVED_KEY)}",
        f"echo 32768 60999 > {path_of(RANGE_KEY)}",
        f"rm {FILE}",
        f": > {FILE}",
        f"sed -i s/50999/50998/ {FILE}",
        f"echo vm.swappiness = 1 >> {FILE}",
        f"echo {RESERVED_KEY} = 1 > {FILE}",
    ):
        lab.run(["sh", "-c", damage])
        bad = state(lab)
        assert bad != good
        assert ports(lab, **task, check_mode=True)["changed"]
        assert state(lab) == bad
        assert ports(lab, **task)["changed"], damage
        assert state(lab) == good, damage
    lab.run(["rm", RECORD])
    assert not ports(lab, **task)["changed"]
    assert state(lab) == good


def test_what_others_add_stays(lab: Lab) -> None:
    ports(lab, reserved_ports=["50000-50999"])
    put(lab, "80,50000-50999")
    assert not ports(lab, reserved_ports=["50000-50999"])["changed"]
    ports(lab, state="absent")
    assert live(lab) == "80"


# ---- network namespaces ----


def test_network_namespace(lab: Lab) -> None:
    lab.run(["ip", "netns", "add", "blue"])
    put(lab, "80", netns="blue")
    host = (live(lab), live(lab, RANGE_KEY))
    task: Dict[str, Any] = {"netns": "blue", "reserved_ports": ["80-90"], "local_port_range": "40000-49999"}
    assert ports(lab, **task)["changed"]
    assert (live(lab), live(lab, RANGE_KEY)) == host
    assert (live(lab, netns="blue"), live(lab, RANGE_KEY, netns="blue")) == ("80-90", "40000 49999")
    assert not ports(lab, **task)["changed"]
    assert lab.run(["test", "-e", FILE], check=False).rc == 1
    assert ports(lab, netns="blue", state="absent")["changed"]
    assert (live(lab, netns="blue"), live(lab, RANGE_KEY, netns="blue")) == ("80", "32768 60999")
    assert lab.run(["test", "-e", "/run/portfence"], check=False).rc == 1


def test_network_namespace_made_anew_has_no_past(lab: Lab) -> None:
    lab.run(["ip", "netns", "add", "blue"])
    ports(lab, netns="blue", reserved_ports=["80"], local_port_range="40000-49999")
    # The kernel gives the new namespace the number of an old one sooner or later, mostly at once.
    anew = "ip netns delete blue; sleep 0.02; ip netns add blue; stat -c %i /run/netns/blue"
    number = lab.run(["stat", "-c", "%i", "/run/netns/blue"]).out
    for _try in range(50):
        if lab.run(["sh", "-c", anew]).out == number:
            break
    put(lab, "80", netns="blue")
    put(lab, "20000 29999", RANGE_KEY, netns="blue")
    ports(lab, netns="blue", reserved_ports=["80"], local_port_range="40000-49999")
    ports(lab, netns="blue", state="absent")
    assert (live(lab, netns="blue"), live(lab, RANGE_KEY, netns="blue")) == ("80", "20000 29999")


def test_network_namespace_that_is_none(lab: Lab) -> None:
    assert "netns: found 'blue', which is not in /run/netns; there: none" in refusal(lab, netns="blue", reserved_ports=["80", "x"])
    lab.run(["ip", "netns", "add", "green"])
    lab.run(["touch", "/run/netns/blue"])
    assert "Invalid argument" in refusal(lab, netns="blue", reserved_ports=["80"])
    for name in ("../../proc/self/ns/net", "red", ""):
        assert "there: blue, green" in refusal(lab, netns=name, reserved_ports=["80"])


# ---- faults ----


def test_all_mistakes_at_once(lab: Lab) -> None:
    message = refusal(lab, reserved_ports=["50000", "51000-50000", "70000"], local_port_range="80-2000")
    assert message.splitlines()[0] == "ephemeral_ports has 3 mistakes:"
    for part in ("reserved_ports[1]: found '51000-50000'", "reserved_ports[2]: found '70000'", "local_port_range: found 80-2000"):
        assert part in message
    assert "EADDRNOTAVAIL" in refusal(lab, reserved_ports=["32768-60999"])


@pytest.mark.parametrize("folder", ["/etc", "/proc/sys/net", "/run/portfence"])
@pytest.mark.parametrize(
    "task, reserved",
    [
        ({"reserved_ports": ["60000"], "local_port_range": "30000-39999"}, "80,60000"),
        ({"reserved_ports": ["60000"], "persist": False}, "80,60000"),
        ({"state": "absent"}, "80"),
    ],
)
def test_read_only(lab: Lab, folder: str, task: Dict[str, Any], reserved: str) -> None:
    put(lab, "80")
    ports(lab, reserved_ports=["80-90"], local_port_range="40000-49999")
    lab.run(["mount", "--bind", folder, folder])
    lab.run(["mount", "-o", "remount,bind,ro", folder])
    message = refusal(lab, **task)
    assert "Read-only file system" in message
    assert "could not be put back" not in message
    assert not ports(lab, reserved_ports=["80-90"], local_port_range="40000-49999")["changed"]
    lab.run(["umount", folder])
    ports(lab, **task)
    assert live(lab) == reserved


def test_nothing_to_do_where_nothing_can_be_done(lab: Lab) -> None:
    for folder in ("/etc", "/proc/sys/net"):
        lab.run(["mount", "--bind", folder, folder])
        lab.run(["mount", "-o", "remount,bind,ro", folder])
    assert not ports(lab, state="absent")["changed"]


def test_half_written(lab: Lab) -> None:
    ports(lab, reserved_ports=["50000"])
    good = state(lab)
    write(lab, f"{FILE}.portfence-new", "half")
    ports(lab, reserved_ports=["50001"])
    ports(lab, reserved_ports=["50000"])
    assert state(lab) == good


# Runs the module and kills it in place of the Nth change that it makes to the host.
KILLED = """
import os, runpy, signal, sys
left = int(sys.argv.pop())
def deadly(call):
    def counted(*args, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **named)
    return counted
for name in ("write", "replace", "unlink", "mkdir"):
    setattr(os, name, deadly(getattr(os, name)))
sys.argv = sys.argv[:1]
runpy.run_module("ansible_collections.portfence.egress.plugins.modules.ephemeral_ports", run_name="__main__")
"""


def test_killed_at_any_point(lab: Lab) -> None:
    put(lab, "80,60000")
    start = state(lab)
    first: Dict[str, Any] = {"reserved_ports": ["80-90", "50000"], "local_port_range": "40000-49999"}
    second: Dict[str, Any] = {"reserved_ports": ["81", "60000-60010"]}
    ports(lab, **second)
    after = state(lab)
    ports(lab, **first)
    before = state(lab)
    data = json.dumps({"ANSIBLE_MODULE_ARGS": second})
    rc, step = -1, 0
    while rc != 0:
        step += 1
        done = lab.run([sys.executable, "-c", KILLED, str(step)], data=data, check=False, env={"PYTHONPATH": lab.collections()})
        rc = done.rc
        assert rc in (0, -9), done
        assert lab.run(["cat", FILE]).out in before + after
        if step % 2:
            ports(lab, **second)
            assert state(lab) == after
        else:
            ports(lab, state="absent")
            assert state(lab) == start
        ports(lab, **first)
        assert state(lab) == before
    assert step > 5
