# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program portfence-run on this machine."""

from __future__ import annotations

import inspect
import os
import sys
from typing import Optional

from ansible_collections.portfence.egress.plugins.module_utils import _launcher
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host

PATH = "/usr/local/bin/portfence-run"
_HEADER = "# Written by the Ansible collection portfence.egress. Changes are overwritten.\n"


class Launcher:
    """The program that starts commands as services."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def check_owner(self) -> None:
        """Raises HostError when somebody else has a program of that name."""
        found = self._host.read(PATH)
        if found is not None and _HEADER not in found:
            raise HostError(f"{PATH} exists and was not written by this collection; rename or remove it")

    def missing(self) -> Optional[str]:
        """The text to write, or None where the program is as it should be."""
        python = self._host.find("python3") or sys.executable
        # -I: neither the directory nor the environment of the caller decides what is imported.
        wanted = f"#!{python} -I\n{_HEADER}{inspect.getsource(_launcher)}"
        executable = os.access(PATH, os.X_OK)
        return None if executable and self._host.read_own(PATH) == wanted else wanted

    def write(self, text: str) -> None:
        """Put the program in its place."""
        self._host.write(PATH, text, mode=0o755)

    def present(self) -> bool:
        """Whether the program is there."""
        return os.path.lexists(PATH)

    def remove(self) -> None:
        """Take the program away."""
        self._host.remove(PATH)
