# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection needs nothing on a controller beyond ansible-core, so that an execution environment needs no more than that.

ansible-builder (introspect.py) takes what a collection needs from meta/execution-environment.yml, else from requirements.txt and bindep.txt.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

COLLECTION = Path(__file__).resolve().parents[2]
# jinja2 and what it needs come with ansible-core.
WITH_ANSIBLE_CORE = {"ansible", "ansible_collections", "jinja2"}


def test_plugins_import_the_standard_library_and_ansible_core() -> None:
    imported = {}
    for path in sorted((COLLECTION / "plugins").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []
            imported.update({(name or "").split(".")[0]: path.name for name in names})
    assert len(imported) > 20
    beyond = {name: path for name, path in imported.items() if name not in sys.stdlib_module_names | WITH_ANSIBLE_CORE}
    assert beyond == {}


def test_the_collection_asks_for_nothing_else() -> None:
    names = ("meta/execution-environment.yml", "meta/execution-environment.yaml", "requirements.txt", "bindep.txt")
    assert [name for name in names if (COLLECTION / name).exists()] == []
    assert "\ndependencies: {}\n" in (COLLECTION / "galaxy.yml").read_text(encoding="utf-8")
