# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the benchmark: see README.md beside this file.

    make bench            all rows
    make bench-quick      all rows with fewer rounds, some with fewer sizes
    scripts/run python bench [--quick] [--rounds N] [ROW ...]     some rows
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple

import boot
import connect
import controller
import fleet
import memory
import module
import packet_path
import playbook
import plots
import report
import reuse
from environment import describe, load_average
from field import Field, compile_load
from harness import RESULTS, Row, load_all, save


class Plan(NamedTuple):
    """How a row is run.

    :ivar quick: what a quick run is given, so that it measures less.
    """

    run: Callable[..., Row]
    rounds: int
    quick: Mapping[str, Any] = {}


ROWS = {
    packet_path.NAME: Plan(packet_path.run, 25, {"sizes": (1, 1000)}),
    connect.NAME: Plan(connect.run, 50),
    module.NAME: Plan(module.run, 15, {"sizes": (1, 1000)}),
    boot.NAME: Plan(boot.run, 25),
    memory.NAME: Plan(memory.run, 15, {"sizes": (100, 1000)}),
    reuse.NAME: Plan(reuse.run, 1),
    playbook.NAME: Plan(playbook.run, 3, {"sizes": (1, 1000), "builtin_sizes": (1,), "builtin_again": False}),
    fleet.NAME: Plan(fleet.run, 5, {"fleets": (10,)}),
    controller.NAME: Plan(controller.run, 3, {"sizes": (300, 1000)}),
}
QUICK = 5  # a quick run has so many times fewer rounds


def main() -> None:
    """Measure, then write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"all unless given: {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help=f"a {QUICK}th of the rounds, and fewer sizes")
    parser.add_argument("--rounds", type=int, help="rounds of every row")
    parser.add_argument("--report", action="store_true", help="only write the report again")
    arguments = parser.parse_args()
    if arguments.report:
        write_report()
        return
    unknown = sorted(set(arguments.rows) - set(ROWS))
    if unknown:
        parser.error(f"there is no row {unknown[0]}; there are {', '.join(ROWS)}")
    for name in arguments.rows or ROWS:
        plan = ROWS[name]
        rounds = arguments.rounds or (max(1, plan.rounds // QUICK) if arguments.quick else plan.rounds)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            with Field(compile_load(Path(folder))) as place:
                before = load_average()
                row = plan.run(place, rounds=rounds, **(plan.quick if arguments.quick else {}))
        row.facts.update(describe(), **{"load of the machine, before and after": f"{before}, {load_average()}"})
        print(save(row), flush=True)
    write_report()


def write_report() -> None:
    """RESULTS.md and its pictures, of all results that there are."""
    rows = load_all(list(ROWS))
    for row in rows:
        plots.draw(row, RESULTS)
    path = RESULTS.parent / "RESULTS.md"
    path.write_text(report.render(rows, plots=[row.name for row in rows]), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
