# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The accounts that a probe opens sockets as."""

from __future__ import annotations

import grp
import os
import pwd
from contextlib import contextmanager
from typing import Dict, Iterator, Optional, Sequence, Set, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._probe import Account
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Resolved

# systemd's table of users (UIDS-GIDS.md) keeps these free of any use.
_SPARE_IDS = range(65533, 65519, -1)


def find_uid(name: str) -> Optional[int]:
    """The UID of an account, or None."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def find_gid(name: str) -> Optional[int]:
    """The GID of a group, or None."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def bystander(services: Sequence[Resolved]) -> Account:
    """An account that belongs to no service: nobody, or ids that nobody has. Raises HostError."""
    uids = {uid for item in services for uid in item.uids}
    gids = {gid for item in services for gid in item.gids}
    nobody = _account("nobody")
    if nobody is not None and nobody.uid not in uids and nobody.gid not in gids:
        return nobody
    uid = _spare_id(uids, {entry.pw_uid for entry in pwd.getpwall()})
    gid = _spare_id(gids, {entry.gr_gid for entry in grp.getgrall()})
    return Account(f"UID {uid}", uid, gid)


def _account(name: str) -> Optional[Account]:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(name, entry.pw_uid, entry.pw_gid)


def _spare_id(fenced: Set[int], taken: Set[int]) -> int:
    for number in _SPARE_IDS:
        if number not in fenced and number not in taken:
            return number
    raise HostError(
        "the probe needs an account that belongs to no service: nobody belongs to one, and all ids from"
        f" {_SPARE_IDS[-1]} to {_SPARE_IDS[0]} are in use; take nobody and its group out of the services"
    )


def accounts_of(services: Sequence[Resolved], other: Account) -> Dict[str, Tuple[Account, ...]]:
    """Every account of each service. A group is joined to the UID of an account that belongs to no service."""
    return {
        item.service.name: (
            *(_by_uid(uid) for uid in item.uids),
            *(Account(f"group {_group_name(gid)}", other.uid, gid) for gid in item.gids),
        )
        for item in services
    }


def _by_uid(uid: int) -> Account:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Account(f"UID {uid}", uid, uid)
    return Account(entry.pw_name, uid, entry.pw_gid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


@contextmanager
def acting_as(account: Account) -> Iterator[None]:
    """Do what follows with the real and effective ids of an account, as root who comes back afterwards.

    The kernel takes the owner of a socket from the filesystem ids at socket(), which follow the effective ones
    (credentials(7)), and eBPF programs are told the real ones. The effective capabilities are gone meanwhile, unless
    the account is root. The saved ids stay those of root.
    """
    group = os.getgid()

    def come_back() -> None:
        os.setresuid(0, 0, 0)
        os.setresgid(group, group, group)

    try:
        os.setresgid(account.gid, account.gid, group)
        os.setresuid(account.uid, account.uid, 0)
    except OSError as error:
        come_back()
        raise HostError(f"can't act as {account.name} (UID {account.uid}, GID {account.gid}): {error.strerror}") from error
    try:
        yield
    finally:
        come_back()
