# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of accounts and groups: by the file where the name service looks there first, else by the name service."""

from __future__ import annotations

import grp
import pwd
from typing import Dict, List, Optional

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._names import find_gids, find_uids

PASSWD = """# root is first
root:x:0:0:root:/root:/bin/bash

web:x:2001:2001::/:/usr/sbin/nologin
web:x:2002:2002::/:/usr/sbin/nologin
"""
GROUP = "staff:x:50:web,root\n"


class Files(Host):
    """A host with these files."""

    def __init__(self, switch: Optional[str], passwd: str = PASSWD) -> None:
        super().__init__()
        self._files = {"/etc/nsswitch.conf": switch, "/etc/passwd": passwd, "/etc/group": GROUP}
        self.looked: List[str] = []

    def read(self, path: str) -> Optional[str]:
        """One of them."""
        self.looked.append(path)
        if self._files[path] == "unreadable":
            raise HostError(f"can't read {path}: Input/output error")
        return self._files[path]


@pytest.fixture(name="asked")
def fixture_asked(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    asked: List[str] = []

    def passwd(name: str) -> pwd.struct_passwd:
        asked.append(name)
        known: Dict[str, int] = {"web": 9001, "far": 9002}
        return pwd.struct_passwd((name, "x", known[name], 1, "", "", ""))

    def group(name: str) -> grp.struct_group:
        asked.append(name)
        return grp.struct_group((name, "x", {"staff": 9003}[name], []))

    monkeypatch.setattr(pwd, "getpwnam", passwd)
    monkeypatch.setattr(grp, "getgrnam", group)
    return asked


@pytest.mark.parametrize("switch", ["passwd: files systemd\ngroup: files\n", "#passwd: sss\n passwd:\tfiles # all\ngroup:files sss [!UNAVAIL=return]"])
def test_a_file_that_comes_first_is_read_once(asked: List[str], switch: str) -> None:
    host = Files(switch)
    uid, gid = find_uids(host), find_gids(host)
    assert [uid("web"), uid("root"), uid("web"), gid("staff")] == [2001, 0, 2001, 50]
    assert asked == [] and sorted(host.looked) == ["/etc/group", "/etc/nsswitch.conf", "/etc/nsswitch.conf", "/etc/passwd"]
    # What is not there may be elsewhere.
    assert [uid("far"), uid("nobody there"), gid("many")] == [9002, None, None]
    assert asked == ["far", "nobody there", "many"]


@pytest.mark.parametrize(
    "line",
    [
        "short:x:2003:2003::/",
        "long:x:2003:2003::/:/bin/sh:",
        "hexadecimal:x:0x7d4:2004::/:/bin/sh",
        "no_group:x:2004:::/:/bin/sh",
        "nobody:x:4294967295:2005::/:/bin/sh",
        f"huge:x:{'9' * 5000}:2005::/:/bin/sh",
        "+nis:x:2006:2006::/:/bin/sh",
        "-nis:x:2006:2006::/:/bin/sh",
        "  web:x:2006:2006::/:/bin/sh",
        " # web",
        ":x:2007:2007::/:/bin/sh",
        "+",
    ],
)
def test_a_file_with_a_line_that_is_read_in_another_way_is_left_to_the_name_service(asked: List[str], line: str) -> None:
    for passwd in (f"{line}\n{PASSWD}", f"{PASSWD}{line}\n"):
        assert find_uids(Files("passwd: files\n", passwd))("web") == 9001
    assert find_uids(Files("passwd: files\n"))("web") == 2001
    assert asked == ["web", "web"]


@pytest.mark.parametrize(
    "switch",
    [
        None,
        "",
        "group: files\n",
        "passwd: sss files\ngroup: sss files\n",
        "passwd: compat\ngroup: compat\n",
        "passwd: files [SUCCESS=continue] sss\ngroup: files [SUCCESS=merge] sss\n",
        "passwd: files\npasswd: sss\ngroup:\n",
        "initgroups_passwd: files\n",
        "unreadable",
    ],
)
def test_otherwise_the_name_service_is_asked(asked: List[str], switch: Optional[str]) -> None:
    host = Files(switch)
    assert find_uids(host)("web") == 9001 and asked == ["web"]
    if switch != "group: files\n":
        assert find_gids(host)("staff") == 9003 and asked == ["web", "staff"]
