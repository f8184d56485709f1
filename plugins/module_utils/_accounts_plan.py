# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Service accounts: the steps from what a host has to what is asked, and what is refused on the way. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._accounts import (
    NO_HOME,
    UID_REFUSED,
    Account,
    Group,
    Snapshot,
    Wanted,
    check_list,
    named_once,
)
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, Problem, shown

_WHAT = "the list of accounts"
_WAY_OUT = "if it shall only be fenced, set manage_account: false for the service"


@dataclass(frozen=True)
class Creation:
    """An account to create. :ivar group: the group for it, which exists by then; None makes one of its own name.

    :ivar create_home: whether to create its home too, which is not there yet.
    """

    account: Account
    group: Optional[str]
    create_home: bool


@dataclass(frozen=True)
class Change:
    """Fields of an existing account to set."""

    before: Account
    after: Account


@dataclass(frozen=True)
class Removal:
    """An account to delete. :ivar busy: processes run as it, and it goes nevertheless."""

    account: Account
    busy: bool
    remove_home: bool


@dataclass(frozen=True)
class Plan:
    """The steps, in order."""

    new_groups: Tuple[Group, ...] = ()
    creations: Tuple[Creation, ...] = ()
    changes: Tuple[Change, ...] = ()
    removals: Tuple[Removal, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.new_groups or self.creations or self.changes or self.removals)


def plan_present(wanted: Sequence[Wanted], host: Snapshot, *, shell: str) -> Plan:
    """Steps after which every account of the list exists.

    :param shell: for the accounts to create. Raises InputError with every mistake in the list and every account that is refused.
    """
    problems = check_list(wanted)
    items = named_once(wanted)
    changes = []
    missing = []
    for item in items:
        account = host.accounts.get(item.name)
        if account is None:
            problems.extend(_check_free_uid(item, host))
            missing.append(item)
            continue
        refused = _check_existing(item, account, host)
        problems.extend(refused)
        after = replace(
            account,
            comment=account.comment if item.comment is None else item.comment,
            home=account.home if item.home is None else item.home,
        )
        if after == account or refused:
            continue
        problems.extend(_check_change(item, account, after, host))
        changes.append(Change(account, after))

    new_groups = _new_groups(missing, host)
    groups = {**{group.name: group for group in new_groups}, **host.groups}
    creations = []
    # Chosen UIDs first, so that the host doesn't hand one of them to another account.
    for item in sorted(missing, key=lambda item: item.uid is None):
        problems.extend(_check_group(item, missing, host))
        create_home = item.create_home and item.home not in host.standing
        if create_home:
            problems.extend(_check_way(item, missing, host))
        group = groups.get(item.group or item.name)
        account = Account(
            name=item.name,
            uid=item.uid,
            gid=None if group is None else group.gid,
            comment=item.comment or "",
            home=item.home or NO_HOME,
            shell=shell,
            password="!",
        )
        creations.append(Creation(account, None if group is None else group.name, create_home))
    problems.extend(_check_room(creations, new_groups, host))
    if problems:
        raise InputError(what=_WHAT, problems=_in_order(problems, wanted))
    return Plan(new_groups=tuple(new_groups), creations=tuple(creations), changes=tuple(changes))


def plan_absent(wanted: Sequence[Wanted], host: Snapshot, *, force: bool, remove_home: bool) -> Plan:
    """Steps after which no account of the list exists.

    :param force: also where processes run as it. Raises InputError like :func:`plan_present`.
    """
    problems = check_list(wanted)
    removals = []
    for item in named_once(wanted):
        account = host.accounts.get(item.name)
        if account is None:
            continue
        busy = host.running(account)
        problems.extend(_check_removal(item, account, host, force=force, remove_home=remove_home))
        removals.append(Removal(account, busy=bool(busy), remove_home=remove_home and item.name in host.homes))
    if problems:
        raise InputError(what=_WHAT, problems=_in_order(problems, wanted))
    return Plan(removals=tuple(removals))


def _in_order(problems: Iterable[Problem], wanted: Sequence[Wanted]) -> List[Problem]:
    order = {item.path: index for index, item in enumerate(wanted)}
    return sorted(problems, key=lambda problem: order.get(problem.path.split(".", 1)[0], len(order)))


def _check_free_uid(item: Wanted, host: Snapshot) -> List[Problem]:
    holders = host.holders.get(item.uid, ()) if item.uid is not None else ()
    if not holders or item.uid in UID_REFUSED:
        return []
    return [Problem(f"{item.path}.uid", f"{item.name} can't have UID {item.uid}, which belongs to {', '.join(holders)} already; choose a free one")]


def _login_ways(account: Account) -> str:
    ways = []
    if account.has_login_shell:
        ways.append(f"the login shell {account.shell or '/bin/sh'}")
    if account.has_usable_password:
        ways.append("a password" if account.password else "an empty password")
    return " and ".join(ways)


def _check_identity(item: Wanted, account: Account) -> List[Problem]:
    """What is refused of an existing account, whether it shall stay or go."""
    if account.uid in UID_REFUSED:
        return [Problem(f"{item.path}.name", f"found {item.name}; {UID_REFUSED[account.uid]}, and no account of a service")]
    ways = _login_ways(account)
    if ways:
        return [
            Problem(
                f"{item.path}.name",
                f"{item.name} (UID {account.uid}) has {ways}: an account that somebody can log in with is neither made"
                f" a service account nor deleted; use another name, or {_WAY_OUT}",
            )
        ]
    if item.uid is not None and item.uid != account.uid:
        return [
            Problem(
                f"{item.path}.uid",
                f"{item.name} exists with UID {account.uid}, not {item.uid}; its UID is not changed, because its files would"
                f" lose their owner; write uid: {account.uid}, or stop the service and change UID and files by hand",
            )
        ]
    return []


def _check_existing(item: Wanted, account: Account, host: Snapshot) -> List[Problem]:
    problems = _check_identity(item, account)
    others = [name for name in host.holders.get(account.uid or 0, ()) if name != item.name]
    if others and account.uid not in UID_REFUSED:
        problems.append(
            Problem(
                f"{item.path}.name",
                f"{item.name} shares UID {account.uid} with {', '.join(others)}; the kernel can't tell them apart;"
                f" give it a UID of its own, or {_WAY_OUT}",
            )
        )
    group = host.group_name(account.gid)
    if item.group is not None and item.group != group:
        problems.append(
            Problem(
                f"{item.path}.group",
                f"{item.name} exists with the primary group {group or account.gid}, not {item.group}; it is not changed, because its"
                f" files would stay with the old one; write group: {group or account.gid}, or change it by hand with usermod --gid",
            )
        )
    return problems


def _check_change(item: Wanted, account: Account, after: Account, host: Snapshot) -> List[Problem]:
    key = "home" if after.home != account.home else "comment"
    if not account.local:
        return [
            Problem(
                f"{item.path}.{key}",
                f"{item.name} comes from a directory service, not from /etc/passwd, and can't be changed here;"
                f" leave {key} out, or change it in the directory",
            )
        ]
    running = host.running(account)
    if key == "home" and running:
        return [
            Problem(
                f"{item.path}.home",
                f"{item.name} has the home {account.home}; usermod refuses another one while processes run as it:"
                f" {shortened(running)}; stop them first",
            )
        ]
    return []


def _new_groups(missing: Sequence[Wanted], host: Snapshot) -> List[Group]:
    """The groups to make before the accounts: those that the list names, and the own group of an account that has a chosen UID.

    That one gets the same number as its GID where it is free. useradd would do so only below SYS_GID_MAX.
    """
    uids = {item.name: item.uid for item in missing}
    names = [item.group for item in missing if item.group is not None]
    names.extend(item.name for item in missing if item.group is None and item.uid is not None)
    groups = []
    for name in dict.fromkeys(names):
        if name not in host.groups:
            uid = uids.get(name)
            groups.append(Group(name, uid if host.group_name(uid) is None else None))
    # Chosen GIDs first, as with UIDs.
    return sorted(groups, key=lambda group: group.gid is None)


def _check_group(item: Wanted, missing: Sequence[Wanted], host: Snapshot) -> List[Problem]:
    """What speaks against the group that an account to be created would get, if that exists already."""
    name = item.group or item.name
    existing = host.groups.get(name)
    if existing is None:
        return []
    if existing.gid == 0:
        return [Problem(f"{item.path}.group", f"the group {name} has GID 0, which is root's; use another one")]
    if item.group is not None:
        return []
    # It is taken if it is nobody's, or if this list says who shares it.
    sharing = {other.name for other in missing if other.group == name} | {item.name}
    strangers = sorted({*existing.members, *host.primary_users(existing)} - sharing)
    if not strangers:
        return []
    return [
        Problem(
            f"{item.path}.group",
            f"a group {name} (GID {existing.gid}) exists and belongs to {shortened(strangers)}; write group: {name} if"
            f" {item.name} shall share it, or name another group",
        )
    ]


def _check_way(item: Wanted, missing: Sequence[Wanted], host: Snapshot) -> List[Problem]:
    """Root makes a home only where nobody else can lead it to another place."""
    home = item.home or ""
    found = host.foreign_ways.get(home)
    if found:
        return [
            Problem(
                f"{item.path}.home",
                f"found {shown(home)}, and {found}; accepted for a home that is created: a path on which all directories and symbolic"
                " links that are there belong to root, and root alone may write to the directories; or create the home first",
            )
        ]
    outer = [other.name for other in missing if other.create_home and other.name != item.name and _is_inside(home, other.home or "")]
    if outer:
        return [
            Problem(
                f"{item.path}.home",
                f"found {shown(home)}, which is inside the home of {shortened(outer)}; accepted for a home that is created:"
                " one outside of those of other accounts; or create the home first",
            )
        ]
    return []


def _is_inside(home: str, other: str) -> bool:
    return (home.rstrip("/") + "/").startswith(other.rstrip("/") + "/")


def _check_room(creations: Sequence[Creation], new_groups: Sequence[Group], host: Snapshot) -> List[Problem]:
    """The host must have an ID left for each account and group that doesn't bring its own (useradd finds out one by one)."""
    uids = [creation.account.uid for creation in creations]
    gids = [group.gid for group in new_groups] + [None for creation in creations if creation.group is None]
    problems = []
    for kind, ids, wanted, taken in (
        ("a UID", host.uid_range, uids, {*host.holders, *uids}),
        ("a GID", host.gid_range, gids, {*(group.gid for group in host.groups.values()), *gids}),
    ):
        free = sum(one not in taken for one in range(ids.low, ids.high + 1))
        if wanted.count(None) > free:
            problems.append(
                Problem(
                    "accounts",
                    f"{wanted.count(None)} of them need {kind} from the host, and {free} are left between {ids.name}_MIN {ids.low}"
                    f" and {ids.name}_MAX {ids.high} of /etc/login.defs; give each account a uid, or widen the range",
                )
            )
    return problems


def _check_removal(item: Wanted, account: Account, host: Snapshot, *, force: bool, remove_home: bool) -> List[Problem]:
    problems = _check_identity(item, account)
    if problems:
        return problems
    if not account.local:
        return [
            Problem(
                f"{item.path}.name",
                f"{item.name} comes from a directory service, not from /etc/passwd, and can't be deleted here; delete it there",
            )
        ]
    running = host.running(account)
    if running and not force:
        problems.append(
            Problem(
                f"{item.path}.name",
                f"processes run as {item.name}: {shortened(running)}; stop them first, or set force: true to delete the"
                " account and let them run on",
            )
        )
    own = host.groups.get(item.name)
    sharing = [name for name in host.primary_users(own) if name != item.name] if own is not None else []
    if running and force and own is not None and own.gid == account.gid and sharing:
        problems.append(
            Problem(
                f"{item.path}.name",
                f"userdel --force would delete the group {item.name} too, which is the primary group of {shortened(sharing)};"
                f" stop the processes of {item.name} instead: {shortened(running)}",
            )
        )
    if remove_home and item.name in host.homes:
        problems.extend(_check_home(item, account, host))
    return problems


def _check_home(item: Wanted, account: Account, host: Snapshot) -> List[Problem]:
    """A home is deleted only if it is nobody else's."""
    shared = [
        other.name for other in host.accounts.values() if other.local and other.name != item.name and _is_inside(other.home, account.home)
    ]
    foreign = host.foreign_ways.get(account.home)
    if host.homes[item.name] != account.uid:
        why = f"belongs to UID {host.homes[item.name]}, not to {item.name} (UID {account.uid})"
    elif shared:
        why = f"holds the home of {shortened(shared)}"
    elif foreign:
        return [
            Problem(
                f"{item.path}.name",
                f"its home {account.home} is not deleted, because {foreign}, and others than root may have led there;"
                " leave remove_home out, and delete the home by hand",
            )
        ]
    else:
        return []
    return [Problem(f"{item.path}.name", f"its home {account.home} {why} and is not deleted; leave remove_home out")]


def shortened(names: Sequence[str]) -> str:
    """Names for a message, the first few of many."""
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def predicted(plan: Plan, host: Snapshot) -> Snapshot:
    """What the host will have after the plan. IDs that it chooses by itself are None."""
    accounts = dict(host.accounts)
    for change in plan.changes:
        accounts[change.after.name] = change.after
    for creation in plan.creations:
        accounts[creation.account.name] = creation.account
    for removal in plan.removals:
        del accounts[removal.account.name]
    return replace(host, accounts=accounts)


def report(wanted: Sequence[Wanted], plan: Plan, *, before: Snapshot, after: Snapshot) -> Dict[str, object]:
    """What the module returns. :param after: predicted or seen."""
    groups = {creation.account.name: creation.group or creation.account.name for creation in plan.creations}
    accounts = []
    for item in wanted:
        account = after.accounts.get(item.name)
        if account is None:
            continue
        accounts.append(
            {
                "name": account.name,
                "uid": account.uid,
                "gid": account.gid,
                "group": groups.get(account.name) or after.group_name(account.gid),
                "home": account.home,
                "shell": account.shell,
                "created": account.name in groups,
            }
        )
    created = [item.name for item in wanted if item.name in groups]
    modified = [change.after.name for change in plan.changes]
    removed = [removal.account.name for removal in plan.removals]
    touched = [*created, *modified, *removed]
    return {
        "changed": plan.changed,
        "accounts": accounts,
        "created": created,
        "modified": modified,
        "removed": removed,
        "diff": {"before": _lines(touched, before), "after": _lines(touched, after)},
    }


def _lines(names: Iterable[str], host: Snapshot) -> str:
    """Accounts as lines of passwd(5), without the password; ? for an ID that is not known yet."""
    lines = []
    for name in sorted(names):
        account = host.accounts.get(name)
        if account is not None:
            uid, gid = ("?" if number is None else str(number) for number in (account.uid, account.gid))
            lines.append(":".join((account.name, "x", uid, gid, account.comment, account.home, account.shell)) + "\n")
    return "".join(lines)
