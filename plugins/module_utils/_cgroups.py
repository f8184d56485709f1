# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the processes of a systemd unit are in the cgroup v2 tree. Pure.

See systemd.slice(5) and systemd.unit(5): a service is a directory in that of its slice, and ``a-b.slice`` lies in
``a.slice``. Instances of a template are in a slice of their own, ``system-NAME.slice``, unless they say otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

ROOT_SLICE = "-.slice"
# The name of a unit with ".d" behind it is the name of a directory, of which 255 bytes is the longest.
LONGEST_UNIT = 253


@dataclass(frozen=True)
class UnitCgroup:
    """A unit's place in the tree.

    :ivar unit: name of the unit; that of a template (``worker@.service``) stands for all instances.
    :ivar parent: path of the directory that it is in, without slashes at the ends; empty for the root.
    """

    unit: str
    parent: str

    @property
    def level(self) -> int:
        """Its depth as nftables counts (nft(8), ``socket cgroupv2 level``): 1 for a child of the root."""
        return (self.parent.count("/") + 2) if self.parent else 1

    @property
    def is_template(self) -> bool:
        """Whether it stands for all instances of a template."""
        return self.unit.endswith("@.service")

    def path(self, unit: str) -> str:
        """The cgroup of a unit that lies here, such as an instance of the template."""
        return f"{self.parent}/{unit}" if self.parent else unit

    def holds(self, path: str) -> bool:
        """Whether a cgroup is one of the unit, or lies below one."""
        parts = path.split("/")
        return len(parts) >= self.level and "/".join(parts[: self.level - 1]) == self.parent and self.matches(parts[self.level - 1])

    def matches(self, name: str) -> bool:
        """Whether a directory of the parent with this name belongs to the unit."""
        if not self.is_template:
            return name == self.unit
        prefix = self.unit[: -len(".service")]
        return name.startswith(prefix) and name.endswith(".service") and len(name) > len(prefix) + len(".service")


def default_slice(unit: str) -> str:
    """The slice that systemd puts a unit in which does not say anything about it."""
    if unit.endswith(".slice"):
        parent = unit[: -len(".slice")].rpartition("-")[0]
        return f"{parent}.slice" if parent else ROOT_SLICE
    name, at, _instance = unit[: -len(".service")].partition("@")
    # unit_set_default_slice() escapes a dash, which would make a level of its own.
    return "system-{}.slice".format(name.replace("-", r"\x2d")) if at else "system.slice"


def slice_path(name: str) -> str:
    """``a-b.slice`` → ``a.slice/a-b.slice``; the root slice is the root."""
    if name == ROOT_SLICE:
        return ""
    parts = name[: -len(".slice")].split("-")
    return "/".join("-".join(parts[: count + 1]) + ".slice" for count in range(len(parts)))


def locate(unit: str, slice_name: str) -> UnitCgroup:
    """A unit in a slice."""
    return UnitCgroup(unit, slice_path(default_slice(unit) if unit.endswith(".slice") else slice_name))
