# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Classids, the record, files and plans of cgroups of net_cls: the pure part."""

from __future__ import annotations

import shlex
import subprocess
from typing import Any, Dict, List, Mapping, Optional, Sequence

import pytest
import yaml
from ansible_collections.portfence.egress.plugins.module_utils._classid import format_classid, parse_classid
from ansible_collections.portfence.egress.plugins.module_utils._classid_files import (
    RECORD,
    SCRIPT,
    UNIT_PATH,
    Cgroup,
    drop_in_path,
    files_of,
    format_record,
    parse_record,
    value_of,
)
from ansible_collections.portfence.egress.plugins.module_utils._classid_plan import Facts, Plan, UnitFacts, Wanted, check, make_plan, merge, parse_list
from hypothesis import given
from hypothesis import strategies as st

CLASSIDS = st.integers(1, 0xFFFFFFFF)


# ---- classids ----


@pytest.mark.parametrize(
    "value, classid",
    [
        ("0x100001", 0x100001),
        ("0X10000A", 0x10000A),
        ("10:1", 0x100001),
        ("ffff:FFFF", 0xFFFFFFFF),
        ("10:0", 0x100000),
        ("0x1", 1),
        ("0:1", 1),
        (0x100001, 0x100001),
        ("1048577", 0x100001),
        (0x10000, 0x10000),
        (0xFFFFFFFF, 0xFFFFFFFF),
    ],
)
def test_accepted_spellings(value: object, classid: int) -> None:
    assert parse_classid(value) == classid


@pytest.mark.parametrize(
    "value",
    [
        0, -1, 0x100000000, True, None, 1.5, [], {}, "", "0", "0x0", "0:0", "0x", "0x100000000", "0x0100000001", "10000:1", "10:10000", "10:", ":1",
        "10:1:1", "1 0:1", "0x10_0001", "0x10\n", "10:1\n", "0o7", "010", "-0x1", "+5", "ten", "4294967296", "१:१", "1११११११",
    ],
)  # fmt: skip
def test_refused_values(value: object) -> None:
    with pytest.raises(ValueError, match=r'^found .*; accepted: "0x100001", or the same as "10:1"'):
        parse_classid(value)


@pytest.mark.parametrize("text", ["10:1", "1:1", "1092:15"])
def test_what_yaml_makes_of_a_classid_without_quotes(text: str) -> None:
    number = yaml.safe_load(text)
    assert isinstance(number, int) and number != parse_classid(text)
    for value in (number, str(number)):
        with pytest.raises(ValueError, match=rf"^found the number {number}, .* with the quotes$"):
            parse_classid(value)


@given(CLASSIDS)
def test_what_is_shown_is_accepted(classid: int) -> None:
    assert parse_classid(format_classid(classid)) == classid
    assert parse_classid(f"{classid >> 16:x}:{classid & 0xFFFF:x}") == classid


# ---- the record and the files ----


@given(st.dictionaries(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}", fullmatch=True), CLASSIDS))
def test_the_record_is_read_as_it_was_written(classids: Dict[str, int]) -> None:
    cgroups = {name: Cgroup(name, classid, ("a.service", "b@.service")) for name, classid in classids.items()}
    assert parse_record(format_record(cgroups)) == cgroups


@pytest.mark.parametrize("line", ["myapp", "myapp 0x0", "myapp yes a.service"])
def test_a_record_that_somebody_wrote_into(line: str) -> None:
    with pytest.raises(ValueError, match="^line 2 is not NAME CLASSID UNIT"):
        parse_record(f"# a comment\n{line}\n")


def test_no_files_without_cgroups() -> None:
    assert files_of({}, {}) == {}


def test_the_script_is_one_that_a_shell_understands() -> None:
    script = files_of({"a": Cgroup("a", 1)}, {})[SCRIPT]
    assert subprocess.run(["sh", "-n"], input=script, encoding="utf-8", check=False).returncode == 0


def test_the_session_of_a_name_with_capitals() -> None:
    files = files_of({"MyApp": Cgroup("MyApp", 0xABCDEF)}, {})
    (session,) = (path for path in files if path.startswith("/etc/pam.d/"))
    assert session == session.lower()
    command = shlex.split(files[session].splitlines()[-1])[4:]
    assert command == ["type=open_session", "/bin/sh", SCRIPT, "join", "MyApp", "0xabcdef"]


@pytest.mark.parametrize(
    "texts, value",
    [
        ([], ""),
        (["[Service]\nUser=a\n"], "a"),
        (["[Service]\n User = a \n[Install]\nUser=x\n"], "a"),
        (["[Unit]\nUser=x\n"], ""),
        (["[Service]\nUser=a\n", "[Service]\nUser=b\n"], "b"),
        (["[Service]\nUser=a\n", "[Service]\nUser=\n"], ""),
        (["[Service]\n#User=a\n;User=b\nSuperUser=c\n"], ""),
    ],
)
def test_what_unit_files_say(texts: List[str], value: str) -> None:
    assert value_of(texts, "User") == value


# ---- the plan ----


def wanted(*items: Mapping[str, Any], state: str = "present") -> List[Wanted]:
    """Items without a mistake."""
    found, problems = parse_list(items, state=state)
    assert not problems
    return found


def plan(items: Sequence[Mapping[str, Any]], *, before: Optional[Mapping[str, Cgroup]] = None, purge: bool = False, **facts: Any) -> Plan:
    """The plan for a host with these facts, with no mistake in it."""
    before = before or {}
    asked = wanted(*items)
    after, problems = merge(before, asked, purge=purge)
    facts.setdefault("units", {unit: UnitFacts(user="svc") for item in (*before.values(), *after.values()) for unit in item.units})
    known = Facts(**facts)
    more, warnings = check(known, after, asked)
    assert not problems and not more
    return make_plan(known, before, after, asked, warnings, purge=purge)


def mistakes(items: Sequence[Mapping[str, Any]], before: Optional[Mapping[str, Cgroup]] = None) -> List[str]:
    """What contradicts itself."""
    return [str(problem) for problem in merge(before or {}, wanted(*items), purge=False)[1]]


APP = {"name": "app", "classid": "10:1", "units": ["app"]}


def test_units_have_a_suffix() -> None:
    (item,) = wanted({"name": "a", "classid": "10:1", "units": ["z", "a.service", "w@", "w2@x", "v@.service"]})
    assert item.cgroup.units == ("a.service", "v@.service", "w2@x.service", "w@.service", "z.service")


@pytest.mark.parametrize("unit", ["", "a b", "../a", "a/b.service", "x.slice", "x.socket", "a.b", "-a", "a\n.service"])
def test_what_is_no_service(unit: str) -> None:
    assert [problem.path for problem in parse_list([{**APP, "units": [unit]}], state="present")[1]] == ["cgroups[0].units[0]"]


def test_an_absent_item_needs_only_a_name() -> None:
    assert not wanted({"name": "a", "state": "absent"})[0].present
    assert not wanted({"name": "a"}, state="absent")[0].present


def test_a_first_run_does_everything() -> None:
    found = plan([APP])
    assert found.changed and found.make and found.enable and found.reload and not found.remove and not found.unmount
    assert set(found.files) == {RECORD, SCRIPT, UNIT_PATH, "/etc/pam.d/portfence-0x100001"}
    assert set(found.drop_ins) == {drop_in_path("app.service")}


def test_a_second_run_does_nothing() -> None:
    first = plan([APP])
    files = {path: text for path, text in {**first.files, **first.drop_ins}.items() if text is not None}
    there = {"mounted": True, "live": {"app": 0x100001}, "files": files, "enabled": True}
    units = {"app.service": UnitFacts(user="svc", pam_name="portfence-0x100001", processes={7: "/portfence/app"})}
    assert not plan([APP], before=first.after, members={"app": frozenset({7})}, units=units, **there).changed
    # Whoever enables the unit again changes what systemd has read.
    disabled = plan([APP], before=first.after, members={"app": frozenset({7})}, units=units, **{**there, "enabled": False})
    assert disabled.enable and disabled.reload
    # The same files, but systemd has not read them, or a process came in another way.
    assert plan([APP], before=first.after, units={"app.service": UnitFacts(user="svc")}, **there).reload
    for path in ("/", "", "/portfence/other"):
        late = {"app.service": UnitFacts(user="svc", pam_name="portfence-0x100001", processes={7: path, 8: "/x/portfence/app"})}
        assert plan([APP], before=first.after, units=late, **there).moves == ((7, "app"),)


def test_a_unit_without_an_account_gets_root() -> None:
    def drop_in(user: str) -> str:
        return plan([APP], units={"app.service": UnitFacts(user=user)}).drop_ins[drop_in_path("app.service")] or ""

    assert "\nUser=root\n" in drop_in("")
    assert "User=root" not in drop_in("svc") + drop_in("dynamic")


def test_a_unit_that_is_not_listed_any_more_is_taken_out() -> None:
    before = {"app": Cgroup("app", 0x100001, ("app.service", "old.service"))}
    units = {
        "app.service": UnitFacts(user="svc", processes={1: "/portfence/app"}),
        "old.service": UnitFacts(user="svc", processes={2: "/portfence/app", 3: "/"}),
    }
    files = {drop_in_path("old.service"): "text"}
    found = plan([APP], before=before, units=units, files=files, members={"app": frozenset({1, 2, 9})})
    assert found.moves == ((2, None),)
    assert found.drop_ins[drop_in_path("old.service")] is None


def test_a_process_that_changes_its_cgroup() -> None:
    before = {"a": Cgroup("a", 1), "b": Cgroup("b", 2)}
    members = {"a": frozenset({5, 6}), "b": frozenset()}
    asked = [{"name": "a", "state": "absent"}, {"name": "b", "classid": "0x2", "pids": [5]}]
    found = plan(asked, before=before, members=members, live={"a": 1, "b": 2}, pids=frozenset({5}))
    assert found.moves == ((5, "b"), (6, None))
    assert found.remove == ("a",)


def test_purge_leaves_only_the_list() -> None:
    before = {"a": Cgroup("a", 1), "b": Cgroup("b", 2)}
    found = plan([{"name": "b", "classid": "0x2"}], before=before, purge=True, live={"a": 1, "b": 2}, mounted=True)
    assert (found.remove, found.unmount, sorted(found.after)) == (("a",), False, ["b"])
    assert plan([], before=before, purge=True, live={"a": 1}, mounted=True).unmount


def test_one_identity_has_one_classid() -> None:
    before = {"theirs": Cgroup("theirs", 0x100001, ("x.service", "w@.service"))}
    assert mistakes([APP], before) == ["cgroups[0].classid: 0x100001 belongs to the cgroup theirs; give each cgroup a classid of its own"]
    other = {"name": "other", "classid": "0x5"}
    for unit, rival in (("x", "x.service"), ("w@1", "w@.service"), ("w@", "w@.service")):
        (mistake,) = mistakes([{**other, "units": [unit]}], before)
        assert f"because {rival} is in theirs" in mistake
    assert mistakes([{**other, "units": ["w", "x2", "ww@1"]}], before) == []
    assert mistakes([{"name": "theirs", "state": "absent"}, APP], before) == []


def test_units_of_other_tasks_don_t_hold_a_task_up() -> None:
    before = {"theirs": Cgroup("theirs", 5, ("gone.service",))}
    units = {"gone.service": UnitFacts(problems=("can't be put in: systemd says that it is not-found",)), "app.service": UnitFacts(user="svc")}
    path = drop_in_path("gone.service")
    found = plan([APP], before=before, units=units, files={path: "text"})
    assert found.warnings == ("gone.service of the cgroup theirs can't be put in: systemd says that it is not-found",)
    assert path not in found.drop_ins


def test_old_kernels() -> None:
    assert "before Linux 5.15" in plan([APP], legacy_kernel=True).warnings[0]
    assert not plan([{"name": "a", "state": "absent"}], legacy_kernel=True).warnings
