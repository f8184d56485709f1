# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of port-allocations.yml, and how the file is replaced."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import List

import pytest
import yaml
from ansible_collections.portfence.egress.plugins.module_utils._allocator import Holding, Key
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._lock_file import LockFile, parse, ranges_of, render
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange
from ansible_collections.portfence.egress.plugins.plugin_utils._lock_store import lock_path, read, replace
from hypothesis import given
from hypothesis import strategies as st

DAY = date(2026, 1, 31)
LOCK = LockFile(
    serial=7,
    holdings=(
        Holding(Key("", "", "back"), PortRange(1024, 2047), DAY),
        Holding(Key("", "", "on"), PortRange(5, 5), DAY, date(2026, 2, 28)),
        Holding(Key("nat a", "old", "app"), PortRange(16, 31), DAY, DAY, "no"),
        Holding(Key("nat a", "web1.example.com", "app"), PortRange(16, 31), DAY),
    ),
)
TEXT = """\
# Source ports that portfence.egress.allocate handed out: which range belongs to which service, and of which host, since when.
# A range with "until" was given back on that day, or went on under the host's new name ("renamed"). Keep this file in git, and leave changes to that playbook.
---
format: 1
serial: 7
ranges:
  - {service: back, ports: 1024-2047, since: 2026-01-31}
  - {service: "on", ports: 5, since: 2026-01-31, until: 2026-02-28}
  - {domain: "nat a", host: old, service: app, ports: 16-31, since: 2026-01-31, until: 2026-01-31, renamed: "no"}
  - {domain: "nat a", host: web1.example.com, service: app, ports: 16-31, since: 2026-01-31}
"""


def mistakes(text: str) -> List[str]:
    """What is wrong, line by line."""
    with pytest.raises(InputError) as error:
        parse(text, path="f.yml")
    return [str(problem) for problem in error.value.problems]


def test_the_text_is_yaml_and_reads_back() -> None:
    assert render(LOCK) == TEXT
    assert parse(TEXT, path="f.yml") == LOCK
    data = yaml.safe_load(TEXT)
    assert data["ranges"][1] == {"service": "on", "ports": 5, "since": DAY, "until": date(2026, 2, 28)}
    assert (data["ranges"][2]["domain"], data["ranges"][2]["renamed"]) == ("nat a", "no")


def test_an_empty_file_of_ranges() -> None:
    assert parse(render(LockFile(1)), path="f") == LockFile(1)
    assert yaml.safe_load(render(LockFile(1)))["ranges"] == []


NAMES = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1, max_size=12)


@given(NAMES, NAMES)
def test_any_name_survives(domain: str, host: str) -> None:
    lock = LockFile(1, (Holding(Key(domain, host, "s"), PortRange(16, 31), DAY),))
    text = render(lock)
    assert parse(text, path="f") == lock
    assert yaml.safe_load(text)["ranges"][0]["host"] == host
    assert list(ranges_of(text, domain=domain, host=host, path="f")[1]) == ["s"]


def test_one_host_is_found_among_others_with_names_like_its_own() -> None:
    holdings = [Holding(Key("nat", host, "app"), PortRange(low, low + 15), DAY) for low, host in ((16, "web"), (32, "web1"), (48, "we"))]
    text = render(LockFile(1, tuple(sorted([*holdings, *LOCK.holdings]))))
    services, own = ranges_of(text, domain="nat", host="web", path="f")
    assert ({name: str(ports) for name, ports in services.items()}, str(own["app"])) == ({"back": "1024-2047"}, "16-31")
    assert ranges_of(text, domain="", host="web", path="f")[1] == {}
    assert ranges_of(text.replace("\n", "\r\n"), domain="nat", host="web", path="f") == (services, own)


def test_comments_between_ranges_hide_nothing() -> None:
    """Nor do empty lines, in what a host reads and in what a controller reads."""
    holdings = [Holding(Key(domain, host, "app"), PortRange(low, low + 15), DAY) for low, domain, host in ((16, "", ""), (64, "nat", "web"))]
    more = [Holding(Key(domain, host, "more"), PortRange(low, low + 15), DAY) for low, domain, host in ((128, "", ""), (160, "nat", "web"))]
    lock = LockFile(1, tuple([*holdings, *more]))
    head, _ranges, lines = render(lock).partition("ranges:\n")
    text = head + "ranges:\n" + "".join(f"# of ops\n\n{line}\n" for line in lines.splitlines())
    assert parse(text, path="f") == parse(render(lock), path="f")
    services, own = ranges_of(text, domain="nat", host="web", path="f")
    assert (sorted(services), sorted(own)) == (["app", "more"], ["app", "more"])


def test_what_a_merge_left_is_refused_for_a_host_as_well() -> None:
    text = render(LOCK).replace("\nranges:", "\n<<<<<<< HEAD\nranges:")
    with pytest.raises(InputError, match="a merge left both sides in the file"):
        ranges_of(text, domain="nat a", host="web1.example.com", path="f")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("service: back", 'service: "back"', 'f.yml:7: found "back"; accepted: back'),
        ("format: 1", "format: 2", "f.yml:4: found 'format: 2'; accepted: format: 1"),
        ('renamed: "no"', "renamed: no", 'f.yml:9: found no; accepted: "no"'),
        ("02-28}", "02-28, renamed: x}", "f.yml:8: found renamed: x of a service; accepted: the new name of a host, behind its own"),
        ("serial: 7", "serial: x", "f.yml:5: found 'serial: x'; accepted: serial: NUMBER"),
        ("ports: 1024-2047", "ports: 2047-1024", "f.yml:7: found '2047-1024', which is reversed; write 1024-2047"),
        (
            "2026-02-28",
            "2026-01-30",
            "f.yml:8: found until: 2026-01-30 and since: 2026-01-31; accepted: a day of return that is not before the day on which it was handed out",
        ),
        ("2026-02-28", "2026-02-30", "f.yml:8: found the day 2026-01-31 or 2026-02-30; day is out of range for month"),
        (
            "serial: 7",
            "<<<<<<< HEAD\nserial: 7",
            "f.yml:5: found '<<<<<<< HEAD'; accepted: serial: NUMBER; a merge left both sides in the file: keep one of them, and run"
            " ansible-playbook portfence.egress.allocate -i INVENTORY",
        ),
        (
            "ports: 16-31",
            "ports: 1000-1024",
            "f.yml: 1024-2047 of back overlaps with 1000-1024 of app on web1.example.com in nat a; a port has one owner: restore the"
            " file of before from git",
        ),
    ],
)
def test_a_file_that_was_changed_by_hand(old: str, new: str, message: str) -> None:
    assert mistakes(TEXT.replace(old, new)) == [message]


def test_every_line_that_is_wrong_is_told() -> None:
    assert len(mistakes(TEXT.replace("  - {", "  - { "))) == 4
    assert mistakes(TEXT.replace(", until: 2026-01-31, renamed", ", renamed"))[0].startswith("f.yml:9: found '  - {domain: \"nat a\", host: old")
    assert mistakes("") == ["f.yml:1: found ''; accepted: ---"]


def test_a_replacement_keeps_the_mode_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "f.yml"
    replace(str(path), "one", expected=None)
    assert (path.read_text(encoding="utf-8"), path.stat().st_mode & 0o777) == ("one", 0o644)
    path.chmod(0o640)
    replace(str(path), "two", expected="one")
    assert (read(str(path)), path.stat().st_mode & 0o777) == ("two", 0o640)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("expected", [None, "zero"])
def test_a_file_that_changed_in_between_is_left_alone(tmp_path: Path, expected: "str | None") -> None:
    path = tmp_path / "f.yml"
    path.write_text("one", encoding="utf-8")
    with pytest.raises(PortFenceError, match="was changed by somebody else since this run read it"):
        replace(str(path), "two", expected=expected)
    assert path.read_text(encoding="utf-8") == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.yml").symlink_to("real/f.yml")
    replace(str(tmp_path / "link.yml"), "one", expected=None)
    assert (tmp_path / "link.yml").is_symlink()
    assert read(str(tmp_path / "real" / "f.yml")) == "one"


def test_where_the_file_is(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").touch()
    assert lock_path("/x/y.yml", None) == "/x/y.yml"
    assert lock_path(None, ["web1,", str(tmp_path / "hosts.yml")]) == str(tmp_path / "port-allocations.yml")
    inventory = tmp_path / "inventory"
    inventory.mkdir()
    for source in (str(inventory), f"{inventory}/"):
        assert lock_path(None, [source]) == str(tmp_path / "port-allocations.yml"), "in a folder it would be a part of the inventory"
    with pytest.raises(PortFenceError, match="^egress_lock_file: missing, and the inventory is no file"):
        lock_path(None, ["web1,"])
    with pytest.raises(PortFenceError, match="^egress_lock_file: found 5; accepted: the path"):
        lock_path(5, [str(tmp_path)])


@pytest.mark.parametrize(
    ("file", "sources"),
    [
        ("inventory/port-allocations.yml", ["inventory"]),
        ("port-allocations.yml", ["inventory/hosts.yml"]),
        ("other/port-allocations.yml", ["inventory", "other/hosts.yml"]),
    ],
)
def test_the_same_inventory_has_one_file(tmp_path: Path, file: str, sources: "list[str]") -> None:
    for folder in ("inventory", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "hosts.yml").touch()
    (tmp_path / file).touch()
    wanted = tmp_path / Path(sources[0]).parent / "port-allocations.yml"
    with pytest.raises(PortFenceError) as caught:
        lock_path(None, [str(tmp_path / source) for source in sources])
    assert str(caught.value) == (
        f"egress_lock_file: missing, and {tmp_path / file} was written with the inventory named in another way: with this one, it would be"
        f" {wanted}; accepted: the same -i as then, egress_lock_file: {tmp_path / file}, or for another inventory one of its own:"
        f" egress_lock_file: {wanted}"
    )


def test_another_inventory_beside_the_folder_has_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "production").mkdir()
    for path in ("staging.yml", "port-allocations.yml", "production/hosts.yml", "production/port-allocations.yml"):
        (tmp_path / path).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/link.yml").symlink_to(tmp_path / "production/hosts.yml")
    with pytest.raises(PortFenceError, match=f"missing, and {tmp_path}/production/port-allocations.yml was written"):
        lock_path(None, [str(tmp_path / "elsewhere/link.yml")])
    assert lock_path(None, [str(tmp_path / "production/hosts.yml")]) == str(tmp_path / "production/port-allocations.yml")
    assert lock_path(None, [str(tmp_path / "staging.yml")]) == str(tmp_path / "port-allocations.yml")
