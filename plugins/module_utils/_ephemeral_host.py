# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ephemeral ports on the machine: the kernel's values, the files, and the order in which they change.

First the new file is written beside its place, which shows whether it can be; then the record below /run claims what is
given up and what is new; then the kernel's values change, then the file takes its place, then the record says what is left.
A run that is cut short at any point leaves values and file old or new, and the next run knows what is ours.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._ephemeral import (
    Facts,
    Plan,
    describe,
    make_plan,
    parse_request,
)
from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_boot import FILE, RANGE_KEY, RESERVED_KEY
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, InputError, Problem, shown
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange, PortSet
from ansible_collections.portfence.egress.plugins.module_utils._sysctl import (
    FOLDERS,
    LEGACY,
    Setting,
    kernel_ports,
    kernel_range,
    pieces,
    reading_order,
    value_in,
)

RUN = "/run/portfence"
NAMESPACES = "/run/netns"
UNPRIVILEGED_KEY = "net.ipv4.ip_unprivileged_port_start"

_CLONE_NEWNET = 0x40000000  # <linux/sched.h>
# The kernel gives a list to the first read() alone, so the buffer must hold the longest: every other port, 192 KiB.
_LONGEST = 256 * 1024


class Kernel:
    """The settings of a network namespace: this process's own, or one with a name."""

    def __init__(self, netns: Optional[str]) -> None:
        self._namespace = None if netns is None else os.path.join(NAMESPACES, netns)

    def identity(self) -> str:
        """Text that is different for every network namespace since ever. Raises HostError."""
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                boot = file.read().strip()
            found = os.stat(self._namespace or "/proc/self/ns/net")
        except OSError as error:
            raise HostError(f"can't identify the network namespace: {error}") from error
        # A namespace with a name keeps its inode, and the inode its time; the number alone is used again.
        return f"{boot} {found.st_ino}" + (f" {found.st_ctime_ns}" if self._namespace else "")

    def read(self, key: str) -> str:
        """The value of a setting. Raises HostError."""
        with self._open(key, os.O_RDONLY) as handle:
            return os.read(handle, _LONGEST).decode("ascii").strip()

    def check_writable(self, key: str) -> None:
        """Raises HostError unless a setting can be opened for writing."""
        with self._open(key, os.O_WRONLY):
            pass

    def write(self, key: str, parts: List[str]) -> None:
        """Set a setting, in one write for each part. Raises HostError."""
        with self._open(key, os.O_WRONLY) as handle:
            for part in parts:
                os.write(handle, part.encode("ascii"))

    @contextmanager
    def _open(self, key: str, flags: int) -> Iterator[int]:
        path = f"/proc/sys/{key.replace('.', '/')}"
        # An open file stays with the namespace that it was opened in.
        try:
            if self._namespace is None:
                handle = os.open(path, flags | os.O_CLOEXEC)
            else:
                with _inside(self._namespace):
                    handle = os.open(path, flags | os.O_CLOEXEC)
            try:
                yield handle
            finally:
                os.close(handle)
        except OSError as error:
            what = "read" if flags == os.O_RDONLY else "write"
            where = f" in {self._namespace}" if self._namespace else ""
            hint = "; in a container, set it from outside" if error.filename == path and what == "write" else ""
            raise HostError(f"can't {what} {path}{where}: {error.strerror}{hint}") from error


@contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """Be in another network namespace for a moment (setns(2); os.setns needs Python 3.12). Raises OSError."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        other = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(other)
        finally:
            os.close(other)
        try:
            yield
        finally:
            _setns(own)
    finally:
        os.close(own)


def _setns(handle: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class EphemeralPorts:
    """The ephemeral ports of the host, or of a network namespace of it."""

    def __init__(self, *, host: Host, netns: Optional[str]) -> None:
        self._host = host
        self._kernel = Kernel(netns)
        self._lasting = netns is None
        self._record = f"{RUN}/ephemeral-ports{'' if netns is None else f'@{netns}'}.json"

    def facts(self) -> Facts:
        """What is there. Raises HostError."""
        self._host.require_own(FILE)
        return Facts(
            port_range=kernel_range(self._kernel.read(RANGE_KEY)),
            reserved=kernel_ports(self._kernel.read(RESERVED_KEY)),
            unprivileged=int(self._kernel.read(UNPRIVILEGED_KEY)),
            namespace=self._kernel.identity(),
            record=self._host.read(self._record),
            file=self._host.read(FILE) if self._lasting else None,
            others=self._others() if self._lasting else [],
        )

    def _others(self) -> List[Setting]:
        """What the other sysctl files say of our keys, in the order in which systemd-sysctl reads them."""
        ours = os.path.basename(FILE)
        found: List[Setting] = []
        seen = set()
        for folder, name in reading_order({folder: self._host.list(folder) for folder in FOLDERS}):
            path = os.path.join(folder, name)
            seen.add(os.path.realpath(path))
            if name != ours:
                found.extend(self._settings(path, late=name > ours))
        if LEGACY not in seen:
            # systemd-sysctl doesn't read it unless a link in sysctl.d says so; sysctl(8) does.
            found.extend(self._settings(LEGACY, late=False))
        return found

    def _settings(self, path: str, *, late: bool) -> List[Setting]:
        text = self._host.read(path) or ""
        target = os.path.realpath(path)
        shown = path if target == path else f"{path} -> {target}"
        values = {key: value_in(text, key) for key in (RANGE_KEY, RESERVED_KEY)}
        return [Setting(shown, key, value, late) for key, value in values.items() if value is not None]

    def apply(self, plan: Plan, facts: Facts) -> None:
        """Do what the plan says. Raises HostError, with everything as it was before."""
        staged = None
        if plan.file != facts.file:
            self._host.check_changeable([FILE])
        if plan.file is not None and plan.file != facts.file:
            self._host.make_directory(os.path.dirname(FILE))
            staged = self._host.stage(FILE, plan.file)
        undo: List[Callable[[], None]] = []
        try:
            for key in self._values(plan, facts):
                self._kernel.check_writable(key)
            if plan.journal != facts.record:
                undo.append(partial(self._put, self._record, facts.record))
                self._put(self._record, plan.journal)
            for key, parts in self._values(plan, facts).items():
                undo.append(partial(self._kernel.write, key, _old(facts)[key]))
                self._kernel.write(key, parts)
            if plan.file != facts.file:
                undo.append(partial(self._put, FILE, facts.file))
            if staged is not None:
                staged.promote()
            elif plan.file is None and self._lasting:
                self._put(FILE, None)
            if plan.record != plan.journal or plan.record is None:
                self._put(self._record, plan.record)
        except HostError as error:
            if staged is not None:
                staged.discard()
            raise HostError(f"{error}; {_take_back(undo)}") from error

    @staticmethod
    def _values(plan: Plan, facts: Facts) -> Dict[str, List[str]]:
        """The settings that change, with what to write."""
        wanted = _texts(plan.port_range, plan.reserved)
        return {key: parts for key, parts in wanted.items() if parts != _old(facts)[key]}

    def _put(self, path: str, text: Optional[str]) -> None:
        if text is not None:
            if text != self._host.read(path):
                self._host.make_directory(os.path.dirname(path))
                self._host.write(path, text)
            return
        for leftover in (path, f"{path}.portfence-new"):  # the second from a run that was killed
            if os.path.lexists(leftover):
                self._host.remove(leftover)
        if path == self._record:
            self._host.remove_directory(RUN)  # unless there is more in it


def _texts(port_range: PortRange, reserved: PortSet) -> Dict[str, List[str]]:
    return {RANGE_KEY: [f"{port_range.low} {port_range.high}\n"], RESERVED_KEY: pieces(reserved)}


def _old(facts: Facts) -> Dict[str, List[str]]:
    return _texts(facts.port_range, facts.reserved)


def _take_back(undo: List[Callable[[], None]]) -> str:
    failed = []
    for step in reversed(undo):
        try:
            step()
        except HostError as error:
            failed.append(str(error))
    return f"what was changed before could not be put back: {'; '.join(failed)}" if failed else "nothing was changed"


def converge(host: Host, params: Mapping[str, Any], *, check_mode: bool, diff: bool) -> Tuple[Dict[str, Any], Sequence[str]]:
    """Carry out a task, or in check mode plan it. Raises PortFenceError.

    :return: what the module returns, and warnings.
    """
    request, problems = parse_request(params)
    netns = params["netns"]
    if netns is not None:
        problems.extend(_missing_namespace(host, netns))
    if any(problem.path == "netns" for problem in problems):
        raise InputError(what="ephemeral_ports", problems=problems)
    ports = EphemeralPorts(host=host, netns=netns)
    if check_mode:
        facts = ports.facts()
        plan = make_plan(request, facts, problems=problems)
    else:
        with host.change_lock():
            facts = ports.facts()
            plan = make_plan(request, facts, problems=problems)
            ports.apply(plan, facts)
    return _report(plan, facts, name=params["name"], diff=diff), plan.warnings


def _missing_namespace(host: Host, netns: str) -> List[Problem]:
    there = host.list(NAMESPACES)
    if netns in there:
        return []
    return [Problem("netns", f"found {shown(netns)}, which is not in {NAMESPACES}; there: {', '.join(there) or 'none'}")]


def _report(plan: Plan, facts: Facts, *, name: str, diff: bool) -> Dict[str, Any]:
    own = plan.after.claims.get(name)
    result: Dict[str, Any] = {
        "changed": plan.changed,
        "local_port_range": str(plan.port_range),
        "reserved_ports": [str(part) for part in plan.reserved],
        "own_reserved_ports": [str(part) for part in own.ports] if own else [],
        "owners": plan.after.owners(),
        "previous": {
            "local_port_range": str(facts.port_range),
            "reserved_ports": [str(part) for part in facts.reserved],
            "owners": plan.before.owners(),
        },
    }
    if diff:
        result["diff"] = {
            "before": describe(port_range=facts.port_range, reserved=facts.reserved, record=plan.before, file=facts.file),
            "after": describe(port_range=plan.port_range, reserved=plan.reserved, record=plan.after, file=plan.file),
        }
    return result
