# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of docs/identify.md, run as they stand, and their answers."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Dict

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "identify.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```yaml\n# (\S+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^(ansible-playbook .*)\n(.+)$", TEXT, re.MULTILINE)


@pytest.fixture(name="folder", scope="module")
def fixture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page."""
    folder = tmp_path_factory.mktemp("guide")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def run(folder: Path, command: str, *options: str) -> str:
    """A command of the page."""
    arguments = shlex.split(command)
    arguments[0] = str(Path(sys.executable).with_name(arguments[0]))
    environment: Dict[str, str] = {**os.environ, "ANSIBLE_HOME": str(folder / "home"), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run([*arguments, *options], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_has_its_examples() -> None:
    assert (len(FILES), len(COMMANDS)) == (2, 6)


@pytest.mark.parametrize(("command", "answer"), COMMANDS, ids=[answer[:30] for _command, answer in COMMANDS])
def test_the_answer_is_that_of_the_page(folder: Path, command: str, answer: str) -> None:
    assert f'"{answer}"' in run(folder, command)


def test_the_file_is_the_one_of_this_inventory(folder: Path) -> None:
    allocate = "ansible-playbook portfence.egress.allocate -i inventory --check -e egress_allocation_date=2026-03-01"
    assert ": 4 ranges, 0 handed out, 0 given back" in run(folder, allocate)
