# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one door to the machine: run a program, read and write files, hold the lock.

Files are written beside their place, flushed and renamed over it, so that a reader or a crash meets the old
file or the new one. Nothing follows a symbolic link in a directory that only root may write to.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Union

from ansible_collections.portfence.egress.plugins.module_utils import _boot_lock
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, KilledError

LOCK_PATH = "/run/portfence.lock"
LOCK_WAIT = 60.0

_RUN = "/run"

# Fixed, so that neither a planted program nor a translated message can mislead a module that runs as root.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = {"PATH": _PATH, "LC_ALL": "C", "LANG": "C"}
# The end of the name of a file that is being written.
TEMPORARY = ".portfence-new"
# There from before the first change of a unit until systemd has read them all, so that a run goes on where one was killed, or where systemd
# refused. A boot, which reads all of them, empties /run.
UNREAD = "/run/portfence-unread"
_READING = f"{UNREAD}.reading"
_UNITS = ("/etc/systemd/system/", "/run/systemd/system/")


@dataclass(frozen=True)
class Result:
    """What a program left: exit status (128 + N for a program ended by signal N), standard output, standard error."""

    rc: int
    out: str
    err: str


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
        """Whether systemd runs this machine, see sd_booted(3)."""
        return os.path.isdir("/run/systemd/system")

    def read_units(self, *, check_mode: bool = False) -> List[str]:
        """Have systemd read its units if it has not since some were changed, by this run or by one before. Raises HostError.

        :return: what was done, or in check mode would be, as a list for humans; empty when nothing.
        """
        if not self.runs_systemd() or not any(map(os.path.lexists, (UNREAD, _READING))):
            return []
        if not check_mode:
            self.reload_units()
        return ["have systemd read its units"]

    def reload_units(self) -> None:
        """Have systemd read its units, see daemon-reload in systemctl(1). Raises HostError."""
        # Not all runs hold a lock: what another one changes from here on, this reload may not see.
        try:
            os.replace(UNREAD, _READING)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise HostError(f"can't move {UNREAD}: {error.strerror}") from error
        self.run(["systemctl", "daemon-reload"])
        self.remove(_READING)

    def find(self, name: str) -> Optional[str]:
        """The path of a program, or None."""
        for folder in _PATH.split(":"):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        return None

    def program(self, name: str, *, package: str) -> str:
        """The path of a program. Raises HostError that names the package which brings it."""
        path = self.find(name)
        if path is None:
            raise HostError(f"the program {name} was not found in {_PATH}; install the package {package}")
        return path

    def run(self, args: Sequence[str], *, data: Optional[str] = None, check: bool = True, killed: bool = False) -> Result:
        """Run a program without a shell. See :meth:`start` and :meth:`Running.result`."""
        return self.start(args, data=data).result(check=check, killed=killed)

    def start(self, args: Sequence[str], *, data: Optional[str] = None) -> Running:
        """Start a program without a shell. What it makes, root alone may write to, whatever umask Ansible was started with.

        Raises HostError.

        When this process is killed, the program goes on: it has all of its input by then, and the locks until it ends.

        :param data: its standard input.
        """
        with ExitStack() as opened:
            try:
                out = opened.enter_context(_memory("output"))
                err = opened.enter_context(_memory("error"))
                with _input(data) as stdin:
                    process = subprocess.Popen(
                        list(args), stdin=stdin, stdout=out, stderr=err, env=_ENVIRONMENT, cwd="/", umask=0o022, pass_fds=self._held
                    )
            except OSError as error:
                raise HostError(f"can't run {args[0]}: {error.strerror}") from error
            opened.pop_all()  # they are closed once they are read
        return Running(args, process, out, err)

    def read(self, path: str) -> Optional[str]:
        """The text of a file as it is, or None when there is none. Lines end with a line feed, and with nothing else. Raises HostError."""
        try:
            with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            return None
        except OSError as error:
            raise HostError(f"can't read {path}: {error.strerror}") from error

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
        if found.st_uid == 0 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return ""
        return (
            f"belongs to UID {found.st_uid} with mode {stat.S_IMODE(found.st_mode):04o};"
            " it must belong to root and be writable by root alone"
        )

    def stage(self, path: str, content: Union[str, bytes], *, mode: int = 0o644) -> Staged:
        """Write the content beside its place, without touching the place yet. Raises HostError."""
        temporary = path + TEMPORARY
        try:
            self._unlink(temporary)  # left by a run that was killed
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
            with open(handle, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            Staged(temporary=temporary, path=path).discard()
            raise HostError(f"can't write {path}: {error.strerror}") from error
        return Staged(temporary=temporary, path=path)

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
            _note_unit(path)
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
        _note_unit(path)
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


class Running:
    """A program that was started. It writes into memory, so that several can work at once while nobody reads."""

    def __init__(self, args: Sequence[str], process: subprocess.Popen[bytes], out: IO[bytes], err: IO[bytes]) -> None:
        self._args = args
        self._process = process
        self._out = out
        self._err = err

    def result(self, *, check: bool = True, killed: bool = False) -> Result:
        """Wait until it ends. To be called once.

        :param check: raise HostError unless it ended with status 0.
        :param killed: do not raise KilledError where a signal ended it (``rc`` is 128 and its number, as a shell says it).
        """
        returned = self._process.wait()
        rc = returned if returned >= 0 else 128 - returned
        # Not by subprocess, which would take a carriage return in a name for the end of a line.
        result = Result(rc, *(_content(file).decode("utf-8", "replace") for file in (self._out, self._err)))
        # bpftool(8) ends with 255 by itself.
        if not killed and 128 < rc <= 128 + signal.NSIG:
            raise KilledError(failure(self._args, result))
        if check and rc != 0:
            raise HostError(failure(self._args, result))
        return result


def _memory(name: str) -> IO[bytes]:
    """A file without a path, in memory where there is such a thing. Raises OSError."""
    try:
        return open(os.memfd_create(f"portfence-{name}"), "w+b")
    except (AttributeError, OSError):
        # A Python that was built with a C library before 2.27 does not have it, and a filter of system calls can refuse it.
        try:
            return tempfile.TemporaryFile(dir=_RUN)
        except OSError:
            return tempfile.TemporaryFile()  # a unit may have nothing else to write to


def _content(file: IO[bytes]) -> bytes:
    """All that was written into a file, which is closed then."""
    with file:
        file.seek(0)
        return file.read()


@contextmanager
def _input(data: Optional[str]) -> Iterator[Union[int, IO[bytes]]]:
    """A standard input with this text in it.

    No pipe: a program reads what is there, and acts on it, when the writer of a pipe is killed halfway. Raises OSError.
    """
    if not data:
        yield subprocess.DEVNULL
        return
    with _memory("input") as file:
        file.write(data.encode("utf-8", "replace"))
        file.seek(0)
        yield file


def _note_unit(path: str) -> None:
    """Before a file is changed: if it is one of systemd's, it has to be read again. Raises HostError."""
    if path.startswith(_UNITS) and Host.runs_systemd():
        try:
            os.close(os.open(UNREAD, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise HostError(f"can't write {UNREAD}: {error.strerror}") from error


class Staged:
    """A file that is written, but not in its place yet."""

    def __init__(self, *, temporary: str, path: str) -> None:
        self.temporary = temporary
        self.path = path

    def promote(self) -> None:
        """Move it to its place in one step. Raises HostError."""
        _note_unit(self.path)
        try:
            os.replace(self.temporary, self.path)
            folder = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise HostError(f"can't write {self.path}: {error.strerror}") from error

    def discard(self) -> None:
        """Forget it."""
        try:
            os.unlink(self.temporary)
        except OSError:
            pass


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


def failure(args: Sequence[str], result: Result) -> str:
    """One message about a program that failed."""
    said = (result.err.strip() or result.out.strip() or "it said nothing")[-2000:]
    how = f"was ended by signal {result.rc - 128}" if result.rc > 128 else f"ended with status {result.rc}"
    return f"{' '.join(args)} {how}: {said}"
