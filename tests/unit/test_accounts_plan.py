# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Service accounts: planning, refusing, reporting."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any, Dict, List, Sequence, Tuple

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._accounts import (
    Account,
    Group,
    IdRange,
    Snapshot,
    Wanted,
    parse_group,
    parse_passwd,
    parse_shadow,
)
from ansible_collections.portfence.egress.plugins.module_utils._accounts_plan import (
    Plan,
    plan_absent,
    plan_present,
    predicted,
    report,
)
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError
from hypothesis import given
from hypothesis import strategies as st

NOLOGIN = "/usr/sbin/nologin"

PASSWD = """\
root:x:0:0:root:/root:/bin/bash
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
alice:x:1000:1000:Alice:/home/alice:/bin/bash
keyholder:x:1001:1001::/home/keyholder:/usr/sbin/nologin
open:x:1002:1002::/home/open:/usr/sbin/nologin
default:x:1003:1003::/home/default:
myapp:x:990:990:My app:/var/lib/myapp:/usr/sbin/nologin
twin1:x:991:991::/nonexistent:/bin/false
twin2:x:991:991::/nonexistent:/bin/false
worker:x:992:990::/nonexistent:/usr/sbin/nologin
"""
SHADOW = """\
root:*:20000:0:99999:7:::
www-data:*:20000:0:99999:7:::
nobody:*:20000:0:99999:7:::
alice:!:20000:0:99999:7:::
keyholder:$y$j9T$abc$def:20000:0:99999:7:::
open::20000:0:99999:7:::
default:!:20000:0:99999:7:::
myapp:!:20000::::::
twin1:!:20000::::::
twin2:!:20000::::::
worker:!$6$salt$hash:20000::::::
"""
GROUP = """\
root:x:0:
www-data:x:33:
nogroup:x:65534:
empty:x:600:
crew:x:601:alice,bob
myapp:x:990:
"""


def snapshot(**also: Any) -> Snapshot:
    accounts = {account.name: account for account in parse_passwd(PASSWD, shadow=parse_shadow(SHADOW))}
    holders: Dict[int, Tuple[str, ...]] = {}
    for account in accounts.values():
        assert account.uid is not None
        holders[account.uid] = (*holders.get(account.uid, ()), account.name)
    groups = {group.name: group for group in parse_group(GROUP)}
    return replace(Snapshot(accounts=accounts, holders=holders, groups=groups), **also)


def items(*what: Dict[str, Any]) -> List[Wanted]:
    return [Wanted(path=f"accounts[{index}]", **one) for index, one in enumerate(what)]


def present(*what: Dict[str, Any], host: Snapshot) -> Plan:
    return plan_present(items(*what), host, shell=NOLOGIN)


def absent(*what: Dict[str, Any], host: Snapshot, force: bool = False, remove_home: bool = False) -> Plan:
    return plan_absent(items(*what), host, force=force, remove_home=remove_home)


def mistakes(error: InputError) -> List[Tuple[str, str]]:
    return [(problem.path, problem.message) for problem in error.problems]


# ---- present ----


@pytest.mark.parametrize(
    ("item", "path", "says"),
    [
        ({"name": "root"}, "name", "UID 0"),
        ({"name": "nobody"}, "name", "65534"),
        ({"name": "alice"}, "name", "the login shell /bin/bash: "),
        ({"name": "keyholder"}, "name", "has a password: "),
        ({"name": "open"}, "name", "an empty password"),
        ({"name": "default"}, "name", "the login shell /bin/sh"),
        ({"name": "twin1"}, "name", "shares UID 991 with twin2"),
        ({"name": "new", "uid": 33}, "uid", "www-data"),
        ({"name": "new", "uid": 991}, "uid", "twin1, twin2"),
        ({"name": "myapp", "uid": 480}, "uid", "exists with UID 990, not 480"),
        ({"name": "myapp", "group": "crew"}, "group", "primary group myapp, not crew"),
        ({"name": "myapp", "group": "unheard"}, "group", "primary group myapp, not unheard"),
        ({"name": "new", "group": "root"}, "group", "GID 0"),
        ({"name": "crew"}, "group", "alice, bob"),
    ],
)
def test_refused(item: Dict[str, Any], path: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        present(item, host=snapshot())
    ((where, message),) = mistakes(caught.value)
    assert where == f"accounts[0].{path}"
    assert says in message


@pytest.mark.parametrize("name", ["alice", "twin1"])
def test_the_way_out_is_named(name: str) -> None:
    with pytest.raises(InputError, match="manage_account: false"):
        present({"name": name}, host=snapshot())


def test_everything_is_said_at_once_and_in_order() -> None:
    with pytest.raises(InputError) as caught:
        present(
            {"name": "alice"}, {"name": "new", "uid": 0}, {"name": "-x"}, {"name": "myapp", "uid": 1}, {"name": "fine"}, host=snapshot()
        )
    assert [path for path, _message in mistakes(caught.value)] == [
        "accounts[0].name",
        "accounts[1].uid",
        "accounts[2].name",
        "accounts[3].uid",
    ]
    assert str(caught.value).startswith("the list of accounts has 4 mistakes:\n  accounts[0].name: alice")


@pytest.mark.parametrize(
    "item",
    [
        {"name": "www-data"},
        {"name": "myapp"},
        {"name": "myapp", "uid": 990, "group": "myapp", "home": "/var/lib/myapp", "comment": "My app"},
        {"name": "worker"},
        {"name": "worker", "group": "myapp"},
    ],
)
def test_fine_as_it_is(item: Dict[str, Any]) -> None:
    assert not present(item, host=snapshot()).changed


def test_a_new_account() -> None:
    plan = present({"name": "new"}, host=snapshot())
    (creation,) = plan.creations
    assert creation.account == Account("new", None, None, "", "/nonexistent", NOLOGIN, "!")
    assert creation.group is None
    assert not creation.create_home
    assert not plan.new_groups


def test_a_chosen_uid_is_the_gid_too() -> None:
    plan = present({"name": "new", "uid": 5000}, host=snapshot())
    assert plan.new_groups == (Group("new", 5000),)
    assert plan.creations[0].account.gid == 5000
    assert plan.creations[0].group == "new"


def test_a_chosen_uid_whose_gid_is_taken() -> None:
    plan = present({"name": "new", "uid": 600}, host=snapshot())
    assert plan.new_groups == (Group("new", None),)


def test_named_groups_are_made_once_and_existing_ones_used() -> None:
    plan = present(
        {"name": "a", "group": "fresh"}, {"name": "b", "group": "fresh"}, {"name": "c", "group": "crew"}, host=snapshot()
    )
    assert plan.new_groups == (Group("fresh", None),)
    assert [(creation.account.name, creation.group) for creation in plan.creations] == [("a", "fresh"), ("b", "fresh"), ("c", "crew")]


def test_an_empty_group_of_the_same_name_is_taken() -> None:
    """Such as one that a run left which was ended between groupadd and useradd."""
    (creation,) = present({"name": "empty"}, host=snapshot()).creations
    assert (creation.group, creation.account.gid) == ("empty", 600)


def test_a_group_of_the_same_name_with_somebody_in_it() -> None:
    accounts = {name: account for name, account in snapshot().accounts.items() if name != "myapp"}
    with pytest.raises(InputError, match="belongs to worker; write group: myapp"):
        present({"name": "myapp"}, host=snapshot(accounts=accounts))
    assert present({"name": "myapp", "group": "myapp"}, host=snapshot(accounts=accounts)).creations[0].group == "myapp"


def test_a_group_shared_by_the_list() -> None:
    plan = present({"name": "a", "group": "b"}, {"name": "b"}, host=snapshot())
    assert plan.new_groups == (Group("b", None),)
    assert [creation.group for creation in plan.creations] == ["b", "b"]


def test_chosen_ids_come_first() -> None:
    """The host would hand a chosen UID to an account that is created before."""
    plan = present({"name": "a"}, {"name": "b", "group": "g"}, {"name": "c", "uid": 700}, {"name": "d", "uid": 600}, host=snapshot())
    assert [creation.account.name for creation in plan.creations] == ["c", "d", "a", "b"]
    assert [group.gid for group in plan.new_groups] == [700, None, None]


def test_comment_and_home_are_mended() -> None:
    plan = present({"name": "myapp", "comment": "", "home": "/srv"}, host=snapshot())
    (change,) = plan.changes
    assert (change.after.comment, change.after.home) == ("", "/srv")
    assert replace(change.after, comment=change.before.comment, home=change.before.home) == change.before


def test_a_home_is_not_changed_under_a_running_process() -> None:
    host = snapshot(processes={990: ("77 (myappd)",)})
    with pytest.raises(InputError, match=r"accounts\[0\]\.home: .*77 \(myappd\)"):
        present({"name": "myapp", "home": "/srv"}, host=host)
    assert present({"name": "myapp", "comment": "x"}, host=host).changes


@pytest.mark.parametrize("key", ["comment", "home"])
def test_a_directory_service_is_not_changed(key: str) -> None:
    accounts = {**snapshot().accounts, "far": Account("far", 7000, 7000, "", "/nonexistent", NOLOGIN, "*", local=False)}
    host = snapshot(accounts=accounts)
    assert not present({"name": "far", key: getattr(accounts["far"], key)}, host=host).changed
    with pytest.raises(InputError, match=rf"accounts\[0\]\.{key}: far comes from a directory service"):
        present({"name": "far", key: "/x"}, host=host)


@pytest.mark.parametrize(
    ("uid_range", "gid_range", "what"),
    [
        (IdRange("SYS_UID", 990, 995), IdRange("SYS_GID", 101, 999), r"5 of them need a UID .* 3 are left .*SYS_UID_MIN 990 and SYS_UID_MAX 995"),
        (IdRange("SYS_UID", 101, 999), IdRange("SYS_GID", 989, 993), r"5 of them need a GID .* 4 are left .*SYS_GID_MIN 989 and SYS_GID_MAX 993"),
    ],
)
def test_no_room(uid_range: IdRange, gid_range: IdRange, what: str) -> None:
    host = snapshot(uid_range=uid_range, gid_range=gid_range)
    with pytest.raises(InputError, match=what):
        present(*({"name": f"s{number}"} for number in range(5)), host=host)
    assert len(present(*({"name": f"s{number}"} for number in range(3)), host=host).creations) == 3
    assert len(present(*({"name": f"s{number}", "uid": 3000 + number} for number in range(5)), host=host).creations) == 5


# ---- absent ----


@pytest.mark.parametrize(
    ("item", "path", "says"),
    [
        ({"name": "root"}, "name", "UID 0"),
        ({"name": "nobody"}, "name", "65534"),
        ({"name": "alice"}, "name", "the login shell"),
        ({"name": "keyholder"}, "name", "a password"),
        ({"name": "myapp", "uid": 5}, "uid", "exists with UID 990, not 5"),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_not_deleted(item: Dict[str, Any], path: str, says: str, force: bool) -> None:
    with pytest.raises(InputError) as caught:
        absent(item, host=snapshot(), force=force)
    ((where, message),) = mistakes(caught.value)
    assert where == f"accounts[0].{path}"
    assert says in message


def test_deleted() -> None:
    plan = absent({"name": "nothere"}, {"name": "www-data"}, {"name": "twin1", "uid": 991}, host=snapshot())
    assert [removal.account.name for removal in plan.removals] == ["www-data", "twin1"]
    assert not any(removal.busy or removal.remove_home for removal in plan.removals)


def test_a_directory_service_is_not_deleted_from() -> None:
    far = Account("far", 7000, 7000, "", "/nonexistent", NOLOGIN, "*", local=False)
    with pytest.raises(InputError, match="can't be deleted here"):
        absent({"name": "far"}, host=snapshot(accounts={"far": far}))


def test_processes_are_named() -> None:
    host = snapshot(processes={33: tuple(f"{pid} (apache2)" for pid in range(50, 57))})
    with pytest.raises(InputError, match=r"50 \(apache2\), .*54 \(apache2\) and 2 more; stop them first, or set force: true"):
        absent({"name": "www-data"}, host=host)
    assert absent({"name": "www-data"}, host=host, force=True).removals[0].busy


def test_force_does_not_take_the_group_of_others() -> None:
    host = snapshot(processes={990: ("7 (myappd)",)})
    with pytest.raises(InputError, match=r"primary group of worker; stop .*7 \(myappd\)"):
        absent({"name": "myapp"}, host=host, force=True)


@pytest.mark.parametrize(
    ("homes", "other_home", "says"),
    [
        ({"myapp": 0}, "/nonexistent", "belongs to UID 0"),
        ({"myapp": 990}, "/var/lib/myapp", "holds the home of worker"),
        ({"myapp": 990}, "/var/lib/myapp/sub", "holds the home of worker"),
    ],
)
def test_a_home_that_is_somebody_elses_too(homes: Dict[str, int], other_home: str, says: str) -> None:
    host = snapshot(homes=homes)
    host = replace(host, accounts={**host.accounts, "worker": replace(host.accounts["worker"], home=other_home)})
    with pytest.raises(InputError, match=says):
        absent({"name": "myapp"}, host=host, remove_home=True)
    assert not absent({"name": "myapp"}, host=host).removals[0].remove_home


def test_a_home_of_its_own() -> None:
    host = snapshot(homes={"myapp": 990})
    host = replace(host, accounts={**host.accounts, "worker": replace(host.accounts["worker"], home="/var/lib/myapp2")})
    assert absent({"name": "myapp"}, host=host, remove_home=True).removals[0].remove_home
    assert not absent({"name": "worker"}, host=host, remove_home=True).removals[0].remove_home


# ---- report ----


def test_report_of_a_prediction() -> None:
    host = snapshot()
    wanted = items({"name": "www-data"}, {"name": "new"}, {"name": "fixed", "uid": 5000, "group": "crew"}, {"name": "myapp", "comment": "New"})
    plan = plan_present(wanted, host, shell=NOLOGIN)
    result = report(wanted, plan, before=host, after=predicted(plan, host))
    assert result["changed"] is True
    assert (result["created"], result["modified"], result["removed"]) == (["new", "fixed"], ["myapp"], [])
    rows = [tuple(row.values()) for row in result["accounts"]]
    assert rows == [
        ("www-data", 33, 33, "www-data", "/var/www", NOLOGIN, False),
        ("new", None, None, "new", "/nonexistent", NOLOGIN, True),
        ("fixed", 5000, 601, "crew", "/nonexistent", NOLOGIN, True),
        ("myapp", 990, 990, "myapp", "/var/lib/myapp", NOLOGIN, False),
    ]
    assert result["diff"] == {
        "before": f"myapp:x:990:990:My app:/var/lib/myapp:{NOLOGIN}\n",
        "after": f"fixed:x:5000:601::/nonexistent:{NOLOGIN}\nmyapp:x:990:990:New:/var/lib/myapp:{NOLOGIN}\nnew:x:?:?::/nonexistent:{NOLOGIN}\n",
    }


def test_report_of_a_removal() -> None:
    host = snapshot()
    wanted = items({"name": "worker"}, {"name": "nothere"})
    plan = plan_absent(wanted, host, force=False, remove_home=False)
    result = report(wanted, plan, before=host, after=predicted(plan, host))
    assert (result["changed"], result["removed"], result["accounts"]) == (True, ["worker"], [])
    assert result["diff"] == {"before": f"worker:x:992:990::/nonexistent:{NOLOGIN}\n", "after": ""}


# ---- properties ----

NAMES = st.sampled_from(["a", "b", "c", "d", "empty", "crew", "myapp", "worker", "www-data", "alice", "twin1", "root"])
WANTED = st.lists(
    st.fixed_dictionaries(
        {"name": NAMES},
        optional={
            "uid": st.sampled_from([33, 600, 700, 701, 990]),
            "group": st.sampled_from(["a", "b", "crew", "myapp", "fresh"]),
            "home": st.sampled_from(["/srv/x", "/var/lib/myapp"]),
            "comment": st.sampled_from(["", "c"]),
        },
    ),
    max_size=6,
)


def carried_out(plan: Plan, host: Snapshot) -> Snapshot:
    """The host after the plan, with the IDs chosen like the tools choose them: the highest that is free."""
    groups = dict(host.groups)
    accounts = dict(predicted(plan, host).accounts)
    holders = dict(host.holders)

    def free(taken: Sequence[Any]) -> int:
        return next(number for number in count(999, -1) if number not in taken)

    def make(group: Group) -> None:
        assert group.name not in groups
        gids = [other.gid for other in groups.values()]
        gid = free(gids) if group.gid is None else group.gid
        assert gid not in gids
        groups[group.name] = replace(group, gid=gid)

    for group in plan.new_groups:
        make(group)
    for creation in plan.creations:
        account = creation.account
        if creation.group is None:
            make(Group(account.name, None))
        uid = free(list(holders)) if account.uid is None else account.uid
        assert uid not in holders
        holders[uid] = (account.name,)
        accounts[account.name] = replace(account, uid=uid, gid=groups[creation.group or account.name].gid)
    return replace(host, accounts=accounts, groups=groups, holders=holders)


@given(WANTED)
def test_a_plan_can_be_carried_out_and_a_second_one_is_empty(what: List[Dict[str, Any]]) -> None:
    host = snapshot()
    try:
        plan = present(*what, host=host)
    except InputError:
        return
    after = carried_out(plan, host)
    assert not present(*what, host=after).changed
    for item in what:
        account = after.accounts[item["name"]]
        assert not account.has_login_shell and not account.has_usable_password
        assert after.holders[account.uid or 0] == (account.name,)
        assert item.get("uid") in (None, account.uid)
        assert item.get("group") in (None, after.group_name(account.gid))
