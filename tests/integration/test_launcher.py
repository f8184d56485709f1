# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""portfence-run: a command that is started by hand is fenced from its first packet, or not started."""

from __future__ import annotations

from typing import Dict, List

import pytest
from lab import PORT, Lab

MYAPP = {"name": "myapp", "source_ports": "50000-50999"}
TEAM = {"name": "team", "group": "otel", "source_ports": "54000-54099"}
OTHERS = {"name": "containers", "addresses": "10.88.0.0/16", "source_ports": "55000-55099"}
LAUNCHER = "/usr/local/bin/portfence-run"
# Prints who it is, and the source port that the peer saw.
CLIENT = (
    "import os, socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5);"
    " print(os.getuid(), os.getgid(), os.environ['HOME'], os.environ['USER'], int(s.recv(100)))"
)


@pytest.fixture(name="host")
def fixture_host(lab: Lab) -> Lab:
    lab.add_user("myapp", 991)
    lab.add_user("otel", 992)
    result = lab.module("fence", services=[MYAPP, TEAM, OTHERS])
    assert not result.get("failed"), result["msg"]
    return lab


def client(family: int) -> List[str]:
    """A command that knows nothing of source ports."""
    return ["/usr/bin/python3", "-c", CLIENT, {4: "192.0.2.1", 6: "2001:db8:0:1::1"}[family], str(PORT)]


@pytest.mark.parametrize("family", [4, 6])
def test_a_command_runs_as_the_service(host: Lab, family: int) -> None:
    said = host.run([LAUNCHER, "myapp", "--", *client(family)]).out.split()
    assert said[:4] == ["991", "991", "/home/myapp", "myapp"]
    assert int(said[4]) in range(50000, 51000)


def test_a_command_runs_with_the_group_of_the_service(host: Lab) -> None:
    said = host.run([LAUNCHER, "--user", "nobody", "team", "--", *client(4)]).out.split()
    assert said[:2] == ["65534", "992"]
    assert int(said[4]) in range(54000, 54100)


def test_the_account_itself_may_start_commands(host: Lab) -> None:
    said = host.run([LAUNCHER, "myapp", "--", *client(4)], user="myapp").out.split()
    assert int(said[4]) in range(50000, 51000)


def test_the_status_is_that_of_the_command(host: Lab) -> None:
    assert host.run([LAUNCHER, "myapp", "--", "sh", "-c", "exit 7"], check=False).rc == 7
    assert host.run([LAUNCHER, "myapp", "--", "no-such-command"], check=False).rc == 127
    assert host.run([LAUNCHER, "myapp", "--", "/etc/passwd"], check=False).rc in (126, 127)


@pytest.mark.parametrize(
    ("arguments", "who", "message"),
    [
        (["nginx", "--", "true"], {}, "this host has no service nginx; it has: containers, myapp, team"),
        (["../myapp", "--", "true"], {}, "'../myapp' is no name of a service"),
        (["--user", "root", "myapp", "--", "true"], {}, "root is no account of myapp, which runs as myapp"),
        (["team", "--", "true"], {}, "team is a group; name the account that runs the command with --user"),
        (["containers", "--", "true"], {}, "containers is traffic that this host forwards; start the command in the container"),
        (["myapp", "--", "true"], {"user": "otel"}, "only root can start a command as myapp; use sudo"),
    ],
)
def test_what_can_not_be_fenced_is_not_started(host: Lab, arguments: List[str], who: Dict[str, str], message: str) -> None:
    result = host.run([LAUNCHER, *arguments], check=False, user=who.get("user"))
    assert result.rc == 125
    assert f"portfence-run: {message}" in result.err


def test_without_the_fence_nothing_is_started(host: Lab) -> None:
    host.nft("flush ruleset")
    result = host.run([LAUNCHER, "myapp", "--", "touch", "/tmp/started"], check=False)
    assert (result.rc, result.out) == (125, "")
    assert "the fence of myapp is not in force" in result.err


def test_it_comes_and_goes_with_the_fence(host: Lab) -> None:
    assert host.run(["stat", "-c", "%U %a", LAUNCHER]).out == "root 755\n"
    host.run(["sh", "-c", f"echo '# more' >> {LAUNCHER}"])
    assert host.module("fence", services=[MYAPP])["changes"] == [f"write {LAUNCHER}"]
    host.module("fence", state="absent", purge=True)
    assert host.run(["test", "-e", LAUNCHER], check=False).rc == 1


def test_a_program_of_somebody_else_is_left_alone(lab: Lab) -> None:
    lab.add_user("myapp", 991)
    lab.run(["sh", "-c", f"echo '#!/bin/sh' > {LAUNCHER}"])
    result = lab.module("fence", services=[MYAPP])
    assert result["failed"] and f"{LAUNCHER} exists and was not written by this collection" in result["msg"]
    assert lab.run(["cat", LAUNCHER]).out == "#!/bin/sh\n"
