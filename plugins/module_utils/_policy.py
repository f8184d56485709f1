# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user may write, and what it means: the one schema of a service. Pure.

Both doors, the inventory variables and the module parameters, lead through :func:`parse_variables` or
:func:`parse_list` to :class:`Service` objects. Every mistake is collected with its path before anything is raised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, Problem, shown
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet, PortSyntaxError

PROTOCOLS = ("tcp", "udp", "sctp", "dccp", "udplite")
ASSIGNMENTS = ("rewrite", "app", "host")
ON_VIOLATION = ("drop", "reject", "log")
STATES = ("present", "absent")
LOG_LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
SELECTORS = ("user", "group")
HIGHEST_ID = 2**32 - 2

# Bytes that fit before the kernel cuts: NF_LOG_PREFIXLEN (128 with the final NUL) for nftables, struct
# xt_log_info (30 with the final NUL) for the LOG target of iptables.
PREFIX_BYTES = {"nftables": 127, "iptables": 29}

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\Z")
# No control characters, and no lone surrogates, which the name service can't be asked for.
_ACCOUNT = re.compile(r"[^\s:,/\x00-\x1f\x7f-\x9f\ud800-\udfff-][^\s:,/\x00-\x1f\x7f-\x9f\ud800-\udfff]{0,255}\Z")
_RATE = re.compile(r"([1-9][0-9]{0,8})/(second|minute|hour|day)\Z")
# Printable ASCII that means nothing inside a quoted string of nft or iptables-restore.
_PREFIX = re.compile(r"[ !#%-&(-\[\]-_a-~]+\Z")
# Overlaps that are told one by one: of 5,000 services with the same ports there would be 12 million.
_MOST_OVERLAPS = 1000


@dataclass(frozen=True)
class Log:
    """How violations and intrusions are logged. No prefix means the backend's own, which carries the service's name."""

    prefix: Optional[str] = None
    level: str = "warning"
    rate: str = "10/second"


@dataclass(frozen=True)
class Service:
    """One egress identity, checked and complete. Users and groups are names, or numbers as text."""

    name: str
    users: Tuple[str, ...] = ()
    groups: Tuple[str, ...] = ()
    source_ports: PortSet = PortSet()
    protocols: Tuple[str, ...] = ("tcp", "udp")
    assignment: str = "rewrite"
    on_violation: str = "drop"
    exclusive: bool = True
    loopback: bool = False
    log: Log = Log()
    state: str = "present"
    uid: Optional[int] = None
    manage_account: bool = True
    allow_admin: bool = False

    def to_dict(self) -> Dict[str, Any]:
        """The service as plain data with every key, which :func:`parse_list` reads back to an equal service."""
        data: Dict[str, Any] = {
            "name": self.name,
            "state": self.state,
            "user": list(self.users),
            "group": list(self.groups),
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
        if self.uid is not None:
            data["uid"] = self.uid
        return data


@dataclass(frozen=True)
class Declared:
    """A service, and where it was written (a path such as ``egress_services.myapp``)."""

    path: str
    service: Service


def parse_variables(variables: Mapping[str, Any], *, backend: str = "nftables") -> Tuple[Service, ...]:
    """Merge and read ``egress_services`` and every ``egress_services__*``.

    :param variables: variable name to its value, a mapping of service names to services.
    :param backend: which of :data:`PREFIX_BYTES` holds.
    :returns: services sorted by name.
    Raises InputError with every mistake.
    """
    problems: List[Problem] = []
    declared: List[Declared] = []
    owners: Dict[str, str] = {}
    for key in sorted(variables, key=_text):
        value = variables[key]
        variable = key if isinstance(key, str) and key.isidentifier() and key.isascii() else shown(key)
        if value is None:
            continue
        if not isinstance(value, Mapping):
            problems.append(Problem(variable, f"found {shown(value)}; accepted: a mapping of service names to services"))
            continue
        for name in value:
            path = f"{variable}.{_label(name)}"
            if _text(name) in owners:
                problems.append(
                    Problem(path, f"the service is already defined in {owners[_text(name)]}; define it in one of the two")
                )
                continue
            owners[_text(name)] = variable
            _read_into(declared, problems, path=path, name=name, value=value[name], backend=backend)
    problems.extend(conflicts(declared))
    if problems:
        raise InputError(what="the egress policy", problems=problems)
    return tuple(sorted((item.service for item in declared), key=lambda service: service.name))


def parse_list(
    services: Sequence[Any], *, where: str = "services", backend: str = "nftables"
) -> Tuple[Declared, ...]:
    """Read a list of services that carry their ``name``, as modules take it.

    Checks each service and that no name comes twice; whether services contradict each other is asked with
    :func:`conflicts` once all services of the host are known. Raises InputError with every mistake.
    """
    problems: List[Problem] = []
    declared: List[Declared] = []
    owners: Dict[str, str] = {}
    for index, item in enumerate(services):
        path = f"{where}[{index}]"
        if not isinstance(item, Mapping):
            problems.append(Problem(path, f"found {shown(item)}; accepted: a mapping with name, source_ports, …"))
            continue
        if item.get("name") is None:
            problems.append(Problem(f"{path}.name", "missing; every service of a list needs a name"))
            continue
        name = item["name"]
        if _text(name) in owners:
            problems.append(Problem(f"{path}.name", f"{_label(name)} is already {owners[_text(name)]}.name"))
            continue
        owners[_text(name)] = path
        rest = {key: value for key, value in item.items() if key != "name"}
        _read_into(declared, problems, path=path, name=name, value=rest, backend=backend)
    if problems:
        raise InputError(what="the list of services", problems=problems)
    return tuple(declared)


def conflicts(declared: Sequence[Declared]) -> List[Problem]:
    """Mistakes that only show when services of one host are seen together."""
    present = [item for item in declared if item.service.state == "present"]
    return [*_overlaps(present), *_shared_selectors(present), *_second_host_range(present)]


def _overlaps(present: Sequence[Declared]) -> List[Problem]:
    ranges = sorted(
        (part.low, part.high, index) for index, item in enumerate(present) for part in item.service.source_ports
    )
    found: Dict[Tuple[int, int], List[str]] = {}
    open_ranges: List[Tuple[int, int, int]] = []
    problems: List[Problem] = []
    for low, high, index in ranges:
        if len(found) >= _MOST_OVERLAPS:
            more = f"more services share ports; only the first {_MOST_OVERLAPS} pairs are listed"
            problems.append(Problem(f"{present[index].path}.source_ports", more))
            break
        open_ranges = [other for other in open_ranges if other[1] >= low]
        for _other_low, other_high, other in open_ranges:
            if other != index:
                pair = (min(index, other), max(index, other))
                end = min(high, other_high)
                found.setdefault(pair, []).append(str(low) if low == end else f"{low}-{end}")
        open_ranges.append((low, high, index))
    told = [
        Problem(
            f"{present[second].path}.source_ports",
            f"{', '.join(shared)} also belongs to {present[first].path}; services of one host can't share source ports",
        )
        for (first, second), shared in sorted(found.items())
    ]
    return told + problems


def _shared_selectors(present: Sequence[Declared]) -> List[Problem]:
    problems = []
    owners: Dict[Tuple[str, str], str] = {}
    for item in present:
        for selector, names in (("user", item.service.users), ("group", item.service.groups)):
            for name in names:
                owner = owners.setdefault((selector, name), item.path)
                if owner != item.path:
                    problems.append(
                        Problem(
                            f"{item.path}.{selector}",
                            f"{name} is already the {selector} of {owner}; one {selector} can belong to one service only",
                        )
                    )
    return problems


def _second_host_range(present: Sequence[Declared]) -> List[Problem]:
    takers = [item for item in present if item.service.assignment == "host"]
    return [
        Problem(
            f"{item.path}.assignment",
            f"found host, which {takers[0].path} has as well; a host has one ip_local_port_range, so only one service"
            " can be assigned its ports that way; use rewrite or app",
        )
        for item in takers[1:]
    ]


def _read_into(
    declared: List[Declared], problems: List[Problem], *, path: str, name: object, value: object, backend: str
) -> None:
    reader = _Reader(path=path, problems=problems)
    if not isinstance(name, str) or not _NAME.match(name):
        reader.wrong(
            "",
            f"found the service name {shown(name)}; accepted: 1 to 32 letters, digits, '_', '-' or '.', not starting"
            " with '-' or '.'",
        )
    if not isinstance(value, Mapping):
        reader.wrong("", f"found {shown(value)}; accepted: a mapping with at least source_ports")
        return
    # Kept in spite of mistakes: what it contradicts shall be told in the same run.
    declared.append(Declared(path, reader.service(_text(name), value, backend)))


class _Reader:
    """Reads one service. Notes mistakes below its path and goes on, so that one run finds them all."""

    def __init__(self, *, path: str, problems: List[Problem]) -> None:
        self.path = path
        self.problems = problems

    def wrong(self, below: str, message: str) -> None:
        joint = "." if below and not below.startswith("[") else ""
        self.problems.append(Problem(f"{self.path}{joint}{below}", message))

    def service(self, name: str, value: Mapping[Any, Any], backend: str) -> Service:
        self.unknown_keys(value, KEYS, below="")
        given = {_text(key): item for key, item in value.items() if item is not None}
        state = self.choice(given, "state", STATES, "present")
        if state == "absent":
            return Service(name=name, state="absent")
        users, groups = self.accounts(given, "user"), self.accounts(given, "group")
        if users and groups:
            self.wrong("", "found two selectors, user and group; accepted: one of them")
        if given.get("user", []) in ([], ()) and given.get("group", []) in ([], ()):
            users = (name,)
        assignment = self.choice(given, "assignment", ASSIGNMENTS, "rewrite")
        ports = self.ports(given)
        exclusive = self.flag(given, "exclusive", assignment != "host")
        if assignment == "host":
            if exclusive:
                self.wrong(
                    "exclusive",
                    "found true with assignment host; every other program of the host gets its ports from the same"
                    " ip_local_port_range, so the range can't be exclusive; leave it out or use rewrite or app",
                )
            if len(ports.ranges) > 1:
                self.wrong(
                    "source_ports",
                    f"found {len(ports.ranges)} ranges with assignment host; ip_local_port_range holds one range;"
                    " accepted: one range, or assignment rewrite or app",
                )
        return Service(
            name=name,
            users=users,
            groups=groups,
            source_ports=ports,
            protocols=self.protocols(given),
            assignment=assignment,
            on_violation=self.choice(given, "on_violation", ON_VIOLATION, "drop"),
            exclusive=exclusive,
            loopback=self.flag(given, "loopback", False),
            log=self.log(given, backend),
            uid=self.uid(given, users),
            manage_account=self.flag(given, "manage_account", True),
            allow_admin=self.flag(given, "allow_admin", False),
        )

    def unknown_keys(self, given: Mapping[Any, Any], known: Sequence[str], *, below: str) -> None:
        for key in given:
            if key not in known:
                from difflib import get_close_matches  # only on the way to an error

                word = isinstance(key, str) and len(key) <= 60 and key.isascii() and key.isidentifier()
                near = get_close_matches(key, known, n=1) if word else ()
                guess = f"did you mean {near[0]}? " if near else ""
                label = key if word else shown(key)
                self.wrong(
                    f"{below}.{label}" if below else label,
                    f"unknown key; {guess}accepted: {', '.join(known)}",
                )

    def choice(self, given: Mapping[str, Any], key: str, accepted: Sequence[str], default: str) -> str:
        value = given.get(key, default)
        if value not in accepted:
            self.wrong(key, f"found {shown(value)}; accepted: {', '.join(accepted)}")
            return default
        return str(value)

    def flag(self, given: Mapping[str, Any], key: str, default: bool) -> bool:
        value = given.get(key, default)
        if isinstance(value, bool):
            return value
        # A template or "-e" gives text; these are YAML's own words for the two.
        if isinstance(value, str) and value.lower() in ("true", "yes", "on"):
            return True
        if isinstance(value, str) and value.lower() in ("false", "no", "off"):
            return False
        self.wrong(key, f"found {shown(value)}; accepted: true, false")
        return default

    def ports(self, given: Mapping[str, Any]) -> PortSet:
        if "source_ports" not in given:
            self.wrong("source_ports", "missing; accepted: a port 50000, a range 50000-51000, or a list of them")
            return PortSet()
        try:
            return PortSet.parse(given["source_ports"])
        except PortSyntaxError as error:
            for below, text in error.mistakes:
                self.wrong(f"source_ports{below}", text)
            return PortSet()

    def names(self, given: Mapping[str, Any], key: str, one: Callable[[str, object], Optional[str]]) -> Tuple[str, ...]:
        value = given.get(key, ())
        listed = isinstance(value, (list, tuple))
        names: List[str] = []
        for index, item in enumerate(value if listed else (value,)):
            name = one(f"{key}[{index}]" if listed else key, item)
            if name is not None and name not in names:
                names.append(name)
        return tuple(names)

    def accounts(self, given: Mapping[str, Any], key: str) -> Tuple[str, ...]:
        def one(below: str, item: object) -> Optional[str]:
            if isinstance(item, bool) or not isinstance(item, (int, str)) or not _ACCOUNT.match(_text(item)):
                self.wrong(below, f"found {shown(item)}; accepted: the name or numeric id of a {key}, or a list of them")
                return None
            text = _text(item)
            if is_id(text):
                if int(text) > HIGHEST_ID:
                    self.wrong(below, f"found {shown(item)}; ids lie between 0 and {HIGHEST_ID}")
                    return None
                return str(int(text))
            return text

        return self.names(given, key, one)

    def protocols(self, given: Mapping[str, Any]) -> Tuple[str, ...]:
        def one(below: str, item: object) -> Optional[str]:
            if item not in PROTOCOLS:
                self.wrong(below, f"found {shown(item)}; accepted: {', '.join(PROTOCOLS)}")
                return None
            return str(item)

        if "protocols" not in given:
            return ("tcp", "udp")
        names = self.names(given, "protocols", one)
        if given["protocols"] in ([], ()):
            self.wrong("protocols", f"found none; accepted: {', '.join(PROTOCOLS)}")
        return tuple(protocol for protocol in PROTOCOLS if protocol in names)

    def uid(self, given: Mapping[str, Any], users: Sequence[str]) -> Optional[int]:
        if "uid" not in given:
            return None
        value = given["uid"]
        number = int(value) if isinstance(value, str) and re.match(r"[0-9]{1,10}\Z", value) else value
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= HIGHEST_ID:
            self.wrong("uid", f"found {shown(value)}; accepted: the UID of the account, 1 to {HIGHEST_ID}")
            return None
        if len(users) != 1 or is_id(users[0]):
            self.wrong("uid", "accepted only with one user that is given by name, whose account gets this UID")
        return number

    def log(self, given: Mapping[str, Any], backend: str) -> Log:
        value = given.get("log", {})
        if not isinstance(value, Mapping):
            self.wrong("log", f"found {shown(value)}; accepted: a mapping with prefix, level or rate")
            return Log()
        self.unknown_keys(value, LOG_KEYS, below="log")
        inner = {_text(key): item for key, item in value.items() if item is not None}
        level = inner.get("level", "warning")
        if level not in LOG_LEVELS:
            self.wrong("log.level", f"found {shown(level)}; accepted: {', '.join(LOG_LEVELS)}")
            level = "warning"
        rate = inner.get("rate", "10/second")
        if not isinstance(rate, str) or not _RATE.match(rate):
            self.wrong("log.rate", f"found {shown(rate)}; accepted: 10/second, 1/minute, 5/hour, 100/day")
            rate = "10/second"
        return Log(prefix=self.prefix(inner.get("prefix"), backend), level=str(level), rate=str(rate))

    def prefix(self, prefix: object, backend: str) -> Optional[str]:
        limit = PREFIX_BYTES[backend]
        if prefix is None:
            return None
        if not isinstance(prefix, str):
            self.wrong("log.prefix", f"found {shown(prefix)}; accepted: text of at most {limit} bytes")
            return None
        if len(prefix.encode("utf-8", "surrogatepass")) > limit:
            self.wrong(
                "log.prefix",
                f"found {len(prefix.encode('utf-8', 'surrogatepass'))} bytes; accepted: at most {limit} with {backend}",
            )
        elif not _PREFIX.match(prefix):
            self.wrong(
                "log.prefix",
                f"found {shown(prefix)}; accepted: 1 to {limit} bytes of printable ASCII without quotes, '$', '`' and backslash",
            )
        return str(prefix)


LOG_KEYS = ("prefix", "level", "rate")
KEYS = (
    "source_ports",
    "user",
    "group",
    "protocols",
    "assignment",
    "on_violation",
    "exclusive",
    "loopback",
    "log",
    "state",
    "uid",
    "manage_account",
    "allow_admin",
)


def is_id(name: str) -> bool:
    """Whether an account or a group is given by its number."""
    return name.isascii() and name.isdigit()


def _text(value: object) -> str:
    """A value as text that tells it from others."""
    return value if isinstance(value, str) else shown(value)


def _label(name: object) -> str:
    """A service name as a part of a path: as it is when it is a good one, else quoted."""
    return name if isinstance(name, str) and _NAME.match(name) else shown(name)
