# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the benchmark: see README.md beside this file.

    make bench            all rows
    make bench-quick      all rows with fewer rounds
    scripts/run python bench [--quick] [--rounds N] [ROW ...]     some rows
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import boot
import connect
import memory
import module
import packet_path
import plots
import report
import reuse
from environment import describe, load_average
from field import Field, compile_load
from harness import RESULTS, load_all, save

# What runs a row, and how many rounds it has.
ROWS = {
    packet_path.NAME: (packet_path.run, 25),
    connect.NAME: (connect.run, 50),
    module.NAME: (module.run, 15),
    boot.NAME: (boot.run, 25),
    memory.NAME: (memory.run, 15),
    reuse.NAME: (reuse.run, 1),
}
QUICK = 5  # a quick run has so many times fewer rounds


def main() -> None:
    """Measure, then write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"all unless given: {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help=f"a {QUICK}th of the rounds")
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
        run, rounds = ROWS[name]
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            with Field(compile_load(Path(folder))) as place:
                before = load_average()
                row = run(place, rounds=arguments.rounds or (max(1, rounds // QUICK) if arguments.quick else rounds))
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
