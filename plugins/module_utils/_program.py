# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that a module runs: how they are started, and what they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Iterator, Optional, Sequence, Union

from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, KilledError

_RUN = "/run"
# Fixed, so that neither a planted program nor a translated message can mislead a module that runs as root.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = {"PATH": PATH, "LC_ALL": "C", "LANG": "C"}


@dataclass(frozen=True)
class Result:
    """What a program left: exit status (128 + N for a program ended by signal N), standard output, standard error."""

    rc: int
    out: str
    err: str


def start(args: Sequence[str], *, data: Optional[str] = None, keep: Sequence[int] = ()) -> Running:
    """Start a program without a shell. What it makes, root alone may write to, whatever umask Ansible was started with.

    :param data: its standard input.
    :param keep: file descriptors that it keeps open.

    Raises HostError.
    """
    with ExitStack() as opened:
        try:
            out = opened.enter_context(_memory("output"))
            err = opened.enter_context(_memory("error"))
            with _input(data) as stdin:
                process = subprocess.Popen(
                    list(args), stdin=stdin, stdout=out, stderr=err, env=_ENVIRONMENT, cwd="/", umask=0o022, pass_fds=keep
                )
        except OSError as error:
            raise HostError(f"can't run {args[0]}: {error.strerror}") from error
        opened.pop_all()  # they are closed once they are read
    return Running(args, process, out, err)


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


def failure(args: Sequence[str], result: Result) -> str:
    """One message about a program that failed."""
    said = (result.err.strip() or result.out.strip() or "it said nothing")[-2000:]
    how = f"was ended by signal {result.rc - 128}" if result.rc > 128 else f"ended with status {result.rc}"
    return f"{' '.join(args)} {how}: {said}"
