# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several runs that have read the same file want to replace it at the same instant: one does, all others are refused."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any, Optional

from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError
from ansible_collections.portfence.egress.plugins.plugin_utils._lock_store import read, replace

RUNS = 4
ROUNDS = 100


def runner(path: str, name: int, barrier: Any, results: Any) -> None:
    """One of the runs: reads, waits until all others have read, replaces."""
    won = []
    for number in range(ROUNDS):
        before: Optional[str] = read(path)
        barrier.wait(60)
        try:
            replace(path, f"round {number} by run {name}\n", expected=before)
            won.append(number)
        except PortFenceError as error:
            assert "was changed by somebody else since this run read it" in str(error)
        barrier.wait(60)
    results.put((name, won))


def test_one_of_many_writes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    path = tmp_path / "port-allocations.yml"
    barrier, results = context.Barrier(RUNS), context.Queue()
    processes = [context.Process(target=runner, args=(str(path), name, barrier, results)) for name in range(RUNS)]
    for process in processes:
        process.start()
    winners = sorted((number, name) for name, won in [results.get(timeout=120) for _process in processes] for number in won)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * RUNS
    assert [number for number, _name in winners] == list(range(ROUNDS))
    assert path.read_text(encoding="utf-8") == f"round {ROUNDS - 1} by run {winners[-1][1]}\n"
    assert list(tmp_path.iterdir()) == [path]
