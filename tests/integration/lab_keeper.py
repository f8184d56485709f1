# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inside of a lab: the process that makes its namespaces and answers requests from within them.

Started by lab.py as ``python -I -S lab_keeper.py LAB_FD PEER_FD``. Three processes:

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
import pwd
import resource
import selectors
import signal
import socket
import subprocess
import sys
from typing import Any, Callable, Dict, List, Optional, Tuple

HOSTNAME = "lab"
PORT = 7000  # where the peer answers, TCP and UDP
LAB_ADDRESSES = {4: "192.0.2.2", 6: "2001:db8:0:1::2"}
PEER_ADDRESSES = {4: "192.0.2.1", 6: "2001:db8:0:1::1"}
PREFIX_LENGTH = {4: 24, 6: 64}
OVERLAID = ("/etc", "/var", "/root", "/home")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PROTOCOLS = {
    "icmp": socket.IPPROTO_ICMP,
    "tcp": socket.IPPROTO_TCP,
    "udp": socket.IPPROTO_UDP,
    "dccp": 33,
    "icmpv6": socket.IPPROTO_ICMPV6,
    "sctp": 132,
    "udplite": 136,
}

# <sched.h>, <sys/mount.h>, <sys/prctl.h>
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWPID, _CLONE_NEWNET = 0x00020000, 0x04000000, 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_MS_BIND, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 4096, 16384, 1 << 18, 2
_PR_SET_PDEATHSIG = 1
# <linux/if_ether.h>, <linux/if_packet.h>
_ETH_P_ALL, _PACKET_OUTGOING, _SOL_PACKET, _PACKET_STATISTICS = 0x0003, 4, 263, 6

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


def _set_addresses(own: Dict[int, str], via: Dict[int, str]) -> List[str]:
    return [
        f"address add {own[4]}/{PREFIX_LENGTH[4]} dev eth0",
        f"address add {own[6]}/{PREFIX_LENGTH[6]} dev eth0 nodad",
        f"route add default via {via[4]}",
        f"route add ::/0 via {via[6]}",
    ]


class Agent:
    """Answers requests, echoes what TCP and UDP clients send, and keeps a list of the packets that arrived."""

    def __init__(self, *, control: Optional[socket.socket]) -> None:
        self._selector = selectors.DefaultSelector()
        self._control = control
        self._pending = b""
        self._capture: Optional[socket.socket] = None
        self._packets: List[Dict[str, Any]] = []
        self._commands: Dict[str, Callable[..., Any]] = {
            "account": self._account,
            "packets": self._take_packets,
            "serve": self._serve,
            "socket": self._socket,
        }
        if control is not None:
            self._selector.register(control, selectors.EVENT_READ, self._request)

    def command(self, name: str, function: Callable[..., Any]) -> None:
        """Add a request."""
        self._commands[name] = function

    def listen(self, port: int) -> None:
        """Answer on a port over TCP and UDP, IPv4 and IPv6.

        A client is first told its source port as decimal text; whatever it sends after that comes back (TCP).
        Each datagram is answered with its source port (UDP).
        """
        for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            for kind, ready in ((socket.SOCK_STREAM, self._accept), (socket.SOCK_DGRAM, self._datagram)):
                sock = socket.socket(family, kind)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((anywhere, port))
                if kind == socket.SOCK_STREAM:
                    sock.listen(4096)
                sock.setblocking(False)
                self._selector.register(sock, selectors.EVENT_READ, ready)

    def capture(self) -> None:
        """Keep a list of what arrives on the wire, before any rule of the receiver."""
        self._capture = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self._capture.setsockopt(socket.SOL_SOCKET, 33, 16 * 1024 * 1024)  # SO_RCVBUFFORCE
        self._capture.setblocking(False)
        self._selector.register(self._capture, selectors.EVENT_READ, lambda sock: self._drain())

    def run(self) -> None:
        """Work until the control socket is closed (for ever when there is none)."""
        while True:
            for key, _mask in self._selector.select():
                if key.data(key.fileobj) is False:
                    return

    def _request(self, sock: socket.socket) -> Optional[bool]:
        data = sock.recv(1 << 20)
        if not data:
            return False
        self._pending += data
        while b"\n" in self._pending:
            line, self._pending = self._pending.split(b"\n", 1)
            self._reply(sock, json.loads(line))
        return None

    def _reply(self, sock: socket.socket, request: Dict[str, Any]) -> None:
        passed: List[socket.socket] = []
        try:
            value = self._commands[request.pop("command")](**request)
            if isinstance(value, socket.socket):
                passed.append(value)
                value = None
            reply = {"value": value}
        except (OSError, KeyError) as error:
            reply = {"error": str(error), "errno": getattr(error, "errno", None)}
        data = json.dumps(reply).encode() + b"\n"
        sock.setblocking(True)
        sent = socket.send_fds(sock, [data], [one.fileno() for one in passed]) if passed else 0
        sock.sendall(data[sent:])
        for one in passed:
            one.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, address = listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        try:
            sock.send(b"%d\n" % address[1])
        except OSError:
            sock.close()
            return
        self._selector.register(sock, selectors.EVENT_READ, self._echo)

    def _echo(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(65536)
            if data:
                sock.send(data)
                return
        except OSError:
            pass
        self._selector.unregister(sock)
        sock.close()

    def _datagram(self, sock: socket.socket) -> None:
        try:
            _data, address = sock.recvfrom(65536)
            sock.sendto(b"%d\n" % address[1], address)
        except OSError:
            pass  # the asker sees that no answer comes

    def _drain(self) -> None:
        if self._capture is None:
            return
        while True:
            try:
                data, address = self._capture.recvfrom(128)
            except BlockingIOError:
                return
            if address[2] != _PACKET_OUTGOING and address[0] == "eth0":
                packet = _parse_packet(data)
                if packet is not None:
                    self._packets.append(packet)

    def _take_packets(self) -> List[Dict[str, Any]]:
        """What arrived since the last request."""
        self._drain()
        if self._capture is not None:
            lost = self._capture.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)[4:]
            if any(lost):
                raise OSError("packets were lost before they were looked at; ask more often")
        packets, self._packets = self._packets, []
        return packets

    @staticmethod
    def _account(user: str) -> Dict[str, Any]:
        entry = pwd.getpwnam(user)
        return {"uid": entry.pw_uid, "gid": entry.pw_gid, "groups": os.getgrouplist(user, entry.pw_gid)}

    @staticmethod
    def _socket(family: int, kind: int, protocol: int, uid: int, gid: int) -> socket.socket:
        """A socket that belongs to an account: rules look at who called socket() (the file's fsuid and fsgid)."""
        os.setegid(gid)
        os.seteuid(uid)
        try:
            return socket.socket(family, kind, protocol)
        finally:
            os.seteuid(0)
            os.setegid(0)

    def _serve(self, port: int, uid: int, gid: int) -> int:
        """A server process of an account; its PID outside of the lab."""
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(ready)
                if self._control is not None:
                    self._control.close()
                os.setgroups([])
                os.setresgid(gid, gid, gid)
                os.setresuid(uid, uid, uid)
                server = Agent(control=None)
                server.listen(port)
                os.write(tell, b"+")
                os.close(tell)
                server.run()
            except OSError as error:
                os.write(tell, str(error).encode())
            finally:
                os._exit(status)
        os.close(tell)
        said = os.read(ready, 1000)
        os.close(ready)
        if said != b"+":
            os.waitpid(pid, 0)
            raise OSError(f"no server on port {port}: {said.decode()}")
        return pid


def _parse_packet(data: bytes) -> Optional[Dict[str, Any]]:
    """The addresses and ports of an IP packet; None for what a network says without being asked (ARP, discovery)."""
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= 20:
        protocol, start = data[9], (data[0] & 15) * 4
        source, destination = data[12:16], data[16:20]
    elif version == 6 and len(data) >= 40:
        protocol, start = data[6], 40
        source, destination = data[8:24], data[24:40]
        if protocol == 0:  # a hop-by-hop header: multicast listener reports
            return None
    else:
        return None
    body = data[start:]
    if protocol == socket.IPPROTO_ICMPV6 and body[:1] in (b"\x85", b"\x86", b"\x87", b"\x88", b"\x8f"):
        return None
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    names = {number: name for name, number in PROTOCOLS.items()}
    with_ports = protocol not in (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6) and protocol in names and len(body) >= 4
    return {
        "family": version,
        "protocol": names.get(protocol, str(protocol)),
        "source": socket.inet_ntop(family, source),
        "destination": socket.inet_ntop(family, destination),
        "source_port": int.from_bytes(body[:2], "big") if with_ports else None,
        "destination_port": int.from_bytes(body[2:4], "big") if with_ports else None,
        # RFC 9293: FIN 1, SYN 2, RST 4, ACK 16
        "flags": body[13] if protocol == socket.IPPROTO_TCP and len(body) >= 14 else 0,
    }


class Keeper:
    """Makes the lab, reboots it, ends it."""

    def __init__(self, *, control: socket.socket, peer_control: socket.socket) -> None:
        self._control = control
        self._peer_control = peer_control
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
        _ip("link set lo up")
        agent = Agent(control=self._peer_control)
        agent.capture()
        agent.listen(PORT)
        os.write(tell, b"%d" % os.getpid())
        os.close(tell)
        agent.run()

    @staticmethod
    def start_loopback() -> None:
        """systemd brings lo up before it starts any unit."""
        _ip("link set lo up")

    def connect(self) -> None:
        """Lay the cable between the lab and its peer, and give both their addresses."""
        _ip(f"link add eth0 type veth peer name eth0 netns {self._peer_inside}", "link set eth0 up")
        peer = _set_addresses(PEER_ADDRESSES, LAB_ADDRESSES)
        _ip("link set eth0 up", *peer, inside=("nsenter", "--target", str(self._peer_inside), "--net", "--"))
        _ip(*_set_addresses(LAB_ADDRESSES, PEER_ADDRESSES))
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
        Keeper(control=control, peer_control=peer_control).run()
    except OSError as error:
        sys.exit(f"the lab could not be made: {error}")


if __name__ == "__main__":
    main()
