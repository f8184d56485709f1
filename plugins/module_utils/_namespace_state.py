# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is on a host of the network namespaces of its services, and of the forwarding that they need."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_boot import RANGE_KEY
from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_host import Kernel
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, Problem
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._namespace import FAMILIES, INNER, interface_of, overlapping
from ansible_collections.portfence.egress.plugins.module_utils._namespace_spec import Namespace
from ansible_collections.portfence.egress.plugins.module_utils._namespace_text import Forwarding
from ansible_collections.portfence.egress.plugins.module_utils._netns import ipv6_in_use
from ansible_collections.portfence.egress.plugins.module_utils._sysctl import FOLDERS, LEGACY, reading_order, value_in

NAMED = "/run/netns"
_CONF = {"ipv4": "/proc/sys/net/ipv4/conf", "ipv6": "/proc/sys/net/ipv6/conf"}
_IPV4_SWITCH = "/proc/sys/net/ipv4/ip_forward"
_IPV6_SWITCH = "/proc/sys/net/ipv6/conf/all/forwarding"
_IPV6_KEY = "net.ipv6.conf.all.forwarding"


def joined(host: Host) -> List[str]:
    """Names of the network namespaces, ours or not, for which the host has an interface that is called like ours."""
    return [name for name in host.list(NAMED) if os.path.exists(f"/sys/class/net/{interface_of(name)}")]


class State:
    """Reads the machine."""

    def __init__(self, host: Host) -> None:
        """Raises HostError when ip is missing."""
        self._host = host
        self._ip = host.program("ip", package="iproute2")
        self._nsenter = host.program("nsenter", package="util-linux")

    def families(self) -> Tuple[str, ...]:
        """The families that this host speaks."""
        return FAMILIES if ipv6_in_use(self._host) else ("ipv4",)

    def enter(self, name: str) -> List[str]:
        """The beginning of a command that runs inside."""
        return [self._nsenter, f"--net={NAMED}/{name}", "--"]

    def exists(self, name: str) -> bool:
        """Whether there is a network namespace of this name. A file of a dead one is none."""
        try:
            return os.stat(f"{NAMED}/{name}").st_dev == os.stat("/proc/self/ns/net").st_dev
        except OSError:
            return False

    def identity(self, name: str) -> int:
        """The inode of a namespace, as it is below /proc/PID/ns; 0 where there is none."""
        return os.stat(f"{NAMED}/{name}").st_ino if self.exists(name) else 0

    def has_interface(self, interface: str) -> bool:
        """Whether the host has an interface."""
        return os.path.exists(f"/sys/class/net/{interface}")

    def wrong(self, namespace: Namespace, families: Sequence[str]) -> Tuple[List[str], bool]:
        """What the kernel lacks of a namespace that exists, in words.

        :returns: beside it, whether the veth pair has to be made anew: something is there that does not belong to it.
        """
        found: List[str] = []
        kernel = Kernel(namespace.name)
        if kernel.read(RANGE_KEY).split() != [str(namespace.ports.low), str(namespace.ports.high)]:
            found.append("set its ip_local_port_range")
        near = self._link(["dev", namespace.interface], ())
        far = self._link(["dev", INNER], self.enter(namespace.name))
        if near is None or far is None or not _joined(near, far):
            return [*found, "join it to the host"], near is not None
        ends = [namespace.pairs[family] for family in families]
        if _addresses(near) != {f"{pair.host}/{pair.length}" for pair in ends} or _addresses(far) != {
            f"{pair.inner}/{pair.length}" for pair in ends
        }:
            return [*found, "give it its addresses"], True
        if not (_is_up(near) and _is_up(far) and self._loopback_is_up(namespace.name)):
            return [*found, "bring its interfaces up"], False
        for family in families:
            if self._default_routes(namespace.name, family) != [(namespace.pairs[family].host, INNER)]:
                return [*found, "give it its default routes"], True
            if self._conf(family, namespace.interface, "forwarding") != "1":
                found.append(f"forward {family.replace('ip', 'IP')} for it")
        if "ipv6" in families and self._conf("ipv6", namespace.interface, "accept_ra") != "0":
            found.append("take no router advertisements from it")
        return found, False

    def _link(self, which: Sequence[str], enter: Sequence[str]) -> Optional[Dict[str, Any]]:
        shown = self._host.run([*enter, self._ip, "-d", "-j", "address", "show", *which], check=False)
        if shown.rc != 0:
            return None
        # iproute2 of Debian 11 prints empty objects for what the filter leaves out.
        links: List[Dict[str, Any]] = [link for link in json.loads(shown.out or "[]") if link]
        return links[0] if links else None

    def _loopback_is_up(self, name: str) -> bool:
        link = self._link(["dev", "lo"], self.enter(name))
        return link is not None and _is_up(link)

    def _default_routes(self, name: str, family: str) -> List[Tuple[Any, Any]]:
        shown = self._host.run([*self.enter(name), self._ip, f"-{family[-1]}", "-j", "route", "show", "default"]).out
        routes: List[Dict[str, Any]] = json.loads(shown.strip() or "[]")
        return [(route.get("gateway"), route.get("dev")) for route in routes]

    def _conf(self, family: str, interface: str, key: str) -> str:
        return (self._host.read(f"{_CONF[family]}/{interface}/{key}") or "").strip()

    def forwarding(self, record: Forwarding, families: Sequence[str]) -> Forwarding:
        """What is known about the host's own forwarding, from a record of before and what is there now.

        The namespaces never touch ip_forward: where it is on, somebody else wants IPv4 to be forwarded. There is no such
        sign for IPv6, except in sysctl files.
        """
        opened: List[str] = []
        kept: Tuple[str, ...] = ()
        if self._value(_IPV4_SWITCH) != "1":
            opened.append("ipv4")
            kept = record.kept if "ipv4" in record.opened else tuple(self._forwarding_interfaces())
        if "ipv6" in families and self._declared(_IPV6_KEY) != "1":
            if "ipv6" in record.opened or self._value(_IPV6_SWITCH) != "1":
                opened.append("ipv6")
        return Forwarding(tuple(opened), kept)

    def forwards(self, forwarding: Forwarding) -> bool:
        """Whether the kernel does what was opened."""
        if "ipv4" in forwarding.opened and set(self._forwarding_interfaces()) != set(self._interfaces("ipv4")):
            return False
        return "ipv6" not in forwarding.opened or self._value(_IPV6_SWITCH) == "1"

    def may_be_opened(self, families: Sequence[str], *, own: Iterable[str]) -> bool:
        """Whether something is forwarded that nobody but a namespace seems to want.

        :param own: interfaces of namespaces of ours, which forward anyway.
        """
        doubtful = self.forwarding(Forwarding(FAMILIES), families).opened
        others = set(self._forwarding_interfaces()) - set(own)
        return ("ipv4" in doubtful and bool(others)) or ("ipv6" in doubtful and self._value(_IPV6_SWITCH) == "1")

    def close(self, record: Forwarding) -> None:
        """Put back the forwarding of before. Raises HostError."""
        if "ipv4" in record.opened and self._value(_IPV4_SWITCH) != "1":
            for name in self._interfaces("ipv4"):
                self._write(f"{_CONF['ipv4']}/{name}/forwarding", "1" if name in record.kept else "0")
        if "ipv6" in record.opened and self._declared(_IPV6_KEY) != "1":
            # It turns off every interface, too, so each gets back what it had of its own.
            before = {name: self._conf("ipv6", name, "forwarding") for name in self._interfaces("ipv6")}
            self._write(_IPV6_SWITCH, "0")
            for name, value in before.items():
                self._write(f"{_CONF['ipv6']}/{name}/forwarding", value)

    def _interfaces(self, family: str) -> List[str]:
        return [name for name in self._host.list(_CONF[family]) if name != "all"]

    def _forwarding_interfaces(self) -> List[str]:
        return [name for name in self._interfaces("ipv4") if self._conf("ipv4", name, "forwarding") == "1"]

    def _value(self, path: str) -> str:
        return (self._host.read(path) or "").strip()

    def _write(self, path: str, value: str) -> None:
        if self._value(path) in ("", value):  # an interface may have gone meanwhile
            return
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write(f"{value}\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise HostError(f"can't write {path}: {error.strerror}") from error

    def _declared(self, key: str) -> Optional[str]:
        """The value that sysctl files give to a key, or None."""
        paths = [os.path.join(*found) for found in reading_order({folder: self._host.list(folder) for folder in FOLDERS})]
        values = [value_in(self._host.read(path) or "", key) for path in [LEGACY, *paths]]
        return next((value for value in reversed(values) if value is not None), None)

    def collisions(self, namespace: Namespace, *, path: str, own: Iterable[str]) -> List[Problem]:
        """Addresses and routes of the host that are in a network of the namespace, or that it is in.

        :param own: interfaces of namespaces of ours, whose routes don't count.
        """
        problems = []
        for family in FAMILIES:
            network = namespace.pairs[family].network
            taken = {
                f"{route['dst']} of {route.get('dev', route.get('type', 'this host'))}": route["dst"]
                for selector in ("root", "match")
                for route in self._routes(family, [selector, str(network)])
                if route["dst"] != "default" and route.get("dev") not in own
            }
            hits = [shown for shown, dst in taken.items() if overlapping(network, [dst])]
            if hits:
                problems.append(
                    Problem(
                        f"{path}.{family}",
                        f"{network} overlaps with the route to {sorted(hits)[0]}; give the namespace a network that this host"
                        " does not use",
                    )
                )
        return problems

    def _routes(self, family: str, selector: Sequence[str]) -> List[Dict[str, Any]]:
        args = [self._ip, "-j", f"-{family[-1]}", "route", "show", "table", "all", *selector]
        shown = self._host.run(args, check=False)
        routes: List[Dict[str, Any]] = json.loads(shown.out.strip() or "[]") if shown.rc == 0 else []
        return [route for route in routes if "dst" in route]

    def local_resolver(self) -> bool:
        """Whether names are looked up through a loopback address, where no program of a namespace finds anybody."""
        # Usually a link to what the account of systemd-resolved writes.
        lines = (self._host.read_others("/etc/resolv.conf") or "").split("\n")
        servers = [line.split()[1] for line in lines if line.startswith("nameserver ") and len(line.split()) > 1]
        return bool(servers) and all(server.startswith("127.") or server == "::1" for server in servers)


def _joined(near: Mapping[str, Any], far: Mapping[str, Any]) -> bool:
    """Whether two interfaces are the ends of one veth pair."""
    kinds = [link.get("linkinfo", {}).get("info_kind") for link in (near, far)]
    return kinds == ["veth", "veth"] and near.get("link_index") == far.get("ifindex") and far.get("link_index") == near.get("ifindex")


def _addresses(link: Mapping[str, Any]) -> Any:
    return {
        f"{address['local']}/{address['prefixlen']}"
        for address in link.get("addr_info", [])
        if address.get("local") and address.get("scope") != "link"
    }


def _is_up(link: Mapping[str, Any]) -> bool:
    return "UP" in link.get("flags", [])
