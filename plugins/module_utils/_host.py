# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one door to the machine: run a program, read and write files, hold the lock.

Nothing follows a symbolic link in a directory that only root may write to.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import contextmanager
from typing import Callable, Iterable, Iterator, List, Mapping, Optional, Sequence, Union

from ansible_collections.portfence.egress.plugins.module_utils import _boot_lock
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._program import PATH, Result, Running, start
from ansible_collections.portfence.egress.plugins.module_utils._staged import TEMPORARY, Staged, StagedFiles, missing_folders, stage
from ansible_collections.portfence.egress.plugins.module_utils._systemd import READING, begin_reading, is_unread, note_change, runs_systemd

LOCK_PATH = "/run/portfence.lock"
LOCK_WAIT = 60.0


class Host:
    """The machine that the module runs on."""

    def __init__(self) -> None:
        self._held: List[int] = []

    def require_root(self) -> None:
        """Raises HostError when the module does not run as root."""
        if os.geteuid() != 0:
            raise HostError(f"this module needs root, but runs with UID {os.geteuid()}; use become: true")

    @staticmethod
    def runs_systemd() -> bool:
        """Whether systemd runs this machine."""
        return runs_systemd()

    def read_units(self, *, check_mode: bool = False) -> List[str]:
        """Have systemd read its units if it has not since some were changed, by this run or by one before. Raises HostError.

        :return: what was done, or in check mode would be, as a list for humans; empty when nothing.
        """
        if not is_unread():
            return []
        if not check_mode:
            self.reload_units()
        return ["have systemd read its units"]

    def reload_units(self) -> None:
        """Have systemd read its units, see daemon-reload in systemctl(1). Raises HostError."""
        begin_reading()
        self.run(["systemctl", "daemon-reload"])
        self.remove(READING)

    def find(self, name: str) -> Optional[str]:
        """The path of a program, or None."""
        for folder in PATH.split(":"):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        return None

    def program(self, name: str, *, package: str) -> str:
        """The path of a program. Raises HostError that names the package which brings it."""
        path = self.find(name)
        if path is None:
            raise HostError(f"the program {name} was not found in {PATH}; install the package {package}")
        return path

    def run(self, args: Sequence[str], *, data: Optional[str] = None, check: bool = True, killed: bool = False) -> Result:
        """Run a program without a shell. See :meth:`start` and :meth:`Running.result`."""
        return self.start(args, data=data).result(check=check, killed=killed)

    def start(self, args: Sequence[str], *, data: Optional[str] = None) -> Running:
        """Start a program without a shell, see :func:`_program.start`. Raises HostError.

        When this process is killed, the program goes on: it has all of its input by then, and the locks until it ends.
        """
        return start(args, data=data, keep=self._held)

    def read(self, path: str) -> Optional[str]:
        """The text of a file as it is, or None when there is none. Lines end with a line feed, and with nothing else. Raises HostError."""
        try:
            with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            return None
        except OSError as error:
            raise HostError(f"can't read {path}: {error.strerror}") from error

    @staticmethod
    def read_others(path: str) -> Optional[str]:
        """The text, up to a MiB of it, of a file that others than root may have put there, or None when there is none.

        It waits for nobody, and is empty where that is no ordinary file, or one that can't be read.
        """
        try:
            # What is only looked at does nothing: a FIFO waits for a writer, and some devices act when they are opened.
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    return ""
                with open(os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                    return file.read(1 << 20).decode("utf-8", "surrogateescape")
            finally:
                os.close(handle)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            return ""

    def read_own(self, path: str) -> Optional[str]:
        """The text of a file of ours; empty where others than root could change it, so that it is written anew. None where there is none.

        Raises HostError.
        """
        text = self.read(path)
        return "" if text is not None and self.danger(path) else text

    def require_own(self, path: str) -> None:
        """Raises HostError when a file that is there could be changed by others than root."""
        if os.path.lexists(path):
            self._refuse_danger(path)

    def read_bytes(self, path: str) -> Optional[bytes]:
        """The content of a file, or None when there is none. Raises HostError."""
        try:
            with open(path, "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise HostError(f"can't read {path}: {error.strerror}") from error

    def sysctl(self, key: str) -> str:
        """A setting of the kernel, such as "net.ipv4.ip_local_port_range", with its white space folded. Raises HostError."""
        path = f"/proc/sys/{key.replace('.', '/')}"
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                # Of a long list, the kernel gives nothing more to a second read.
                return " ".join(os.read(handle, 1 << 20).decode("ascii", "replace").split())
            finally:
                os.close(handle)
        except OSError as error:
            raise HostError(f"can't read {path}: {error.strerror}") from error

    def list(self, path: str) -> List[str]:
        """Sorted names in a directory; none when it does not exist. Raises HostError."""
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise HostError(f"can't list {path}: {error.strerror}") from error

    def make_directory(self, path: str, *, mode: int = 0o755) -> None:
        """Create a directory that only root may write to, or check that it is one. Raises HostError."""
        try:
            # Not more than that at any moment, whatever the umask.
            os.mkdir(path, mode)
            os.chmod(path, mode)
        except FileExistsError:
            pass
        except OSError as error:
            raise HostError(f"can't create {path}: {error.strerror}") from error
        self.check_directory(path)

    def check_directory(self, path: str) -> None:
        """Raises HostError unless this is a directory that root alone may write to."""
        try:
            found = os.lstat(path)
        except OSError as error:
            raise HostError(f"can't use {path}: {error.strerror}") from error
        if not stat.S_ISDIR(found.st_mode):
            raise HostError(f"{path} is not a directory (a symbolic link is refused as well); move it away")
        self._refuse_danger(path)

    def _refuse_danger(self, path: str) -> None:
        danger = self.danger(path)
        if danger:
            raise HostError(f"{path} {danger}")

    @staticmethod
    def danger(path: str) -> str:
        """What is wrong with who may write to a file or directory; empty for nothing. What a link points to counts."""
        try:
            found = os.stat(path)
        except OSError as error:
            return f"can't be looked at: {error.strerror}"
        if is_roots(found):
            return ""
        return (
            f"belongs to UID {found.st_uid} with mode {stat.S_IMODE(found.st_mode):04o};"
            " it must belong to root and be writable by root alone"
        )

    @staticmethod
    def stage(path: str, content: Union[str, bytes], *, mode: int = 0o644) -> Staged:
        """Write the content beside its place, without touching the place yet. Raises HostError."""
        return stage(path, content, mode=mode)

    def stage_all(self, files: Mapping[str, str], *, mode: Callable[[str], int] = lambda _path: 0o644) -> StagedFiles:
        """Write all of these, path to text, beside their places, and make the folders that are missing. Raises HostError, with nothing left.

        :param mode: of a path.
        """
        staged = StagedFiles(self)
        try:
            for path, text in files.items():
                staged.add(path, text, mode=mode(path))
        except HostError:
            staged.discard()
            raise
        return staged

    @staticmethod
    def check_changeable(paths: Iterable[str]) -> None:
        """Raises HostError when the kernel would refuse root to replace or remove one of these files, whether it is there or not.

        On a file system that is mounted read-only, and where something is immutable (chattr(1)).
        """
        for path in paths:
            folder = os.path.dirname((missing_folders(path) or [path])[0])
            # A link is replaced, and what it points to is left alone.
            for place in [folder] if os.path.islink(path) or not os.path.lexists(path) else [folder, path]:
                if not os.access(place, os.W_OK):
                    try:
                        read_only = os.statvfs(place).f_flag & os.ST_RDONLY
                    except OSError as error:
                        raise HostError(f"can't use {place}: {error.strerror}") from error
                    why = os.strerror(errno.EROFS) if read_only else f"{os.strerror(errno.EPERM)}, lsattr -d {place} tells more"
                    raise HostError(f"can't change {path}: {why}; nothing was changed")

    def write(self, path: str, content: Union[str, bytes], *, mode: int = 0o644) -> None:
        """Replace a file as a whole. Raises HostError."""
        self.stage(path, content, mode=mode).promote()

    def remove(self, path: str) -> None:
        """Remove a file if it is there, and what a run that was killed left beside it. Raises HostError."""
        if os.path.lexists(path):
            note_change(path)
        try:
            self._unlink(path + TEMPORARY)
            self._unlink(path)
        except OSError as error:
            raise HostError(f"can't remove {path}: {error.strerror}") from error

    @staticmethod
    def _unlink(path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link, in the place of whatever file or link is there. Raises HostError."""
        self.remove(path)
        note_change(path)
        try:
            os.symlink(target, path)
        except OSError as error:
            raise HostError(f"can't link {path} to {target}: {error.strerror}") from error

    def remove_directory(self, path: str) -> None:
        """Remove a directory if it is there and empty. Raises HostError."""
        try:
            os.rmdir(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise HostError(f"can't remove {path}: {error.strerror}") from error

    @contextmanager
    def lock(self, *, wait: float = LOCK_WAIT, path: Optional[str] = None) -> Iterator[None]:
        """Hold the lock of all changes that PortFence makes to this machine, or another one.

        :param wait: seconds to wait for another run. Raises HostError after that.
        """
        deadline = time.monotonic() + wait
        path = path or LOCK_PATH
        handle = self._open_lock(path)
        try:
            while not self._take_lock(handle, path):
                if time.monotonic() >= deadline:
                    raise HostError(
                        f"another run has held {path} for {wait:g} seconds; nothing was changed, try again later"
                    )
                time.sleep(0.05)
                os.close(handle)
                handle = -1
                handle = self._open_lock(path)
            self._held.append(handle)
            try:
                yield
            finally:
                self._held.remove(handle)
        finally:
            if handle >= 0:
                os.close(handle)

    @contextmanager
    def change_lock(self) -> Iterator[None]:
        """Hold the lock of all changes, and that of what systemd runs for us. Raises HostError when one is not free for LOCK_WAIT seconds."""
        with self.lock(), self.lock(path=_boot_lock.PATH):
            yield

    @staticmethod
    def _open_lock(path: str) -> int:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            # Whoever can open the file can keep us waiting, and units once left it readable.
            os.fchmod(handle, 0o600)
            return handle
        except OSError as error:
            raise HostError(f"can't open the lock {path}: {error.strerror}") from error

    @staticmethod
    def _take_lock(handle: int, path: str) -> bool:
        """Take the lock if it is free, and if its file is still the one at the path (remove_lock takes it away)."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(handle), os.stat(path))
        except (BlockingIOError, FileNotFoundError):
            return False

    def remove_lock(self) -> None:
        """Take the files of the locks away. Only for one who holds them. Raises HostError."""
        self.remove(_boot_lock.PATH)
        self.remove(LOCK_PATH)


def is_roots(found: os.stat_result) -> bool:
    """Whether root alone may write to a file or directory."""
    return found.st_uid == 0 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
