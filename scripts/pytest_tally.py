# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pytest plugin that adds the result of a run to the file named by PORTFENCE_TALLY, one line a run.

A line holds two numbers: tests passed, and tests failed (errors in fixtures included). `scripts/stages` adds them up. Each test that
failed has a line of its own behind it, with its name, so that the summary at the end of a long output says which.
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
    broken = [*stats.get("failed", []), *stats.get("error", [])]
    with open(os.environ["PORTFENCE_TALLY"], "a", encoding="utf-8") as file:
        file.write(f"{len(stats.get('passed', []))} {len(broken)}\n")
        file.writelines(f"FAILED {report.nodeid}: {_cause(report)}\n" for report in broken)


def _cause(report: pytest.TestReport) -> str:
    """The line of pytest's own short summary, if there is one."""
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = str(crash.message if crash else report.longrepr).splitlines()
    return lines[0][:300] if lines else ""
