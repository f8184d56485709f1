# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock between modules and what systemd runs for us, as commands of a shell. Pure.

A command that loads a file while a module changes it could put the older of two fences over the newer one, or bring back one that was
just removed. So both hold this lock: a module from its first look at the host to its last change of it, a command from before it opens
the file. It is another one than that of the modules among each other, which a probe holds as well: a probe changes nothing, and a
fence that somebody flushed need not wait for it.
"""

from __future__ import annotations

PATH = "/run/portfence-units.lock"
# Seconds.
WAIT = 60


def take(*, path: str = PATH, otherwise: str) -> str:
    """Commands that hold the lock from here to the end of the shell and of what it runs.

    The file is root's alone: flock(2) asks for no more than an open file, so whoever could read it could keep us waiting. A module that
    removed everything of ours has removed the file as well: then the lock is that of the next file. No link is followed, which could have a
    file made in a place where it means something.

    :param otherwise: a command for when the file can't be opened, or the lock was not free for :data:`WAIT` seconds; it goes on unless that
        ends the shell.
    """
    own = f"test {path} -ef /proc/self/fd/9"
    # By itself, an exec that can't open a file ends the shell.
    reopen = f"exec 9>&-; umask 077; test ! -L {path} && command exec 9>>{path}; umask 022"
    return f"{reopen}; while if flock --wait {WAIT} 9; then ! {own}; else {otherwise}; false; fi; do {reopen}; done"


def locked(command: str) -> str:
    """The command for a unit that runs this one under the lock; neither may have single quotes, nor what systemd expands.

    It goes on without when the file can't be opened, and after :data:`WAIT` seconds: whoever holds the lock for so long is stuck, and no fence
    at all would be worse.
    """
    said = f'echo "portfence: {PATH} was held for {WAIT} seconds, or is no file that can be opened; going on without it" >&2'
    return f"/bin/sh -c '{take(otherwise=said)}; {command}'"
