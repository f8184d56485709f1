# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attempts of an account that is fenced by where its processes are: in a cgroup, in a network namespace, behind an address."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import socket
import subprocess
import sys
from typing import Callable, Dict, Tuple

from attempt import KINDS, PEER, Attempt, Noted, become, bind_outside, by_program, each, fresh, from_strange, met, send, use_passed_on
from attempts_sockets import FREEBIND, mark

UID = 20001
_CLONE_NEWNET = 0x40000000  # <linux/sched.h>
# Where processes are put into cgroups, except into those that are mounted below these.
_HIERARCHIES = ("/sys/fs/cgroup", "/run/portfence/net_cls")
# In a cgroup namespace of its own, in which the account is root, the cgroup looks like the root of the hierarchy.
_OWN_ROOT = 'mount -t cgroup2 none /mnt; echo 0 >/mnt/cgroup.procs; mkdir /mnt/below && echo 0 >/mnt/below/cgroup.procs; exec "$@"'

PLACES: Dict[str, Attempt] = {}


def attempt_in_place(
    words: str, note: str = "", *, account: str = "fenced", without: Tuple[str, ...] = ()
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Puts a function into PLACES.

    :param account: ``fenced``, or ``root`` where it is staged.
    :param without: selectors that it does not go with.
    """

    def keep(function: Callable[[], None]) -> Callable[[], None]:
        PLACES[function.__name__] = Attempt(function, words, note, account, without=without)
        return function

    return keep


def _groups() -> Dict[str, str]:
    """The cgroup of this process in each of the hierarchies that are there, as a folder."""
    found = {}
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file:
            number, controllers, path = line.rstrip("\n").split(":", 2)
            root = _HIERARCHIES[0] if number == "0" else _HIERARCHIES[1] if "net_cls" in controllers else ""
            if root and os.path.exists(f"{root}/cgroup.procs"):
                found[root] = root + path
    return found


def _enter(group: str) -> None:
    with open(f"{group}/cgroup.procs", "w", encoding="ascii") as file:
        file.write("0")


def _enter_network(pid: int) -> None:
    with open(f"/proc/{pid}/ns/net", encoding="ascii") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def _leave() -> None:
    """As root: be where nothing of the fence looks."""
    for root in _groups():
        _enter(root)
    _enter_network(1)


@attempt_in_place("connects, and lets the kernel choose the port")
def place_choose() -> None:
    each(lambda _sock, _family: None)


@attempt_in_place("binds a port outside")
def place_bind() -> None:
    each(bind_outside)


@attempt_in_place("double fork, a new session, another program", "children are where their parents are")
def place_double_fork() -> None:
    by_program("setsid", "--fork", "--wait", sys.executable)


@attempt_in_place("marks its packets itself (`SO_MARK`)", "needs CAP_NET_ADMIN or CAP_NET_RAW")
def place_mark() -> None:
    mark()


@attempt_in_place(
    "an address that is not its own (`IP_FREEBIND`), and a port outside",
    "IPv4 has no route for it. What comes from other addresses than the `addresses` is not of the service: have the host drop what has no way"
    " back, also for IPv6",
)
def place_free_bind() -> None:
    addresses = {socket.AF_INET: "203.0.113.77", socket.AF_INET6: "2001:db8:77::77"}
    from_strange(addresses, FREEBIND)


@attempt_in_place("writes itself into other cgroups", "these are root's", without=("namespace", "addresses"))
def place_other_group() -> None:
    own = set(_groups().values())
    for root in _groups():
        for group in {root, *map(os.path.dirname, own), *glob.glob(f"{root}/*/"), *glob.glob(f"{root}/*/*/")} - own:
            if os.path.exists(f"{group}/cgroup.procs"):
                with Noted():
                    _enter(group)
    each(bind_outside)


@attempt_in_place("makes a cgroup below its own, and goes there", "it is root's", without=("namespace", "addresses"))
def place_below() -> None:
    _go_below()


def _go_below() -> None:
    for group in _groups().values():
        with Noted():
            os.mkdir(f"{group}/below")
            if os.path.exists(f"{group}/below/net_cls.classid"):
                with open(f"{group}/below/net_cls.classid", "w", encoding="ascii") as file:
                    file.write("0")
            _enter(f"{group}/below")
    each(bind_outside)


@attempt_in_place(
    "the same, in a cgroup that it was given (`Delegate=` with `User=`)",
    "who owns a cgroup of net_cls gives those below another class, or none. systemd gives none of net_cls away; don't do it by hand",
    account="root",
    without=("namespace", "addresses"),
)
def place_delegated() -> None:
    for group in _groups().values():
        for path in (group, f"{group}/cgroup.procs"):
            os.chown(path, UID, -1)
    become(UID, groups=[])
    _go_below()


@attempt_in_place("a cgroup namespace, in which it is root", without=("namespace", "addresses"))
def place_cgroup_namespace() -> None:
    by_program("unshare", "--user", "--map-root-user", "--mount", "--cgroup", "sh", "-c", f"{{ {_OWN_ROOT}; }} 2>/dev/null", "sh", sys.executable)


@attempt_in_place("enters the network namespace of init, or of a program of its own elsewhere (`setns`)", account="root")
def place_set_namespace() -> None:
    reader, writer = os.pipe()
    if os.fork() == 0:
        _leave()
        become(UID, groups=[])
        # A program that it has started may be looked at by its account, unlike a process that has just changed its account.
        os.dup2(writer, 1)
        os.execvp("sh", ["sh", "-c", "echo $$; exec sleep 20 >/dev/null"])
    elsewhere = int(os.read(reader, 20))
    become(UID, groups=[])
    program = "import attempts_places as a, sys; a._try_namespaces(int(sys.argv[1]))"
    for around in ((), ("unshare", "--user", "--map-root-user")):
        done = subprocess.run(
            [*around, sys.executable, "-sB", "-c", program, str(elsewhere)], cwd=os.path.dirname(__file__), check=True, capture_output=True, text=True
        )
        met.extend(done.stdout.split())
    each(bind_outside)
    os.kill(elsewhere, 9)


def _try_namespaces(elsewhere: int) -> None:
    for pid in (1, elsewhere):
        try:
            _enter_network(pid)
            print("ENTERED")
        except OSError as error:
            print(errno.errorcode[error.errno or 0])


@attempt_in_place("a user and a network namespace", "it has no way out of there")
def place_user_network() -> None:
    by_program("unshare", "--user", "--map-root-user", "--net", sys.executable)


@attempt_in_place(
    "a socket that was opened elsewhere and passed on",
    "it is of the place where it was opened; with net_cls, where it was received. With `namespace`, the account is fenced as well",
    account="root",
)
def place_passed_on() -> None:
    def elsewhere() -> None:
        _leave()
        become(UID, groups=[])

    use_passed_on(UID, elsewhere)


@attempt_in_place(
    "has a program of its own started elsewhere: `systemd-run --user`, cron, a login",
    "it is not of the service then. Fence the account as well where that matters, as `namespace` with a `user` does",
    account="root",
)
def place_elsewhere() -> None:
    _leave()
    become(UID, groups=[])
    each(bind_outside)


@attempt_in_place(
    "is root where it is, deletes the rules there, and takes another address",
    "an account without rights is not. What a namespace sends is judged on the host as well",
    account="root",
    without=("unit", "classid"),
)
def place_root() -> None:
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    (link,) = [name for name in os.listdir("/proc/sys/net/ipv4/conf") if name not in ("all", "default", "lo")]
    addresses = {socket.AF_INET: "203.0.113.78", socket.AF_INET6: "2001:db8:78::78"}
    for family, address in addresses.items():
        subprocess.run(["ip", "address", "add", address, "dev", link, *(["nodad"] if family == socket.AF_INET6 else [])], check=True)
        for kind in KINDS:
            for local in (address, ""):
                with Noted(), socket.socket(family, kind) as sock:
                    sock.bind((local, fresh()))
                    send(sock, PEER[family])
