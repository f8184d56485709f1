# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Places of systemd units in the cgroup tree, and the texts that keep the fence knowing them."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import List, Tuple

import pytest
from ansible_collections.portfence.egress.plugins.module_utils import _boot_lock, _unit_members
from ansible_collections.portfence.egress.plugins.module_utils._cgroups import UnitCgroup, default_slice, locate, slice_path
from ansible_collections.portfence.egress.plugins.module_utils._nft_listing import elements_of, without_elements
from ansible_collections.portfence.egress.plugins.module_utils._nft_table import Member
from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_variables

APP = UnitCgroup("app.service", "system.slice")
TEMPLATE = UnitCgroup("w@.service", r"system.slice/system-w.slice")
BATCH = UnitCgroup("batch.slice", "")
MEMBERS = [
    Member("checked_units_2", APP, "jump checked_unit_app"),
    Member("checked_units_3", TEMPLATE, "jump checked_unit_w"),
    Member("checked_units_1", BATCH, "jump checked_unit_batch"),
]


@pytest.mark.parametrize(
    ("unit", "slice_name", "parent", "level"),
    [
        ("app.service", "system.slice", "system.slice", 2),
        ("app.service", "a-b.slice", "a.slice/a-b.slice", 3),
        ("app.service", "-.slice", "", 1),
        ("batch.slice", "-.slice", "", 1),
        ("batch-night.slice", "whatever.slice", "batch.slice", 2),
    ],
)
def test_places(unit: str, slice_name: str, parent: str, level: int) -> None:
    place = locate(unit, slice_name)
    assert (place.parent, place.level) == (parent, level)
    assert place.path(unit) == (f"{parent}/{unit}" if parent else unit)
    assert place.matches(unit) and not place.matches(f"x{unit}")


@pytest.mark.parametrize(
    ("unit", "name"),
    [
        ("app.service", "system.slice"),
        ("w@.service", "system-w.slice"),
        ("w@1.service", "system-w.slice"),
        ("a-b@.service", r"system-a\x2db.slice"),
        ("batch.slice", "-.slice"),
        ("batch-night.slice", "batch.slice"),
    ],
)
def test_default_slices(unit: str, name: str) -> None:
    assert default_slice(unit) == name


def test_slices_lie_in_each_other() -> None:
    assert slice_path("a-b-c.slice") == "a.slice/a-b.slice/a-b-c.slice"
    assert slice_path("-.slice") == ""


@pytest.mark.parametrize(
    ("name", "belongs"),
    [("w@1.service", True), ("w@a@b.service", True), ("w@.service", False), ("w.service", False), ("w@1.scope", False)],
)
def test_instances(name: str, belongs: bool) -> None:
    assert TEMPLATE.matches(name) == belongs


def test_the_list_of_the_script() -> None:
    assert _unit_members.list_text(MEMBERS).splitlines() == [
        "checked_units_1 checked_unit_batch . batch.slice",
        "checked_units_2 checked_unit_app system.slice app.service",
        "checked_units_3 checked_unit_w system.slice/system-w.slice w@?*.service",
    ]
    assert _unit_members.slices_of(MEMBERS) == ("batch.slice",)
    before = _unit_members.before_fence_text(["a.slice", "b.slice"])
    assert _unit_members.slices_before_fence(before) == ["a.slice", "b.slice"]
    assert _unit_members.slices_before_fence("") == []


def test_drop_ins() -> None:
    texts = _unit_members.drop_ins(MEMBERS, {"app.service": "SocketBindDeny=any\n"})
    folder = "/etc/systemd/system"
    assert set(texts) == {
        f"{folder}/{unit}.d/50-portfence.conf" for unit in ("app.service", "w@.service", "batch.slice", "portfence.service")
    }
    app = texts[f"{folder}/app.service.d/50-portfence.conf"]
    assert "ExecCondition=+/bin/sh /etc/portfence/units.sh join %n app.service\n" in app and app.endswith("SocketBindDeny=any\n")
    assert "SocketBind" not in texts[f"{folder}/w@.service.d/50-portfence.conf"]
    assert "RefuseManualStop=yes" in texts[f"{folder}/batch.slice.d/50-portfence.conf"]
    assert "Wants=batch.slice\nAfter=batch.slice\n" in texts[f"{folder}/portfence.service.d/50-portfence.conf"]
    assert _unit_members.drop_ins([], {}) == {}


def test_walls_of_a_unit() -> None:
    app = {"unit": "app", "source_ports": ["50000-50099", 50200], "assignment": "app"}
    open_unit, walled = parse_variables(
        {"egress_services": {"a": app, "b": {**app, "unit": "b", "source_ports": [51000], "listen_ports": ["443", "8000-8001"]}}}
    )
    assert _unit_members.socket_bind(open_unit) == ""
    assert _unit_members.socket_bind(walled).splitlines() == [
        "SocketBindAllow=443",
        "SocketBindAllow=8000-8001",
        "SocketBindAllow=51000",
        "SocketBindDeny=any",
    ]
    assert _unit_members.socket_bind(replace(walled, on_violation="log")) == ""


def run_script(tmp_path: Path, *args: str, boots: bool = True, tables: str = "", fails: bool = False) -> subprocess.CompletedProcess[str]:
    """The script on a tree of directories, with a program in the place of nft that shows what it is given.

    :param boots: whether there is what loads the fence at boot.
    :param tables: what nft lists. :param fails: whether it lists nothing at all.
    """
    (tmp_path / "fence.nft").write_text(_unit_members.fence_text("# the fence\n", MEMBERS), encoding="utf-8")
    nft = tmp_path / "nft"
    nft.write_text(f"#!/bin/sh\n[ $1 != list ] || {{ echo '{tables}'; exit {int(fails)}; }}\ncat \"$2\"\n", encoding="utf-8")
    nft.chmod(0o755)
    boot_unit = tmp_path / "portfence.service"
    if boots:
        boot_unit.touch()
    files = {"fence_file": str(tmp_path / "fence.nft"), "other_file": str(tmp_path / "fence.iptables"), "boot_unit": str(boot_unit)}
    text = _unit_members.script_text(nft=str(nft), **files)
    own = {_unit_members.LOADED: "loaded", _unit_members.LOADING: "loading", _boot_lock.PATH: "lock", _unit_members.CGROUPS: "cgroup"}
    for path, name in own.items():
        text = text.replace(path, str(tmp_path / name))
    return subprocess.run(["/bin/sh", "-c", text, "units.sh", *args], capture_output=True, text=True, check=False)


def test_the_script_names_the_cgroups_that_are_there(tmp_path: Path) -> None:
    for path in ("batch.slice", "batch.slicer", "system.slice/app.service", "system.slice/other.service"):
        (tmp_path / "cgroup" / path).mkdir(parents=True)
    for name in ("w@1.service", "w@.service", "v@1.service"):
        (tmp_path / "cgroup/system.slice/system-w.slice" / name).mkdir(parents=True)
    done = run_script(tmp_path, "load")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(line for line in done.stdout.splitlines() if not line.startswith("# unit: ")) == [
        "# the fence",
        'add element inet portfence checked_units_1 { "batch.slice" : jump checked_unit_batch }',
        'add element inet portfence checked_units_2 { "system.slice/app.service" : jump checked_unit_app }',
        'add element inet portfence checked_units_3 { "system.slice/system-w.slice/w@1.service" : jump checked_unit_w }',
    ]
    shutil.rmtree(tmp_path / "cgroup")
    assert run_script(tmp_path, "load").stdout == _unit_members.fence_text("# the fence\n", MEMBERS)


def test_without_room_for_the_cgroups_the_fence_is_loaded_nevertheless(tmp_path: Path) -> None:
    (tmp_path / "cgroup/batch.slice").mkdir(parents=True)
    (tmp_path / "loaded").mkdir()
    done = run_script(tmp_path, "load")
    assert (done.returncode, done.stdout) == (0, _unit_members.fence_text("# the fence\n", MEMBERS))
    assert done.stderr.endswith(f"portfence: can't write {tmp_path}/loaded; the fence is loaded without the cgroups of units that run already\n")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([], "portfence: the fence knows no cgroup of app.service; run the play again\n"),
        # This process is in none of them.
        (["system.slice/app.service"], "portfence: app.service is in the cgroup "),
    ],
)
def test_a_unit_that_the_fence_does_not_know_may_not_start(tmp_path: Path, folders: List[str], message: str) -> None:
    for path in folders:
        (tmp_path / "cgroup" / path).mkdir(parents=True)
    done = run_script(tmp_path, "join", "app.service")
    assert (done.returncode, done.stdout) == (255, "")
    assert done.stderr.startswith(message)


def test_a_unit_that_the_fence_is_not_about_starts(tmp_path: Path) -> None:
    """Its drop-in is there before its fence, or after it."""
    done = run_script(tmp_path, "join", "new.service", "new.service")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = run_script(tmp_path, "join", "slice", "batch.slic")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "told",
    [
        # By the name of an alias, systemd reads the drop-in of the fence, and says its own name.
        ("other.service", "app.service"),
        ("other@1.service", "w@?*.service"),
        # Drop-ins of before say no more than that.
        ("other.service",),
    ],
)
def test_a_unit_that_has_another_name_than_the_fence_knows_may_not_start(tmp_path: Path, told: Tuple[str, ...]) -> None:
    done = run_script(tmp_path, "join", *told)
    assert (done.returncode, done.stdout) == (255, "")
    assert done.stderr == f"portfence: the fence knows no cgroup of {told[0]}; run the play again\n"


def test_a_unit_on_a_host_without_a_fence_starts(tmp_path: Path) -> None:
    """Until its first fence is loaded, and when its last one is gone; unless there is one, or a boot loads it, or nobody knows."""
    told = ("join", "app.service", "app.service")
    # It is in none of the cgroups here: what it may not skip, it fails at.
    for tables, status in (("table ip filter\ntable inet portfence_namespaces", 0), ("table inet portfence\ntable ip filter", 255)):
        assert run_script(tmp_path, *told, boots=False, tables=tables).returncode == status
    assert run_script(tmp_path, *told, boots=False, fails=True).returncode == 255
    assert run_script(tmp_path, *told).returncode == 255


def test_what_a_run_left_half_done_is_loaded_before_a_unit_joins(tmp_path: Path) -> None:
    mark = tmp_path / "loading"
    mark.touch()
    done = run_script(tmp_path, "join", "new.service", "new.service")
    assert (done.returncode, done.stdout) == (0, _unit_members.fence_text("# the fence\n", MEMBERS))
    assert not mark.exists()
    mark.touch()
    (tmp_path / "loaded").mkdir()
    done = run_script(tmp_path, "join", "new.service", "new.service")
    assert (done.returncode, done.stdout) == (255, "")
    assert done.stderr.endswith(f"{tmp_path}/fence.nft can't be loaded; run the play again\n")
    assert mark.exists()


@pytest.mark.parametrize("word", ["join", "leave"])
def test_a_unit_that_can_not_have_the_lock_fails_and_says_so(tmp_path: Path, word: str) -> None:
    """With any status from 1 to 254, systemd would keep quiet about a unit that it does not start (ExecCondition= in systemd.service(5))."""
    (tmp_path / "lock").mkdir()
    done = run_script(tmp_path, word, "app.service")
    assert (done.returncode, done.stdout) == (255, "")
    assert done.stderr.endswith(f"portfence: {tmp_path}/lock is held by another program, or can not be opened\n")


def test_elements_of_a_listing() -> None:
    element = ["7", {"jump": {"target": "checked_unit_app"}}]
    listing = [
        {"map": {"family": "inet", "name": "units", "elem": [element, ["8", {"accept": None}]]}},
        {"map": {"family": "inet", "name": "uids", "elem": [element]}},
        {"chain": {"family": "inet", "name": "units"}},
    ]
    assert elements_of(listing, "units") == {"7": "jump checked_unit_app", "8": "accept"}
    assert elements_of(listing, "nothing") == {}
    emptied = without_elements(listing, ["units"])
    assert emptied == [{"map": {"family": "inet", "name": "units"}}, *listing[1:]]
