# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab with a cgroup and a bpffs of its own, and clients that live in that cgroup.

What the module takes for the root of the cgroups is a group made for the lab: programs that are attached there see the
lab's clients and nobody else on this machine.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Union

from lab import Lab, LabError, Result

TCP, UDP = "tcp", "udp"
TREE = "/run/lab-cgroups"
_JOIN = 'mkdir -p "$0" && echo 0 >"$0/cgroup.procs" && exec "$@"'

# Makes sockets one after the other and keeps them open; prints what became of each: a port, or the name of an errno.
_CLIENT = """
import errno, json, os, resource, socket, sys
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
kept = []
for job in json.load(sys.stdin):
    sock = socket.socket(job["family"], job["kind"])
    kept.append(sock)
    sock.settimeout(job["timeout"])
    step = "socket"
    try:
        if job["address_only"]:
            sock.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        if job["bind"] is not None:
            step = "bind"
            sock.bind(tuple(job["bind"]))
        if job["listen"]:
            step = "listen"
            sock.listen(1)
        local = sock.getsockname()[1]
        seen = None
        if job["to"] is not None and job["unconnected"]:
            step = "sendto"
            sock.sendto(b"who am I?\\n", tuple(job["to"]))
            seen = int(sock.recv(100))
            local = sock.getsockname()[1]
        elif job["to"] is not None:
            step = "connect"
            sock.connect(tuple(job["to"]))
            local = sock.getsockname()[1]
            step = "answer"
            if job["kind"] == socket.SOCK_DGRAM:
                sock.send(b"who am I?\\n")
            seen = int(sock.recv(100))
        print(json.dumps({"local": local, "seen": seen, "error": None, "step": step}))
    except socket.timeout:
        print(json.dumps({"local": None, "seen": None, "error": "timeout", "step": step}))
    except OSError as error:
        print(json.dumps({"local": None, "seen": None, "error": errno.errorcode[error.errno], "step": step}))
    if job["close"]:
        sock.close()
"""


def job(
    protocol: str = TCP,
    *,
    to: Optional[List[Any]] = None,
    family: int = 4,
    bind: Optional[List[Any]] = None,
    listen: bool = False,
    unconnected: bool = False,
    address_only: bool = False,
    close: bool = False,
) -> Dict[str, Any]:
    """One socket of a client: bind, listen, connect (or send without), ask the peer for the port it sees."""
    return {
        "family": int(socket.AF_INET if family == 4 else socket.AF_INET6),
        "kind": int(socket.SOCK_STREAM if protocol == TCP else socket.SOCK_DGRAM),
        "to": to,
        "bind": bind,
        "listen": listen,
        "unconnected": unconnected,
        "address_only": address_only,
        "close": close,
        "timeout": 2.0,
    }


class BpfLab(Lab):
    """See the top of the file."""

    _made = 0
    _joining = False

    def __enter__(self) -> BpfLab:
        super().__enter__()
        self._groups: List[str] = []
        try:
            self.power_on()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> str:
        """Remove the groups, and end the lab."""
        if self._keeper is not None and self._groups:
            remove = "umount /sys/fs/cgroup; for group; do find \"$group\" -depth -type d -exec rmdir {} +; done"
            self.run(["sh", "-c", remove, "sh", *self._groups], check=False)
            self._groups = []
        return super().close()

    def power_on(self) -> None:
        """A group and a bpffs that nothing is attached to or pinned in."""
        BpfLab._made += 1
        group = f"{TREE}/portfence-test-{os.getpid()}-{BpfLab._made}"
        mount = (
            f"mkdir {TREE} && mount -t cgroup2 none {TREE} && mkdir {group}"
            f" && mount --bind {group} /sys/fs/cgroup && mount -t bpf bpf /sys/fs/bpf"
        )
        self.run(["sh", "-c", mount])
        self._groups.append(group)
        self.narrow()

    def run(self, args: Sequence[Union[str, Path]], **how: Any) -> Result:
        """Like any lab; what root runs within joined() is in the lab's group."""
        if self._joining and not {"user", "uid", "gid"} & set(how):
            args = ["sh", "-c", _JOIN, "/sys/fs/cgroup", *args]
        return super().run(args, **how)

    def _run_module(self, name: str, arguments: Mapping[str, Any], env: Mapping[str, str]) -> Result:
        run = self._start_module if self._joining else super()._run_module
        return run(name, arguments, env)

    @contextmanager
    def joined(self) -> Iterator[None]:
        """For modules that connect themselves."""
        self._joining = True
        try:
            yield
        finally:
            self._joining = False

    def inside(self, args: List[str], *, group: str = "", **how: Any) -> Result:
        """Run a program in the lab's group or in one below."""
        return self.run(["sh", "-c", _JOIN, f"/sys/fs/cgroup/{group}", *args], **how)

    def client(self, *jobs: Dict[str, Any], uid: int, group: str = "") -> List[Dict[str, Any]]:
        """What becomes of these sockets, opened one after the other by one process of this account, as :data:`_CLIENT` tells."""
        become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]
        program = [*become, "/usr/bin/python3", "-I", "-c", _CLIENT]
        result = self.inside(program, group=group, data=json.dumps(jobs))
        answers = [json.loads(line) for line in result.out.splitlines()]
        if len(answers) != len(jobs):
            raise LabError(f"{len(jobs)} sockets, but {len(answers)} answers: {result.err}")
        return answers
