# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many new accounts at once, for systemd-sysusers. Pure.

useradd reads and writes all account files for each account. systemd-sysusers makes many accounts in one
go, all or none (sysusers.d(5)). What it can't promise is left to useradd: IDs that the host chooses between the bounds of
login.defs, which older versions do not read; homes; groups with another name or number.
"""

from __future__ import annotations

from typing import List, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._accounts import Account
from ansible_collections.portfence.egress.plugins.module_utils._accounts_plan import Plan

# Fewer are not worth another program.
_FEW = 10


def together(plan: Plan) -> Tuple[Account, ...]:
    """The accounts that systemd-sysusers can make as groupadd and useradd would, each with its own group; none where they are few."""
    own = {(group.name, group.gid) for group in plan.new_groups}
    found = [
        creation.account
        for creation in plan.creations
        if creation.account.uid is not None and (creation.account.name, creation.account.uid) in own and creation.group == creation.account.name
        if not creation.create_home
    ]
    return tuple(found) if len(found) >= _FEW else ()


def sysusers_text(accounts: Sequence[Account]) -> str:
    """Lines of sysusers.d(5), where a percent sign begins a specifier and a backslash an escape."""
    return "".join(
        f"u {account.name} {account.uid} {_quoted(account.comment)} {_quoted(account.home)} {_quoted(account.shell)}\n" for account in accounts
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def differing(accounts: Sequence[Account], found: Sequence[Account]) -> Tuple[List[Account], List[str]]:
    """What the account files have of them.

    :param found: what is in the files now.
    :return: those that are missing, and what is not as it was asked for, a text each.
    """
    by_name = {account.name: account for account in found}
    missing = [account for account in accounts if account.name not in by_name]
    wrong = []
    for account in accounts:
        other = by_name.get(account.name)
        if other is not None and (other.uid, other.gid, other.home, other.shell) != (account.uid, account.uid, account.home, account.shell):
            wrong.append(f"{other.name} has UID {other.uid}, GID {other.gid}, home {other.home} and shell {other.shell}")
    return missing, wrong
