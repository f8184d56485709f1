# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab for every test that asks for one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Iterator, Optional

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lab import Lab


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update-attacks`` writes the table of docs/threat-model.md as it was seen."""
    parser.addoption("--update-attacks", action="store_true", help="rewrite the table of attempts in docs/threat-model.md")


@pytest.fixture(name="lab")
def fixture_lab() -> Iterator[Lab]:
    """A throwaway host; it is gone after the test."""
    with Lab() as lab:
        yield lab


@pytest.fixture(name="points", scope="session")
def fixture_points() -> Optional[int]:
    """How many system calls of a run a crash is tried at: some, or with PORTFENCE_LONG=1 all of them (None)."""
    return None if os.environ.get("PORTFENCE_LONG") == "1" else 14
