# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pytest plugin that adds the result of a run to the file named by PORTFENCE_TALLY, one line a run.

A line holds two numbers: tests passed, and tests failed (errors in fixtures included). `scripts/stages` adds them up.
"""

from __future__ import annotations

import os

import pytest


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Append this run's numbers."""
    # The workers of pytest-xdist come here too; the process that started them has their results.
    if hasattr(config, "workerinput"):
        return
    stats = terminalreporter.stats
    passed = len(stats.get("passed", []))
    failed = len(stats.get("failed", [])) + len(stats.get("error", []))
    with open(os.environ["PORTFENCE_TALLY"], "a", encoding="ascii") as file:
        file.write(f"{passed} {failed}\n")
