# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the golden tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """``pytest tests/golden --update-golden`` writes what the compiler gives now, for ``git diff`` to judge."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected files from what the compiler gives")
