# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the kernel and sysctl.d(5) spell settings. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._errors import shown
from ansible_collections.portfence.egress.plugins.module_utils._ports import HIGHEST, PortRange, PortSet

# sysctl.d(5): of files with the same name, the one in the earlier directory is read alone.
FOLDERS = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d")
LEGACY = "/etc/sysctl.conf"

# The kernel takes at most a page less one byte of a list in one write (proc_do_large_bitmap()); what follows in the
# same open file is added to what is there. Pieces are cut between two ranges, so every kernel reads them alike.
PIECE = 4000  # bytes

_BETWEEN = re.compile(r"[\s,]+")
_TOKEN = re.compile(r"^([0-9]{1,9})(?:-([0-9]{1,9}))?$")
_PAIR = re.compile(r"^\s*([0-9]{1,9})(?:\s+|\s*-\s*)([0-9]{1,9})\s*$")


@dataclass(frozen=True)
class Setting:
    """A key that a file sets.

    :ivar file: the file for humans, with its target when it is a symbolic link.
    :ivar key: in the spelling with dots.
    :ivar late: whether it is applied at boot after the file that we compare with.
    """

    file: str
    key: str
    value: str
    late: bool


def kernel_ports(text: str) -> PortSet:
    """Read a list of ports such as ``1000,1005-1010``, in any order and with blanks. Port 0 is allowed.

    Raises ValueError when the text is something else.
    """
    ranges: List[PortRange] = []
    joined = "-".join(part.strip() for part in text.split("-"))
    for token in _BETWEEN.split(joined.strip(" \t\r\n,")):
        found = _TOKEN.match(token)
        if found is None and token:
            raise ValueError(f"not a list of ports: {shown(text)}")
        if found is not None:
            low = int(found.group(1))
            ranges.append(_bounded(low, int(found.group(2) or low)))
    return PortSet.of(ranges)


def kernel_range(text: str) -> PortRange:
    """Read two bounds such as ``32768 60999`` or ``32768-60999``. Raises ValueError."""
    found = _PAIR.match(text)
    if found is None:
        raise ValueError(f"not a range of ports: {shown(text)}")
    return _bounded(int(found.group(1)), int(found.group(2)))


def _bounded(low: int, high: int) -> PortRange:
    if not low <= high <= HIGHEST:
        raise ValueError(f"not a range of ports: {low}-{high}")
    return PortRange(low, high)


def pieces(ports: PortSet) -> List[str]:
    """The list for the kernel, cut into what it takes in one write each; at least one, so that it can be emptied."""
    found = [""]
    for part in map(str, ports):
        if len(found[-1]) + 1 + len(part) > PIECE:
            found.append("")
        found[-1] += f",{part}" if found[-1] else part
    return [f"{piece}\n" for piece in found]


def reading_order(folders: Mapping[str, Sequence[str]]) -> List[Tuple[str, str]]:
    """The files that systemd-sysctl reads, as (directory, name), in its order: the last one that sets a key wins.

    :param folders: names of the files in each of FOLDERS, in that order.
    """
    chosen: Dict[str, str] = {}
    for folder, names in folders.items():
        for name in names:
            if name.endswith(".conf"):
                chosen.setdefault(name, folder)
    return [(folder, name) for name, folder in sorted(chosen.items())]


def key_of(line: str) -> Optional[str]:
    """The key that a line of a sysctl file sets, in the spelling with dots, or None."""
    name, equals, _value = line.partition("=")
    name = name.strip()
    if not equals or name.startswith(("#", ";")):
        return None
    name = name[1:] if name.startswith("-") else name
    # sysctl.d(5): the first separator decides which of the two stands between the parts.
    first = next((char for char in name if char in "./"), ".")
    return name if first == "." else name.translate(str.maketrans("./", "/."))


def value_in(text: str, key: str) -> Optional[str]:
    """The value that a sysctl file gives to a key, or None. The last line wins."""
    found = None
    for line in text.split("\n"):
        if key_of(line) == key:
            found = line.partition("=")[2].strip()
    return found
