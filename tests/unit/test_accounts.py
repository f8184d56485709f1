# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Service accounts: reading the account files, checking the list by itself."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._accounts import (
    Account,
    Group,
    IdRange,
    Wanted,
    check_list,
    parse_group,
    parse_login_defs,
    parse_passwd,
    parse_shadow,
)

NOLOGIN = "/usr/sbin/nologin"
PASSWD = "root:x:0:0:root:/root:/bin/bash\nmyapp:x:990:990:My app:/var/lib/myapp:/usr/sbin/nologin\n"
SHADOW = "root:*:20000:0:99999:7:::\nmyapp:!:20000::::::\n"


def items(*what: Dict[str, Any]) -> List[Wanted]:
    return [Wanted(path=f"accounts[{index}]", **one) for index, one in enumerate(what)]


# ---- reading ----


def test_passwd_fields() -> None:
    account = {one.name: one for one in parse_passwd(PASSWD, shadow=parse_shadow(SHADOW))}["myapp"]
    assert account == Account("myapp", 990, 990, "My app", "/var/lib/myapp", NOLOGIN, "!")


def test_lines_that_are_no_account() -> None:
    text = "+::::::\n+@team:x:5:5:::\n-bob:x:1:1:::\n#c:x:1:1:::\nshort:x:1:1\nodd:x:one:1:::\n\nok:x:7:7:::/bin/false\n"
    assert [account.name for account in parse_passwd(text)] == ["ok"]


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0b", "\x1c"])
def test_a_comment_cannot_end_its_line(separator: str) -> None:
    """A user may set a comment; characters that Python takes for an end of line must not make a second account of it."""
    text = f"alice:x:1000:1000:A{separator}root:x:1:1::/:/bin/false{separator}:/home/alice:/bin/bash\n"
    assert all(account.name == "alice" for account in parse_passwd(text))


@pytest.mark.parametrize(
    ("field", "shadow", "usable"),
    [
        ("x", "alice:!:1::::::\n", False),
        ("x", "alice:*:1::::::\n", False),
        ("x", "alice:!$6$s$h:1::::::\n", False),
        ("x", "alice:!!:1::::::\n", False),
        ("x", "", False),
        ("x", "bob:$6$s$h:1::::::\n", False),
        ("*", "", False),
        ("!", "alice:$6$s$h:1::::::\n", False),
        ("x", "alice:$6$s$h:1::::::\n", True),
        ("x", "alice:Ab1CdEfGhIjKl:1::::::\n", True),
        ("x", "alice::1::::::\n", True),
        ("", "alice:!:1::::::\n", True),
        ("$1$s$h", "alice:!:1::::::\n", True),
    ],
)
def test_which_passwords_fit(field: str, shadow: str, usable: bool) -> None:
    (account,) = parse_passwd(f"alice:{field}:1000:1000::/:/bin/false\n", shadow=parse_shadow(shadow))
    assert account.has_usable_password is usable


@pytest.mark.parametrize(
    ("shell", "login"),
    [
        ("/usr/sbin/nologin", False),
        ("/sbin/nologin", False),
        ("/bin/false", False),
        ("/usr/bin/false", False),
        ("", True),
        ("/bin/sh", True),
        ("/bin/sync", True),
        ("/home/eve/nologin", True),
        ("/usr/local/sbin/nologin", True),
        ("nologin", True),
    ],
)
def test_which_shells_let_somebody_in(shell: str, login: bool) -> None:
    assert Account("a", 1, 1, "", "/", shell).has_login_shell is login


def test_groups() -> None:
    assert parse_group("a:x:1:\n+:::\nb:x:2:alice,bob\nbad:x:y:\n") == [Group("a", 1), Group("b", 2, ("alice", "bob"))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", IdRange("SYS_UID", 101, 999)),
        ("UID_MIN 500\n", IdRange("SYS_UID", 101, 499)),
        ("# SYS_UID_MIN 7\nSYS_UID_MIN\t\t201\nSYS_UID_MAX 899\nUID_MIN 1000\n", IdRange("SYS_UID", 201, 899)),
    ],
)
def test_login_defs(text: str, expected: IdRange) -> None:
    assert parse_login_defs(text, kind="UID") == expected


# ---- the list by itself ----


@pytest.mark.parametrize(
    ("item", "path", "says"),
    [
        ({"name": ""}, "name", "accepted"),
        ({"name": "-x"}, "name", "accepted"),
        ({"name": "--help"}, "name", "accepted"),
        ({"name": "a b"}, "name", "accepted"),
        ({"name": "a:b"}, "name", "accepted"),
        ({"name": "a\nb"}, "name", "accepted"),
        ({"name": "a\n"}, "name", "accepted"),
        ({"name": "../etc"}, "name", "accepted"),
        ({"name": "1001"}, "name", "accepted"),
        ({"name": "müller"}, "name", "accepted"),
        ({"name": "a" * 33}, "name", "32 characters"),
        ({"name": "a", "group": "-g"}, "group", "accepted"),
        ({"name": "a", "group": "100"}, "group", "accepted"),
        ({"name": "a", "uid": 0}, "uid", "root"),
        ({"name": "a", "uid": -1}, "uid", "1 to 4294967294"),
        ({"name": "a", "uid": 65534}, "uid", "nobody"),
        ({"name": "a", "uid": 65535}, "uid", "16-bit"),
        ({"name": "a", "uid": 4294967295}, "uid", "1 to 4294967294"),
        ({"name": "a", "home": "var"}, "home", "absolute"),
        ({"name": "a", "home": ""}, "home", "absolute"),
        ({"name": "a", "home": "/a:b"}, "home", "without :"),
        ({"name": "a", "home": "/a\nb"}, "home", "control"),
        ({"name": "a", "create_home": True}, "create_home", "needs home"),
        ({"name": "a", "comment": "x:y"}, "comment", "without :"),
        ({"name": "a", "comment": "x\ny"}, "comment", "control"),
    ],
)
def test_one_mistake(item: Dict[str, Any], path: str, says: str) -> None:
    (problem,) = check_list(items(item))
    assert problem.path == f"accounts[0].{path}"
    assert says in problem.message


@pytest.mark.parametrize(
    "item",
    [
        {"name": "a"},
        {"name": "_"},
        {"name": "Svc.app-1_x"},
        {"name": "a" * 32},
        {"name": "a", "uid": 1},
        {"name": "a", "uid": 4294967294},
        {"name": "a", "home": "/srv/with space", "create_home": True, "comment": "-x, a = b; ü"},
    ],
)
def test_nothing_wrong(item: Dict[str, Any]) -> None:
    assert check_list(items(item)) == []


def test_twice_in_the_list() -> None:
    problems = check_list(items({"name": "a", "uid": 5}, {"name": "b", "uid": 5}, {"name": "a"}))
    assert [problem.path for problem in problems] == ["accounts[1].uid", "accounts[2].name"]
    assert "accounts[0] (a)" in problems[0].message
    assert "accounts[0]" in problems[1].message
