# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads one service as a user wrote it: every key, every mistake with its path. Pure."""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._addresses import read_address, read_network
from ansible_collections.portfence.egress.plugins.module_utils._cgroups import LONGEST_UNIT
from ansible_collections.portfence.egress.plugins.module_utils._classid import parse_classid
from ansible_collections.portfence.egress.plugins.module_utils._errors import Problem, shown
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet, PortSyntaxError
from ansible_collections.portfence.egress.plugins.module_utils._service import (
    ALLOCATION_KEYS,
    ASSIGNMENTS,
    HIGHEST_ID,
    KEYS,
    LARGEST_SIZE,
    LOG_KEYS,
    LOG_LEVELS,
    NAMESPACE_KEYS,
    ON_VIOLATION,
    PREFIX_BYTES,
    PROTOCOLS,
    SCOPES,
    SELECTORS,
    STATES,
    Allocated,
    Log,
    Namespace,
    Service,
    is_id,
)

UNIT_SUFFIXES = (".service", ".slice")
# Assignments that go with some selectors only: the program is told its ports by account, unit or class, not by address.
_SELECTORS_OF = {
    "host": ("user", "group", "classid", "unit"),
    "bpf": ("user", "unit"),
    "namespace": ("user", "group", "classid", "unit"),
}
ONE_RANGE = ("host", "namespace")

# No control characters, and no lone surrogates, which the name service can't be asked for.
_ACCOUNT = re.compile(r"[^\s:,/\x00-\x1f\x7f-\x9f\ud800-\udfff-][^\s:,/\x00-\x1f\x7f-\x9f\ud800-\udfff]{0,255}\Z")
# systemd.unit(5), without the backslash of escaped names. A template of slices does not exist, nor does a slice with an empty part.
_UNIT = re.compile(
    r"(?:[A-Za-z0-9:_][A-Za-z0-9:_.-]*(?:@[A-Za-z0-9:_.@-]*)?\.service|[A-Za-z0-9:_][A-Za-z0-9:_.]*(?:-[A-Za-z0-9:_.]+)*\.slice)\Z"
)
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}\Z")
_RATE = re.compile(r"([1-9][0-9]{0,8})/(second|minute|hour|day)\Z")
# Printable ASCII that means nothing inside a quoted string of nft or iptables-restore.
_PREFIX = re.compile(r"[ !#%-&(-\[\]-_a-~]+\Z")


def as_text(value: object) -> str:
    """A value as text that tells it from others."""
    return value if isinstance(value, str) else shown(value)


class Reader:
    """Reads one service. Notes mistakes below its path and goes on, so that one run finds them all.

    :param allocated: what auto stands for; None where it is not accepted, nor are the keys that go with it.
    :ivar size: afterwards, the size that came with auto.
    :ivar scope: afterwards, the scope that was given.
    """

    def __init__(self, *, path: str, problems: List[Problem], allocated: Optional[Allocated] = None) -> None:
        self.path = path
        self.problems = problems
        self.allocated = allocated
        self.size: Optional[int] = None
        self.scope: Optional[str] = None

    def wrong(self, below: str, message: str) -> None:
        joint = "." if below and not below.startswith("[") else ""
        self.problems.append(Problem(f"{self.path}{joint}{below}", message))

    def service(self, name: str, value: Mapping[Any, Any], backend: str) -> Service:
        """The service, with a default in the place of whatever is wrong."""
        self.unknown_keys(value, KEYS if self.allocated is None else (*KEYS, *ALLOCATION_KEYS), below="")
        given = {as_text(key): item for key, item in value.items() if item is not None}
        state = self.choice(given, "state", STATES, "present")
        if state == "absent":
            return Service(name=name, state="absent")
        users, groups = self.accounts(given, "user"), self.accounts(given, "group")
        selector = self.selector(given)
        if selector is None:
            selector, users = "user", (name,)
        assignment = self.choice(given, "assignment", ASSIGNMENTS, "rewrite")
        ports = self.ports(name, given)
        exclusive = self.flag(given, "exclusive", assignment != "host")
        loopback = self.flag(given, "loopback", False)
        self.fitting(given, selector, assignment, ports)
        if assignment == "host" and exclusive:
            self.wrong(
                "exclusive",
                "found true with assignment host; every other program of the host gets its ports from the same"
                " ip_local_port_range, so the range can't be exclusive; leave it out or use rewrite or app",
            )
        if selector == "addresses" and loopback:
            self.wrong("loopback", "found true with addresses; traffic that is forwarded is never on the loopback interface")
        return Service(
            name=name,
            users=users,
            groups=groups,
            classid=self.classid(given),
            units=self.units(given),
            addresses=self.addresses(given),
            interface=self.interface(given),
            masquerade=self.flag(given, "masquerade", True),
            source_ports=ports,
            protocols=self.protocols(given),
            assignment=assignment,
            share_ports=self.flag(given, "share_ports", False),
            listen_ports=self.listen_ports(given),
            namespace=self.namespace(given),
            on_violation=self.choice(given, "on_violation", ON_VIOLATION, "drop"),
            exclusive=exclusive,
            loopback=loopback,
            log=self.log(given, backend),
            uid=self.uid(given, users),
            manage_account=self.flag(given, "manage_account", True),
            allow_admin=self.flag(given, "allow_admin", False),
        )

    def selector(self, given: Mapping[str, Any]) -> Optional[str]:
        """The selector that was given, the first one of several, or None."""
        found = [selector for selector in SELECTORS if given.get(selector, []) not in ([], ())]
        if len(found) > 1:
            count = {2: "two", 3: "three", 4: "four", 5: "five"}[len(found)]
            self.wrong("", f"found {count} selectors, {', '.join(found[:-1])} and {found[-1]}; accepted: one of them")
        return found[0] if found else None

    def fitting(self, given: Mapping[str, Any], selector: str, assignment: str, ports: PortSet) -> None:
        """Whether the keys that were given can go together."""
        possible = [name for name in ASSIGNMENTS if selector in _SELECTORS_OF.get(name, SELECTORS)]
        if assignment not in possible:
            self.wrong("assignment", f"found {assignment} with the selector {selector}; accepted there: {', '.join(possible)}")
        if assignment in ONE_RANGE and len(ports.ranges) > 1:
            self.wrong(
                "source_ports",
                f"found {len(ports.ranges)} ranges with assignment {assignment}; ip_local_port_range holds one range;"
                " accepted: one range, or assignment rewrite or app",
            )
        for key, fits, where in (
            ("interface", selector == "addresses", "with addresses"),
            ("masquerade", selector == "addresses", "with addresses"),
            ("share_ports", assignment in ("bpf", "auto"), "with assignment bpf or auto"),
            ("listen_ports", assignment == "app" and selector == "unit", "with the selector unit and assignment app"),
            ("namespace", assignment == "namespace", "with assignment namespace"),
        ):
            if key in given and not fits:
                self.wrong(key, f"accepted only {where}")

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

    def ports(self, name: str, given: Mapping[str, Any]) -> PortSet:
        if self.allocated is not None:
            self.scope = self.choice(given, "scope", SCOPES, SCOPES[0]) if "scope" in given else None
        if "source_ports" not in given:
            self.wrong("source_ports", "missing; accepted: a port 50000, a range 50000-51000, or a list of them")
            return PortSet()
        if given["source_ports"] == "auto":
            return self.automatic(name, given, self.allocated)
        if self.allocated is not None and "size" in given:
            self.wrong("size", "accepted only with source_ports: auto")
        return self.port_set("source_ports", given["source_ports"])

    def automatic(self, name: str, given: Mapping[str, Any], allocated: Optional[Allocated]) -> PortSet:
        if allocated is None:
            self.wrong(
                "source_ports",
                "found 'auto', which the controller replaces in the inventory variables egress_services and egress_services__ANYTHING"
                " only; accepted here: a port 50000, a range 50000-51000, or a list of them",
            )
            return PortSet()
        value = given.get("size")
        number = int(value) if isinstance(value, str) and re.match(r"[0-9]{1,5}\Z", value) else value
        if value is None:
            self.wrong("size", "missing; source_ports: auto needs the number of ports, such as 512")
        elif isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= LARGEST_SIZE:
            self.wrong("size", f"found {shown(value)}; accepted: the number of ports, 1 to {LARGEST_SIZE}")
        else:
            self.size = number
        if allocated.services is None or self.size is None:
            return PortSet()
        found = allocated.find(name, self.scope)
        if found is None or found.size < self.size:
            have = "no range" if found is None else f"a range of {found.size} ports only"
            self.wrong("source_ports", f"found 'auto', and {have} for it {allocated.missing}")
            return PortSet()
        return found

    def listen_ports(self, given: Mapping[str, Any]) -> Optional[PortSet]:
        if "listen_ports" not in given:
            return None
        return PortSet() if given["listen_ports"] in ([], ()) else self.port_set("listen_ports", given["listen_ports"])

    def port_set(self, key: str, value: object) -> PortSet:
        try:
            return PortSet.parse(value)
        except PortSyntaxError as error:
            for below, text in error.mistakes:
                self.wrong(f"{key}{below}", text)
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
            if isinstance(item, bool) or not isinstance(item, (int, str)) or not _ACCOUNT.match(as_text(item)):
                self.wrong(below, f"found {shown(item)}; accepted: the name or numeric id of a {key}, or a list of them")
                return None
            text = as_text(item)
            if is_id(text):
                if int(text) > HIGHEST_ID:
                    self.wrong(below, f"found {shown(item)}; ids lie between 0 and {HIGHEST_ID}")
                    return None
                return str(int(text))
            return text

        return self.names(given, key, one)

    def classid(self, given: Mapping[str, Any]) -> Optional[int]:
        if "classid" not in given:
            return None
        try:
            return parse_classid(given["classid"])
        except ValueError as error:
            self.wrong("classid", str(error))
            return None

    def units(self, given: Mapping[str, Any]) -> Tuple[str, ...]:
        def one(below: str, item: object) -> Optional[str]:
            name = item if isinstance(item, str) else ""
            if name and not name.endswith(UNIT_SUFFIXES) and "." not in name.rpartition("@")[2]:
                name += ".service"
            if len(name) > LONGEST_UNIT or not _UNIT.match(name):
                self.wrong(
                    below,
                    f"found {shown(item)}; accepted: the name of a systemd service or slice, such as myapp.service,"
                    " worker@.service for all instances, or batch.slice, or a list of them",
                )
                return None
            return name

        return self.names(given, "unit", one)

    def addresses(self, given: Mapping[str, Any]) -> Tuple[str, ...]:
        def one(below: str, item: object) -> Optional[str]:
            try:
                return read_network(item)
            except ValueError as error:
                self.wrong(below, f"found {shown(item)}; {error}")
                return None

        return self.names(given, "addresses", one)

    def interface(self, given: Mapping[str, Any]) -> Optional[str]:
        value = given.get("interface")
        if value is None or (isinstance(value, str) and _INTERFACE.match(value)):
            return value
        self.wrong("interface", f"found {shown(value)}; accepted: the name of a network interface, 1 to 15 letters, digits, '_', '.', '-' or '@'")
        return None

    def namespace(self, given: Mapping[str, Any]) -> Namespace:
        value = given.get("namespace", {})
        if not isinstance(value, Mapping):
            self.wrong("namespace", f"found {shown(value)}; accepted: a mapping with {', '.join(NAMESPACE_KEYS)}")
            return Namespace()
        self.unknown_keys(value, NAMESPACE_KEYS, below="namespace")
        inner = {as_text(key): item for key, item in value.items() if item is not None}
        pairs: Dict[str, str] = {}
        for key in ("ipv4", "ipv6"):
            if key in inner:
                from ansible_collections.portfence.egress.plugins.module_utils._namespace import pair_of  # few services need it

                try:
                    pairs[key] = str(pair_of(inner[key], key).network)
                except ValueError as error:
                    self.wrong(f"namespace.{key}", str(error))

        def one(below: str, item: object) -> Optional[str]:
            try:
                return read_address(item)
            except ValueError as error:
                self.wrong(f"namespace.{below}", f"found {shown(item)}; {error}")
                return None

        return Namespace(ipv4=pairs.get("ipv4"), ipv6=pairs.get("ipv6"), dns=self.names(inner, "dns", one))

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
        inner = {as_text(key): item for key, item in value.items() if item is not None}
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
