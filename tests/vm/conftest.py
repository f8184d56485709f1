# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The virtual machine, for all tests, which follow one another. Run them with scripts/vm."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Iterator

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from machine import Machine


@pytest.fixture(name="machine", scope="session")
def fixture_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with Machine(disk=Path(os.environ["PORTFENCE_VM"]), folder=tmp_path_factory.mktemp("vm")) as machine:
        yield machine
