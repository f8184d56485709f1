# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the eBPF programs have on this machine, and the steps to what is wanted of them.

A host that has nothing of them and wants nothing needs no more than this: what a module imports is compiled anew each time.
"""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Dict, List, Mapping, Optional, Sequence

from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Resolved
from ansible_collections.portfence.egress.plugins.module_utils._store import BASE
from ansible_collections.portfence.egress.plugins.module_utils._unit import FOLDER, WANTS

if TYPE_CHECKING:
    from ansible_collections.portfence.egress.plugins.module_utils._bpf import Maps

# Assignments that ask for the programs.
ASSIGNMENTS = ("bpf", "auto")

PINS = "/sys/fs/bpf/portfence"
OBJECT_NAME, BATCH_NAME, SCRIPT_NAME = "bpf.o", "bpf.batch", "bpf-load"
OBJECT_PATH, BATCH_PATH, SCRIPT_PATH = FILES = tuple(f"{BASE}/{name}" for name in (OBJECT_NAME, BATCH_NAME, SCRIPT_NAME))
UNIT = "portfence-bpf.service"
UNIT_PATH = f"{FOLDER}/{UNIT}"
UNIT_LINK = f"{WANTS}/{UNIT}"
DROP_IN = "60-portfence-bpf.conf"


@dataclass
class BpfPlan:
    """What the programs do for the services of a host, and what has to be done for that.

    :ivar assignments: how each service gets its ports: "auto" is decided.
    :ivar fallbacks: why a service with "auto" has no bpf.
    :ivar changes: the steps for people; empty when everything is as it should be.
    :ivar cgroup: where cgroup v2 is mounted.
    :ivar drop_ins: what units get, path to text; None for one that goes.
    """

    assignments: Dict[str, str] = field(default_factory=dict)
    fallbacks: Dict[str, str] = field(default_factory=dict)
    changes: List[str] = field(default_factory=list)
    cgroup: str = "/sys/fs/cgroup"
    load: Optional[Maps] = None
    served: Sequence[Resolved] = ()
    update: Optional[List[str]] = None
    unload: bool = False
    batch_file: Optional[str] = None
    object_file: bool = False
    script_file: bool = False
    install_unit: bool = False
    drop_ins: Dict[str, Optional[str]] = field(default_factory=dict)
    remove_files: bool = False


def plan_bpf(host: Host, resolved: Sequence[Resolved], *, paths: Mapping[str, str], persist: bool) -> BpfPlan:
    """Compare what is wanted of the programs with what is there.

    :param paths: where each service was written, for messages.
    Raises InputError when a service asks for bpf and can't have it here, HostError when the host can't be read.
    """
    plan = BpfPlan(assignments={item.service.name: item.service.assignment for item in resolved})
    if any(assignment in ASSIGNMENTS for assignment in plan.assignments.values()) or os.path.lexists(PINS) or persisted():
        from ansible_collections.portfence.egress.plugins.module_utils._bpf_host import BpfOfHost

        BpfOfHost(host).complete(plan, resolved, paths=paths, persist=persist)
    return plan


def run_bpf(host: Host, plan: BpfPlan) -> None:
    """Do the steps of a plan. Raises HostError; then the old programs or the new ones give ports, or the fence alone."""
    if plan.changes:
        from ansible_collections.portfence.egress.plugins.module_utils._bpf_host import BpfOfHost

        BpfOfHost(host).run(plan)


def persisted() -> bool:
    """Whether anything is there that loads the programs at boot, or that is made for that."""
    return any(os.path.lexists(path) for path in FILES) or unit_present() or bool(drop_ins_present())


def unit_present() -> bool:
    """Whether the unit or its link is there."""
    return os.path.lexists(UNIT_PATH) or os.path.islink(UNIT_LINK)


def drop_ins_present() -> List[str]:
    """Paths of the drop-ins that are there."""
    return sorted(glob.glob(f"{FOLDER}/*.d/{DROP_IN}"))
