# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resolved services → the maps of the eBPF programs, and the bpftool commands that fill them. Pure.

The programs (bpf/portfence.c in the repository) give a socket its source port when it connects. They find the service
of a process by its UID or by its cgroup, and the ports by the service's name, so that one element is written when a
service changes. Layouts and limits here are those of the program.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils import _json
from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._policy import Service
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Resolved

SELECTORS = ("user", "unit")
MOST_RANGES = 16
MOST_ELEMENTS = 16384

NAME_BYTES = 32
_FLAG_LOOPBACK, _FLAG_STRICT, _FLAG_TCP, _FLAG_UDP = 1, 2, 4, 8
_MOST_TRIES = 1024
_TRIES_ALONE = 32
_NEVER = 2**32 - 1
_BEYOND = 2**32 - 1
# Primes above the highest port: whatever the number of ports, a step of one of these lengths meets all of them.
_PRIMES = (65537, 99991, 131071, 1000003)
# Below the root, which belongs to no service, the program looks at 15 levels of cgroups.
_ALL_LEVELS = 0xFFFE

Elements = Mapping[bytes, bytes]
# The maps, and the fields of Maps: what leads to a service comes after it.
NAMES = ("services", "by_uid", "by_cgroup", "levels")


@dataclass(frozen=True)
class Maps:
    """What the maps hold, as bytes of keys and values.

    :ivar services: name of a service → its ports and flags.
    :ivar by_uid: UID → name of its service.
    :ivar levels: a bit for every level of cgroups at which by_cgroup may hold something.
    :ivar by_cgroup: id of a cgroup → name of its service. Units that start add theirs, so that no file has them.
    """

    services: Elements = field(default_factory=dict)
    by_uid: Elements = field(default_factory=dict)
    levels: Elements = field(default_factory=dict)
    by_cgroup: Elements = field(default_factory=dict)


def limit(service: Service) -> Optional[str]:
    """Why the programs can't serve a service, for the end of a sentence, or None."""
    if service.selector not in SELECTORS:
        return f"its selector is {service.selector}, and bpf takes {' and '.join(SELECTORS)}"
    slices = [unit for unit in service.units if unit.endswith(".slice")]
    if slices:
        return f"its unit {slices[0]} is a slice, which can't tell when it starts; name its services"
    ranges = len(service.source_ports.ranges)
    if ranges > MOST_RANGES:
        return f"its source_ports have {ranges} ranges, and bpf takes {MOST_RANGES}"
    return None


def too_many(resolved: Sequence[Resolved]) -> Optional[str]:
    """Why the programs can't serve these services all together, for the end of a sentence, or None."""
    uids = sum(len(item.uids) for item in resolved)
    if max(len(resolved), uids) > MOST_ELEMENTS:
        return f"there are {len(resolved)} services with {uids} users, and bpf takes {MOST_ELEMENTS}"
    return None


def maps_of(resolved: Sequence[Resolved], *, cgroups: Mapping[int, str]) -> Maps:
    """The maps for these services, each within its :func:`limit`.

    :param cgroups: the cgroups that their units have now, id (that is, inode) → name of the service.
    """
    levels = _ALL_LEVELS if any(item.units for item in resolved) else 0
    return Maps(
        services={name_bytes(item.service.name): service_bytes(item.service) for item in resolved},
        by_uid={struct.pack("<I", uid): name_bytes(item.service.name) for item in resolved for uid in item.uids},
        levels={struct.pack("<I", 0): struct.pack("<I", levels)},
        by_cgroup={struct.pack("<Q", number): name_bytes(name) for number, name in cgroups.items()},
    )


def name_bytes(name: str) -> bytes:
    """A service's name as key or value."""
    return name.encode("ascii").ljust(NAME_BYTES, b"\0")


def service_bytes(service: Service) -> bytes:
    """``struct service`` of the program."""
    flags = _FLAG_LOOPBACK if service.loopback else 0
    # With auto a program may bind where it likes, as with rewrite: the fence translates the port.
    flags |= _FLAG_STRICT if service.refuses_bind else 0
    flags |= _FLAG_TCP if "tcp" in service.protocols else 0
    flags |= _FLAG_UDP if "udp" in service.protocols else 0
    ports = service.source_ports.size
    alone, tries = _NEVER, ports
    if service.share_ports:
        alone = min(ports, _TRIES_ALONE)
        tries = alone + ports
    starts: List[int] = []
    for part in service.source_ports:
        starts.append(sum(before.size for before in service.source_ports.ranges[: len(starts)]))
    lows = [part.low for part in service.source_ports]
    sizes = [part.size for part in service.source_ports]
    unused = MOST_RANGES - len(lows)
    return struct.pack(
        "<8I16I16I16I",
        flags,
        ports,
        min(tries, _MOST_TRIES),
        alone,
        *(prime % ports for prime in _PRIMES),
        *starts,
        *[_BEYOND] * unused,
        *lows,
        *[0] * unused,
        *sizes,
        *[0] * unused,
    )


def fill(wanted: Maps, *, folder: str) -> List[str]:
    """bpftool commands that fill empty maps.

    :param folder: where they are pinned.
    """
    return changes(Maps(), wanted, folder=folder)


def changes(live: Maps, wanted: Maps, *, folder: str) -> List[str]:
    """bpftool commands that turn the live maps into the wanted ones, each element in one step.

    A service is there before an owner leads to it, and goes after the last one.
    """
    updates = [
        f"map update pinned {folder}/{name} key hex {_hex(key)} value hex {_hex(value)}"
        for name in NAMES
        for key, value in sorted(getattr(wanted, name).items())
        if getattr(live, name).get(key) != value
    ]
    deletes = [
        f"map delete pinned {folder}/{name} key hex {_hex(key)}"
        for name in reversed(NAMES)
        for key in sorted(getattr(live, name))
        if key not in getattr(wanted, name)
    ]
    return updates + deletes


def _hex(data: bytes) -> str:
    return data.hex(" ")


def parse_dump(dump: Any) -> Dict[bytes, bytes]:
    """The elements that ``bpftool -j map dump`` printed. Raises PortFenceError."""
    try:
        return {_unhex(element["key"]): _unhex(element["value"]) for element in dump}
    except (ValueError, KeyError, TypeError) as error:
        raise PortFenceError(f"bpftool printed something that is no map: {str(dump)[:200]!r}") from error


def _unhex(numbers: Sequence[str]) -> bytes:
    return bytes(int(number, 16) for number in numbers)


def parse_outputs(text: str) -> List[Any]:
    """What each command of ``bpftool -j batch`` printed, up to the first that failed. Raises PortFenceError.

    The exit status says nothing: some versions of bpftool (7.1 among them) take an errno that some successful command left for an error in
    reading their commands, and add that to the list.
    """
    try:
        outputs = [item["output"] for item in _json.load(text) if "output" in item]
    except (ValueError, TypeError) as error:
        raise PortFenceError(f"bpftool -j batch printed something else than results: {text[:200]!r}") from error
    failed = (index for index, output in enumerate(outputs) if isinstance(output, dict) and "error" in output)
    return outputs[: next(failed, len(outputs))]


def parse_attached(text: str, names: Mapping[str, str]) -> List[Tuple[str, int]]:
    """The programs of ours that ``bpftool -j cgroup show`` printed, as hook and id. Raises PortFenceError.

    :param names: name of a program → the hook that it is for.
    """
    try:
        programs = _json.load(text.strip() or "[]")  # bpftool prints an empty line for none
        return [(names[item["name"]], int(item["id"])) for item in programs if item["name"] in names]
    except (ValueError, KeyError, TypeError) as error:
        raise PortFenceError(f"bpftool -j cgroup show printed something that is no list of programs: {text[:200]!r}") from error
