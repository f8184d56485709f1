# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who opens the sockets of a probe, and where. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._classid import format_classid

UNIT = "unit"
CLASSID = "classid"
NAMESPACE = "namespace"


@dataclass(frozen=True)
class Place:
    """Where a socket has to be opened to belong to a service, whatever account opens it.

    :ivar kind: UNIT, CLASSID or NAMESPACE.
    :ivar name: name of the unit, or of the service that has the class or the namespace.
    :ivar path: folder of the cgroup, or file of the network namespace.
    :ivar classid: the classid of a class.
    :ivar sources: families and this host's addresses in a namespace.
    """

    kind: str
    name: str
    path: str
    classid: Optional[int] = None
    sources: Tuple[Tuple[str, str], ...] = ()

    def __str__(self) -> str:
        if self.classid is not None:
            return f"the class {format_classid(self.classid)}"
        return f"the {'network namespace' if self.kind == NAMESPACE else self.kind} {self.name}"


@dataclass(frozen=True)
class Account:
    """Who opens a socket. The name is for people.

    :ivar place: where; None for any place.
    :ivar absent: why nothing can be opened so.
    """

    name: str
    uid: int
    gid: int
    place: Optional[Place] = None
    absent: Optional[str] = None

    @property
    def unit(self) -> Optional[str]:
        """The unit that its sockets belong to."""
        return self.place.name if self.place is not None and self.place.kind == UNIT else None

    @property
    def classid(self) -> Optional[int]:
        """The class that its sockets belong to."""
        return None if self.place is None else self.place.classid

    @property
    def in_namespace(self) -> bool:
        """Whether its sockets are in the network namespace of their service."""
        return self.place is not None and self.place.kind == NAMESPACE


def not_running(unit: str) -> str:
    """Why nothing can be opened as a unit without a cgroup."""
    if unit.endswith("@.service"):
        return f"no instance of {unit} runs, so there is no cgroup to connect from; start one, and run the probe again"
    return f"{unit} does not run, so there is no cgroup to connect from; start it (systemctl start {unit}), and run the probe again"


FORWARDED = (
    "traffic of addresses is forwarded by this host, which can't send it itself; connect from a container or a machine with"
    " such an address to see its source port"
)
