# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that collects metrics on a host, with its service and timer of systemd.

The program is a Python zip archive (zipapp) of the modules that fence_info consists of: both show the same figures.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import sys
import zipfile
from dataclasses import dataclass
from typing import Dict, List, Sequence

from ansible_collections.portfence.egress.plugins.module_utils import _metrics_program
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._folder import open_folder
from ansible_collections.portfence.egress.plugins.module_utils._host import Host

LIBRARY = "/usr/local/lib/portfence"
PROGRAM = f"{LIBRARY}/metrics.pyz"
SERVICE = "/etc/systemd/system/portfence-metrics.service"
TIMER = "/etc/systemd/system/portfence-metrics.timer"
LINK = "/etc/systemd/system/timers.target.wants/portfence-metrics.timer"
_TIMER_NAME = os.path.basename(TIMER)

# Characters of a directory. The kernel takes 4095 bytes (PATH_MAX), which nobody wants to read in a message.
LONGEST = 1000
# What systemd gives a meaning, or takes for the end of a word, in ExecStart= or ReadWritePaths=.
_SPECIAL = frozenset(" \"'\\%$")

_WRITES = "ReadWritePaths="
_PACKAGE = _metrics_program.__name__.rpartition(".")[0]
_IMPORT = re.compile(rf"from {re.escape(_PACKAGE)}(?:\.(_\w+) import| import (_\w+(?:, _\w+)*))")
_HEADER = "# Written by the Ansible collection portfence.egress. Changes are overwritten."
_MAIN = f"""import sys
from {_PACKAGE}._errors import PortFenceError
from {_PACKAGE}._metrics_program import collect
try:
    collect(sys.argv[1])
except PortFenceError as error:
    sys.exit(f"portfence: {{error}}")
"""
# The earliest time that a zip archive can hold: equal sources give an equal file.
_WHEN = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Settings:
    """Where and how often.

    :ivar directory: the one that node_exporter reads (``--collector.textfile.directory``).
    :ivar interval: seconds between two collections.
    """

    directory: str
    interval: int


def is_harmless(directory: str) -> bool:
    """Whether a directory is an absolute path that can stand in a unit as it is, and not longer than LONGEST."""
    names = directory.split("/")
    return len(directory) <= LONGEST and names[0] == "" and directory.isprintable() and not _SPECIAL & {*directory} and not {".", ".."} & {*names}


def program() -> bytes:
    """The archive, the same for equal sources."""
    sources = _sources()
    folders = _PACKAGE.split(".")
    files = {"__main__.py": _MAIN}
    files.update({"/".join([*folders[: depth + 1], "__init__.py"]): "" for depth in range(len(folders))})
    files.update({f"{'/'.join(folders)}/{name}.py": text for name, text in sources.items()})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _WHEN)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])
    return packed.getvalue()


def _sources() -> Dict[str, str]:
    """The modules that the program needs, by name, wherever this one was loaded from (a folder, or Ansible's own archive)."""
    found: Dict[str, str] = {}
    wanted = [_metrics_program.__name__.rpartition(".")[2]]
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        spec = importlib.util.find_spec(f"{_PACKAGE}.{name}")
        # Loaders of files and of archives have it, the abstract one has not (PEP 302).
        get_source = getattr(spec.loader, "get_source", None) if spec is not None else None
        source = get_source(f"{_PACKAGE}.{name}") if get_source is not None else None
        if source is None:
            raise HostError(f"the source of {_PACKAGE}.{name} was not found; install the collection again")
        found[name] = source
        wanted.extend(part for one, several in _IMPORT.findall(source) for part in [one, *several.split(", ")] if part)
    return found


def files(settings: Settings) -> Dict[str, bytes]:
    """Path to content of everything that is installed."""
    service = f"""{_HEADER}
[Unit]
Description=Metrics of the source port fence
After=portfence.service

[Service]
Type=oneshot
ExecStart={sys.executable} -I {PROGRAM} {settings.directory}
NoNewPrivileges=yes
PrivateTmp=yes
ProtectHome=yes
ProtectSystem=strict
{_WRITES}{settings.directory}
"""
    timer = f"""{_HEADER}
[Unit]
Description=Regular metrics of the source port fence

[Timer]
OnBootSec=30
OnUnitActiveSec={settings.interval}
AccuracySec=1

[Install]
WantedBy=timers.target
"""
    return {PROGRAM: program(), SERVICE: service.encode(), TIMER: timer.encode()}


class MetricsOfHost:
    """The installation on this machine.

    :ivar warnings: what the user should know.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.warnings: List[str] = []

    def install(self, settings: Settings, *, check_mode: bool) -> List[str]:
        """Everything in place and the timer running. What was done, or would be. Raises HostError."""
        with open_folder(settings.directory) as folder:
            exists = folder is not None
        wanted = files(settings)
        if os.path.lexists(LIBRARY):
            self._host.check_directory(LIBRARY)
        changed = [path for path, content in wanted.items() if self._host.read_bytes(path) != content or self._host.danger(path)]
        changes = [f"write {path}" for path in changed]
        linked = os.path.realpath(LINK) == TIMER
        if not linked:
            changes.append(f"enable {_TIMER_NAME}")
        if self._host.runs_systemd() and not self._is_active():
            changes.append(f"start {_TIMER_NAME}")
        changes.extend(self._host.read_units(check_mode=check_mode))
        before = [place for place in self._directories() if place != settings.directory]
        changes.extend(f"remove {path}" for path in _left(before))
        if check_mode or not changes:
            return changes
        if not exists:
            raise HostError(
                f"the directory {settings.directory} does not exist; install node_exporter (package prometheus-node-exporter),"
                " or name the directory that it reads"
            )
        # While the unit still says where the file is.
        if before:
            self._stop()
            _remove(before)
        for path in changed:
            self._host.make_directory(os.path.dirname(path))
            self._host.write(path, wanted[path])
        if not linked:
            self._host.make_directory(os.path.dirname(LINK))
            self._host.link(LINK, TIMER)
        if self._host.runs_systemd():
            self._host.read_units()
            self._host.run(["systemctl", "restart", _TIMER_NAME])
            self._host.run(["systemctl", "start", os.path.basename(SERVICE)])
        return changes

    def remove(self, settings: Settings, *, check_mode: bool) -> List[str]:
        """Nothing of it left, the file of metrics included. What was done, or would be. Raises HostError."""
        places = self._directories()
        try:
            with open_folder(settings.directory) as folder:
                places += [settings.directory] if folder is not None and settings.directory not in places else []
        except HostError as error:
            # Nor would anything have been written there.
            self.warnings.append(f"{error}; nothing was looked for there")
        present = [path for path in (LINK, TIMER, SERVICE, PROGRAM) if os.path.lexists(path)]
        changes = [f"remove {path}" for path in (*present, *_left(places))]
        changes.extend(self._host.read_units(check_mode=check_mode))
        if check_mode or not changes:
            return changes
        self._stop()
        # The unit goes last: it says where the file is.
        _remove(places)
        for path in sorted(present, key=lambda path: path == SERVICE):
            self._host.remove(path)
        self._host.remove_directory(LIBRARY)
        self._host.read_units()
        if self._host.runs_systemd():
            self._host.run(["systemctl", "reset-failed", os.path.basename(SERVICE)], check=False)
        return changes

    def _stop(self) -> None:
        if self._host.runs_systemd() and os.path.lexists(TIMER):
            # In this order, or the timer starts the service once more.
            for unit in (TIMER, SERVICE):
                self._host.run(["systemctl", "stop", os.path.basename(unit)])

    def _directories(self) -> List[str]:
        """Where the unit that is installed writes to, unless somebody else could have led us there."""
        text = self._host.read(SERVICE) or ""
        found = [line[len(_WRITES) :] for line in text.split("\n") if line.startswith(_WRITES)] if text.startswith(_HEADER) else []
        return [place for place in found if is_harmless(place) and _is_open(place)]

    def _is_active(self) -> bool:
        return self._host.run(["systemctl", "is-active", "--quiet", _TIMER_NAME], check=False).rc == 0


def _is_open(directory: str) -> bool:
    try:
        with open_folder(directory) as folder:
            return folder is not None
    except HostError:
        return False


def _left(directories: Sequence[str]) -> List[str]:
    """The files of metrics in these. Raises HostError."""
    found = []
    for place in directories:
        with open_folder(place) as folder:
            if folder is not None and folder.has(_metrics_program.FILE):
                found.append(os.path.join(place, _metrics_program.FILE))
    return found


def _remove(directories: Sequence[str]) -> None:
    """Remove the files of metrics from these. Raises HostError."""
    for place in directories:
        with open_folder(place) as folder:
            if folder is not None:
                folder.remove(_metrics_program.FILE)
