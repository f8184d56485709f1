# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/scale.md shows what is in examples/, which other tests run."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

COLLECTION = Path(__file__).resolve().parents[2]
GUIDE = (COLLECTION / "docs/scale.md").read_text(encoding="utf-8")
PROJECT = COLLECTION / "examples/project"


def test_files_of_the_guide_are_those_of_the_project() -> None:
    shown = re.findall(r"```yaml\n# ([\w/.]+)\n(.*?)```", GUIDE, re.DOTALL)
    assert [name for name, _text in shown] == ["site.yml", "inventory/group_vars/all.yml"]
    for name, text in shown:
        assert text in (PROJECT / name).read_text(encoding="utf-8")


def test_the_project_holds_what_the_guide_lists() -> None:
    listing = re.search(r"```\n(collections/.*?)```", GUIDE, re.DOTALL)
    assert listing
    names = [word for line in listing[1].splitlines() for word in re.split(r"  +", line) if re.search(r"\.yml$|/$", word)]
    assert len(names) == 10 and [name for name in names if not (PROJECT / name).exists()] == []
    for name in ("validate", "preview", "site", "verify", "report", "rollback"):
        (play,) = yaml.safe_load((PROJECT / f"{name}.yml").read_text(encoding="utf-8"))
        assert play["ansible.builtin.import_playbook"] == f"portfence.egress.{name}"


def test_the_command_of_the_guide_is_that_of_the_service() -> None:
    command = re.search(r"```\n(ansible-pull .*?)```", GUIDE, re.DOTALL)
    assert command
    assert f"ExecStart={command[1]}" in (PROJECT / "pull/portfence-pull.service").read_text(encoding="utf-8")
