# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A throwaway Linux host, and a peer that sees what it sends. For the demo and the integration tests.

The lab has network, mount, UTS and PID namespaces of its own on this machine's kernel: /etc, /var, /root,
/home, /srv and /usr/local are overlays, /run is empty, and of /proc/sys only net can be written. Root in the lab is the machine's root,
so nothing else holds a program back: files outside of those directories are the machine's.
A cable joins the lab (192.0.2.2, 2001:db8:0:1::2) to its peer (192.0.2.1, 2001:db8:0:1::1), which tells each
client the source port that it saw. Everything is anonymous and goes away with the process that made it.

    with Lab() as lab:
        lab.add_user("myapp", uid=991)
        lab.module("fence", services=[...])
        assert lab.connect(uid=991).port in range(50000, 51000)
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

from lab_agent import PROTOCOLS
from lab_keeper import LAB_ADDRESSES, PATH, PEER_ADDRESSES, PORT
from module_server import run_module

REPOSITORY = Path(__file__).resolve().parents[2]
COLLECTIONS = "/var/lib/collections"  # in the lab; holds ansible_collections/portfence/egress
PATIENCE = 10.0  # seconds for what is expected to happen, however busy the machine is

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_KINDS = {"tcp": socket.SOCK_STREAM, "sctp": socket.SOCK_STREAM, "dccp": 6, "udp": socket.SOCK_DGRAM, "udplite": socket.SOCK_DGRAM}


class LabError(Exception):
    """The lab can't be made, or something in it went wrong that no test looks for."""


class Result(NamedTuple):
    """What a program left: exit status, standard output, standard error."""

    rc: int
    out: str
    err: str


class Seen(NamedTuple):
    """The end of an attempt to connect: the source port that the other side saw, or what the client met.

    The error is "timeout" or the name of an errno: ECONNREFUSED, EPERM, EADDRNOTAVAIL, ...
    """

    port: Optional[int]
    error: Optional[str]


class Packet(NamedTuple):
    """A packet that arrived at the peer. Ports are None for protocols without; flags are those of TCP."""

    family: int
    protocol: str
    source: str
    destination: str
    source_port: Optional[int]
    destination_port: Optional[int]
    flags: int


class Session:
    """An open connection from one side of the cable to the other."""

    def __init__(self, *, sock: socket.socket, port: int) -> None:
        self.sock = sock
        self.port = port  # the source port that the other side saw

    def alive(self, *, timeout: float = 1.0) -> bool:
        """Whether data still goes there and comes back within so many seconds."""
        self.sock.settimeout(timeout)
        try:
            self.sock.sendall(b"still there?\n")
            return self.sock.recv(1000) != b""
        except OSError:
            return False

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


class Node:
    """One end of the cable."""

    def __init__(self, *, addresses: Mapping[int, str], other: Mapping[int, str]) -> None:
        self.addresses = dict(addresses)
        self._other = dict(other)
        self._control: Optional[socket.socket] = None
        self.enter: Tuple[str, ...] = ()

    def _ask(self, command: str, **request: Any) -> Tuple[Any, List[int]]:
        if self._control is None:
            raise LabError("the lab is not running")
        if command:
            self._control.sendall(json.dumps({"command": command, **request}).encode() + b"\n")
        data = b""
        handles: List[int] = []
        while not data.endswith(b"\n"):
            part, received, _flags, _address = socket.recv_fds(self._control, 1 << 20, 4)
            handles.extend(received)
            if not part:
                raise LabError("the lab ended unexpectedly")
            data += part
        reply = json.loads(data)
        if "error" in reply:
            if reply["errno"]:
                raise OSError(reply["errno"], reply["error"])
            raise LabError(f"{command}: {reply['error']}")
        return reply["value"], handles

    def _identity(self, user: Optional[str], uid: Optional[int], gid: Optional[int]) -> Tuple[int, int, List[int]]:
        if user is not None:
            account = self._ask("account", user=user)[0]
            return account["uid"], account["gid"] if gid is None else gid, account["groups"]
        uid = 0 if uid is None else uid
        return uid, uid if gid is None else gid, []

    def run(
        self,
        args: Sequence[Union[str, Path]],
        *,
        user: Optional[str] = None,
        uid: Optional[int] = None,
        gid: Optional[int] = None,
        data: Optional[str] = None,
        check: bool = True,
        timeout: float = 120.0,
        env: Optional[Mapping[str, str]] = None,
    ) -> Result:
        """Run a program here, as root or as an account of the lab or a bare UID.

        :param data: its standard input.
        :param check: raise LabError unless it ends with status 0.
        :param timeout: seconds until it is killed and LabError raised.
        :param env: variables beside PATH, HOME and LC_ALL.
        """
        become: List[str] = []
        if user is not None or uid is not None or gid is not None:
            number, group, groups = self._identity(user, uid, gid)
            become = ["setpriv", f"--reuid={number}", f"--regid={group}"]
            become += [f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups", "--"]
        command = [*self.enter, *become, *map(str, args)]
        environment = {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **(env or {})}
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=environment,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(data or "", timeout=timeout)
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise LabError(f"{shlex.join(map(str, args))} took longer than {timeout:g} seconds") from error
                raise
        if check and process.returncode != 0:
            raise LabError(f"{shlex.join(map(str, args))} ended with status {process.returncode}:\n{out}{err}")
        return Result(process.returncode, out, err)

    def nft(self, text: str) -> None:
        """Load rules."""
        self.run(["nft", "-f", "-"], data=text)

    def socket(
        self,
        protocol: str = "tcp",
        *,
        family: int = 4,
        user: Optional[str] = None,
        uid: Optional[int] = None,
        gid: Optional[int] = None,
    ) -> socket.socket:
        """A fresh socket in this network namespace that was opened by this account. The caller closes it."""
        number, group, _groups = self._identity(user, uid, gid)
        kind = _KINDS[protocol]
        request = {"family": int(_FAMILIES[family]), "kind": int(kind), "protocol": PROTOCOLS[protocol]}
        handles = self._ask("socket", uid=number, gid=group, **request)[1]
        return socket.socket(fileno=handles[0])

    def open(
        self,
        protocol: str = "tcp",
        *,
        family: int = 4,
        user: Optional[str] = None,
        uid: Optional[int] = None,
        gid: Optional[int] = None,
        source_port: Optional[int] = None,
        port: int = PORT,
        address: Optional[str] = None,
        timeout: float = PATIENCE,
    ) -> Session:
        """Connect to the other side (or to an address) and stay connected.

        :param source_port: bind to this port first; without it the socket is unmodified.
        :param timeout: seconds for each step. Raises OSError as the client meets it (TimeoutError among them).
        """
        sock = self.socket(protocol, family=family, user=user, uid=uid, gid=gid)
        try:
            sock.settimeout(timeout)
            if source_port is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("0.0.0.0" if family == 4 else "::", source_port))
            sock.connect((address or self._other[family], port))
            if protocol in ("udp", "udplite"):
                sock.sendall(b"who am I?\n")
            return Session(sock=sock, port=int(sock.recv(100)))
        except BaseException:
            sock.close()
            raise

    def counter(self, table: str, name: str) -> int:
        """Packets that a named counter has counted.

        :param table: its family and name, such as "inet portfence".
        """
        listed = json.loads(self.run(["nft", "-j", "list", "counter", *table.split(), name]).out)["nftables"]
        return int(next(item["counter"]["packets"] for item in listed if "counter" in item))

    def connect(self, protocol: str = "tcp", **how: Any) -> Seen:
        """Connect like open() and hang up; never raises because of the network.

        The timeout is 1 second unless given.
        """
        try:
            session = self.open(protocol, **{"timeout": 1.0, **how})
        except socket.timeout:
            return Seen(None, "timeout")
        except ValueError:
            return Seen(None, "closed without an answer")
        except OSError as error:
            return Seen(None, errno.errorcode.get(error.errno or 0, str(error)))
        session.close()
        return Seen(session.port, None)

    def serve(self, port: int, *, user: Optional[str] = None, uid: Optional[int] = None, gid: Optional[int] = None) -> int:
        """Start a server of this account on a port, TCP and UDP, IPv4 and IPv6, that answers like the peer does.

        :return: its PID on the machine, for signals.
        """
        number, group, _groups = self._identity(user, uid, gid)
        return int(self._ask("serve", port=port, uid=number, gid=group)[0])


class Peer(Node):
    """The other end of the cable."""

    def packets(self) -> List[Packet]:
        """What arrived from the lab since the last call, in order: TCP segments, datagrams, ICMP, anything over IP.

        Whatever a client sent before this call is in it; neighbour discovery and the like are not.
        """
        return [Packet(**packet) for packet in self._ask("packets")[0]]


class Lab(Node):
    """A throwaway host; see the top of the file."""

    def __init__(self, *, collection: Path = REPOSITORY, capture: bool = True) -> None:
        """A lab; it is made when it is entered.

        :param collection: the folder of the collection whose modules are run.
        :param capture: whether the peer keeps a list of the packets that arrive, which costs time with each of them.
        """
        super().__init__(addresses=LAB_ADDRESSES, other=PEER_ADDRESSES)
        self.peer = Peer(addresses=PEER_ADDRESSES, other=LAB_ADDRESSES)
        self.backend = "auto"  # what field_rules.fence() asks for
        self._collection = collection
        self._capture = capture
        self._keeper: Optional[subprocess.Popen[str]] = None

    def __enter__(self) -> Lab:
        if os.geteuid() != 0:
            raise LabError("a lab needs root: it makes namespaces and mounts")
        pairs = [socket.socketpair() for _node in range(2)]
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("lab_keeper.py"))]
        theirs = [pair[1].fileno() for pair in pairs]
        # A session of its own, so that Ctrl-C reaches the tests first, which then end the lab in order.
        self._keeper = subprocess.Popen(
            [*command, *map(str, theirs), *(["capture"] if self._capture else [])],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            pass_fds=theirs,
            start_new_session=True,
            env={"PATH": PATH, "LC_ALL": "C.UTF-8"},
        )
        for pair in pairs:
            pair[1].close()
        self._control, self.peer._control = pairs[0][0], pairs[1][0]
        try:
            peer_pid = self._ask("")[0]["peer"]
        except (LabError, OSError) as error:
            said = self.close()
            raise LabError(said.strip() or str(error)) from error
        pid = self._keeper.pid
        namespaces = [f"--{kind}=/proc/{pid}/ns/{name}" for kind, name in (("mount", "mnt"), ("uts", "uts"), ("pid", "pid_for_children"))]
        self.enter = ("nsenter", *namespaces, f"--net=/proc/{pid}/ns/net", "--")
        self.peer.enter = ("nsenter", *namespaces, f"--net=/proc/{peer_pid}/ns/net", "--")
        return self

    def __exit__(self, *_about: object) -> None:
        self.close()

    def close(self) -> str:
        """End the lab and everything in it; what the keeper said on standard error."""
        if self._keeper is None:
            return ""
        for node in (self, self.peer):
            if node._control is not None:
                node._control.close()
                node._control = None
        try:
            return self._keeper.communicate(timeout=PATIENCE)[1]
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            return self._keeper.communicate()[1]
        finally:
            self._keeper = None

    def use_iptables(self, variant: str) -> None:
        """Make iptables and ip6tables the programs of a variant, "nft" or "legacy", and the backend of the fence."""
        for name in ("iptables", "ip6tables"):
            self.run(["update-alternatives", "--set", name, f"/usr/sbin/{name}-{variant}"])
        self.backend = "iptables"

    def add_user(self, name: str, uid: int) -> None:
        """A system account of the lab, with a group of its own."""
        self.run(["useradd", "--system", "--uid", str(uid), "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name])

    def module(
        self,
        name: str,
        /,
        *,
        check_mode: bool = False,
        diff: bool = False,
        **params: Any,
    ) -> Dict[str, Any]:
        """Run a module of the collection here, for real, on what Ansible would give it.

        :return: its result, whether "failed" or not; "warnings" as a list of texts.
        Raises LabError when it prints anything else, such as a traceback.
        """
        arguments = {**params, "_ansible_check_mode": check_mode, "_ansible_diff": diff}
        said = self._run_module(name, arguments, {"PYTHONPATH": self.collections(), "PYTHONDONTWRITEBYTECODE": "1"})
        try:
            answer: Dict[str, Any] = json.loads(said.out)
        except ValueError:
            raise LabError(f"{name} gave no result (status {said.rc}):\n{said.out}{said.err}") from None
        if "Traceback" in said.out + said.err:
            raise LabError(f"{name} gave a traceback:\n{said.out}{said.err}")
        # ansible-core 2.19 prints structures where it shows texts to people.
        answer["warnings"] = [item if isinstance(item, str) else item["event"]["msg"] for item in answer.get("warnings", [])]
        return answer

    def _run_module(self, name: str, arguments: Mapping[str, Any], env: Mapping[str, str]) -> Result:
        if self._collection != REPOSITORY:
            return self._start_module(name, arguments, env)
        done = run_module(self.enter, name, arguments, env)
        return Result(done["rc"], done["out"], done["err"])

    def _start_module(self, name: str, arguments: Mapping[str, Any], env: Mapping[str, str]) -> Result:
        """In a Python of its own."""
        command = [sys.executable, "-m", f"ansible_collections.portfence.egress.plugins.modules.{name}"]
        return self.run(command, data=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), check=False, env=env)

    def collections(self) -> str:
        """A folder of the lab from which Ansible and Python find the collection, and accounts without rights find Ansible.

        Both are mounted there: a checkout or an environment in root's home is nothing that other accounts can enter.
        """
        ansible = importlib.util.find_spec("ansible")
        assert ansible is not None and ansible.submodule_search_locations, "this Python has no Ansible"
        sources = {
            "ansible": str(list(ansible.submodule_search_locations)[0]),
            "ansible_collections/portfence/egress": str(self._collection),
        }
        for name, source in sources.items():
            script = 'mountpoint -q "$2" || { mkdir -p "$2" && mount --no-mtab --bind "$1" "$2"; }'
            self.run(["sh", "-c", script, "sh", source, f"{COLLECTIONS}/{name}"])
        return COLLECTIONS

    def reboot(self, *, check: bool = True) -> List[Result]:
        """Lose what a reboot loses, and do what a boot does for us.

        Processes, rules, sysctls, connections and /run are gone; files stay. Then, before there is any network but
        lo: sysctl.d (the network's keys), and the units of ours that are enabled, the fence first.

        :param check: raise LabError when a command of a unit fails.
        :return: the results of the units' commands, in order.
        """
        self._ask("power_off")
        self.power_on()
        self.run(["/lib/systemd/systemd-sysctl", "--prefix=/net"])
        results = [self.run(command, check=check and must) for command, must in self.boot_commands()]
        self._ask("connect")
        return results

    def power_on(self) -> None:
        """What a boot has before any unit, for labs that have more than this one."""

    def narrow(self) -> None:
        """Let the kernel choose ports below 50000 only, so that none lies in a service's range by chance."""
        self.run(["sysctl", "-qw", "net.ipv4.ip_local_port_range=32768 49999"])

    def wanted_units(self) -> Set[str]:
        """Units of ours that a boot starts."""
        listed = self.run(["sh", "-c", "ls /etc/systemd/system/*.wants/ | grep '^portfence'"], check=False).out.split()
        return {Path(name).name for name in listed}

    def boot_commands(self) -> List[Tuple[List[str], bool]]:
        """What systemd runs for our units that are enabled, in order, each with whether it has to succeed."""
        order = ["portfence.service", "portfence-namespaces.service"]
        commands = []
        for unit in sorted(self.wanted_units(), key=lambda unit: (order.index(unit) if unit in order else len(order), unit)):
            # systemd passes over a link to a unit that is not there.
            for line in self.run(["cat", f"/etc/systemd/system/{unit}"], check=False).out.splitlines():
                key, _equals, value = line.partition("=")
                if key.strip() in ("ExecStartPre", "ExecStart", "ExecStartPost"):
                    value = value.strip()
                    commands.append((shlex.split(value.lstrip("-+!@:")), not value.startswith("-")))
        return commands
