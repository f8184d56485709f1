# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The accounts that a probe opens sockets as."""

from __future__ import annotations

import grp
import os
import pwd
from contextlib import contextmanager
from dataclasses import replace
from typing import Dict, Iterator, Optional, Sequence, Set, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._probe_place import CLASSID, FORWARDED, NAMESPACE, UNIT, Account, Place, not_running
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Resolved
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import Ruleset
from ansible_collections.portfence.egress.plugins.module_utils._unit_members import CGROUPS

# systemd's table of users (UIDS-GIDS.md) keeps these free of any use.
_SPARE_IDS = range(65533, 65519, -1)


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


def accounts_of(
    services: Sequence[Resolved], other: Account, *, ruleset: Ruleset, host: Host
) -> Dict[str, Tuple[Account, ...]]:
    """Every account of each service.

    A group is joined to the UID of an account that belongs to no service. So is a place: nothing but the place makes the
    difference there.
    """
    addresses = {rules.name: rules.addresses for rules in ruleset.services}
    found: Dict[str, Tuple[Account, ...]] = {}
    for item in services:
        accounts = (
            *(_by_uid(uid) for uid in item.uids),
            *(Account(f"group {_group_name(gid)}", other.uid, gid) for gid in item.gids),
        )
        placed = _placed(item, accounts[0] if accounts else other, addresses[item.service.name], host)
        found[item.service.name] = (*accounts, *placed)
    return found


def _placed(item: Resolved, account: Account, addresses: Sequence[str], host: Host) -> Tuple[Account, ...]:
    """An account in each place of a service."""
    service = item.service
    if service.assignment == "namespace":
        inner = [address.partition("/")[0] for address in addresses]
        sources = tuple(("ipv6" if ":" in address else "ipv4", address) for address in inner)
        return (_at(account, Place(NAMESPACE, service.name, f"/run/netns/{service.name}", sources=sources)),)
    if service.classid is not None:
        from ansible_collections.portfence.egress.plugins.module_utils import _launcher  # few services need it

        folders = [f"{root}/portfence/{service.name}" for root in _launcher.NET_CLS]
        folder = next((folder for folder in folders if os.path.isdir(folder)), folders[0])
        return (_at(account, Place(CLASSID, service.name, folder, classid=service.classid)),)
    if service.addresses:
        return (Account(f"addresses {', '.join(service.addresses)}", account.uid, account.gid, absent=FORWARDED),)
    found = []
    for place in item.units:
        folder = os.path.join(CGROUPS, place.parent)
        running = [name for name in sorted(host.list(folder)) if place.matches(name) and os.path.isdir(f"{folder}/{name}")]
        unit = running[0] if running else place.unit
        there = _at(account, Place(UNIT, unit, os.path.join(CGROUPS, place.path(unit))))
        found.append(there if running else replace(there, absent=not_running(place.unit)))
    return tuple(found)


def _at(account: Account, place: Place) -> Account:
    return replace(account, name=f"{account.name} in {place}", place=place)


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
