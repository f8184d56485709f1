# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of accounts and groups on this machine, as its name service has them."""

from __future__ import annotations

import grp
import os
import pwd
import re
from functools import lru_cache
from typing import Callable, Dict, Optional

from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Lookup
from ansible_collections.portfence.egress.plugins.module_utils._service import HIGHEST_ID, is_id


# Name and id of a line: passwd(5), group(5).
_LINES = {
    "passwd": re.compile(r"([^\s:+#-][^\s:]*):[^:]*:([0-9]{1,10}):[0-9]{1,10}:[^:]*:[^:]*:[^:]*", re.ASCII),
    "group": re.compile(r"([^\s:+#-][^\s:]*):[^:]*:([0-9]{1,10}):[^:]*", re.ASCII),
}


def find_uids(host: Host) -> Callable[[str], Optional[int]]:
    """A function that gives the UID of an account, or None."""
    return _ids(host, "passwd", lambda name: pwd.getpwnam(name).pw_uid)


def find_gids(host: Host) -> Callable[[str], Optional[int]]:
    """A function that gives the GID of a group, or None."""
    return _ids(host, "group", lambda name: grp.getgrnam(name).gr_gid)


def _ids(host: Host, database: str, ask: Callable[[str], int]) -> Callable[[str], Optional[int]]:
    @lru_cache(maxsize=None)
    def local() -> Dict[str, int]:
        try:
            return _in_file(host, database)
        except HostError:
            return {}

    def find(name: str) -> Optional[int]:
        try:
            return local()[name] if name in local() else ask(name)
        except KeyError:
            return None

    return find


def _in_file(host: Host, database: str) -> Dict[str, int]:
    """Name to id, of the lines of passwd(5) or group(5) that nobody reads otherwise; nothing where the name service asks others first.

    To ask for a name takes the C library through the file from its start: for a thousand of them, about a tenth of the time of the module fence.
    """
    told = re.findall(rf"^[ \t]*{database}:([^#\n]*)", host.read("/etc/nsswitch.conf") or "", re.MULTILINE)
    words = told[0].split() if len(told) == 1 else []
    # An action may go on after what was found: nsswitch.conf(5), "[SUCCESS=continue]".
    if words[:1] != ["files"] or any(word.startswith("[") for word in words[1:2]):
        return {}
    found: Dict[str, int] = {}
    for line in (host.read(f"/etc/{database}") or "").split("\n"):
        if line and not line.startswith("#"):
            fields = _LINES[database].fullmatch(line)
            if fields is None or int(fields[2]) > HIGHEST_ID:
                return {}  # the C library may read it in its own way, or not at all
            found.setdefault(fields[1], int(fields[2]))
    return found


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

    def slice_of(unit: str) -> Optional[str]:
        from ansible_collections.portfence.egress.plugins.module_utils import _unit_host  # few services need it

        return _unit_host.find_slice(host, unit)

    return Lookup(uid=find_uids(host), gid=find_gids(host), slice_of=slice_of, classid_of=classids_of(host))
