# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of allocated ports on the controller: where it is, what it says, and its replacement."""

from __future__ import annotations

import fcntl
import os
import tempfile
from typing import Any, Optional, Sequence

from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError, shown
from ansible_collections.portfence.egress.plugins.module_utils._lock_file import COMMAND, NAME


class NoFolderError(PortFenceError):
    """The inventory is no file that the file of allocated ports could lie beside, and nobody says where it is."""


def lock_path(given: Any, sources: Any) -> str:
    """Where the file is: what the user says, or beside the first source of the inventory.

    :param given: the variable ``egress_lock_file``, None where it is not set.
    :param sources: the magic variable ``ansible_inventory_sources``.
    Raises NoFolderError, and PortFenceError where the same inventory seems to have a file elsewhere: without it, ranges would be
    handed out twice.
    """
    if given is not None:
        if not isinstance(given, str) or not given.strip():
            raise PortFenceError(f"egress_lock_file: found {shown(given)}; accepted: the path of a file on the controller")
        return os.path.abspath(os.path.expanduser(given))
    found = [os.path.abspath(source) for source in sources or () if isinstance(source, str) and os.path.exists(source)]
    if not found:
        raise NoFolderError(f"egress_lock_file: missing, and the inventory is no file that {NAME} could lie beside; accepted: a path")
    # Within a folder, Ansible would take it for a part of the inventory.
    path = _beside(found[0])
    other = _other(path, found)
    if other is not None:
        raise PortFenceError(
            f"egress_lock_file: missing, and {other} was written with the inventory named in another way: with this one, it would be {path};"
            f" accepted: the same -i as then, egress_lock_file: {other}, or for another inventory one of its own: egress_lock_file: {path}"
        )
    return path


def _beside(source: str) -> str:
    return os.path.join(os.path.dirname(source), NAME)


def _other(path: str, sources: Sequence[str]) -> Optional[str]:
    """A file of the same inventory that a run with its sources in another order left, with the folder of a file or a file of a folder,
    or without a symbolic link."""
    folder = os.path.join(sources[0], NAME)
    if os.path.isfile(folder):
        return folder
    if os.path.exists(path):
        return None
    others = [_beside(os.path.realpath(sources[0])), *(_beside(source) for source in sources[1:])]
    if os.path.isfile(sources[0]):
        others.append(_beside(os.path.dirname(path)))
    return next((other for other in others if os.path.isfile(other)), None)


def read(path: str) -> Optional[str]:
    """The text of the file; None where there is none. Raises PortFenceError."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise PortFenceError(f"{path} can't be read: {error}") from error


def replace(path: str, text: str, *, expected: Optional[str]) -> None:
    """Put a new text in the place of the one that was read, in one step, or leave the file alone.

    :param expected: what was read; None for no file.
    Raises PortFenceError where the file is no longer that. The folder is locked (flock) while the two are compared and
    the file is replaced, so that of two runs at once one is refused.
    """
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if read(target) != expected:
                raise PortFenceError(
                    f"{path} was changed by somebody else since this run read it, and is left as it is now."
                    f" Look at what changed (git diff), then run again: {COMMAND}"
                )
            _write(target, text, folder)
            os.fsync(lock)
        finally:
            os.close(lock)
    except OSError as error:
        raise PortFenceError(f"{path} can't be written: {error}") from error


def _write(target: str, text: str, folder: str) -> None:
    mode = os.stat(target).st_mode & 0o7777 if os.path.exists(target) else 0o644
    handle, name = tempfile.mkstemp(prefix=f".{os.path.basename(target)}.", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
