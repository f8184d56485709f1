# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of net_cls share: a lab for one at a time, programs in it, and what a rule for a classid does to them.

The hierarchy of net_cls is one for the whole machine, in a lab as well. So only one of these labs is there at a time, its cgroups
have names that nothing else uses, and they are gone after it, whatever the test did.
"""

from __future__ import annotations

import fcntl
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator

from lab import Lab
from lab_keeper import PORT

MOUNT = "/run/portfence/net_cls"
ROOT = f"{MOUNT}/portfence"
CLASSID = 0x100001
INSIDE = range(50000, 50010)
WAYS = [(protocol, family) for protocol in ("tcp", "udp") for family in (4, 6)]

# Commands come through one pipe, answers leave through another: "tcp 4" connects and tells the port that the peer saw,
# "child udp 6" lets a child do it, "open udp 4" opens a socket, "use" sends on it.
_PROGRAM = """
import os, socket, sys
peers = {"4": sys.argv[1], "6": sys.argv[2]}
port = int(sys.argv[3])
def open_socket(protocol, family):
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    return socket.socket(socket.AF_INET if family == "4" else socket.AF_INET6, kind)
def use(sock, family):
    sock.settimeout(10)
    sock.connect((peers[family], port))
    if sock.type == socket.SOCK_DGRAM:
        sock.send(b"who am I?")
    return sock.recv(100).decode().strip()
kept = None
while True:
    with open("/run/app.in") as pipe:
        words = pipe.read().split()
    try:
        if words[0] == "open":
            kept = open_socket(*words[1:]), words[2]
            answer = "opened"
        elif words[0] == "use":
            answer = use(*kept)
        elif words[0] == "child":
            reader, writer = os.pipe()
            if os.fork() == 0:
                os.write(writer, use(open_socket(*words[1:]), words[2]).encode())
                os._exit(0)
            answer = os.read(reader, 100).decode()
            os.wait()
        else:
            answer = use(open_socket(*words), words[1])
    except OSError as error:
        answer = str(error)
    with open("/run/app.out", "w") as pipe:
        pipe.write(answer)
"""


@contextmanager
def net_cls_lab() -> Iterator[Lab]:
    """A lab whose cgroups of net_cls are gone afterwards."""
    with open(Path(tempfile.gettempdir()) / "portfence-test-net-cls.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            with Lab() as lab:
                yield lab
        finally:
            forget_cgroups()


def forget_cgroups() -> None:
    """Remove the cgroups of the labs, which have no processes any more, as a reboot does."""
    with tempfile.TemporaryDirectory() as folder:
        options = controllers()
        script = f"mount -t cgroup -o {options} test {folder} && find {folder}/portfence {folder}/foreign -depth -type d -name 'lab*' -exec rmdir {{}} +"
        script += f"; rmdir {folder}/portfence {folder}/foreign"
        subprocess.run(["unshare", "--mount", "sh", "-c", script], stderr=subprocess.DEVNULL, check=False)


def controllers() -> str:
    """net_cls, and what shares a hierarchy with it now."""
    lines = [line.split() for line in Path("/proc/cgroups").read_text(encoding="ascii").splitlines()]
    hierarchy = {words[0]: words[1] for words in lines}
    names = [name for name in hierarchy if hierarchy[name] == hierarchy["net_cls"] != "0"]
    return ",".join(names or ["net_cls"])


def task(lab: Lab, **params: Any) -> Dict[str, Any]:
    """The result of a task that has to succeed."""
    result = lab.module("cgroup_classid", **params)
    assert not result.get("failed"), result["msg"]
    return result


def refusal(lab: Lab, **params: Any) -> str:
    """The message of a task that has to fail and to leave everything as it was."""
    before = state(lab)
    result = lab.module("cgroup_classid", **params)
    assert result.get("failed"), result
    assert state(lab) == before
    return str(result["msg"])


def state(lab: Lab) -> str:
    """All that the module can change."""
    script = f"""
    find /etc/portfence /etc/pam.d /etc/systemd/system /run/portfence -maxdepth 2 ! -type d ! -path '{MOUNT}/*' 2>/dev/null | sort | xargs -r ls -ln --time-style=+
    find /etc/portfence /etc/pam.d /etc/systemd/system -type f | sort | xargs sha256sum
    ls -d /run/portfence /etc/portfence /etc/systemd/system/*.wants /etc/systemd/system/*.service.d {ROOT}/lab* 2>/dev/null
    grep ' {MOUNT} ' /proc/self/mounts
    for folder in {ROOT}/lab*; do cat $folder/net_cls.classid $folder/cgroup.procs 2>/dev/null; done
    """
    return lab.run(["sh", "-c", script], check=False).out


def start_program(lab: Lab) -> int:
    """Start a program that connects when it is told to; its PID in the lab."""
    lab.run(["sh", "-c", "mkfifo /run/app.in /run/app.out; cat >/run/app.py"], data=_PROGRAM)
    peer = lab.peer.addresses
    started = f"setsid /usr/bin/python3 /run/app.py {peer[4]} {peer[6]} {PORT} </dev/null >/run/app.log 2>&1 & echo $!"
    return int(lab.run(["sh", "-c", started]).out)


def tell(lab: Lab, command: str) -> str:
    """Give the program a command; its answer."""
    return lab.run(["sh", "-c", f"echo {command} >/run/app.in; cat /run/app.out"], timeout=60.0).out


def port(lab: Lab, command: str) -> int:
    """The port that the peer saw."""
    return int(tell(lab, command))


def load_rule(lab: Lab) -> None:
    """Translate what is recognised by the classid, and nothing else, into the ports INSIDE."""
    lab.nft(
        f"""
        table inet test {{
            chain post {{
                type nat hook postrouting priority 99
                oifname "lo" accept
                meta cgroup {CLASSID:#x} meta l4proto {{ tcp, udp }} snat to :{INSIDE.start}-{INSIDE.stop - 1}
            }}
        }}
        """
    )
