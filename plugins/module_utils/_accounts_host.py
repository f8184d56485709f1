# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Service accounts on the machine: look at what it has, and run its own tools to change that.

The account files are read here and written by useradd, systemd-sysusers, usermod, userdel, groupadd and groupdel alone.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from dataclasses import replace
from typing import Dict, Iterable, List, Optional, Sequence, Set, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._accounts import (
    Account,
    Group,
    Snapshot,
    Wanted,
    named_once,
    parse_group,
    parse_login_defs,
    parse_passwd,
    parse_shadow,
    valid_home,
    valid_name,
)
from ansible_collections.portfence.egress.plugins.module_utils._accounts_batch import differing, sysusers_text, together
from ansible_collections.portfence.egress.plugins.module_utils._accounts_plan import (
    Creation,
    Plan,
    plan_absent,
    plan_present,
    predicted,
    report,
    shortened,
)
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._folder import foreign_step
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._program import failure

_DATABASES = ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/subuid", "/etc/subgid")
# useradd(8): the home directory can't be made.
_NO_HOME = 12
_PACKAGE = "passwd (shadow-utils on Fedora, RHEL and their kin)"


def converge(
    host: Host, wanted: Sequence[Wanted], *, present: bool, force: bool, remove_home: bool, check_mode: bool
) -> Dict[str, object]:
    """Make the accounts of the list exist, or go.

    :param present: whether they shall exist. :param force: delete an account though processes run as it.
    :param check_mode: plan, and change nothing. Returns what the module returns. Raises PortFenceError.
    """
    host.require_root()
    if check_mode:
        plan, before = _plan(host, wanted, present=present, force=force, remove_home=remove_home)
        return report(wanted, plan, before=before, after=predicted(plan, before))
    with host.lock():
        plan, before = _plan(host, wanted, present=present, force=force, remove_home=remove_home)
        _apply(host, plan)
        after = _observe(host, wanted, processes=False) if plan.changed else before
    return report(wanted, plan, before=before, after=after)


def _plan(
    host: Host, wanted: Sequence[Wanted], *, present: bool, force: bool, remove_home: bool
) -> Tuple[Plan, Snapshot]:
    if present:
        before = _observe(host, wanted, processes=any(item.home is not None for item in wanted))
        plan = plan_present(wanted, before, shell=_nologin())
    else:
        before = _observe(host, wanted, processes=True)
        plan = plan_absent(wanted, before, force=force, remove_home=remove_home)
    if plan.changed:
        _check_tools(host, plan)
    return plan, before


def _nologin() -> str:
    """The shell that refuses logins. Raises HostError."""
    for path in ("/usr/sbin/nologin", "/sbin/nologin"):
        if os.access(path, os.X_OK):
            return path
    raise HostError("neither /usr/sbin/nologin nor /sbin/nologin exists; install the package login (util-linux on Fedora and RHEL)")


def _tools(plan: Plan) -> List[str]:
    """Names of the programs that a plan needs."""
    need = []
    if plan.new_groups:
        need.append("groupadd")
    if plan.creations:
        need.append("useradd")
    if plan.changes:
        need.append("usermod")
    if plan.removals:
        need.extend(("userdel", "groupdel"))
    return need


def _check_tools(host: Host, plan: Plan) -> None:
    """Raises HostError for what would stop the tools midway, which they don't say clearly themselves."""
    for name in _tools(plan):
        host.program(name, package=_PACKAGE)
    if os.statvfs("/etc").f_flag & os.ST_RDONLY:
        raise HostError("/etc is mounted read-only, so that accounts can't be changed; remount it writable")
    databases = [path for path in _DATABASES if os.path.exists(path)]
    host.check_changeable([*databases, *(item.account.home for item in plan.creations if item.create_home)])
    _check_room(databases)


def _check_room(databases: Sequence[str]) -> None:
    """Raises HostError where the tools would find no room: they write each file anew, and a copy of the old one."""
    disk = os.statvfs("/etc")
    blocks = sum(2 * (os.stat(path).st_size // disk.f_frsize + 2) for path in databases)
    # Some file systems don't say how large they are.
    if disk.f_blocks and disk.f_bfree < blocks:
        raise HostError(
            f"can't change {databases[0]}: {os.strerror(errno.ENOSPC)}; accounts take {blocks * disk.f_frsize} bytes for a moment,"
            f" and {disk.f_bfree * disk.f_frsize} are free; nothing was changed"
        )


# ---- look ----


def _observe(host: Host, wanted: Sequence[Wanted], *, processes: bool) -> Snapshot:
    """What the machine has, as far as the list needs it. The files are read once; name services are asked only for the rest."""
    text = host.read("/etc/passwd")
    if text is None:
        raise HostError("there is no /etc/passwd; accounts can't be managed on this machine")
    items = named_once(wanted)
    accounts: Dict[str, Account] = {}
    for account in parse_passwd(text, shadow=parse_shadow(host.read("/etc/shadow") or "")):
        accounts.setdefault(account.name, account)
    foreign = _foreign_accounts(host, [item.name for item in items if item.name not in accounts])
    accounts.update(foreign)

    holders: Dict[int, Tuple[str, ...]] = {}
    for account in accounts.values():
        if account.uid is not None:
            holders[account.uid] = (*holders.get(account.uid, ()), account.name)
    asked = {item.uid for item in items if item.uid is not None and 0 < item.uid < 2**32 - 1}
    for uid in sorted(asked.difference(holders) | {account.uid for account in foreign.values() if account.uid is not None}):
        name = _holder(uid)
        if name is not None and name not in holders.get(uid, ()):
            holders[uid] = (*holders.get(uid, ()), name)

    defs = host.read("/etc/login.defs") or ""
    found = [accounts[item.name] for item in items if item.name in accounts]
    homes = _homes(found)
    new = {item.home for item in items if item.create_home and item.name not in accounts and item.home is not None and valid_home(item.home)}
    return Snapshot(
        accounts=accounts,
        holders=holders,
        groups=_groups(host, items, found),
        processes=_processes(host, {account.uid for account in found if account.uid}) if processes else {},
        homes=homes,
        foreign_ways=_foreign_ways([*new, *(account.home for account in found if account.name in homes)]),
        standing=frozenset(home for home in new if os.path.exists(home)),
        uid_range=parse_login_defs(defs, kind="UID"),
        gid_range=parse_login_defs(defs, kind="GID"),
    )


def _foreign_accounts(host: Host, names: Sequence[str]) -> Dict[str, Account]:
    """Accounts that are not in /etc/passwd, but in a directory service (nsswitch.conf(5))."""
    lines = []
    for name in names:
        try:
            lines.append(":".join(str(part) for part in pwd.getpwnam(name)))
        except KeyError:
            continue
    getent = host.find("getent")
    if not lines or getent is None:
        shadow = {}
    else:
        # Status 2 says that a name has no entry, which is the common case.
        shadow = parse_shadow(host.run([getent, "shadow", *names], check=False).out)
    return {account.name: replace(account, local=False) for account in parse_passwd("\n".join(lines), shadow=shadow)}


def _holder(uid: int) -> Optional[str]:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _groups(host: Host, items: Sequence[Wanted], found: Sequence[Account]) -> Dict[str, Group]:
    groups: Dict[str, Group] = {}
    for group in parse_group(host.read("/etc/group") or ""):
        groups.setdefault(group.name, group)
    for name in sorted({name for item in items for name in (item.name, item.group) if name is not None and valid_name(name)}):
        if name not in groups:
            try:
                entry = grp.getgrnam(name)
            except KeyError:
                continue
            groups[name] = Group(entry.gr_name, entry.gr_gid, tuple(entry.gr_mem))
    known = {group.gid for group in groups.values()}
    gids = {account.gid for account in found} | {item.uid for item in items if item.uid is not None and item.uid < 2**32 - 1}
    for gid in sorted(gid for gid in gids - known if gid is not None and gid > 0):
        try:
            entry = grp.getgrgid(gid)
        except KeyError:
            continue
        groups.setdefault(entry.gr_name, Group(entry.gr_name, entry.gr_gid, tuple(entry.gr_mem)))
    return groups


def _processes(host: Host, uids: Set[int]) -> Dict[int, Tuple[str, ...]]:
    """What runs with one of these UIDs as its real, effective, saved or file system UID (proc(5)), as "PID (command)"."""
    found: Dict[int, Tuple[str, ...]] = {}
    for pid in sorted((name for name in host.list("/proc") if name.isdigit()), key=int):
        status = host.read(f"/proc/{pid}/status")
        if status is None:
            continue
        fields = dict(line.partition(":")[::2] for line in status.split("\n"))
        for uid in uids.intersection(int(word) for word in fields.get("Uid", "").split()):
            found[uid] = (*found.get(uid, ()), f"{pid} ({fields['Name'].strip()})")
    return found


def _homes(found: Iterable[Account]) -> Dict[str, int]:
    """The owners of the homes that are directories."""
    owners = {}
    for account in found:
        try:
            state = os.lstat(account.home)
        except (OSError, ValueError):
            continue
        if stat.S_ISDIR(state.st_mode):
            owners[account.name] = state.st_uid
    return owners


def _foreign_ways(homes: Iterable[str]) -> Dict[str, str]:
    """What is wrong with the directories above these homes, of those where something is."""
    found = {home: foreign_step(os.path.dirname(home.rstrip("/")) or "/") for home in homes}
    return {home: wrong for home, wrong in found.items() if wrong}


# ---- change ----


def _apply(host: Host, plan: Plan) -> None:
    """Carry the plan out, in order. Raises HostError that says what was done before the failure."""
    tools = {name: host.program(name, package=_PACKAGE) for name in _tools(plan)}
    done: List[str] = []
    try:
        done.extend(_create_together(host, together(plan)))
        for group in (group for group in plan.new_groups if group.name not in done):
            number = [] if group.gid is None else [f"--gid={group.gid}"]
            host.run([tools["groupadd"], "--system", *number, "--", group.name])
            done.append(f"group {group.name}")
        for creation in (creation for creation in plan.creations if creation.account.name not in done):
            _add(host, tools["useradd"], creation)
            done.append(creation.account.name)
        for change in plan.changes:
            args = [tools["usermod"]]
            if change.after.comment != change.before.comment:
                args.append(f"--comment={change.after.comment}")
            if change.after.home != change.before.home:
                args.append(f"--home={change.after.home}")
            host.run([*args, "--", change.after.name])
            done.append(change.after.name)
        for removal in plan.removals:
            options = (["--force"] if removal.busy else []) + (["--remove"] if removal.remove_home else [])
            host.run([tools["userdel"], *options, "--", removal.account.name])
            done.append(removal.account.name)
        _remove_own_groups(host, plan)
    except HostError as error:
        raise HostError(f"{error}; done before this: {shortened(done) or 'nothing'}") from error


def _create_together(host: Host, accounts: Sequence[Account]) -> List[str]:
    """Create what systemd-sysusers can; useradd is left to do the rest, and to say why it can't. Returns the names. Raises HostError."""
    program = host.find("systemd-sysusers")
    if program is None or not accounts:
        return []
    host.run([program, "-"], data=sysusers_text(accounts), check=False)
    missing, wrong = differing(accounts, parse_passwd(host.read("/etc/passwd") or ""))
    if wrong:
        raise HostError(f"{program} did not do what it was asked for: {shortened(wrong)}")
    return [account.name for account in accounts if account not in missing]


def _add(host: Host, useradd: str, creation: Creation) -> None:
    """Create one account. Raises HostError, with no account unless it says so.

    useradd writes the account before it makes the home, and the home of an account that exists is left alone by the next run.
    """
    command = _useradd(useradd, creation)
    result = host.run(command, check=False)
    if result.rc == 0:
        return
    said = failure(command, result)
    if result.rc == _NO_HOME and not _take_back(host, creation):
        said = f"{said}; the account {creation.account.name} is there, without its home: make that, or delete the account and run again"
    raise HostError(said)


def _take_back(host: Host, creation: Creation) -> bool:
    """Delete an account that was just made, where that deletes nothing that was there before. Whether it is gone."""
    name = creation.account.name
    # userdel(8) also deletes a group of that name, and the name from all groups.
    if creation.group == name or any(name in group.members for group in parse_group(host.read("/etc/group") or "")):
        return False
    return host.run([host.program("userdel", package=_PACKAGE), "--", name], check=False).rc == 0


def _useradd(program: str, creation: Creation) -> List[str]:
    account = creation.account
    args = [program, "--system", f"--shell={account.shell}", f"--home-dir={account.home}", f"--comment={account.comment}"]
    # The login records are indexed by UID; a high one would make them huge, and a service never logs in.
    args.append("--no-log-init")
    if account.uid is not None:
        args.append(f"--uid={account.uid}")
    args.append("--user-group" if creation.group is None else f"--gid={creation.group}")
    # An empty home: a shell's start files in /etc/skel are for people.
    args.extend(["--create-home", "--skel=/nonexistent"] if creation.create_home else ["--no-create-home"])
    return [*args, "--", account.name]


def _remove_own_groups(host: Host, plan: Plan) -> None:
    """Delete what userdel leaves where login.defs says USERGROUPS_ENAB no: groups of the deleted accounts' own that are empty."""
    if not plan.removals:
        return
    groups = {group.name: group for group in parse_group(host.read("/etc/group") or "")}
    primary = {account.gid for account in parse_passwd(host.read("/etc/passwd") or "")}
    for removal in plan.removals:
        group = groups.get(removal.account.name)
        if group is not None and group.gid == removal.account.gid and not group.members and group.gid not in primary:
            host.run([host.program("groupdel", package=_PACKAGE), "--", group.name])
