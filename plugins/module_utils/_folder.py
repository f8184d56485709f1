# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory that other accounts may have a hand in, such as the one of node_exporter, as root may use it.

Where an account may write to a directory on the way, it can put a link in the place of the next one, and lead root to wherever it likes.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, contextmanager
from typing import Iterator, List, Optional

from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._host import is_roots
from ansible_collections.portfence.egress.plugins.module_utils._staged import TEMPORARY, stage

# As the kernel counts them, see path_resolution(7).
_MOST_LINKS = 40


class Folder:
    """A directory that is held open: what is written and removed is there, whatever becomes of the path.

    :ivar path: for messages.
    """

    def __init__(self, handle: int, path: str) -> None:
        self._handle = handle
        self.path = path

    def has(self, name: str) -> bool:
        """Whether there is a file or link of that name; a directory is none of ours. Raises HostError."""
        try:
            found = os.stat(name, dir_fd=self._handle, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise HostError(f"can't look at {self.path}/{name}: {error.strerror}") from error
        return not stat.S_ISDIR(found.st_mode)

    def write(self, name: str, text: str) -> None:
        """Replace a file as a whole, for everybody to read. Raises HostError."""
        staged = stage(f"{self.path}/{name}", text, folder=self._handle)
        try:
            staged.promote()
        except HostError:
            staged.discard()
            raise

    def remove(self, name: str) -> None:
        """Remove a file if it is there, and what a run that was killed left beside it. Raises HostError."""
        try:
            self._unlink(name + TEMPORARY)
            self._unlink(name)
        except OSError as error:
            raise HostError(f"can't remove {self.path}/{name}: {error.strerror}") from error

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._handle)
        except (FileNotFoundError, IsADirectoryError):
            pass


@contextmanager
def open_folder(path: str) -> Iterator[Optional[Folder]]:
    """Open a directory by its absolute path; None where there is none.

    Links are followed where root alone may write to the directories that lead to them. Raises HostError for others.
    """
    with ExitStack() as opened:
        try:
            handle = _walk(path, opened)
        except FileNotFoundError:
            handle = None
        except OSError as error:
            raise HostError(f"can't use {path}: {error.strerror}") from error
        yield None if handle is None else Folder(handle, path)


def _walk(path: str, opened: ExitStack) -> int:
    """A handle of the directory, for names in it. Raises HostError, and OSError."""
    handle = _open("/", None, opened)
    parts = _parts(path)
    ours = True
    links = 0
    while parts:
        # Once for all: whoever may write to one directory may move all that is below.
        ours = ours and is_roots(os.fstat(handle))
        name = parts.pop(0)
        found = _open(name, handle, opened)
        mode = os.fstat(found).st_mode
        if stat.S_ISDIR(mode):
            handle = found
            continue
        if not stat.S_ISLNK(mode):
            raise HostError(f"can't use {path}: {name} is not a directory")
        if not ours:
            raise HostError(
                f"can't use {path}: {name} is a symbolic link that another account than root may have put there; name the directory that is meant"
            )
        links += 1
        if links > _MOST_LINKS:
            raise HostError(f"can't use {path}: more than {_MOST_LINKS} symbolic links lead to it")
        target = os.readlink("", dir_fd=found)
        parts = _parts(target) + parts
        if target.startswith("/"):
            handle = _open("/", None, opened)
    return handle


def foreign_step(path: str) -> str:
    """What on the way to a path, itself included, another account than root may change, so that it leads elsewhere; empty for nothing.

    What is not there yet is nobody's.
    """
    place = "/"
    parts = _parts(path)
    links = 0
    while True:
        # All above it is root's, and no link: it stays what it is.
        try:
            found = os.lstat(place)
        except FileNotFoundError:
            return f"{place} is not there, so that nobody knows where .. leads" if ".." in parts else ""
        except OSError as error:
            return f"{place} can't be looked at: {error.strerror}"
        if stat.S_ISLNK(found.st_mode):
            if found.st_uid != 0:
                return f"{place} is a symbolic link of UID {found.st_uid}"
            links += 1
            if links > _MOST_LINKS:
                return f"more than {_MOST_LINKS} symbolic links lead to it"
            target = os.readlink(place)
            parts = _parts(target) + parts
            place = "/" if target.startswith("/") else os.path.dirname(place)
        elif not is_roots(found):
            return f"{place} belongs to UID {found.st_uid} with mode {stat.S_IMODE(found.st_mode):04o}"
        if not parts:
            return ""
        place = os.path.normpath(os.path.join(place, parts.pop(0)))


def _parts(path: str) -> List[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _open(name: str, folder: Optional[int], opened: ExitStack) -> int:
    """A handle of what is there, of a link itself where it is one."""
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    opened.callback(os.close, handle)
    return handle
