# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A temporary network namespace without a name, joined to this host by a veth pair.

The namespace lives in a child process, and the veth pair lives in the namespace: when the child ends, for whatever
reason, the kernel removes both. The addresses come from the blocks that are reserved for documentation
(RFC 5737, RFC 3849), so they belong to nobody.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import json
import os
import random
import signal
import time
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host

FAMILIES = ("ipv4", "ipv6")
WAY_OUT = "give the probe a target instead, a responder on another machine"

_PATIENCE = 10.0  # seconds

_CLONE_NEWNET = 0x40000000  # <linux/sched.h>
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
FAR_END = "portfence0"


class _Block(NamedTuple):
    prefix: str  # all of it is for documentation
    step: int  # addresses from one network to the next
    length: int  # prefix length of one network: two ends fit in


BLOCKS: Mapping[str, Sequence[_Block]] = {
    "ipv4": (_Block("198.51.100.0/24", 4, 30), _Block("203.0.113.0/24", 4, 30), _Block("192.0.2.0/24", 4, 30)),
    "ipv6": (_Block("2001:db8:ff::/48", 2**64, 126),),
}


class Ends(NamedTuple):
    """The addresses of the two ends of the pair, in one family."""

    host: str
    peer: str
    length: int


def free_ends(block: _Block, *, taken: Sequence[str], start: int) -> Optional[Ends]:
    """The first network of a block that overlaps with none that is taken, or None. Pure.

    :param taken: addresses and networks in CIDR notation.
    :param start: which network to look at first; the search goes round.
    """
    whole = ipaddress.ip_network(block.prefix)
    used = [ipaddress.ip_network(item, strict=False) for item in taken]
    count = whole.num_addresses // block.step
    for index in range(count):
        first = whole.network_address + (start + index) % count * block.step
        network = ipaddress.ip_network(f"{first}/{block.length}")
        if not any(network.overlaps(other) for other in used):
            return Ends(str(first + 1), str(first + 2), block.length)
    return None


def choose_ends(host: Host, families: Sequence[str]) -> Dict[str, Ends]:
    """Networks that no address and no route of this host touches, by family.

    The choice is random, so that traces of an earlier run, such as tracked connections, don't get in the way.
    Raises HostError when there is none.
    """
    ip = host.program("ip", package="iproute2")
    chosen: Dict[str, Ends] = {}
    for family in families:
        for block in BLOCKS[family]:
            # Addresses are among the routes too, in the table local.
            args = [ip, "-j", f"-{family[-1]}", "route", "show", "table", "all", "root", block.prefix]
            text = host.run(args).out.strip()
            taken = [route["dst"] for route in (json.loads(text) if text else [])]
            ends = free_ends(block, taken=taken, start=random.randrange(65536))
            if ends is not None:
                chosen[family] = ends
                break
        else:
            blocks = ", ".join(block.prefix for block in BLOCKS[family])
            raise HostError(
                f"the temporary peer needs an {family.replace('ip', 'IP')} network of the documentation addresses"
                f" ({blocks}), but this host has routes to all of them; remove a route, or {WAY_OUT}"
            )
    return chosen


def ipv6_in_use(host: Host) -> bool:
    """Whether this host speaks IPv6. Where it does, at least lo has an address, and the kernel lists it."""
    return bool((host.read("/proc/net/if_inet6") or "").strip())


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends (prctl(2), PR_SET_PDEATHSIG).

    :param parent: PID of the parent, as it was before fork(): it may have ended already.
    """
    _system("prctl", _PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def leave_network() -> None:
    """Move this process to a network namespace of its own (unshare(2)). Raises HostError."""
    try:
        _system("unshare", _CLONE_NEWNET)
    except OSError as error:
        why = {
            errno.EPERM: "the module runs in a container that may not make namespaces",
            errno.ENOSPC: "user.max_net_namespaces is used up",
            errno.EINVAL: "the kernel has no network namespaces",
        }.get(error.errno or 0, "unshare failed")
        raise HostError(
            f"can't make a temporary network namespace ({error.strerror}): {why}; {WAY_OUT}"
        ) from error


def enter_network(path: str) -> None:
    """Move this thread to the network namespace of a file (setns(2)). Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _system("setns", handle, _CLONE_NEWNET)
    finally:
        os.close(handle)


def _system(name: str, *args: int) -> None:
    # Python has os.unshare from 3.12 on, and never prctl.
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Cable:
    """The veth pair between this host and the namespace of a child process."""

    def __init__(self, *, host: Host, ends: Mapping[str, Ends]) -> None:
        self._host = host
        self.ends = dict(ends)
        token = os.urandom(5).hex()
        self.name = f"pf{token}"
        self._macs = (_mac(), _mac())

    def plug(self, pid: int) -> None:
        """Make the pair, with its far end in the namespace of a process, and set up this end. Raises HostError."""
        near, far = self._macs
        try:
            self._ip(
                [f"link add name {self.name} address {near} type veth peer name {FAR_END} address {far} netns {pid}"]
            )
        except HostError as error:
            raise HostError(
                f"can't join a temporary network namespace to this host by a veth pair: {error}; the kernel module veth"
                f" may be missing; load it, or {WAY_OUT}"
            ) from error
        self._set_up(self.name, {family: (ends.host, ends.peer) for family, ends in self.ends.items()}, far)

    def check(self) -> None:
        """See to it that packets come through from this end. Raises HostError."""
        self._await_ready(self.name, [ends.host for ends in self.ends.values()])
        self._check_routes([ends.peer for ends in self.ends.values()])

    def set_up_far_end(self) -> None:
        """Set up the other end. Called by the process in the namespace. Raises HostError."""
        pairs = {family: (ends.peer, ends.host) for family, ends in self.ends.items()}
        self._set_up(FAR_END, pairs, self._macs[0], before=["link set lo up"])
        self._await_ready(FAR_END, [ends.peer for ends in self.ends.values()])

    def unplug(self) -> None:
        """Remove the pair, unless it has gone with the namespace already."""
        ip = self._host.find("ip")
        if ip is not None and os.path.exists(f"/sys/class/net/{self.name}"):
            self._host.run([ip, "link", "delete", self.name], check=False)

    def _set_up(self, name: str, pairs: Mapping[str, Sequence[str]], other_mac: str, *, before: Sequence[str] = ()) -> None:
        if "ipv6" in pairs:
            _enable_ipv6(name)
        commands = [*before]
        for family, (own, _other) in pairs.items():
            # No duplicate address detection: the address would not be usable for a second.
            nodad = " nodad" if family == "ipv6" else ""
            commands.append(f"address add {own}/{self.ends[family].length} dev {name}{nodad}")
        commands.append(f"link set {name} up")
        # Neighbours are given, so that no firewall's view of ARP and neighbour discovery decides about the result.
        for _own, other in pairs.values():
            commands.append(f"neighbour replace {other} lladdr {other_mac} dev {name} nud permanent")
        self._ip(commands)

    def _ip(self, commands: Sequence[str], *options: str) -> str:
        """What ip prints. Raises HostError."""
        ip = self._host.program("ip", package="iproute2")
        return self._host.run([ip, *options, "-batch", "-"], data="".join(f"{command}\n" for command in commands)).out

    def _await_ready(self, name: str, addresses: Sequence[str]) -> None:
        """Wait until the kernel no longer discards what is sent, and takes what comes to these addresses for its own.

        It notes in the background that the other end is up, and that an IPv6 address can be used (addrconf_dad_work(),
        even with nodad): until then, what comes to it is forwarded, or dropped.
        """
        commands = [f"link show dev {name}", *(f"route get {address}" for address in addresses)]
        deadline = time.monotonic() + _PATIENCE
        while True:
            link, *routes = self._show(commands)
            if link.get("operstate") == "UP" and link.get("qdisc") != "noop" and all(route.get("type") == "local" for route in routes):
                return
            if time.monotonic() > deadline:
                raise HostError(f"the temporary interface {name} does not come up; {WAY_OUT}")
            time.sleep(0.005)

    def _check_routes(self, addresses: Sequence[str]) -> None:
        for address, route in zip(addresses, self._show([f"route get {address}" for address in addresses])):
            if route.get("dev") != self.name:
                raise HostError(
                    f"this host's policy routing (ip rule) sends {address} to {route.get('dev')} instead of the temporary peer; {WAY_OUT}"
                )

    def _show(self, commands: Sequence[str]) -> List[Dict[str, Any]]:
        """What ip has to say to each of these, a line of JSON for each. Raises HostError."""
        try:
            printed = self._ip(commands, "-j")
        except HostError as error:
            raise HostError(f"the temporary interface can't be used: ip {', '.join(commands)}: {error}; {WAY_OUT}") from error
        return [json.loads(line)[0] for line in printed.split("\n") if line]


def _mac() -> str:
    """A random locally administered unicast address."""
    return ":".join(f"{byte:02x}" for byte in (0x02, *os.urandom(5)))


def _enable_ipv6(name: str) -> None:
    # Hosts that speak IPv6 on some interfaces only have net.ipv6.conf.default.disable_ipv6=1.
    path = f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6"
    try:
        with open(path, "r+", encoding="ascii") as file:
            if file.read().strip() != "0":
                file.seek(0)
                file.write("0\n")
    except OSError as error:
        raise HostError(f"can't enable IPv6 on the temporary interface: {path}: {error.strerror}; {WAY_OUT}") from error
