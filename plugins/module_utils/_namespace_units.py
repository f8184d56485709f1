# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd and the units that live in a network namespace."""

from __future__ import annotations

import os
from typing import Dict, List, Mapping, Optional, Sequence

from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._mounts import Place, place_of, sees
from ansible_collections.portfence.egress.plugins.module_utils._namespace_spec import Namespace
from ansible_collections.portfence.egress.plugins.module_utils._namespace_text import HOST_UNIT, resolver_path, resolver_text, unit_of


class Units:
    """systemd on this machine; nothing happens where it does not run."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.running = host.runs_systemd()

    def to_start(self, names: Sequence[str]) -> List[str]:
        """Those of our own units that are not active, for namespaces with these names."""
        if not self.running or not names:
            return []
        return [unit for unit in (HOST_UNIT, *map(unit_of, names)) if not self._is_active(unit)]

    def start(self, units: Sequence[str]) -> None:
        """Start units. Raises HostError."""
        if units:
            self._host.run(["systemctl", "start", *units])

    def stop(self, units: Sequence[str]) -> None:
        """Stop units of ours whose files are gone, and forget about them."""
        if self.running and units:
            self._host.run(["systemctl", "stop", *units], check=False)
            self._host.run(["systemctl", "reset-failed", *units], check=False)

    def restart(self, units: Sequence[str]) -> None:
        """Restart units. Raises HostError."""
        if units:
            self._host.run(["systemctl", "restart", *units])

    def outside(self, namespaces: Mapping[str, Namespace], inodes: Mapping[str, int]) -> List[str]:
        """Running units that should be in a namespace and are not, or that see another DNS file there than they should.

        :param inodes: of the namespaces, by name.
        """
        found = []
        for name, namespace in namespaces.items():
            running = self._running(namespace.units)
            resolver = self._resolver(namespace) if running and namespace.dns else None
            for unit, pid in running.items():
                if _network_of(pid) != inodes.get(name, 0) or (namespace.dns and not (resolver and sees(pid, resolver))):
                    found.append(unit)
        return sorted(found)

    def _resolver(self, namespace: Namespace) -> Optional[Place]:
        """The DNS file of a namespace; None unless it is there as it has to be. Where it is replaced, who saw it goes on seeing the old one."""
        path = resolver_path(namespace.name)
        return place_of(path) if self._host.read(path) == resolver_text(namespace) else None

    def inside(self, units: Mapping[str, Sequence[str]], inodes: Mapping[str, int]) -> List[str]:
        """Those of these units that run in the namespace which they are given for.

        :param units: by the name of the namespace.
        :param inodes: of the namespaces, by name.
        """
        return sorted(
            unit
            for name, joining in units.items()
            for unit, pid in self._running(joining).items()
            if inodes.get(name) and _network_of(pid) == inodes[name]
        )

    def _running(self, units: Sequence[str]) -> Dict[str, int]:
        """Units with a main process, instances of templates among them, with its PID."""
        if not self.running or not units:
            return {}
        patterns = [unit.replace("@.", "@*.") for unit in units]
        listed = self._host.run(["systemctl", "list-units", "--plain", "--no-legend", "--no-pager", *patterns], check=False)
        names = [line.split()[0] for line in listed.out.split("\n") if line.split()]
        found = {}
        for unit in names:
            shown = self._host.run(["systemctl", "show", "--property=MainPID", "--value", unit], check=False).out.strip()
            if shown.isdigit() and int(shown):
                found[unit] = int(shown)
        return found

    def _is_active(self, unit: str) -> bool:
        return self._host.run(["systemctl", "is-active", "--quiet", unit], check=False).rc == 0


def _network_of(pid: int) -> int:
    """The inode of the network namespace of a process; -1 when it has ended."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return -1
