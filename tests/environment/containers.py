# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Podman, and how images are made from those of the test hosts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
WHEELS, ARCHIVE = Path(os.environ["PORTFENCE_WHEELS"]), Path(os.environ["PORTFENCE_ARCHIVE"])
# chroot: crun would want to load a filter for devices, which not every machine lets it. The network is one without interfaces.
BUILD = ["--isolation=chroot", "--network=host", f"--volume={WHEELS}:/wheels:ro", f"--volume={ARCHIVE.parent}:/collection:ro"]
BASE = f"""\
FROM {os.environ["PORTFENCE_IMAGE"]}
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels
RUN python3 $(ls /wheels/pip-*.whl)/pip install --break-system-packages pip
"""
HOST = f"""\
FROM localhost/portfence-environment-base
RUN pip install --break-system-packages ansible-core
RUN ansible-galaxy collection install --collections-path /usr/share/ansible/collections /collection/{ARCHIVE.name}
"""


def run(*command: object, offline: bool = False) -> str:
    """What a command prints, where it must not fail."""
    args = [*(["unshare", "--net"] if offline else []), *map(str, command)]
    done = subprocess.run(args, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, f"{args}: {done.stdout[-8000:]}{done.stderr[-8000:]}"
    return done.stdout


def build(name: str, recipe: str, folder: Path) -> str:
    """Make an image of a recipe."""
    folder.mkdir()
    (folder / "Containerfile").write_text(recipe, encoding="utf-8")
    run("podman", "build", *BUILD, "--tag", name, folder, offline=True)
    return name
