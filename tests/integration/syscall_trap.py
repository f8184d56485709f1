# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""For tests: a function that is stopped at one of the system calls by which it, or a program that it starts, changes something.

The kernel asks a supervisor before each of them (seccomp_unotify(2)). strace(1) could kill as well, but counts the calls of each process
by itself, so that those of a child, such as the one that hands rules to the kernel, can't be named.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import signal
import struct
import sys
import time
import traceback
from typing import Callable, Dict, List, Optional, Tuple

# <seccomp.h>, <linux/seccomp.h>, <sys/syscall.h>
_ALLOW, _NOTIFY, _NO_NEW_PRIVILEGES, _MASKED_EQUAL = 0x7FFF0000, 0x7FC00000, 3, 7
_RECEIVE, _SEND, _CONTINUE, _PIDFD_GETFD = 0xC0502100, 0xC0182101, 1, 438
_NOTIFICATION, _RESPONSE = "=QIIiIQ6Q", "=QqiI"
# Where the paths are among the arguments.
_PATHS: Dict[str, Tuple[int, ...]] = {
    "execve": (0,), "mkdir": (0,), "rmdir": (0,), "unlink": (0,), "rename": (0, 1), "link": (0, 1), "symlink": (0, 1), "chmod": (0,),
    "chown": (0,), "lchown": (0,), "truncate": (0,), "mount": (0, 1), "umount2": (0,), "mkdirat": (1,), "unlinkat": (1,),
    "renameat": (1, 3), "renameat2": (1, 3), "linkat": (1, 3), "symlinkat": (0, 2), "fchmodat": (1,), "fchownat": (1,),
}
# The first argument is an open file.
_HANDLES = ("write", "pwrite64", "writev", "ftruncate", "fchmod", "fchown", "fsync", "fdatasync")
_OTHERS = ("unshare", "setns")
# What a program says, and what the test writes down.
_ELSEWHERE = ("pipe:", "socket:", "/dev/null", "/tmp/", "/memfd:portfence-output", "/memfd:portfence-error")
# <linux/bpf.h>: commands that change what is left when the process ends.
_BPF = {2: "map update", 3: "map delete", 6: "pin", 8: "attach", 9: "detach", 26: "map update batch", 27: "map delete batch", 28: "link"}
_OPENS = {"open": (0, 1), "openat": (1, 2), "creat": (0, None)}
_SENDS = ("sendmsg", "sendto", "setsockopt")
# The place of rules of iptables-legacy: <linux/netfilter_ipv4/ip_tables.h>
_REPLACE = {(0, 64), (41, 64)}


class _Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("mask", ctypes.c_uint64), ("value", ctypes.c_uint64)]


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    return library


def _ask_about_calls() -> None:
    """Let a supervisor be asked about every call of this process, and of its children, that may change something."""
    library = _library()
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ALLOW)))
    library.seccomp_attr_set(context, _NO_NEW_PRIVILEGES, 0)

    def add(name: str, *comparisons: _Compare) -> None:
        number = library.seccomp_syscall_resolve_name(name.encode())
        array = (_Compare * len(comparisons))(*comparisons)
        if number >= 0 and library.seccomp_rule_add_array(context, ctypes.c_uint32(_NOTIFY), number, len(comparisons), array) != 0:
            raise OSError(f"libseccomp takes no rule for {name}")

    for name in (*_PATHS, *_HANDLES, *_OTHERS, *_SENDS, "creat", "bpf"):
        add(name)
    for name, (_path, flags) in _OPENS.items():
        if flags is not None:
            for flag in (os.O_CREAT, os.O_TRUNC):
                add(name, _Compare(flags, _MASKED_EQUAL, flag, flag))
    if library.seccomp_load(context) != 0:
        raise OSError("the kernel takes no filter")
    library.seccomp_notify_fd(context)


def run_and_exit(function: Callable[[], object], first: Callable[[], None] = lambda: None) -> None:
    """Run a function as if it were the whole of this process, in a session of its own; never returns."""
    status = 1
    try:
        os.setsid()
        first()
        function()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Process:
    """The one that is about to make a call."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def read(self, address: int, size: int) -> bytes:
        """Its memory."""
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as file:
            file.seek(address)
            return file.read(size)

    def text(self, address: int) -> str:
        """A string in it."""
        found = b""
        while b"\0" not in found and address:
            # No further than to the end of a page: the next one may not be there.
            part = self.read(address + len(found), 4096 - (address + len(found)) % 4096)
            if not part:
                break
            found += part
        return found.partition(b"\0")[0].decode(errors="replace")

    def file(self, handle: int) -> str:
        """What an open file is."""
        try:
            return os.readlink(f"/proc/{self.pid}/fd/{handle}")
        except OSError:
            return "?"

    @property
    def name(self) -> str:
        """Of its program."""
        with open(f"/proc/{self.pid}/comm", encoding="utf-8") as file:
            return file.read().strip()

    def describe(self, call: str, args: Tuple[int, ...]) -> Optional[str]:
        """The call in words; None where it changes nothing but what a pipe has, or asks a question."""
        if call in _PATHS:
            return " ".join([call, *(self.text(args[index]) for index in _PATHS[call])])
        if call in _OPENS:
            return f"{call} {self.text(args[_OPENS[call][0]])}"
        if call in _HANDLES:
            file = self.file(args[0] & 0xFFFFFFFF)
            return None if file.startswith(_ELSEWHERE) else f"{call} {file}"
        if call in _OTHERS:
            return f"{call} {args[0] if call == 'unshare' else args[1]:#x}"
        if call == "bpf":
            return f"{call} {_BPF[args[0]]}" if args[0] in _BPF else None
        if call == "setsockopt":
            return f"{call} rules" if (args[1], args[2]) in _REPLACE else None
        return self._message(call, args)

    def _message(self, call: str, args: Tuple[int, ...]) -> Optional[str]:
        """A message of netlink(7) that changes something."""
        address = args[1]
        if call == "sendmsg":
            vector = struct.unpack_from("=Q", self.read(args[1], 56), 16)[0]
            address = struct.unpack("=Q", self.read(vector, 8))[0]
        kind = struct.unpack_from("=IH", self.read(address, 16))[1]
        # The begin of a batch of nftables (NFNL_MSG_BATCH_BEGIN, 16), or, from 16 on, what rtnetlink(7) has of each kind of object: NEW, DEL,
        # GET, SET.
        return f"{call} netlink {kind}" if 16 <= kind < 256 and (kind - 16) % 4 != 2 else None


class Supervisor:
    """Runs a function in a child, and answers the kernel until the child and all that it started have ended.

    :ivar calls: what was about to be done, in order, each "PROGRAM: CALL ARGUMENTS".
    """

    def __init__(self, *, kill: Optional[int] = None, everybody: bool = False, hold: Optional[str] = None, skip: int = 0, file: str = "") -> None:
        """Without any of these, nobody is stopped.

        :param kill: the number of the call, from 0, at which a process gets SIGKILL: the one that is about to make it.
        :param everybody: or the child along with all that it started.
        :param hold: a call with this in its text waits until there is a file FILE.go; there is a file FILE.held then. It is the first such
            call but for so many that are skipped.
        """
        self._kill, self._everybody, self._hold, self._skip, self._file = kill, everybody, hold, skip, file
        self.calls: List[str] = []
        self._library = _library()

    def run(self, function: Callable[[], object]) -> int:
        """Run the function; the exit status of the child, negative where a signal ended it."""
        self._child = os.fork()
        if self._child == 0:
            run_and_exit(function, first=_ask_about_calls)
        self._serve(_listener(self._child))
        return os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])

    def _serve(self, listener: int) -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while True:
            for _handle, event in poll.poll():
                if not event & select.POLLIN:
                    return
                self._answer(listener)

    def _answer(self, listener: int) -> None:
        try:
            data = fcntl.ioctl(listener, _RECEIVE, bytes(struct.calcsize(_NOTIFICATION)))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return  # it was killed meanwhile
            raise
        number, pid, _flags, call, arch, _ip, *args = struct.unpack(_NOTIFICATION, data)
        name = ctypes.string_at(self._library.seccomp_syscall_resolve_num_arch(arch, call)).decode()
        try:
            process = Process(pid)
            text = process.describe(name, tuple(args))
            if text is not None:
                self._happens(process, f"{process.name}: {text}")
        except (OSError, struct.error):
            pass  # it was killed meanwhile
        try:
            fcntl.ioctl(listener, _SEND, struct.pack(_RESPONSE, number, 0, 0, _CONTINUE))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def _happens(self, process: Process, text: str) -> None:
        number = len(self.calls)
        self.calls.append(text)
        if number == self._kill and self._everybody:
            os.killpg(self._child, signal.SIGKILL)
        elif number == self._kill:
            os.kill(process.pid, signal.SIGKILL)
        elif self._hold is not None and self._hold in text:
            self._skip -= 1
            if self._skip >= 0:
                return
            self._hold = None
            with open(f"{self._file}.held", "w", encoding="utf-8"):
                pass
            while not os.path.exists(f"{self._file}.go"):
                time.sleep(0.01)


def _listener(child: int) -> int:
    """The end of the child's filter that is asked, which has to be taken from it: to hand it over would be such a call."""
    library = ctypes.CDLL(None, use_errno=True)
    handle = os.pidfd_open(child)
    while True:
        for name in os.listdir(f"/proc/{child}/fd"):
            try:
                if "seccomp notify" in os.readlink(f"/proc/{child}/fd/{name}"):
                    found = int(library.syscall(_PIDFD_GETFD, handle, int(name), 0))
                    if found < 0:
                        raise OSError(ctypes.get_errno(), "pidfd_getfd")
                    return found
            except FileNotFoundError:
                continue
        time.sleep(0.001)
