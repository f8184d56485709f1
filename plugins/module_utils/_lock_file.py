# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of ``port-allocations.yml``. Pure.

YAML of one fixed shape: a line for every range and owner, sorted, so that a change of one range is a change of one line, and so
that the lines of one host are found in a large file without reading the rest. Where git merges what two people allocated at once, ranges that
overlap are refused by whoever reads it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import date
from typing import Dict, List, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._allocator import Holding, Key, order
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, Problem, shown
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange, PortSet, PortSyntaxError

NAME = "port-allocations.yml"
COMMAND = "ansible-playbook portfence.egress.allocate -i INVENTORY"

_HEAD = """\
# Source ports that portfence.egress.allocate handed out: which range belongs to which service, and of which host, since when.
# A range with "until" was given back on that day, or went on under the host's new name ("renamed"). Keep this file in git, and leave changes to that playbook.
---
format: 1
serial: {serial}
"""
_SERIAL = re.compile(r"serial: (0|[1-9][0-9]{0,14})\Z")
_WORD = r'(?:[A-Za-z][A-Za-z0-9_.-]*|"(?:[^"\\\x00-\x1f]|\\.)*")'
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_LINE = re.compile(
    rf"  - \{{(?:domain: ({_WORD}), host: ({_WORD}), )?service: ({_WORD}), ports: ([0-9]{{1,5}}(?:-[0-9]{{1,5}})?),"
    rf" since: ({_DAY})(?:, until: ({_DAY})(?:, renamed: ({_WORD}))?)?\}}\Z"
)
_SHAPE = (
    "- {domain: NAME, host: NAME, service: NAME, ports: 16384-16895, since: 2026-01-31, until: 2026-02-28, renamed: NAME},"
    " without domain and host, renamed, or until"
)
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*\Z")
# What YAML 1.1 takes for something else than text.
_RESERVED = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))
_MOST_OVERLAPS = 100


@dataclass(frozen=True)
class LockFile:
    """What the file says. The serial counts how often it was written."""

    serial: int = 0
    holdings: Tuple[Holding, ...] = ()


def word(text: str) -> str:
    """A name as the file writes it. Names are printable, see :func:`_pools.read_name`, so that JSON is YAML here."""
    plain = _PLAIN.match(text) and text.lower() not in _RESERVED
    return text if plain else json.dumps(text, ensure_ascii=False)


def render(lock: LockFile) -> str:
    """The text of the file."""
    lines = [_line(holding) for holding in sorted(lock.holdings, key=order)]
    return _HEAD.format(serial=lock.serial) + ("ranges:\n" + "".join(lines) if lines else "ranges: []\n")


def _line(holding: Holding) -> str:
    key = holding.key
    owner = f"{_prefix(key.domain, key.host) if key.domain else _START}service: {word(key.service)}"
    until = f", until: {holding.until.isoformat()}" if holding.until else ""
    until += f", renamed: {word(holding.renamed)}" if holding.renamed else ""
    return f"{owner}, ports: {holding.ports}, since: {holding.since.isoformat()}{until}}}\n"


_START = "  - {"


def _prefix(domain: str, host: str) -> str:
    return f"{_START}domain: {word(domain)}, host: {word(host)}, "


def parse(text: str, *, path: str) -> LockFile:
    """Read the file. Raises InputError with every line that is not as it was written, and every range with two owners."""
    problems: List[Problem] = []
    # No other character ends a line, as for ranges_of().
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if not lines[-1]:
        lines.pop()
    rest = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    serial = None
    for want in ("---", "format: 1", "serial: NUMBER", "ranges:"):
        number, line = rest[0] if rest else (len(lines) + 1, "")
        match = _SERIAL.match(line) if want.startswith("serial") else None
        if match:
            serial = int(match.group(1))
        elif line != want and not (want == "ranges:" and line == "ranges: []"):
            problems.append(Problem(f"{path}:{number}", f"found {shown(line)}; accepted: {want}{_hint(line)}"))
            break
        rest = rest[1:]
    holdings: List[Holding] = []
    if not problems:
        for number, line in rest:
            try:
                holdings.append(_read(line))
            except ValueError as error:
                problems.append(Problem(f"{path}:{number}", str(error)))
                if len(problems) >= _MOST_OVERLAPS:
                    break
        problems.extend(_shared(holdings, path=path))
    if problems:
        raise InputError(what="the file of allocated ports", problems=problems)
    return LockFile(serial=serial or 0, holdings=tuple(sorted(holdings, key=order)))


def _hint(line: str) -> str:
    conflict = line.startswith(("<<<<<<<", "=======", ">>>>>>>", "|||||||"))
    return f"; a merge left both sides in the file: keep one of them, and run {COMMAND}" if conflict else ""


def _read(line: str) -> Holding:
    match = _LINE.match(line)
    if match is None:
        raise ValueError(f"found {shown(line)}; accepted: {_SHAPE}{_hint(line)}")
    domain, host, service, ports, since, until, renamed = match.groups()
    for name in (domain, host, service, renamed):
        # The lines of a host are found by how its name is written.
        if name and (not _text(name) or name != word(_text(name))):
            raise ValueError(f"found {name}; accepted: {word(_text(name)) if _text(name) else 'a name'}")
    if renamed and not host:
        raise ValueError(f"found renamed: {renamed} of a service; accepted: the new name of a host, behind its own")
    try:
        part = PortRange.parse(ports)
    except PortSyntaxError as error:
        raise ValueError(str(error)) from error
    try:
        first, last = date.fromisoformat(since), date.fromisoformat(until) if until else None
    except ValueError as error:
        raise ValueError(f"found the day {since}{f' or {until}' if until else ''}; {error}") from error
    if last is not None and last < first:
        raise ValueError(f"found until: {until} and since: {since}; accepted: a day of return that is not before the day on which it was handed out")
    return Holding(Key(_text(domain), _text(host), _text(service)), part, first, last, _text(renamed))


def _text(found: Optional[str]) -> str:
    if not found:
        return ""
    return str(json.loads(found)) if found.startswith('"') else found


def _shared(holdings: Sequence[Holding], *, path: str) -> List[Problem]:
    """A problem for every two present owners of a port in one domain, services counting in all of them."""
    domains: Dict[str, List[Tuple[PortRange, Key]]] = {"": []}
    for holding in holdings:
        if holding.until is None:
            domains.setdefault(holding.key.domain, []).append((holding.ports, holding.key))
    found: Dict[Tuple[Key, PortRange, Key, PortRange], None] = {}
    for domain, parts in domains.items():
        everywhere = domains[""] if domain else []
        last: Optional[Tuple[PortRange, Key]] = None
        for part, key in sorted([*parts, *everywhere]):
            if last is not None and part.low <= last[0].high:
                found.setdefault((last[1], last[0], key, part), None)
            if last is None or part.high > last[0].high:
                last = (part, key)
    return [
        Problem(f"{path}", f"{part} of {key} overlaps with {other_part} of {other}; a port has one owner: restore the file of before from git")
        for other, other_part, key, part in list(found)[:_MOST_OVERLAPS]
    ]


def ranges_of(text: str, *, domain: str, host: str, path: str) -> Tuple[Dict[str, PortSet], Dict[str, PortSet]]:
    """What one host may use, found without reading the lines of other hosts.

    :returns: the ranges of services, and those of this host's services in its NAT domain.
    Raises InputError.
    """
    if "\nranges:" not in text or "\n<<<<<<<" in text:
        parse(text, path=path)
    problems: List[Problem] = []
    result: List[Dict[str, PortSet]] = []
    for lines in (_lines(text, _START + "service: "), _lines(text, _prefix(domain, host)) if domain else []):
        found: Dict[str, PortSet] = {}
        for line in lines:
            try:
                holding = _read(line)
            except ValueError as error:
                problems.append(Problem(path, str(error)))
                continue
            if holding.until is None:
                name = holding.key.service
                found[name] = found.get(name, PortSet()) | PortSet((holding.ports,))
        result.append(found)
    if problems:
        raise InputError(what="the file of allocated ports", problems=problems)
    return result[0], result[1]


def _lines(text: str, prefix: str) -> List[str]:
    """All lines that start with a prefix, wherever they are."""
    lines: List[str] = []
    at = text.find("\n" + prefix)
    while at >= 0:
        end = text.find("\n", at + 1)
        lines.append(text[at + 1 : end if end >= 0 else len(text)].rstrip("\r"))
        at = text.find("\n" + prefix, at + 1)
    return lines
