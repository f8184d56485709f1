# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The services that a host was told of: one JSON file each below ``/etc/portfence/services.d``."""

from __future__ import annotations

import json
import os
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils import _json
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, Problem
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_list
from ansible_collections.portfence.egress.plugins.module_utils._service import Declared, Service

BASE = "/etc/portfence"
FOLDER = f"{BASE}/services.d"
FENCE_FILE = f"{BASE}/fence.nft"
IPTABLES_FILE = f"{BASE}/fence.iptables"
PREVIOUS_FILE = f"{BASE}/previous.json"
# Gone with the next boot, like the counters of the kernel that it belongs to.
RUN = "/run/portfence"
PROBE_COUNTS_FILE = f"{RUN}/probe-counts.json"
TRIED_FILE = f"{RUN}/tried.json"


def host_of_root() -> Host:
    """This machine. Raises HostError unless we are root, and nobody else can change what is in our directories, which root loads at boot."""
    host = Host()
    host.require_root()
    for path in (BASE, FOLDER, f"{BASE}/namespaces.d"):
        if os.path.lexists(path):
            host.check_directory(path)
    return host


def path_of(name: str) -> str:
    """The file of a service."""
    return f"{FOLDER}/{name}.json"


class Store:
    """The declared services of the host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._contents: Dict[str, Any] = {}
        # Those of which it is known that their files say just this.
        self._same: Dict[str, Service] = {}

    def read(self, given: Optional[Mapping[str, Service]] = None) -> Dict[str, Declared]:
        """All services by name, each with its file as path. Raises InputError with every file that can't be used.

        :param given: services by name that were parsed already: a file that says the same is not parsed again.
        """
        found, problems = self._read(given or {})
        if problems:
            raise InputError(what=f"the services stored in {FOLDER}", problems=problems)
        return found

    def readable(self) -> Dict[str, Declared]:
        """The services whose files can be used."""
        return self._read({})[0]

    def _read(self, given: Mapping[str, Service]) -> Tuple[Dict[str, Declared], List[Problem]]:
        found: Dict[str, Declared] = {}
        problems: List[Problem] = []
        self._contents = {}
        self._same = {}
        for entry in self._host.list(FOLDER):
            if not entry.endswith(".json"):
                continue
            path = os.path.join(FOLDER, entry)
            name = entry[: -len(".json")]
            try:
                danger = self._host.danger(path)
                if danger:
                    raise ValueError(danger)
                content = _json.load(self._host.read(path) or "")
                if not isinstance(content, dict) or content.get("name") != name:
                    raise ValueError(f'the key name must be "{name}", like the file')
                same = given.get(name)
                if same is not None and _says(content) == _says(same.to_dict()):
                    service = self._same[name] = same
                else:
                    service = parse_list([content], where=path)[0].service
                if service.state != "present":
                    raise ValueError('the key state must be "present"')
                found[name] = Declared(path, service)
                self._contents[name] = content
            except InputError as error:
                problems.extend(error.problems)
            except ValueError as error:
                problems.append(Problem(path, f"{error}; mend or remove the file"))
        return found, problems

    def prepare(self) -> None:
        """Make the directories. Raises HostError when they can't be made or are not safe."""
        self._host.make_directory(BASE)
        self._host.make_directory(FOLDER)

    def differs(self, service: Service) -> bool:
        """Whether the file of a service says anything else than it should, as it was read or written; a key that is missing counts."""
        if self._same.get(service.name) is service:
            return False
        return _says(self._contents.get(service.name)) != _says(service.to_dict())

    def write(self, service: Service) -> None:
        """Store one service."""
        self._host.write(path_of(service.name), to_text(service))
        self._contents[service.name] = service.to_dict()

    def remove(self, name: str) -> None:
        """Forget one service."""
        self._host.remove(path_of(name))

    def remember(self, services: Sequence[Service], *, backend: Optional[str], by: str) -> None:
        """Store what was in force before a change, for one way back, and who made the change."""
        content = {"backend": backend, "by": by, "services": [service.to_dict() for service in services]}
        self._host.write(PREVIOUS_FILE, json.dumps(content, indent=2, sort_keys=True) + "\n")

    def previous(self) -> Optional[Dict[str, Any]]:
        """What was in force before the last change: ``backend`` (None for no fence) and ``services``, as modules take them.

        None where nothing was stored, or nothing that can be read, or that others than root could have written.
        """
        try:
            content = _json.load(self._host.read_own(PREVIOUS_FILE) or "")
            return {"backend": content["backend"], "services": list(content["services"])}
        except (ValueError, KeyError, TypeError):
            return None

    def last_change(self) -> Optional[Dict[str, str]]:
        """``at`` (UTC, ISO 8601) and ``by`` of the last change of the services; None where nothing is known of it."""
        try:
            at = time.gmtime(os.stat(PREVIOUS_FILE).st_mtime)
            return {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", at), "by": str(_json.load(self._host.read_own(PREVIOUS_FILE) or "")["by"])}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def present(self) -> bool:
        """Whether any of the files is there. Others keep theirs in the same place."""
        entries = self._host.list(BASE)
        return os.path.isdir(BASE) and (not entries or any(os.path.lexists(path) for path in (FOLDER, FENCE_FILE, IPTABLES_FILE, PREVIOUS_FILE)))

    def remove_all(self) -> None:
        """Remove every file of ours, and the directories unless somebody put other files there."""
        for entry in self._host.list(FOLDER):
            if entry.endswith((".json", ".json.portfence-new")):
                self._host.remove(os.path.join(FOLDER, entry))
        self._host.remove_directory(FOLDER)
        for path in (FENCE_FILE, IPTABLES_FILE, PREVIOUS_FILE):
            self._host.remove(path)
            self._host.remove(f"{path}.portfence-new")
        self._host.remove_directory(BASE)
        self._host.remove(TRIED_FILE)
        self.forget_probes()

    def forget_probes(self) -> None:
        """Remove the record of what probes made the fence count."""
        self._host.remove(PROBE_COUNTS_FILE)
        self._host.remove_directory(RUN)


_ENCODER = json.JSONEncoder(sort_keys=True)


def _says(content: Any) -> str:
    """For comparing: Python takes 1 for true."""
    return _ENCODER.encode(content)


def to_text(service: Service) -> str:
    """The content of a service's file."""
    return json.dumps(service.to_dict(), indent=2, sort_keys=True) + "\n"
