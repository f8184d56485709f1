# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module service_account, with the account tools and files of a throwaway host."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List

import pytest
from lab import Lab

NOLOGIN = "/usr/sbin/nologin"
LOCK = "/run/portfence.lock"
FILES = ("passwd", "shadow", "group", "gshadow", "subuid", "subgid", "passwd-", "group-")


def files(lab: Lab) -> str:
    """A fingerprint of everything that the module could change."""
    return lab.run(["sh", "-c", "cd /etc; sha256sum " + " ".join(FILES) + "; find /etc /home /var/mail /var/lib/portfence-test /run | sort"], check=False).out


def entry(lab: Lab, database: str, name: str) -> List[str]:
    """The fields of an entry; none if there is none."""
    line = lab.run(["getent", database, name], check=False).out.strip()
    return line.split(":") if line else []


def accounts(lab: Lab, *items: Dict[str, Any], **how: Any) -> Dict[str, Any]:
    """The result of a call that has to succeed."""
    result = lab.module("service_account", accounts=list(items), **how)
    assert not result.get("failed"), result["msg"]
    return result


def failure(lab: Lab, *items: Dict[str, Any], **how: Any) -> str:
    """The message of a call that has to fail."""
    result = lab.module("service_account", accounts=list(items), **how)
    assert result.get("failed"), result
    return str(result["msg"])


def refusal(lab: Lab, *items: Dict[str, Any], **how: Any) -> str:
    """The message of a call that has to fail and to leave everything as it was."""
    before = files(lab)
    message = failure(lab, *items, **how)
    assert [line for line in files(lab).splitlines() if line != LOCK] == [line for line in before.splitlines() if line != LOCK]
    return message


def start(lab: Lab, uid: int) -> int:
    """The PID, in the lab, of a process of this UID that runs until the lab ends."""
    script = f"setpriv --reuid={uid} --clear-groups sleep infinity >/dev/null 2>&1 & echo $!"
    pid = int(lab.run(["sh", "-c", script]).out)
    lab.run(["sh", "-c", f"until grep -q '^Uid:.{uid}' /proc/{pid}/status; do sleep 0.01; done"])
    return pid


# ---- create ----


def test_created_without_a_way_to_log_in(lab: Lab) -> None:
    result = accounts(lab, {"name": "myapp"})
    assert result["changed"] and result["created"] == ["myapp"]
    _name, _x, uid, gid, comment, home, shell = entry(lab, "passwd", "myapp")
    assert (comment, home, shell) == ("", "/nonexistent", NOLOGIN)
    assert 100 < int(uid) < 1000
    assert entry(lab, "shadow", "myapp")[1] == "!"
    assert lab.run(["passwd", "--status", "myapp"]).out.split()[1] == "L"
    assert entry(lab, "group", "myapp") == ["myapp", "x", gid, ""]
    assert result["accounts"] == [
        {
            "name": "myapp",
            "uid": int(uid),
            "gid": int(gid),
            "group": "myapp",
            "home": "/nonexistent",
            "shell": NOLOGIN,
            "created": True,
        }
    ]


def test_everything_that_can_be_asked_for(lab: Lab) -> None:
    asked = {"name": "otel", "uid": 480, "home": "/var/lib/portfence-test/deep/otel", "create_home": True, "comment": "-x, Müller & co"}
    accounts(lab, asked, {"name": "helper", "uid": 4294967294, "group": "otel-shared"})
    assert entry(lab, "passwd", "otel") == ["otel", "x", "480", "480", "-x, Müller & co", asked["home"], NOLOGIN]
    assert lab.run(["stat", "-c", "%U:%G", "/var/lib/portfence-test/deep/otel"]).out.strip() == "otel:otel"
    assert lab.run(["ls", "-A", "/var/lib/portfence-test/deep/otel"]).out == ""
    assert entry(lab, "passwd", "helper")[2] == "4294967294"
    assert entry(lab, "group", entry(lab, "passwd", "helper")[3])[0] == "otel-shared"
    assert entry(lab, "group", "helper") == []


def test_the_second_run_changes_nothing(lab: Lab) -> None:
    asked = ({"name": "a"}, {"name": "b", "uid": 4800, "group": "g", "comment": "c", "home": "/var/lib/portfence-test/b"})
    accounts(lab, *asked)
    before = files(lab)
    result = accounts(lab, *asked, diff=True)
    assert not result["changed"]
    assert (result["created"], result["modified"], result["removed"]) == ([], [], [])
    assert result["diff"] == {"before": "", "after": ""}
    assert files(lab) == before


def test_check_mode_predicts_and_changes_nothing(lab: Lab) -> None:
    lab.add_user("old", 700)
    asked = ({"name": "auto"}, {"name": "fixed", "uid": 4800}, {"name": "old", "comment": "New"}, {"name": "www-data"})
    before = files(lab)
    predicted = accounts(lab, *asked, check_mode=True, diff=True)
    assert files(lab) == before
    done = accounts(lab, *asked, diff=True)
    assert predicted["created"] == ["auto", "fixed"]
    assert predicted["accounts"][0]["uid"] is None
    uid, gid = (str(done["accounts"][0][key]) for key in ("uid", "gid"))
    assert predicted["diff"]["after"].replace("auto:x:?:?:", f"auto:x:{uid}:{gid}:") == done["diff"]["after"]
    assert predicted["diff"]["before"] == done["diff"]["before"] == f"old:x:700:700::/home/old:{NOLOGIN}\n"
    predicted["accounts"][0].update(uid=int(uid), gid=int(gid))
    for key in ("changed", "accounts", "created", "modified", "removed"):
        assert predicted[key] == done[key]
    assert not accounts(lab, *asked, check_mode=True)["changed"]


def test_gids_do_not_run_out_before_uids(lab: Lab) -> None:
    """useradd takes the GID of a group of its own from a small range, whatever UID was asked for."""
    lab.run(["sh", "-c", "printf 'SYS_GID_MIN 600\\nSYS_GID_MAX 602\\n' >> /etc/login.defs"])
    result = accounts(lab, *({"name": f"s{number}", "uid": 4800 + number} for number in range(8)))
    assert [(account["uid"], account["gid"]) for account in result["accounts"]] == [(4800 + number,) * 2 for number in range(8)]


def test_a_chosen_uid_is_not_given_to_another_of_the_list(lab: Lab) -> None:
    """useradd hands out the highest UID of the range first."""
    lab.run(["sh", "-c", "printf 'SYS_UID_MIN 600\\nSYS_UID_MAX 602\\n' >> /etc/login.defs"])
    result = accounts(lab, {"name": "auto"}, {"name": "fixed", "uid": 602})
    assert result["accounts"][1]["uid"] == 602
    assert result["accounts"][0]["uid"] in (600, 601)


def test_a_host_without_room(lab: Lab) -> None:
    message = refusal(lab, *({"name": f"s{number}"} for number in range(1000)))
    assert "accounts: 1000 of them need a UID from the host, and " in message
    assert "SYS_UID_MIN" in message


def test_a_run_that_was_ended_midway_is_finished(lab: Lab) -> None:
    lab.run(["groupadd", "--system", "--gid=4800", "fixed"])
    accounts(lab, {"name": "fixed", "uid": 4800})
    assert entry(lab, "passwd", "fixed")[2:4] == ["4800", "4800"]


# ---- existing accounts ----


def test_accounts_of_packages_are_fine(lab: Lab) -> None:
    before = files(lab)
    result = accounts(lab, {"name": "www-data"}, {"name": "daemon"}, check_mode=True)
    assert not result["changed"]
    assert [(account["name"], account["uid"]) for account in result["accounts"]] == [("www-data", 33), ("daemon", 1)]
    assert files(lab) == before


def test_an_account_that_somebody_can_log_in_with_is_refused(lab: Lab) -> None:
    lab.run(["useradd", "--create-home", "--shell=/bin/bash", "shell"])
    lab.run(["useradd", f"--shell={NOLOGIN}", "--password=$6$salt$hash", "secret"])
    lab.run(["useradd", f"--shell={NOLOGIN}", "--password=", "open"])
    lab.run(["useradd", "--shell=", "default"])
    people = [{"name": name} for name in ("shell", "secret", "open", "default", "root")]
    for state in ("present", "absent"):
        message = refusal(lab, *people, {"name": "fine"}, state=state, force=True)
        assert message.startswith("the list of accounts has 5 mistakes:")
        for index, says in enumerate(("login shell /bin/bash", "a password", "an empty password", "/bin/sh", "UID 0")):
            line = message.splitlines()[index + 1]
            assert line.startswith(f"  accounts[{index}].name: ") and says in line


def test_shared_and_taken_uids_are_refused(lab: Lab) -> None:
    lab.add_user("one", 700)
    lab.run(["useradd", "--system", "--non-unique", "--uid=700", f"--shell={NOLOGIN}", "two"])
    assert "one shares UID 700 with two" in refusal(lab, {"name": "one"})
    assert "accounts[0].uid: new can't have UID 700, which belongs to one, two already" in refusal(lab, {"name": "new", "uid": 700})
    assert "accounts[1].uid: b can't have UID 4800, which accounts[0] (a) asks for too" in refusal(lab, {"name": "a", "uid": 4800}, {"name": "b", "uid": 4800})


def test_ids_of_an_existing_account_are_kept(lab: Lab) -> None:
    lab.add_user("old", 700)
    message = refusal(lab, {"name": "old", "uid": 701, "group": "daemon"})
    assert "accounts[0].uid: old exists with UID 700, not 701" in message
    assert "accounts[0].group: old exists with the primary group old, not daemon" in message


def test_comment_and_home_are_mended(lab: Lab) -> None:
    lab.add_user("old", 700)
    result = accounts(lab, {"name": "old", "comment": "New", "home": "/var/lib/portfence-test/old"}, diff=True)
    assert result["modified"] == ["old"]
    assert entry(lab, "passwd", "old")[4:6] == ["New", "/var/lib/portfence-test/old"]
    assert result["diff"]["after"] == f"old:x:700:700:New:/var/lib/portfence-test/old:{NOLOGIN}\n"
    assert not accounts(lab, {"name": "old", "comment": "New", "home": "/var/lib/portfence-test/old"})["changed"]


def test_a_home_is_not_changed_under_a_running_process(lab: Lab) -> None:
    lab.add_user("old", 700)
    pid = start(lab, 700)
    assert f"processes run as it: {pid} (sleep)" in refusal(lab, {"name": "old", "home": "/var/lib/portfence-test/old"})
    assert accounts(lab, {"name": "old", "comment": "New"})["modified"] == ["old"]


def test_a_group_of_that_name_with_members(lab: Lab) -> None:
    lab.add_user("member", 700)
    lab.run(["groupadd", "--users=member", "myapp"])
    assert "belongs to member; write group: myapp" in refusal(lab, {"name": "myapp"})
    accounts(lab, {"name": "myapp", "group": "myapp"})
    assert lab.run(["id", "--group", "--name", "myapp"]).out.strip() == "myapp"


def test_a_directory_service(lab: Lab) -> None:
    """Accounts that are not in /etc/passwd, here those of userdb (nss-systemd(8)); /etc/nsswitch.conf asks it."""
    lab.run(["sed", "-i", "-E", "s/^(passwd|group|shadow):.*/\\1: files systemd/", "/etc/nsswitch.conf"])
    for name, uid, shell in (("far", 70500, NOLOGIN), ("person", 70501, "/bin/bash")):
        for kind, record in (
            ("user", {"userName": name, "uid": uid, "gid": uid, "shell": shell, "homeDirectory": "/nonexistent"}),
            ("group", {"groupName": name, "gid": uid}),
        ):
            script = f"mkdir -p /etc/userdb; cd /etc/userdb; cat > {name}.{kind}; ln -s {name}.{kind} {uid}.{kind}"
            lab.run(["sh", "-c", script], data=json.dumps(record))
    assert entry(lab, "passwd", "far")[2] == "70500", "nss-systemd is missing on this machine: install libnss-systemd"

    result = accounts(lab, {"name": "far"})
    assert not result["changed"]
    assert (result["accounts"][0]["uid"], result["accounts"][0]["group"]) == (70500, "far")
    assert "accounts[0].uid: new can't have UID 70500, which belongs to far already" in refusal(lab, {"name": "new", "uid": 70500})
    message = refusal(lab, {"name": "person"}, {"name": "far", "comment": "New"})
    assert "accounts[0].name: person (UID 70501) has the login shell /bin/bash" in message
    assert "accounts[1].comment: far comes from a directory service" in message
    assert "can't be deleted here" in refusal(lab, {"name": "far"}, state="absent")


# ---- delete ----


@pytest.mark.parametrize("groups_enabled", ["yes", "no"])
def test_deleted_with_its_group(lab: Lab, groups_enabled: str) -> None:
    lab.run(["sed", "-i", f"s/^USERGROUPS_ENAB.*/USERGROUPS_ENAB {groups_enabled}/", "/etc/login.defs"])
    asked = ({"name": "myapp"}, {"name": "shared"}, {"name": "guest", "group": "shared"})
    accounts(lab, *asked)
    before = files(lab)
    predicted = accounts(lab, *asked[:2], {"name": "nothere"}, state="absent", check_mode=True, diff=True)
    assert files(lab) == before
    done = accounts(lab, *asked[:2], {"name": "nothere"}, state="absent", diff=True)
    assert predicted["removed"] == done["removed"] == ["myapp", "shared"]
    assert predicted["diff"] == done["diff"]
    assert done["accounts"] == []
    assert entry(lab, "passwd", "myapp") == entry(lab, "shadow", "myapp") == entry(lab, "group", "myapp") == []
    assert entry(lab, "group", "shared") != [], "it is the primary group of guest"
    assert not accounts(lab, *asked[:2], {"name": "nothere"}, state="absent")["changed"]


def test_the_home_stays_unless_asked(lab: Lab) -> None:
    home = {"home": "/var/lib/myapp", "create_home": True}
    for remove_home in (False, True):
        accounts(lab, {"name": "myapp", "uid": 4800, **home})
        accounts(lab, {"name": "myapp"}, state="absent", remove_home=remove_home)
        assert (lab.run(["test", "-e", "/var/lib/myapp"], check=False).rc == 0) is not remove_home


def test_a_home_of_somebody_else_stays(lab: Lab) -> None:
    lab.run(["mkdir", "--parents", "/var/lib/portfence-test/theirs"])
    accounts(lab, {"name": "myapp", "home": "/var/lib/portfence-test/theirs"}, {"name": "other", "home": "/var/lib/portfence-test/own", "create_home": True})
    accounts(lab, {"name": "inside", "home": "/var/lib/portfence-test/own/inside"})
    message = refusal(lab, {"name": "myapp"}, {"name": "other"}, state="absent", remove_home=True)
    assert "accounts[0].name: its home /var/lib/portfence-test/theirs belongs to UID 0" in message
    assert "accounts[1].name: its home /var/lib/portfence-test/own holds the home of inside" in message


def test_not_deleted_while_processes_run_unless_forced(lab: Lab) -> None:
    accounts(lab, {"name": "myapp", "uid": 4800}, {"name": "idle"})
    pid = start(lab, 4800)
    message = refusal(lab, {"name": "idle"}, {"name": "myapp"}, state="absent")
    assert f"accounts[1].name: processes run as myapp: {pid} (sleep); stop them first, or set force: true" in message
    assert accounts(lab, {"name": "idle"}, {"name": "myapp"}, state="absent", force=True)["removed"] == ["idle", "myapp"]
    assert entry(lab, "passwd", "myapp") == []
    lab.run(["test", "-d", f"/proc/{pid}"])


def test_force_does_not_take_the_group_of_others(lab: Lab) -> None:
    accounts(lab, {"name": "myapp", "uid": 4800}, {"name": "guest", "group": "myapp"})
    start(lab, 4800)
    assert "primary group of guest" in refusal(lab, {"name": "myapp"}, state="absent", force=True)


# ---- faults ----


def test_all_mistakes_at_once(lab: Lab) -> None:
    message = refusal(
        lab,
        {"name": "-x"},
        {"name": "a", "uid": 0},
        {"name": "b", "home": "relative"},
        {"name": "fine"},
        {"name": "fine"},
        {"name": "c", "uid": 33},
    )
    paths = [line.split(": ")[0].strip() for line in message.splitlines()[1:]]
    assert paths == ["accounts[0].name", "accounts[1].uid", "accounts[2].home", "accounts[4].name", "accounts[5].uid"]


def test_a_read_only_etc(lab: Lab) -> None:
    lab.run(["mount", "-o", "remount,ro", "/etc"])
    assert "/etc is mounted read-only" in refusal(lab, {"name": "myapp"})
    assert not accounts(lab, {"name": "www-data"})["changed"]


def test_a_missing_tool(lab: Lab) -> None:
    lab.run(["mount", "--bind", "/dev/null", "/usr/sbin/useradd"])
    assert "the program useradd was not found" in refusal(lab, {"name": "myapp"})
    assert not accounts(lab, {"name": "www-data"})["changed"]


MANY = [{"name": f"svc{number}", "uid": 4000 + number, "comment": f'50% "of" \\ {number}'} for number in range(40)]


def test_many_at_once_are_what_they_are_one_by_one(lab: Lab) -> None:
    """systemd-sysusers and useradd leave the same entries but for the mark of a locked password and the date of its change."""

    def entries() -> List[str]:
        locked = "sed -E 's/:[!*]+:[0-9]*:/:locked:/'"
        return [lab.run(["sh", "-c", f"{locked} /etc/{name} | grep '^svc' | sort"]).out for name in ("passwd", "group", "shadow", "gshadow")]

    lab.run(["mount", "--bind", "/bin/false", "/usr/bin/systemd-sysusers"])
    accounts(lab, *MANY)
    one_by_one = entries()
    assert one_by_one[0].count("\n") == 40
    assert accounts(lab, *({"name": item["name"]} for item in MANY), state="absent")["changed"]
    lab.run(["umount", "/usr/bin/systemd-sysusers"])
    lab.run(["mount", "--bind", "/bin/false", "/usr/sbin/useradd"])
    assert accounts(lab, *MANY)["created"] == [item["name"] for item in MANY]
    assert entries() == one_by_one
    assert not accounts(lab, *MANY)["changed"]


def test_many_of_which_some_need_useradd(lab: Lab) -> None:
    """A home, a UID that the host chooses, a GID that somebody has."""
    lab.run(["groupadd", "--gid", "4003", "somebody"])
    special = [{"name": "housed", "uid": 4100, "home": "/var/lib/portfence-test", "create_home": True}, {"name": "chosen"}]
    created = accounts(lab, *MANY, *special)["created"]
    assert sorted(created) == sorted([item["name"] for item in MANY] + ["housed", "chosen"])
    assert int(entry(lab, "passwd", "svc3")[2]) == 4003 and int(entry(lab, "passwd", "svc3")[3]) != 4003
    assert lab.run(["stat", "-c", "%u", "/var/lib/portfence-test"]).out.strip() == "4100"
    assert int(entry(lab, "passwd", "chosen")[2]) < 1000


def test_a_batch_that_got_other_ids_is_an_error(lab: Lab) -> None:
    """As when somebody else takes a UID meanwhile."""
    script = "#!/bin/sh\nsed 's/svc7 4007/svc7 4999/' | /var/tmp/sysusers -\n"
    lab.run(["cp", "/usr/bin/systemd-sysusers", "/var/tmp/sysusers"])
    lab.run(["sh", "-c", "cat > /var/tmp/wrapper; chmod 755 /var/tmp/wrapper; mount --bind /var/tmp/wrapper /usr/bin/systemd-sysusers"], data=script)
    assert "did not do what it was asked for: svc7 has UID 4999, GID 4999" in failure(lab, *MANY)


def test_no_nologin(lab: Lab) -> None:
    lab.run(["mount", "--bind", "/dev/null", NOLOGIN])
    assert "nologin" in refusal(lab, {"name": "myapp"})


def test_account_files_locked_by_another_program(lab: Lab) -> None:
    """The owner that the lock names is alive."""
    lab.run(["sh", "-c", "echo 1 > /etc/passwd.lock"])
    message = failure(lab, {"name": "myapp"})
    assert "cannot lock /etc/passwd" in message
    assert message.endswith("done before this: nothing")
    assert entry(lab, "passwd", "myapp") == []
    lab.run(["rm", "/etc/passwd.lock"])
    assert accounts(lab, {"name": "myapp"})["created"] == ["myapp"]


def test_a_tool_that_fails_midway(lab: Lab) -> None:
    script = '#!/bin/sh\nfor name; do :; done\n[ "$name" != second ] || { echo "useradd: out of luck" >&2; exit 9; }\nexec /var/tmp/useradd "$@"\n'
    lab.run(["cp", "/usr/sbin/useradd", "/var/tmp/useradd"])
    lab.run(["sh", "-c", "cat > /var/tmp/wrapper; chmod 755 /var/tmp/wrapper; mount --bind /var/tmp/wrapper /usr/sbin/useradd"], data=script)
    asked = ({"name": "first"}, {"name": "second"}, {"name": "third"})
    message = failure(lab, *asked)
    assert "-- second ended with status 9: useradd: out of luck; done before this: first" in message
    lab.run(["umount", "/usr/sbin/useradd"])
    assert accounts(lab, *asked)["created"] == ["second", "third"]


def test_not_root(lab: Lab) -> None:
    script = (
        "import os; from ansible_collections.portfence.egress.plugins.modules import service_account as m;"
        " from ansible.module_utils.basic import AnsibleModule; os.seteuid(4800); m.main()"
    )
    arguments = {"ANSIBLE_MODULE_ARGS": {"accounts": [{"name": "myapp"}]}}
    result = lab.run([sys.executable, "-c", script], data=json.dumps(arguments), check=False, env={"PYTHONPATH": lab.collections()})
    assert "needs root, but runs with UID 4800; use become: true" in json.loads(result.out)["msg"]


def test_two_runs_at_once(lab: Lab) -> None:
    lab.collections()
    asked = [{"name": f"s{number}"} for number in range(5)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _number: accounts(lab, *asked), range(4)))
    assert sorted(result["changed"] for result in results) == [False, False, False, True]
    assert len({json.dumps([account["uid"] for account in result["accounts"]]) for result in results}) == 1
