# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Service accounts: what is asked and what a host has. Pure.

A service account is one that nobody can log in with: its shell refuses logins and its password is locked. An account
that differs is refused and never changed into one, because that would lock a person out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._errors import Problem, shown

NO_HOME = "/nonexistent"  # Debian policy 9.2.3: guaranteed not to exist

# The longest name that useradd takes on every distribution is 32 characters. A first letter keeps a name apart from
# options and from numeric IDs.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_NAME_RULE = "a letter or _ first, then letters, digits, _ . -, 32 characters at most"
# Lone surrogates stand for no character: neither a file nor a command can hold one.
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_ID = re.compile(r"0*[0-9]{1,10}")

_UID_HIGHEST = 4294967294  # 2^32 - 1 means "unchanged" to chown(2) and setreuid(2)
UID_REFUSED = {
    0: "UID 0 is root",
    65534: "UID 65534 stands for every owner that the kernel can't show (overflowuid) and for nobody",
    65535: "UID 65535 is -1 to programs that use 16-bit UIDs",
}

NOLOGIN_SHELLS = frozenset(
    folder + name for folder in ("/usr/sbin/", "/sbin/", "/usr/bin/", "/bin/") for name in ("nologin", "false")
)


@dataclass(frozen=True)
class Account:
    """One account of a host, or one that is about to be created.

    :ivar uid: None for an account whose UID the host will choose. :ivar gid: likewise.
    :ivar password: the field of passwd or shadow that counts; None when there is none to log in with.
    :ivar local: it stands in /etc/passwd, so that useradd and userdel reach it.
    """

    name: str
    uid: Optional[int]
    gid: Optional[int]
    comment: str
    home: str
    shell: str
    password: Optional[str] = None
    local: bool = True

    @property
    def has_login_shell(self) -> bool:
        """Whether its shell lets somebody in. An empty field means /bin/sh (passwd(5))."""
        return self.shell not in NOLOGIN_SHELLS

    @property
    def has_usable_password(self) -> bool:
        """Whether some password fits: no hash starts with ``!`` or ``*``; an empty field is "no password needed" (shadow(5))."""
        return self.password is not None and not self.password.startswith(("!", "*"))


@dataclass(frozen=True)
class Group:
    """One group of a host. :ivar members: those listed in it, without accounts whose primary group it is."""

    name: str
    gid: Optional[int]
    members: Tuple[str, ...] = ()


@dataclass(frozen=True)
class IdRange:
    """The IDs, both bounds included, that the host gives to system accounts or groups. :ivar name: as login.defs(5) has it."""

    name: str
    low: int
    high: int


@dataclass(frozen=True)
class Snapshot:
    """What a host has, as far as the request needs it.

    :ivar accounts: by name: all of /etc/passwd, and what a directory service knows of the names asked for.
    :ivar holders: the names that have a UID, in order.
    :ivar groups: by name, likewise.
    :ivar processes: by UID, "PID (command)" of what runs as it.
    :ivar homes: by account name, the owner's UID of its home if that is a directory; filled for removals with the home.
    :ivar foreign_ways: by path, what is wrong with the way to a home that is to be created or deleted.
    :ivar standing: the homes to be created that are there already.
    """

    accounts: Mapping[str, Account] = field(default_factory=dict)
    holders: Mapping[int, Tuple[str, ...]] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    processes: Mapping[int, Tuple[str, ...]] = field(default_factory=dict)
    homes: Mapping[str, int] = field(default_factory=dict)
    foreign_ways: Mapping[str, str] = field(default_factory=dict)
    standing: FrozenSet[str] = frozenset()
    uid_range: IdRange = IdRange("SYS_UID", 101, 999)
    gid_range: IdRange = IdRange("SYS_GID", 101, 999)

    def primary_users(self, group: Group) -> Tuple[str, ...]:
        """Names of the accounts whose primary group it is."""
        return tuple(account.name for account in self.accounts.values() if account.gid == group.gid)

    def running(self, account: Account) -> Tuple[str, ...]:
        """The processes of an account."""
        return () if account.uid is None else self.processes.get(account.uid, ())

    def group_name(self, gid: Optional[int]) -> Optional[str]:
        """The name of a group by its GID, or None."""
        return self._names_by_gid.get(gid)

    @cached_property
    def _names_by_gid(self) -> Dict[Optional[int], str]:
        return {group.gid: group.name for group in reversed(tuple(self.groups.values()))}


@dataclass(frozen=True)
class Wanted:
    """One item of the list, as the user wrote it. :ivar path: where, such as ``accounts[2]``."""

    path: str
    name: str
    uid: Optional[int] = None
    group: Optional[str] = None
    home: Optional[str] = None
    create_home: bool = False
    comment: Optional[str] = None


def check_list(wanted: Sequence[Wanted]) -> List[Problem]:
    """Every mistake that shows in the list by itself, without a host."""
    problems: List[Problem] = []
    names: Dict[str, str] = {}
    uids: Dict[int, Wanted] = {}
    for item in wanted:
        problems.extend(_check_item(item))
        if item.name in names:
            problems.append(Problem(f"{item.path}.name", f"{_label(item.name)} is named in {names[item.name]} already; name it once"))
            continue
        names[item.name] = item.path
        if item.uid is None:
            continue
        if item.uid in uids:
            other = uids[item.uid]
            problems.append(
                Problem(f"{item.path}.uid", f"{_label(item.name)} can't have UID {shown(item.uid)}, which {other.path} ({_label(other.name)}) asks for too")
            )
        uids.setdefault(item.uid, item)
    return problems


def valid_name(name: str) -> bool:
    """Whether a name can be handed to the system's tools and files."""
    return _NAME.fullmatch(name) is not None


def valid_home(home: str) -> bool:
    """Whether a home can stand in /etc/passwd."""
    return home.startswith("/") and ":" not in home and not _CONTROL.search(home)


def _label(name: str) -> str:
    """A name in a message: as it is when it is a good one, else quoted."""
    return name if valid_name(name) else shown(name)


def _check_item(item: Wanted) -> List[Problem]:
    problems = []
    for key, name in (("name", item.name), ("group", item.group)):
        if name is not None and not valid_name(name):
            problems.append(Problem(f"{item.path}.{key}", f"found {shown(name)}; accepted: {_NAME_RULE}"))
    if item.uid is not None:
        if item.uid in UID_REFUSED:
            problems.append(Problem(f"{item.path}.uid", f"{_label(item.name)} can't have it: {UID_REFUSED[item.uid]}; choose another one"))
        elif not 1 <= item.uid <= _UID_HIGHEST:
            problems.append(Problem(f"{item.path}.uid", f"found {shown(item.uid)}; accepted: 1 to {_UID_HIGHEST}"))
    if item.home is not None and not valid_home(item.home):
        problems.append(Problem(f"{item.path}.home", f"found {shown(item.home)}; accepted: an absolute path without : and control characters"))
    if item.create_home and item.home is None:
        problems.append(Problem(f"{item.path}.create_home", "needs home, the directory to create"))
    if item.comment is not None and (":" in item.comment or _CONTROL.search(item.comment)):
        problems.append(Problem(f"{item.path}.comment", f"found {shown(item.comment)}; accepted: text without : and control characters"))
    return problems


def named_once(wanted: Sequence[Wanted]) -> List[Wanted]:
    """The items that can be compared with a host: a valid name, and the first that has it."""
    found: Dict[str, Wanted] = {}
    for item in wanted:
        if valid_name(item.name):
            found.setdefault(item.name, item)
    return list(found.values())


def parse_passwd(text: str, *, shadow: Optional[Mapping[str, str]] = None) -> List[Account]:
    """The accounts in the text of passwd(5). Lines that are no account, such as ``+`` of NIS, are left out.

    :param shadow: password fields of shadow(5) by name; used where passwd refers to them with ``x``.
    """
    accounts = []
    for line in text.split("\n"):
        fields = line.split(":")
        if len(fields) != 7 or line.startswith(("+", "-", "#")) or not (_is_id(fields[2]) and _is_id(fields[3])):
            continue
        name, password, uid, gid, comment, home, shell = fields
        accounts.append(
            Account(
                name=name,
                uid=int(uid),
                gid=int(gid),
                comment=comment,
                home=home,
                shell=shell,
                password=(shadow or {}).get(name) if password == "x" else password,
            )
        )
    return accounts


def _is_id(text: str) -> bool:
    """Whether the C library takes a field for a UID or a GID, of 32 bits; Python takes other digits as well."""
    return _ID.fullmatch(text) is not None and int(text[-11:]) < 2**32


def parse_shadow(text: str) -> Dict[str, str]:
    """Password fields by name in the text of shadow(5)."""
    return {fields[0]: fields[1] for fields in (line.split(":") for line in text.split("\n")) if len(fields) > 1}


def parse_group(text: str) -> List[Group]:
    """The groups in the text of group(5)."""
    groups = []
    for line in text.split("\n"):
        fields = line.split(":")
        if len(fields) == 4 and _is_id(fields[2]) and not line.startswith(("+", "-", "#")):
            groups.append(Group(fields[0], int(fields[2]), tuple(name for name in fields[3].split(",") if name)))
    return groups


def parse_login_defs(text: str, *, kind: str) -> IdRange:
    """The IDs for system accounts or groups in the text of login.defs(5), with the defaults of useradd(8).

    :param kind: ``UID`` or ``GID``.
    """
    values = {}
    for line in text.split("\n"):
        words = line.split()
        if len(words) >= 2 and _is_id(words[1]):
            values[words[0]] = int(words[1])
    below = values.get(f"{kind}_MIN", 1000) - 1
    return IdRange(f"SYS_{kind}", values.get(f"SYS_{kind}_MIN", 101), values.get(f"SYS_{kind}_MAX", below))
