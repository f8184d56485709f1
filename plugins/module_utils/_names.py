# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of accounts and groups on this machine, through its name service."""

from __future__ import annotations

import grp
import os
import pwd
from functools import lru_cache
from typing import Callable, Dict, Optional

from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Lookup
from ansible_collections.portfence.egress.plugins.module_utils._service import is_id
from ansible_collections.portfence.egress.plugins.module_utils._unit_host import find_slice


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


def classids_of(host: Host) -> Callable[[str], Optional[int]]:
    """A function that gives the class which the cgroup of a name has at every boot, or None. What can't be read makes no cgroup.

    It reads the record when it is asked first.
    """

    @lru_cache(maxsize=None)
    def read() -> Dict[str, int]:
        from ansible_collections.portfence.egress.plugins.module_utils import _classid_files  # few services need it

        try:
            record = _classid_files.parse_record(host.read_own(_classid_files.RECORD) or "")
        except ValueError:
            return {}
        return {name: item.classid for name, item in record.items()}

    return lambda name: read().get(name)


def admin_uids(host: Host) -> Dict[int, str]:
    """UIDs that must not be fenced by mistake: root, and who came in to become root (sudo(8), proc(5): loginuid)."""
    found = {0: "root"}
    for number in (os.environ.get("SUDO_UID", ""), (host.read("/proc/self/loginuid") or "").strip()):
        if is_id(number) and int(number) not in (0, 2**32 - 1):
            found[int(number)] = "the account that Ansible connects with"
    return found


def operator(host: Host) -> str:
    """The account that came in to become root, or root (sudo(8), proc(5): loginuid)."""
    numbers = [number for number in admin_uids(host) if number != 0]
    try:
        return pwd.getpwuid(numbers[0]).pw_name if numbers else "root"
    except KeyError:
        return f"UID {numbers[0]}"


def lookup_on(host: Host) -> Lookup:
    """How names are found on this machine."""
    return Lookup(
        uid=find_uid, gid=find_gid, slice_of=lambda unit: find_slice(host, unit), classid_of=classids_of(host)
    )
