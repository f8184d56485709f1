# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that an account without rights chooses, for cgroups and for programs, as the real kernel and ss show them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator

import pytest
from ansible_collections.portfence.egress.plugins.module_utils import _classid_units
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._usage import parse_sockets

# <linux/prctl.h>
_PR_SET_NAME = 15
# As an account without rights.
_NAMED = f"""
import ctypes, os, socket, sys
os.setuid(4243)
ctypes.CDLL(None).prctl({_PR_SET_NAME}, sys.argv[1].encode(), 0, 0, 0)
sock = socket.create_server(("127.0.0.1", 0))
print(sock.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(name="hierarchy")
def fixture_hierarchy() -> Iterator[Path]:
    """The cgroup v2 hierarchy of this machine at a place of our own."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("end", ["\r", "\x0b", "\x1e", "\x85", "\u2028"])
def test_the_name_of_a_cgroup_gives_no_other_place(end: str, hierarchy: Path) -> None:
    user = hierarchy / f"portfence-test-{os.getpid()}"
    folders = [user, user / f"a{end}0::", user / f"a{end}0::/system.slice", user / f"a{end}0::/system.slice/myapp.service"]
    with subprocess.Popen(["sleep", "600"]) as program:
        try:
            for folder in folders:
                folder.mkdir()
            (folders[-1] / "cgroup.procs").write_text(f"{program.pid}\n", encoding="ascii")
            processes = _classid_units._processes(Host())
        finally:
            program.kill()
            program.wait()
            for folder in reversed([folder for folder in folders if folder.exists()]):
                folder.rmdir()
    # The path of the hierarchy may begin with that of the container that runs the tests.
    assert any(path.endswith(f"/{user.name}/a{end}0::/system.slice/myapp.service") for path in processes[program.pid][0])
    assert program.pid not in _classid_units._below(processes, ["/system.slice/myapp.service"])


@pytest.mark.parametrize("name", ["uid:4242", "\nudp L 0 0 123 ", "\rudp L 0 0 123 ", " cgroup:/b.slice", '"\\",pid=1,fd=1'])
def test_the_name_of_a_program_gives_no_other_socket(name: str) -> None:
    with subprocess.Popen([sys.executable, "-c", _NAMED, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        port = int(program.stdout.readline())
        printed = Host().run([Host().program("ss", package="iproute2"), "-tunaepHl"]).out
    sockets = parse_sockets(printed)
    (found,) = [found for found in sockets if found.port == port and found.protocol == "tcp"]
    assert (found.uid, found.state, found.program) == (4243, "LISTEN", name[:15].replace("\n", "?").replace("\r", "?"))
    assert not any((found.protocol, found.state) == ("udp", "L") for found in sockets)
