# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens the sockets of a probe where they have to be opened to belong to their service.

What the kernel remembers of a socket is where the thread was that opened it:

- Its network namespace. setns(2) moves one thread.
- Its class (net_cls). A thread can be alone in a class (the file ``tasks``). A socket that is handed to another process takes
  the class of that process (__receive_sock()), and all sockets of a process that is moved take the new one, so a thread of
  this process it is, which is there before the first socket.
- Its cgroup v2, for good. Only whole processes move, so that a child opens the socket and hands it over. eBPF programs look at
  the process that binds or connects as well, so that the child does that, too.

Nothing of it stays behind: threads and children end with the probe, also when that is killed.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, NoReturn, Optional, Sequence, Union

from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._netns import die_with_parent, enter_network
from ansible_collections.portfence.egress.plugins.module_utils._probe import Attempt
from ansible_collections.portfence.egress.plugins.module_utils._probe_accounts import acting_as
from ansible_collections.portfence.egress.plugins.module_utils._probe_place import NAMESPACE, UNIT, Account, Place, not_running
from ansible_collections.portfence.egress.plugins.module_utils._probe_responder import FAMILIES

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_NO_LINGER = struct.pack("ii", 1, 0)  # struct linger: a close() ends the connection at once
# A cgroup that has cgroups with controllers in it takes no processes (cgroups(7), "no internal processes").
_ROOM = "portfence-probe"
_PATIENCE = 10.0  # seconds


class NotOpened(Exception):
    """A socket can't be opened where it has to be. :ivar gone: whether its unit has ended, which is nobody's fault."""

    def __init__(self, why: str, *, gone: bool = False) -> None:
        self.why = why
        self.gone = gone
        super().__init__(why)


class Sockets:
    """Opens sockets, while the context lasts. What opens those of a place is there before the first socket is."""

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        found = {attempt.account.place for attempt in attempts if attempt.skipped is None}
        self._places = sorted((place for place in found if place is not None), key=lambda place: (place.kind != UNIT, place.path))
        self._helpers: Dict[Place, Union[_Child, _Thread, NotOpened]] = {}

    def __enter__(self) -> Sockets:
        # Children first: a process that has threads should not fork.
        for place in self._places:
            try:
                self._helpers[place] = _Child(place) if place.kind == UNIT else _Thread(place)
            except NotOpened as problem:
                self._helpers[place] = problem
        return self

    def __exit__(self, *_about: object) -> None:
        for helper in self._helpers.values():
            if not isinstance(helper, NotOpened):
                helper.close()

    def open(self, attempt: Attempt) -> socket.socket:
        """The socket of an attempt, as the account that this process acts as. Raises NotOpened and HostError."""
        if attempt.account.place is None:
            sock = _open(attempt.family, attempt.protocol)
        else:
            helper = self._helpers[attempt.account.place]
            if isinstance(helper, NotOpened):
                raise helper
            sock = helper.open(attempt)
        sock.setblocking(False)
        if attempt.protocol == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        return sock


def _open(family: str, protocol: str) -> socket.socket:
    try:
        return socket.socket(FAMILIES[family], _KINDS[protocol])
    except OSError as error:
        raise HostError(f"can't open a socket for the probe: {error.strerror}") from error


class _Thread:
    """A thread in a class or in a network namespace. setresuid(2) of the C library is for all threads, so it has our ids."""

    def __init__(self, place: Place) -> None:
        """Raises NotOpened."""
        self._pool = ThreadPoolExecutor(max_workers=1)
        try:
            self._pool.submit(_enter, place).result()
        except OSError as error:
            self.close()
            raise NotOpened(f"can't enter {place}: {place.path}: {error.strerror}") from error

    def open(self, attempt: Attempt) -> socket.socket:
        """A socket of the place."""
        return self._pool.submit(_open, attempt.family, attempt.protocol).result()

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()


def _enter(place: Place) -> None:
    """Move this thread. Raises OSError."""
    if place.kind == NAMESPACE:
        enter_network(place.path)
    else:
        _write(f"{place.path}/tasks", "0")  # stands for the thread that writes it


def _write(path: str, text: str) -> None:
    # Not open(): a file that is not there must not be made.
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, text.encode("ascii"))
    finally:
        os.close(handle)


class _Child:
    """A child process in the cgroup of a unit."""

    def __init__(self, place: Place) -> None:
        """Raises NotOpened."""
        self._place = place
        self._errno = 0
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            self._control.close()
            _serve(parent=parent, place=place, control=theirs)
        theirs.close()
        self._control.settimeout(_PATIENCE)
        try:
            self._hear()
        except NotOpened:
            self.close()
            raise

    def open(self, attempt: Attempt) -> socket.socket:
        """A socket of the unit, which the child opens as the account. Raises NotOpened."""
        sock = self._ask("open", attempt.account, attempt.family, attempt.protocol)
        if sock is None:
            raise self._ended()
        return _UnitSocket(handle=sock.detach(), child=self, account=attempt.account)

    def act(self, verb: str, sock: socket.socket, account: Account, *address: Any) -> int:
        """Have the child bind, connect or close its copy of a socket; 0 or an errno. Raises NotOpened."""
        self._ask(verb, account, os.fstat(sock.fileno()).st_ino, *address)
        return self._errno

    def _ask(self, verb: str, account: Account, *words: Any) -> Optional[socket.socket]:
        try:
            self._control.sendall(" ".join(map(str, (verb, account.uid, account.gid, *words))).encode("ascii"))
        except OSError as error:
            raise self._ended() from error
        return self._hear()

    def close(self) -> None:
        """End the child, and take away what it may have made. Raises HostError."""
        self._control.close()
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        room = f"{self._place.path}/{_ROOM}"
        deadline = time.monotonic() + _PATIENCE
        while os.path.isdir(room):
            try:
                os.rmdir(room)
            except FileNotFoundError:
                return
            except OSError as error:
                # A process leaves its cgroup a moment after its end.
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise HostError(f"can't remove the cgroup {room}: {error.strerror}") from error
                time.sleep(0.01)

    def _hear(self) -> Optional[socket.socket]:
        """What the child has to say: a socket, if it was asked for one. Raises NotOpened."""
        try:
            said, handles, _flags, _address = socket.recv_fds(self._control, 1024, 1)
        except OSError as error:
            raise self._ended() from error
        if said.startswith(b"done "):
            self._errno = int(said.split()[1])
            return socket.socket(fileno=handles[0]) if handles else None
        number, _space, why = said.decode("utf-8").partition(" ")
        if number.isdigit() and int(number) in (errno.ENOENT, errno.ENODEV):
            raise NotOpened(not_running(self._place.name), gone=True)
        raise NotOpened(f"can't join {self._place}: {why}") if said else self._ended()

    def _ended(self) -> NotOpened:
        return NotOpened(f"the process that joined {self._place} has ended; was the unit stopped meanwhile?")


def _serve(*, parent: int, place: Place, control: socket.socket) -> NoReturn:
    """The child process: joins the unit, opens sockets as it is told, and never returns to the code of the module."""
    try:
        die_with_parent(parent)
        _join(place.path)
        control.sendall(b"done 0")
        held: Dict[str, socket.socket] = {}
        while True:
            request = control.recv(1024).decode("ascii").split()
            if not request:
                break
            verb, uid, gid, *words = request
            with acting_as(Account(uid, int(uid), int(gid))):
                if verb == "open":
                    sock = _open(*words)
                    held[str(os.fstat(sock.fileno()).st_ino)] = sock
                    socket.send_fds(control, [b"done 0"], [sock.fileno()])
                else:
                    control.sendall(f"done {_obey(verb, held, *words)}".encode("ascii"))
    except OSError as error:
        _tell(control, f"{error.errno} {place.path}: {error.strerror}")
    except HostError as error:
        _tell(control, f"- {error}")
    finally:
        os._exit(0)


def _obey(verb: str, held: Dict[str, socket.socket], inode: str, *address: str) -> int:
    """Do something with a socket; 0 or an errno."""
    if verb == "close":
        held.pop(inode).close()
        return 0
    to = (address[0], int(address[1]))
    if verb == "connect":
        return held[inode].connect_ex(to)
    try:
        held[inode].bind(to)
    except OSError as error:
        return error.errno or 0
    return 0


class _UnitSocket(socket.socket):
    """A socket that a child has a copy of, and binds and connects."""

    def __init__(self, *, handle: int, child: _Child, account: Account) -> None:
        super().__init__(fileno=handle)
        self._child: Optional[_Child] = child
        self._account = account

    def bind(self, address: Any) -> None:
        """Like any socket's. Raises NotOpened, too."""
        error = self._act("bind", address)
        if error:
            raise OSError(error, os.strerror(error))

    def connect_ex(self, address: Any) -> int:
        """Like any socket's. Raises NotOpened, too."""
        return self._act("connect", address)

    def close(self) -> None:
        """Close both copies. The child may have ended, and its copies with it."""
        child, self._child = self._child, None
        if child is not None:
            try:
                child.act("close", self, self._account)
            except NotOpened:
                pass
        super().close()

    def _act(self, verb: str, address: Any) -> int:
        return errno.EBADF if self._child is None else self._child.act(verb, self, self._account, *address[:2])


def _tell(control: socket.socket, text: str) -> None:
    try:
        control.sendall(text.encode("utf-8")[:1000])
    except OSError:
        pass  # the parent has stopped listening


def _join(folder: str) -> None:
    """Move this process into a cgroup, or into one of its own below it. Raises OSError."""
    try:
        _write(f"{folder}/cgroup.procs", "0")
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EOPNOTSUPP):
            raise
        try:
            os.mkdir(f"{folder}/{_ROOM}")
        except FileExistsError:
            pass  # of a probe that was killed
        _write(f"{folder}/{_ROOM}/cgroup.procs", "0")
