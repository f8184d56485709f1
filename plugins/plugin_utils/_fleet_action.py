# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What both actions on the whole inventory do: read the policies of all hosts, and the file of allocated ports."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any, List, Mapping, Optional, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._allocator import held_by
from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._fleet import HostPolicy
from ansible_collections.portfence.egress.plugins.module_utils._lock_file import LockFile, parse
from ansible_collections.portfence.egress.plugins.plugin_utils._fleet_variables import Fleet
from ansible_collections.portfence.egress.plugins.plugin_utils._lock_store import lock_path, read


@dataclass(frozen=True)
class Inventory:
    """The whole inventory.

    :ivar text: of the file; None where there is none.
    :ivar location: why there can't be a file, where the path is unknown.
    """

    hosts: List[HostPolicy]
    path: str
    text: Optional[str]
    lock: LockFile
    location: str = ""

    @property
    def automatic(self) -> bool:
        """Whether any service leaves its ports to the allocation."""
        return any(item.size is not None for host in self.hosts for item in host.policy.declared)


def read_inventory(task_vars: Mapping[str, Any], given: Any) -> Inventory:
    """Read it.

    :param given: the path of the file, None for the one beside the inventory.
    The file comes first: what is written later is compared with it. Raises PortFenceError.
    """
    # Ansible has forked this process for its task. What it began with stays until its end, and so does most of what comes.
    gc.freeze()
    gc.set_threshold(100_000)
    path, location = _path(task_vars, given)
    text = read(path) if path else None
    lock = LockFile() if text is None else parse(text, path=path)
    hosts = Fleet(task_vars["hostvars"]).read(list(task_vars["groups"]["all"]))
    return Inventory(hosts=hosts, path=path, text=text, lock=lock, location=location)


def _path(task_vars: Mapping[str, Any], given: Any) -> Tuple[str, str]:
    try:
        return lock_path(given, task_vars.get("ansible_inventory_sources")), ""
    except PortFenceError as error:
        if given is not None:
            raise
        return "", str(error)


def held(inventory: Inventory) -> Any:
    """The ranges of all present owners."""
    return held_by(inventory.lock.holdings)
