# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files a process of somebody else sees through a bind mount, asked of the kernel alone.

Nothing below ``/proc/PID/root`` is opened or looked at. Without any rights, whoever owns a process can give it a mount namespace with a FIFO, an
endless file, or a file system of their own (fuse(4), or an overlay of one), which lets even a stat(2) wait for ever. The list of mounts is
text that the kernel has.
"""

from __future__ import annotations

import os
import re
from itertools import islice
from typing import Iterator, NamedTuple, Optional

# As many as the kernel lets a mount namespace have by default (/proc/sys/fs/mount-max). Mounts that are made while the list is read come last.
_MOST = 100000
_ESCAPED = re.compile(rb"\\([0-7]{3})")


class Place(NamedTuple):
    """A file or directory, as the kernel lists mounts of it: the file system, and the path in there. A file that is gone has another path."""

    device: bytes
    path: bytes


class Mount(NamedTuple):
    """A line of /proc/PID/mountinfo (proc_pid_mountinfo(5)): its number, what is mounted, and where."""

    number: bytes
    place: Place
    point: bytes


def parse_mount(line: bytes) -> Mount:
    """What a line of the list says. Pure."""
    number, _parent, device, root, point = line.split(b" ", 5)[:5]
    return Mount(number, Place(device, _plain(root)), _plain(point))


def _plain(path: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: bytes([int(found.group(1), 8)]), path)


def place_of(path: str) -> Optional[Place]:
    """The place of a file of the host, whose directories are root's; None where there is none."""
    try:
        handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        with open(f"/proc/self/fdinfo/{handle}", "rb") as file:
            number = next(line.split()[1] for line in file if line.startswith(b"mnt_id:"))
        real = os.readlink(f"/proc/self/fd/{handle}".encode())
    finally:
        os.close(handle)
    for mount in _mounts("self"):
        if mount.number == number:
            below = real[len(mount.point.rstrip(b"/")) :]
            return Place(mount.place.device, mount.place.path.rstrip(b"/") + below if below else mount.place.path)
    return None


def sees(pid: int, place: Place) -> bool:
    """Whether this very place is mounted anywhere in the mount namespace of a process; False when the process has ended."""
    try:
        return any(mount.place == place for mount in _mounts(str(pid)))
    except OSError:
        return False


def _mounts(process: str) -> Iterator[Mount]:
    with open(f"/proc/{process}/mountinfo", "rb") as file:
        yield from map(parse_mount, islice(file, _MOST))
