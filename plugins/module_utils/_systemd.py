# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether systemd runs this machine, and whether it has read its units since some were changed."""

from __future__ import annotations

import os

from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError

# There from before the first change of a unit until systemd has read them all, so that a run goes on where one was killed, or where systemd
# refused. A boot, which reads all of them, empties /run.
UNREAD = "/run/portfence-unread"
READING = f"{UNREAD}.reading"
_UNITS = ("/etc/systemd/system/", "/run/systemd/system/")


def runs_systemd() -> bool:
    """Whether systemd runs this machine, see sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def is_unread() -> bool:
    """Whether it has units to read."""
    return runs_systemd() and any(map(os.path.lexists, (UNREAD, READING)))


def begin_reading() -> None:
    """Before systemd reads its units; when it has, READING is to be removed. Raises HostError."""
    # Not all runs hold a lock: what another one changes from here on, this reload may not see.
    try:
        os.replace(UNREAD, READING)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise HostError(f"can't move {UNREAD}: {error.strerror}") from error


def note_change(path: str) -> None:
    """Before a file is changed: if it is one of systemd's, it has to be read again. Raises HostError."""
    if path.startswith(_UNITS) and runs_systemd():
        try:
            os.close(os.open(UNREAD, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise HostError(f"can't write {UNREAD}: {error.strerror}") from error
