# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service as it stands once it was read: checked and complete. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._classid import format_classid
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet

PROTOCOLS = ("tcp", "udp", "sctp", "dccp", "udplite")
ASSIGNMENTS = ("rewrite", "app", "host", "bpf", "namespace", "auto")
ON_VIOLATION = ("drop", "reject", "log")
STATES = ("present", "absent")
LOG_LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
SELECTORS = ("user", "group", "classid", "unit", "addresses")
HIGHEST_ID = 2**32 - 2

# Bytes that fit before the kernel cuts: NF_LOG_PREFIXLEN (128 with the final NUL) for nftables, struct
# xt_log_info (30 with the final NUL) for the LOG target of iptables.
PREFIX_BYTES = {"nftables": 127, "iptables": 29}
# Lines a second, and at once, that all rules of a host may log together: each has its own rate, and there may be thousands of them. What an
# account can have written in a day (432,200 lines) fits on a disk until the log is rotated.
LOG_CEILING, LOG_BURST = 5, 200

KEYS = (
    "source_ports",
    *SELECTORS,
    "interface",
    "masquerade",
    "protocols",
    "assignment",
    "share_ports",
    "listen_ports",
    "namespace",
    "on_violation",
    "exclusive",
    "loopback",
    "log",
    "state",
    "uid",
    "manage_account",
    "allow_admin",
)
# Keys of services in the inventory variables only: they say which ports a service gets, not what becomes of its packets.
ALLOCATION_KEYS = ("size", "scope")
SCOPES = ("service", "host")
LARGEST_SIZE = 32768
LOG_KEYS = ("prefix", "level", "rate")
NAMESPACE_KEYS = ("ipv4", "ipv6", "dns")

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\Z")


@dataclass(frozen=True)
class Log:
    """How violations and intrusions are logged. No prefix means the backend's own, which carries the service's name."""

    prefix: Optional[str] = None
    level: str = "warning"
    rate: str = "10/second"


@dataclass(frozen=True)
class Namespace:
    """The network namespace of a service.

    :ivar ipv4: network of its veth pair in CIDR notation: the host has the first address, the namespace the second.
    :ivar ipv6: likewise. None means that they follow from the service's first port.
    :ivar dns: addresses of name servers; none means those of the host.
    """

    ipv4: Optional[str] = None
    ipv6: Optional[str] = None
    dns: Tuple[str, ...] = ()

    def to_dict(self) -> Dict[str, Any]:
        """What was given, as plain data."""
        data: Dict[str, Any] = {key: value for key, value in (("ipv4", self.ipv4), ("ipv6", self.ipv6)) if value}
        return {**data, "dns": list(self.dns)} if self.dns else data


@dataclass(frozen=True)
class Service:
    """One egress identity. Users and groups are names, or numbers as text.

    :ivar units: names of systemd units, each with its suffix.
    :ivar addresses: networks in CIDR notation, each as short as its family's library writes it.
    :ivar listen_ports: ports that its units may bind to beside the source ports; None where they may bind to any.
    :ivar interface: the interface where forwarded traffic of these addresses comes in; None for any.
    """

    name: str
    users: Tuple[str, ...] = ()
    groups: Tuple[str, ...] = ()
    classid: Optional[int] = None
    units: Tuple[str, ...] = ()
    addresses: Tuple[str, ...] = ()
    interface: Optional[str] = None
    masquerade: bool = True
    source_ports: PortSet = PortSet()
    protocols: Tuple[str, ...] = ("tcp", "udp")
    assignment: str = "rewrite"
    share_ports: bool = False
    listen_ports: Optional[PortSet] = None
    namespace: Namespace = Namespace()
    on_violation: str = "drop"
    exclusive: bool = True
    loopback: bool = False
    log: Log = Log()
    state: str = "present"
    uid: Optional[int] = None
    manage_account: bool = True
    allow_admin: bool = False

    @property
    def selector(self) -> str:
        """Which of :data:`SELECTORS` it has."""
        given = {
            "group": self.groups,
            "classid": self.classid is not None,
            "unit": self.units,
            "addresses": self.addresses,
        }
        return next((selector for selector in SELECTORS if given.get(selector)), "user")

    @property
    def refuses_bind(self) -> bool:
        """Whether eBPF refuses a bind to any other port; an audit refuses nothing."""
        return self.assignment == "bpf" and self.on_violation != "log"

    @property
    def wall(self) -> Optional[PortSet]:
        """The ports that systemd lets its units bind to beside the source ports; None for any, as in an audit."""
        return None if self.on_violation == "log" else self.listen_ports

    def to_dict(self, *, defaults: bool = True) -> Dict[str, Any]:
        """The service as plain data: every key that has a value. :func:`_policy.parse_list` reads back an equal service.

        :param defaults: whether keys are in it that have their default. Name and state always are.
        """
        data: Dict[str, Any] = {
            "name": self.name,
            "state": self.state,
            "user": list(self.users),
            "group": list(self.groups),
            "unit": list(self.units),
            "addresses": list(self.addresses),
            "source_ports": [str(part) for part in self.source_ports],
            "protocols": list(self.protocols),
            "assignment": self.assignment,
            "on_violation": self.on_violation,
            "exclusive": self.exclusive,
            "loopback": self.loopback,
            "log": {"level": self.log.level, "rate": self.log.rate},
            "manage_account": self.manage_account,
            "allow_admin": self.allow_admin,
        }
        if self.log.prefix is not None:
            data["log"]["prefix"] = self.log.prefix
        if self.classid is not None:
            data["classid"] = format_classid(self.classid)
        if self.addresses:
            data["masquerade"] = self.masquerade
        if self.assignment in ("bpf", "auto"):
            data["share_ports"] = self.share_ports
        if self.listen_ports is not None:
            data["listen_ports"] = [str(part) for part in self.listen_ports]
        for key, value in (("interface", self.interface), ("namespace", self.namespace.to_dict() or None), ("uid", self.uid)):
            if value is not None:
                data[key] = value
        if defaults:
            return data
        return {key: value for key, value in data.items() if key in ("name", "state") or value != _DEFAULTS.get(key)}


_DEFAULTS = Service(name="").to_dict()


@dataclass(frozen=True)
class Declared:
    """A service, and where it was written (a path such as ``egress_services.myapp``).

    :ivar size: the number of ports that it asks for with ``source_ports: auto``; None where the ports are written by hand.
    :ivar scope: one of :data:`SCOPES` where it was given.
    """

    path: str
    service: Service
    size: Optional[int] = None
    scope: Optional[str] = None


@dataclass(frozen=True)
class Allocated:
    """What ``source_ports: auto`` stands for on a host.

    :ivar services: the ranges of services, the same on every host; None while ranges are still to be allocated, and auto is no port.
    :ivar host: the ranges of this host's services in its NAT domain.
    :ivar scope: which of the two a service takes that does not say.
    :ivar missing: what to say about a service that is not there.
    """

    services: Optional[Mapping[str, PortSet]] = None
    host: Mapping[str, PortSet] = field(default_factory=dict)
    scope: str = SCOPES[0]
    missing: str = ""

    def find(self, name: str, scope: Optional[str]) -> Optional[PortSet]:
        """The ports of a service."""
        ranges = self.host if (scope or self.scope) == "host" else self.services or {}
        return ranges.get(name)


def is_id(name: str) -> bool:
    """Whether an account or a group is given by its number."""
    return name.isascii() and name.isdigit()
