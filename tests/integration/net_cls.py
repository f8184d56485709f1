# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of net_cls share: a lab with a hierarchy of its own, programs in it, and what a rule for a classid does to them."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, Optional

from lab import Lab, LabError
from lab_keeper import PATH, PORT

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


# The hierarchy is one for the whole machine. What is in a cgroup namespace sees of it what is below the cgroup where the namespace
# was made (cgroup_namespaces(7)), so a process makes one for the lab, and stays until its standard input ends.
_HOLDER = """
folder=$1 wanted=$2 there=$3
mount -t cgroup -o "$wanted" test "$folder" 2>/dev/null || mount -t cgroup -o "$there" test "$folder" || exit 1
own=$folder/lab-$$
mkdir "$own" || exit 1
sh -c 'echo $$ >"$0/cgroup.procs"; exec unshare --cgroup sh -c "echo \\$\\$; exec sleep infinity" </dev/null' "$own" &
cat >/dev/null
kill $!
wait
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    # Those that are ending.
    find "$own" -name cgroup.procs -exec cat {} + | while read -r pid; do echo "$pid" >"$folder/cgroup.procs"; done
    find "$own" -depth -type d -exec rmdir {} + && exit
    sleep 0.2
done 2>/dev/null
"""


class NetClsLab(Lab):
    """A lab that sees a hierarchy of net_cls as after a boot, whatever the machine and other labs do with it."""

    def __init__(self, *, wanted: str = "net_cls", capture: bool = True) -> None:
        """:param wanted: the controllers of the hierarchy, unless somebody on the machine has it already. :param capture: as for any lab."""
        super().__init__(capture=capture)
        self._wanted = wanted
        self._holder: Optional[subprocess.Popen[str]] = None

    def __enter__(self) -> NetClsLab:
        super().__enter__()
        self._new_root()
        self.narrow()
        return self

    def _new_root(self) -> None:
        # Removed after the holder only: to remove a folder unmounts what is mounted there in any namespace.
        self._folder = tempfile.TemporaryDirectory()
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _HOLDER, "sh", self._folder.name, self._wanted, controllers()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="ascii",
            start_new_session=True,
            env={"PATH": PATH},
        )
        assert self._holder.stdout is not None
        said = self._holder.stdout.readline().strip()
        if not said:
            raise LabError("net_cls can't be mounted on this machine")
        enter = [part for part in self.enter if not part.startswith("--cgroup=")]
        self.enter = (enter[0], f"--cgroup=/proc/{said}/ns/cgroup", *enter[1:])

    def close(self) -> str:
        """End the lab, then its cgroups."""
        said = super().close()
        self._drop_root()
        return said

    def _drop_root(self) -> None:
        if self._holder is not None:
            self._holder.communicate()
            self._holder = None
            self._folder.cleanup()

    def power_on(self) -> None:
        """A boot finds no cgroups."""
        super().power_on()
        self._drop_root()
        self._new_root()
        self.narrow()


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
    find /etc/portfence /etc/pam.d /etc/systemd/system /run/portfence -maxdepth 2 ! -type d ! -path '{MOUNT}/*' 2>/dev/null | sort |
        xargs -r ls -ln --time-style=+
    find /etc/portfence /etc/pam.d /etc/systemd/system -type f | sort | xargs sha256sum
    ls -d /run/portfence /etc/portfence /etc/systemd/system/*.wants /etc/systemd/system/*.service.d {ROOT}/* 2>/dev/null
    grep ' {MOUNT} ' /proc/self/mounts
    for folder in {ROOT}/*/; do cat $folder/net_cls.classid $folder/cgroup.procs 2>/dev/null; done
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
