# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The systemd units of services on this machine: where they are, which cgroups they have, the drop-ins they carry."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._cgroups import UnitCgroup, default_slice
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._nft_table import Member
from ansible_collections.portfence.egress.plugins.module_utils._service import Service
from ansible_collections.portfence.egress.plugins.module_utils._staged import TEMPORARY
from ansible_collections.portfence.egress.plugins.module_utils._store import FENCE_FILE, IPTABLES_FILE
from ansible_collections.portfence.egress.plugins.module_utils._unit import FENCE
from ansible_collections.portfence.egress.plugins.module_utils._unit_members import (
    BEFORE_FENCE,
    CGROUPS,
    DROP_IN,
    LOADING,
    OLD_LIST,
    SCRIPT,
    before_fence_text,
    drop_ins,
    script_text,
    slices_before_fence,
    slices_of,
    socket_bind,
)


def find_slice(host: Host, unit: str) -> Optional[str]:
    """The slice that a unit runs in, or None where there is no such unit. See systemd.resource-control(5), Slice=."""
    if not host.runs_systemd():
        return default_slice(unit)
    shown = host.run(["systemctl", "show", "--property=LoadState,Slice", unit.replace("@.", "@portfence.")]).out
    found = dict(line.partition("=")[::2] for line in shown.split("\n"))
    if found.get("LoadState") == "not-found":
        return None
    return found.get("Slice") or default_slice(unit)


def find_cgroups(host: Host, members: Sequence[Member]) -> Dict[UnitCgroup, List[str]]:
    """The cgroups that units have now: place of a unit to paths below the root of the hierarchy.

    Raises HostError where the host has no cgroup v2 hierarchy at the place where nft looks.
    """
    if members and not os.path.exists(f"{CGROUPS}/cgroup.controllers"):
        raise HostError(
            f"{members[0].place.unit}: the selector unit needs the cgroup v2 hierarchy at {CGROUPS} (systemd's unified mode);"
            " this host does not have it there; use the selector user or classid"
        )
    found: Dict[UnitCgroup, List[str]] = {}
    for place in {member.place for member in members}:
        folder = os.path.join(CGROUPS, place.parent)
        names = [name for name in host.list(folder) if place.matches(name) and os.path.isdir(os.path.join(folder, name))]
        found[place] = [place.path(name) for name in names]
    return found


@dataclass
class UnitSteps:
    """What has to be done so that units tell the fence about their cgroups.

    :ivar before: files to write before the fence changes, path to text: what is started from then on waits for it, and joins.
    :ivar start: slices to start before it does.
    :ivar after: files to write once the fence is in force. :ivar gone: files to remove then: until then, a boot has the old fence.
    :ivar concerned: whether there are units that read the file of the fence.
    """

    before: Tuple[Tuple[str, str], ...] = ()
    start: Tuple[str, ...] = ()
    after: Tuple[Tuple[str, str], ...] = ()
    gone: Tuple[str, ...] = ()
    concerned: bool = False


class UnitsOfHost:
    """The units of this machine."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def plan(self, members: Sequence[Member], services: Sequence[Service], changes: List[str]) -> UnitSteps:
        """Compare with what is there, and say in words what has to be done."""
        wanted = drop_ins(members, {unit: socket_bind(service) for service in services for unit in service.units})
        if members:
            nft = self._host.program("nft", package="nftables")
            wanted[SCRIPT] = script_text(nft=nft, fence_file=FENCE_FILE, other_file=IPTABLES_FILE, boot_unit=FENCE.path)
        present = self._present()
        gone = tuple(path for path in present if path not in wanted)
        texts = {path: self._host.read_own(path) for path in wanted}
        changes.extend(f"remove {path}" for path in gone)
        begun = {path for path in wanted if os.path.lexists(path + TEMPORARY)}
        changes.extend(f"write {path}" for path in sorted(wanted) if texts[path] != wanted[path] or path in begun)
        start = tuple(name for name in slices_of(members) if not self._is_active(name)) if self._host.runs_systemd() else ()
        changes.extend(f"start {name}" for name in start)
        if os.path.lexists(LOADING):
            changes.append(f"remove {LOADING}")
        early = dict(wanted)
        if BEFORE_FENCE in wanted:
            # The old fence needs those of before at boot, the new one its own.
            early[BEFORE_FENCE] = before_fence_text(sorted({*slices_before_fence(texts[BEFORE_FENCE] or ""), *slices_of(members)}))
        # Its drop-in has a unit run the script.
        in_order = sorted(early, key=lambda path: (path != SCRIPT, path))
        before = tuple((path, early[path]) for path in in_order if texts[path] != early[path] or path in begun)
        after = tuple((path, text) for path, text in wanted.items() if early[path] != text)
        return UnitSteps(before, start, after, gone, concerned=bool(wanted or present or os.path.lexists(LOADING)))

    def prepare(self, steps: UnitSteps) -> None:
        """What has to be done before the fence changes. Raises HostError; the fence of before goes on with what is there by then."""
        self._write(steps.before)
        self._host.read_units()
        if steps.start:
            self._host.run(["systemctl", "start", *steps.start])

    def loading(self, steps: UnitSteps) -> None:
        """Tell units that the kernel is about to have another fence than the file."""
        if steps.concerned:
            self._host.write(LOADING, "")

    def loaded(self) -> None:
        """Tell them that it has the one of the file."""
        self._host.remove(LOADING)

    def finish(self, steps: UnitSteps) -> None:
        """What has to be done once the fence is in force, and a boot loads it."""
        self._write(steps.after)
        # A unit that has its drop-in does not start without the script.
        for path in steps.gone:
            if path.endswith(DROP_IN):
                self._host.remove(path)
                self._host.remove_directory(os.path.dirname(path))
        self._host.read_units()
        for path in steps.gone:
            if not path.endswith(DROP_IN):
                self._host.remove(path)

    def _write(self, files: Sequence[Tuple[str, str]]) -> None:
        for path, text in files:
            self._host.make_directory(os.path.dirname(path))
            self._host.write(path, text)

    @staticmethod
    def _present() -> List[str]:
        """Files of ours, and those that a run which was killed had begun."""
        places = [SCRIPT, OLD_LIST, *glob.glob(f"/etc/systemd/system/*.d/{DROP_IN}"), *glob.glob(f"/etc/systemd/system/*.d/{DROP_IN}{TEMPORARY}")]
        paths = sorted({path[: -len(TEMPORARY)] if path.endswith(TEMPORARY) else path for path in places})
        return [path for path in paths if os.path.lexists(path) or os.path.lexists(path + TEMPORARY)]

    def _is_active(self, unit: str) -> bool:
        return self._host.run(["systemctl", "is-active", "--quiet", unit], check=False).rc == 0
