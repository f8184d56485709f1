# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The range of automatic source ports and the reservations in it: what is wanted against what is there. Pure.

net.ipv4.ip_local_port_range and net.ipv4.ip_local_reserved_ports govern IPv6 as well
(Documentation/networking/ip-sysctl.rst in the kernel).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_boot import FILE, RANGE_KEY, RESERVED_KEY
from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_record import (
    Claim,
    Record,
    file_text,
    foreign_keys,
    owner_line,
    parse_file,
    parse_record,
    record_text,
)
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, InputError, Problem, shown
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange, PortSet, PortSyntaxError
from ansible_collections.portfence.egress.plugins.module_utils._sysctl import Setting, kernel_ports

FEW = 1000  # ports left for everybody; fewer are worth a warning
SHORT_WRITE = 4090  # bytes of a list that sysctl(8) and systemd 247 hand to the kernel (252 hands over all)

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True)
class Request:
    """What a task asks for.

    :ivar claims: by owner; an empty claim takes the owner's away.
    :ivar paths: by owner, the path of the claim in the task, for messages.
    :ivar complete: whether owners that are not named lose their claims.
    """

    claims: Mapping[str, Claim]
    paths: Mapping[str, str]
    complete: bool


@dataclass(frozen=True)
class Facts:
    """What was found on the host, or in one of its network namespaces.

    :ivar port_range: the kernel's ip_local_port_range.
    :ivar reserved: the kernel's ip_local_reserved_ports.
    :ivar unprivileged: the kernel's ip_unprivileged_port_start.
    :ivar namespace: what identifies the network namespace.
    :ivar record: text of the record of our claims, or None.
    :ivar file: text of our file in sysctl.d, or None.
    :ivar others: what the other sysctl files say of the two keys.
    """

    port_range: PortRange
    reserved: PortSet
    unprivileged: int
    namespace: str
    record: Optional[str]
    file: Optional[str]
    others: Sequence[Setting]


@dataclass(frozen=True)
class Plan:
    """What has to be done, and what comes of it.

    :ivar changed: whether anything but the bookkeeping below /run changes.
    :ivar port_range: the kernel's range afterwards; reserved likewise.
    :ivar journal: the record while the change is under way, which claims the old and the new.
    """

    changed: bool
    before: Record
    after: Record
    port_range: PortRange
    reserved: PortSet
    file: Optional[str]
    record: Optional[str]
    journal: Optional[str]
    warnings: Sequence[str]


def parse_request(params: Mapping[str, Any]) -> Tuple[Request, List[Problem]]:
    """Read the parameters of the module. What can't be read is left out, and a mistake."""
    problems: List[Problem] = []
    lasting = params["netns"] is None
    if params["persist"] and not lasting:
        problems.append(
            Problem("persist", "found true with netns; a named namespace is made anew at boot, so set it by a task then")
        )
    if params["owners"] is not None:
        return _whole_list(params["owners"], lasting=lasting, problems=problems), problems
    name = params["name"]
    problems.extend(_bad_name("name", name))
    if params["state"] == "absent":
        return Request(claims={name: Claim()}, paths={name: ""}, complete=params["purge"]), problems
    if params["reserved_ports"] is None and params["local_port_range"] is None:
        problems.append(Problem("reserved_ports", "missing; give reserved_ports, local_port_range or both, or set state: absent"))
    persist = lasting if params["persist"] is None else params["persist"]
    claim = _claim(params, path="", persist=persist, problems=problems)
    return Request(claims={name: claim}, paths={name: ""}, complete=params["purge"]), problems


def _whole_list(items: Sequence[Mapping[str, Any]], *, lasting: bool, problems: List[Problem]) -> Request:
    claims: Dict[str, Claim] = {}
    paths: Dict[str, str] = {}
    for index, item in enumerate(items):
        path = f"owners[{index}]."
        name = item["name"]
        problems.extend(_bad_name(f"{path}name", name))
        if name in claims:
            problems.append(Problem(f"{path}name", f"found {shown(name)} a second time; each owner once"))
        if item["persist"] and not lasting:
            problems.append(Problem(f"{path}persist", "found true with netns, where nothing can outlast a reboot"))
        persist = lasting if item["persist"] is None else item["persist"]
        claims[name] = _claim(item, path=path, persist=persist, problems=problems)
        paths[name] = path
    return Request(claims=claims, paths=paths, complete=True)


def _bad_name(path: str, name: str) -> List[Problem]:
    if _NAME.fullmatch(name):
        return []
    return [Problem(path, f"found {name[:70]!r}; accepted: 1 to 64 letters, digits, _, . and -")]


def _claim(given: Mapping[str, Any], *, path: str, persist: bool, problems: List[Problem]) -> Claim:
    ports = PortSet()
    port_range = None
    try:
        ports = PortSet.parse(given["reserved_ports"]) if given["reserved_ports"] else PortSet()
    except PortSyntaxError as error:
        problems.extend(Problem(f"{path}reserved_ports{where}", text) for where, text in error.mistakes)
    text = given["local_port_range"]
    try:
        if text is not None:
            port_range = PortRange.parse(text)
    except PortSyntaxError as error:
        several = f"found {shown(text)}; the kernel holds one range, such as 50000-50999"
        found = [several] if "," in text else [message for _where, message in error.mistakes]
        problems.extend(Problem(f"{path}local_port_range", message) for message in found)
    return Claim(ports, port_range, persist)


def current_record(facts: Facts) -> Record:
    """The claims in force. Raises HostError when they can't be read."""
    found = parse_record(facts.record, namespace=facts.namespace)
    return parse_file(facts.file) if found is None else found


def make_plan(request: Request, facts: Facts, *, problems: Sequence[Problem] = ()) -> Plan:
    """Compare what is wanted with what is there.

    :param problems: mistakes found before. Raises InputError with these and with what the kernel would refuse,
        HostError when the claims of the host can't be read or somebody else's file is in the way.
    """
    before = current_record(facts)
    claims = {} if request.complete else dict(before.claims)
    claims.update(request.claims)
    claims = {name: claim for name, claim in claims.items() if claim}
    after = Record(
        claims=claims,
        reserved_before=_reserved_before(before, Record(claims).ports, facts),
        range_before=_range_before(before, Record(claims).port_range, facts),
    )
    declared = _declared(facts.others)
    text = file_text(after, declared=declared)
    reserved = _reserved(before, after, declared=declared, facts=facts)
    port_range = _port_range(before, after, facts)
    found = [*problems, *_refused(request, after, facts), *_nothing_left(request, port_range, reserved)]
    if found:
        raise InputError(what="ephemeral_ports", problems=found)
    file = text if before.persistent or after.persistent else facts.file
    strange = foreign_keys(facts.file)
    if strange and file != facts.file:
        raise HostError(f"{FILE} is somebody else's: it sets {', '.join(strange)}; move these lines to another file")
    changed = (port_range, reserved, file, after) != (facts.port_range, facts.reserved, facts.file, before)
    return Plan(
        changed=changed,
        before=before,
        after=after,
        port_range=port_range,
        reserved=reserved,
        file=file,
        record=record_text(after, namespace=facts.namespace),
        journal=record_text(_both(before, after), namespace=facts.namespace),
        warnings=_warnings(after, text, port_range, reserved, facts),
    )


def _declared(others: Sequence[Setting]) -> PortSet:
    ports = PortSet()
    for setting in others:
        if setting.key == RESERVED_KEY and _readable(setting):
            ports = ports | kernel_ports(setting.value)
    return ports


def _readable(setting: Setting) -> bool:
    try:
        kernel_ports(setting.value)
    except ValueError:
        return False
    return True


def _reserved_before(before: Record, wanted: PortSet, facts: Facts) -> PortSet:
    return (before.reserved_before & wanted) | ((wanted - before.ports) & facts.reserved)


def _range_before(before: Record, wanted: Optional[PortRange], facts: Facts) -> Optional[PortRange]:
    if wanted is None:
        return None
    return before.range_before or facts.port_range


def _reserved(before: Record, after: Record, *, declared: PortSet, facts: Facts) -> PortSet:
    given_up = before.ports - after.ports - before.reserved_before - declared
    # Our file replaces the value of those read before it, so that at boot their ports are reserved by ours or not at all.
    replaced = declared if before.persistent_ports or after.persistent_ports else PortSet()
    return (facts.reserved - given_up) | after.ports | replaced


def _port_range(before: Record, after: Record, facts: Facts) -> PortRange:
    if after.port_range is not None:
        return after.port_range
    if before.port_range is not None:
        return before.range_before or facts.port_range
    return facts.port_range


def _refused(request: Request, after: Record, facts: Facts) -> List[Problem]:
    """Ranges that the kernel would refuse, and a second range for the same host."""
    problems = []
    for name, claim in request.claims.items():
        path = f"{request.paths[name]}local_port_range"
        if claim.port_range is None:
            continue
        if claim.port_range.low < facts.unprivileged:
            problems.append(
                Problem(
                    path,
                    f"found {claim.port_range}; the kernel refuses a range that starts below"
                    f" net.ipv4.ip_unprivileged_port_start, which is {facts.unprivileged} here",
                )
            )
        for other, theirs in sorted(after.claims.items()):
            if theirs.port_range not in (None, claim.port_range) and (other not in request.claims or other < name):
                problems.append(
                    Problem(path, f"found {claim.port_range}, but {other} has set {theirs.port_range}; a host has one range")
                )
    return problems


def _nothing_left(request: Request, port_range: PortRange, reserved: PortSet) -> List[Problem]:
    asking = [name for name, claim in request.claims.items() if claim]
    if not asking or _left(port_range, reserved):
        return []
    claim, path = request.claims[asking[0]], request.paths[asking[0]]
    return [
        Problem(
            f"{path}{'reserved_ports' if claim.ports else 'local_port_range'}",
            f"all ports of {port_range} ({RANGE_KEY}) would be reserved, and connections of programs that don't bind"
            " would fail with EADDRNOTAVAIL; reserve fewer ports, or ports outside of that range",
        )
    ]


def _left(port_range: PortRange, reserved: PortSet) -> int:
    return (PortSet((port_range,)) - reserved).size


def _both(before: Record, after: Record) -> Record:
    """A record that claims the old and the new, so that a run that is cut short leaves nothing without an owner."""
    claims = dict(before.claims)
    for name, claim in after.claims.items():
        old = claims.get(name, Claim())
        claims[name] = Claim(old.ports | claim.ports, claim.port_range or old.port_range, claim.persist)
    # What is given up stays kept if it was somebody else's before; what is new is kept if it is now.
    reserved_before = before.reserved_before | after.reserved_before
    return Record(claims, reserved_before, before.range_before or after.range_before)


def _warnings(after: Record, text: Optional[str], port_range: PortRange, reserved: PortSet, facts: Facts) -> List[str]:
    found = []
    wanted = after.port_range
    if wanted is not None and wanted.low % 2 == wanted.high % 2:
        better = f", such as {wanted.low}-{wanted.high - 1}" if wanted.low < wanted.high else ""
        found.append(
            f"{RANGE_KEY} {wanted}: both bounds are {'odd' if wanted.low % 2 else 'even'}; the kernel complains and finds"
            f" free ports more slowly than with bounds of different parity{better}"
        )
    left = _left(port_range, reserved)
    if after.claims and left < FEW:
        found.append(
            f"only {left} ports of {port_range} ({RANGE_KEY}) are left for programs that don't bind; connections to one"
            " destination fail with EADDRNOTAVAIL when they are used up"
        )
    for setting in facts.others:
        if setting.key == RESERVED_KEY and after.persistent_ports and not _readable(setting):
            found.append(f"{setting.file}: {setting.key} = {setting.value[:100]}: not a list of ports, and left out of {FILE}")
    return [*found, *(_boot_warnings(after, text, facts.others) if text else [])]


def _boot_warnings(after: Record, text: str, others: Sequence[Setting]) -> List[str]:
    found = []
    ours = [RANGE_KEY] if _lasting_range(after) else []
    ours += [RESERVED_KEY] if after.persistent_ports else []
    for setting in others:
        if setting.late and setting.key in ours:
            found.append(
                f"{setting.file} sets {setting.key} = {setting.value[:100]} and is read after {FILE}, so that systemd-sysctl"
                f" and sysctl --system replace our value by it; take the line out, or rename the file so that it is read first"
            )
    longest = max(len(line) for line in text.splitlines() if not line.startswith("#"))
    if longest > SHORT_WRITE:
        found.append(
            f"the list of reserved ports is longer than the {SHORT_WRITE} bytes that sysctl(8) and systemd 247 write; where they are"
            " used, the rest gets lost; reserve ranges that touch, so that the list becomes shorter"
        )
    return found


def _lasting_range(after: Record) -> bool:
    return any(claim.port_range is not None for claim in after.persistent.values())


def describe(*, port_range: PortRange, reserved: PortSet, record: Record, file: Optional[str]) -> str:
    """One side of the diff: the kernel's values, the file, and the claims that are in no file."""
    text = f"{RANGE_KEY} = {port_range.low} {port_range.high}\n{RESERVED_KEY} = {reserved}\n"
    text += "".join(owner_line(name, claim) for name, claim in sorted(record.claims.items()) if not claim.persist)
    return text if file is None else f"{text}\n# {FILE}\n{file}"
