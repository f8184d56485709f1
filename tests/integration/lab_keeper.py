# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inside of a lab: the process that makes its namespaces and answers requests from within them.

Started by lab.py as ``python -I -S lab_keeper.py LAB_FD PEER_FD [capture]``. Three processes:

- the keeper lives in the lab's mount, network and UTS namespaces and answers on LAB_FD;
- init is PID 1 of the lab's PID namespace; the kernel kills whatever runs in the lab when it ends, and ends it
  when the keeper does;
- the peer lives in a network namespace of its own and answers on PEER_FD.

A request and its reply are one line of JSON each; sockets travel beside the reply. The keeper leaves when the
other end of LAB_FD is closed, which the kernel does for a process that was killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Tuple

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python -I leaves it out

from lab_agent import Agent

HOSTNAME = "lab"
PORT = 7000  # where the peer answers, TCP and UDP
LAB_ADDRESSES = {4: "192.0.2.2", 6: "2001:db8:0:1::2"}
PEER_ADDRESSES = {4: "192.0.2.1", 6: "2001:db8:0:1::1"}
PREFIX_LENGTH = {4: 24, 6: 64}
OVERLAID = ("/etc", "/var", "/root", "/home", "/srv", "/usr/local")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# <sched.h>, <sys/mount.h>, <sys/prctl.h>
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWPID, _CLONE_NEWNET = 0x00020000, 0x04000000, 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_MS_BIND, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 4096, 16384, 1 << 18, 2
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _call(function: Any, *args: Any) -> None:
    if function(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function.__name__}{args}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    _call(_libc.mount, source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())


def _mount_files() -> None:
    """Private copies of what a host writes to; nothing reaches the machine."""
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    # The upper layers live in a tmpfs that the new /run then hides.
    _mount("tmpfs", "/run", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755")
    for path in OVERLAID:
        if not os.path.isdir(path):
            continue
        upper, work = (f"/run/{name}{path}" for name in ("upper", "work"))
        os.makedirs(upper)
        os.makedirs(work)
        found = os.stat(path)
        os.chown(upper, found.st_uid, found.st_gid)
        os.chmod(upper, found.st_mode & 0o7777)
        _mount("overlay", path, "overlay", 0, f"lowerdir={path},upperdir={upper},workdir={work}")
    _mount("tmpfs", "/run", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755")
    os.mkdir("/run/lock")


def _write(path: str, text: str) -> None:
    if os.path.islink(path):
        os.unlink(path)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _name_host() -> None:
    socket.sethostname(HOSTNAME)
    _write("/etc/hostname", f"{HOSTNAME}\n")
    _write("/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {HOSTNAME}\n")
    _write("/etc/resolv.conf", "")  # a look-up fails at once instead of waiting for a server out of reach


def _mount_proc() -> None:
    """The lab's own processes; /proc/sys read-only except for net, the rest of which is the machine's own."""
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _mount("/proc/sys", "/proc/sys", "", _MS_BIND)
    _mount("/proc/sys/net", "/proc/sys/net", "", _MS_BIND)
    _mount("none", "/proc/sys", "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY)


def _mount_sys() -> None:
    """A /sys that shows the network interfaces of the caller's namespace."""
    _mount("sysfs", "/sys", "sysfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)


def _die_with_parent() -> None:
    _call(_libc.prctl, _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _ip(*lines: str, inside: Tuple[str, ...] = ()) -> None:
    """Configure the network with one ip process, in the caller's namespaces or through a prefix of nsenter."""
    done = subprocess.run(
        [*inside, "ip", "-batch", "-"],
        input="\n".join(lines) + "\n",
        encoding="utf-8",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PATH": PATH},
        close_fds=False,
        check=False,
    )
    if done.returncode != 0:
        raise OSError(f"ip -batch said: {done.stderr.strip()}")


def _await_link(addresses: Dict[int, str], inside: Tuple[str, ...] = ()) -> None:
    """Wait until the interface sends, and takes what comes to its addresses.

    Some time after "up" the kernel still drops everything (the qdisc is noop), and it makes the local route of an IPv6
    address in the background, even with nodad (addrconf_dad_work()).
    """

    def show(*args: str) -> Dict[str, Any]:
        shown = subprocess.run([*inside, "ip", "-j", *args], stdout=subprocess.PIPE, env={"PATH": PATH}, close_fds=False, check=True)
        answer: Dict[str, Any] = json.loads(shown.stdout)[0]
        return answer

    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        link = show("link", "show", "eth0")
        local = all(show("route", "get", address).get("type") == "local" for address in addresses.values())
        if local and link["operstate"] == "UP" and link["qdisc"] != "noop":
            return
        time.sleep(0.002)
    raise OSError("the cable does not come up")


def _trust_addresses() -> None:
    """Let every IPv6 address of this network namespace be used at once (accept_dad, Documentation/networking/ip-sysctl.rst).

    A host that forwards asks for neighbours from its link-local address, which otherwise is tentative for two seconds.
    """
    with open("/proc/sys/net/ipv6/conf/default/accept_dad", "w", encoding="ascii") as file:
        file.write("0")


def _set_addresses(own: Dict[int, str], via: Dict[int, str]) -> List[str]:
    return [
        f"address add {own[4]}/{PREFIX_LENGTH[4]} dev eth0",
        f"address add {own[6]}/{PREFIX_LENGTH[6]} dev eth0 nodad",
        f"route add default via {via[4]}",
        f"route add ::/0 via {via[6]}",
    ]


class Keeper:
    """Makes the lab, reboots it, ends it."""

    def __init__(self, *, control: socket.socket, peer_control: socket.socket, capture: bool) -> None:
        self._control = control
        self._peer_control = peer_control
        self._capture = capture
        self._peer_inside = 0  # its PID in the lab's PID namespace
        self._up = False

    def run(self) -> None:
        """The whole life of the lab."""
        _call(_libc.unshare, _CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWPID | _CLONE_NEWNET)
        _mount_files()
        _name_host()
        _mount_sys()
        init, _one = self._fork(self._be_init)
        peer, self._peer_inside = self._fork(self._be_peer)
        self._peer_control.close()
        self.start_loopback()
        self.connect()
        agent = Agent(control=self._control)
        agent.command("power_off", self.power_off)
        agent.command("connect", self.connect)
        self._control.sendall(json.dumps({"value": {"peer": peer}}).encode() + b"\n")
        agent.run()
        os.kill(init, signal.SIGKILL)
        try:
            while True:  # init is the last to go, when everything in the PID namespace is gone and reaped
                os.waitpid(-1, 0)
        except ChildProcessError:
            pass

    @staticmethod
    def _fork(role: Callable[[int], None]) -> Tuple[int, int]:
        """Start a process of the lab and wait until it is ready; its PID outside and inside of the PID namespace."""
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(ready)
                _die_with_parent()
                role(tell)
            except OSError as error:
                print(error, file=sys.stderr, flush=True)
            finally:
                os._exit(1)
        os.close(tell)
        said = os.read(ready, 100)
        os.close(ready)
        if not said:
            raise OSError("a process of the lab could not start")
        return pid, int(said)

    def _be_init(self, tell: int) -> None:
        self._control.close()
        self._peer_control.close()
        _mount_proc()
        os.write(tell, b"%d" % os.getpid())
        os.close(tell)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        while True:
            signal.sigwait({signal.SIGCHLD})
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass

    def _be_peer(self, tell: int) -> None:
        self._control.close()
        _call(_libc.unshare, _CLONE_NEWNET)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        _trust_addresses()
        _ip("link set lo up")
        agent = Agent(control=self._peer_control)
        if self._capture:
            agent.capture()
        agent.listen(PORT)
        os.write(tell, b"%d" % os.getpid())
        os.close(tell)
        agent.run()

    @staticmethod
    def start_loopback() -> None:
        """systemd brings lo up before it starts any unit."""
        _trust_addresses()
        _ip("link set lo up")

    def connect(self) -> None:
        """Lay the cable between the lab and its peer, and give both their addresses."""
        _ip(f"link add eth0 type veth peer name eth0 netns {self._peer_inside}", "link set eth0 up")
        peer = ("nsenter", "--target", str(self._peer_inside), "--net", "--")
        _ip("link set eth0 up", *_set_addresses(PEER_ADDRESSES, LAB_ADDRESSES), inside=peer)
        _ip(*_set_addresses(LAB_ADDRESSES, PEER_ADDRESSES))
        _await_link(LAB_ADDRESSES)
        _await_link(PEER_ADDRESSES, peer)
        self._up = True

    def power_off(self) -> None:
        """Lose what a reboot loses: processes, rules, sysctls, connections, /run. Files stay."""
        if self._up:
            _ip("link delete eth0")
            self._up = False
        self._kill_processes()
        _call(_libc.unshare, _CLONE_NEWNET)
        _call(_libc.umount2, b"/sys", _MNT_DETACH)
        _mount_sys()
        _call(_libc.umount2, b"/run", _MNT_DETACH)
        _mount("tmpfs", "/run", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755")
        os.mkdir("/run/lock")
        self.start_loopback()

    def _kill_processes(self) -> None:
        """All but init and the peer. The keeper stands outside of the PID namespace, so a child has to send the signals."""
        child = os.fork()
        if child == 0:
            try:
                for name in os.listdir("/proc"):
                    if name.isdigit() and int(name) not in (1, self._peer_inside, os.getpid()):
                        try:
                            os.kill(int(name), signal.SIGKILL)
                        except ProcessLookupError:
                            pass  # it ended by itself
            finally:
                os._exit(0)
        os.waitpid(child, 0)


def main() -> None:
    """See the top of the file."""
    os.chdir("/")
    control, peer_control = (socket.socket(fileno=int(text)) for text in sys.argv[1:3])
    for passed in (control, peer_control):
        passed.set_inheritable(False)
    try:
        Keeper(control=control, peer_control=peer_control, capture=sys.argv[3:] == ["capture"]).run()
    except OSError as error:
        sys.exit(f"the lab could not be made: {error}")


if __name__ == "__main__":
    main()
