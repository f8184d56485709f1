# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are written beside their place, flushed and renamed over it: a reader or a crash meets the old file or the new one."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Dict, Iterable, List, Optional, Union

from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._systemd import note_change

if TYPE_CHECKING:
    from ansible_collections.portfence.egress.plugins.module_utils._host import Host

# The end of the name of a file that is being written.
TEMPORARY = ".portfence-new"


class Staged:
    """A file that is written, but not in its place yet."""

    def __init__(self, path: str, *, folder: Optional[int] = None) -> None:
        """
        :param folder: a handle of the directory, where that may have another path by now.
        """
        self.path = path
        self._folder = folder
        self._name = path if folder is None else os.path.basename(path)
        self._temporary = self._name + TEMPORARY

    def write(self, content: Union[str, bytes], *, mode: int) -> None:
        """Write the content beside its place. Raises HostError, with nothing left."""
        try:
            self.forget()  # left by a run that was killed
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
            with open(os.open(self._temporary, flags, 0o600, dir_fd=self._folder), "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self.discard()
            raise HostError(f"can't write {self.path}: {error.strerror}") from error

    def promote(self) -> None:
        """Move it to its place in one step. Raises HostError."""
        note_change(self.path)
        try:
            os.replace(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            place = os.path.dirname(self.path) if self._folder is None else "."
            folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._folder)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise HostError(f"can't write {self.path}: {error.strerror}") from error

    def forget(self) -> None:
        """Remove what is written beside its place, if there is something. Raises OSError."""
        with suppress(FileNotFoundError):
            os.unlink(self._temporary, dir_fd=self._folder)

    def discard(self) -> None:
        """The same, wherever that can be done."""
        with suppress(OSError):
            self.forget()


def stage(path: str, content: Union[str, bytes], *, mode: int = 0o644, folder: Optional[int] = None) -> Staged:
    """Write the content beside its place, without touching the place yet. Raises HostError.

    :param folder: see :class:`Staged`.
    """
    staged = Staged(path, folder=folder)
    staged.write(content, mode=mode)
    return staged


def missing_folders(path: str) -> List[str]:
    """The folders above a path that are not there, the outermost first."""
    missing: List[str] = []
    folder = os.path.dirname(path)
    while not os.path.lexists(folder):
        missing.insert(0, folder)
        folder = os.path.dirname(folder)
    return missing


class StagedFiles:
    """Files that are written, but not in their places yet, and the folders that were made for them."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._files: Dict[str, Staged] = {}
        self._made: List[str] = []

    def add(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write one more. Raises HostError."""
        for folder in missing_folders(path):
            self._host.make_directory(folder)
            self._made.append(folder)
        self._host.check_directory(os.path.dirname(path))
        self._files[path] = self._host.stage(path, text, mode=mode)

    def promote(self, paths: Iterable[str]) -> None:
        """Move some of them to their places, each in one step. Raises HostError."""
        for path in paths:
            self._files[path].promote()
            del self._files[path]

    def discard(self) -> None:
        """Forget those that are not in their places, and the folders that are empty then."""
        for file in self._files.values():
            file.discard()
        for folder in reversed(self._made):
            try:
                os.rmdir(folder)
            except OSError:
                pass
