# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images, made once for all tests. Run these tests with scripts/environment."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Iterator, List

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from containers import ARCHIVE, BASE, BUILD, HOST, REPOSITORY, build, run


@pytest.fixture(name="base", scope="session")
def fixture_base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What an organisation has: Linux with Python and pip."""
    yield build("localhost/portfence-environment-base", BASE, tmp_path_factory.mktemp("base") / "context")
    run("podman", "image", "prune", "--force")


@pytest.fixture(name="host", scope="session")
def fixture_host(base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A host with systemd, git, ansible-core and the collection."""
    assert base in HOST
    name = build("localhost/portfence-environment-host", HOST, tmp_path_factory.mktemp("host") / "context")
    yield name
    run("podman", "image", "rm", "--force", name)


@pytest.fixture(name="environment", scope="session")
def fixture_environment(base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The execution environment, built as its example says. The collection comes from an archive instead of Galaxy."""
    name = "localhost/portfence-environment"
    folder = tmp_path_factory.mktemp("environment") / "definition"
    shutil.copytree(REPOSITORY / "examples/execution-environment", folder)
    requirements = folder / "requirements.yml"
    text = requirements.read_text(encoding="utf-8")
    line = "  - name: portfence.egress\n"
    assert line in text
    requirements.write_text(text.replace(line, f"  - name: /collection/{ARCHIVE.name}\n    type: file\n"), encoding="utf-8")
    definition: List[object] = ["--file", folder / "execution-environment.yml", "--context", folder / "context"]
    extra = f"--extra-build-cli-args={' '.join(BUILD)}"
    run("ansible-builder", "build", *definition, "--tag", name, "--build-arg", f"EE_BASE_IMAGE={base}", extra, offline=True)
    yield name
    run("podman", "image", "rm", "--force", name)
