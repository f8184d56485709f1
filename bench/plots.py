# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture of each row: a panel a metric, medians and quartiles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, List, Mapping, Optional

import matplotlib
from harness import Contender, Measured, Row

matplotlib.use("svg")
import matplotlib.pyplot as plt  # behind the choice of what it draws with

# Text stays text, and equal results give equal files.
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "portfence", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
_COLUMNS = 2
_WIDTH, _HEIGHT = 5.4, 3.2
_COUNTED = re.compile(r"([0-9]+) (service|host)s?$")


def draw(row: Row, folder: Path) -> Path:
    """Write FOLDER/NAME.svg; gives its path."""
    lines = -(-len(row.measured) // _COLUMNS)
    figure, panels = plt.subplots(lines, _COLUMNS, figsize=(_WIDTH * _COLUMNS, _HEIGHT * lines), squeeze=False)
    names = list(dict.fromkeys(contender.line for measured in row.measured for contender in measured.samples))
    colours = {name: f"C{index}" for index, name in enumerate(names)}
    for panel, measured in zip(panels.flat, row.measured):
        if any(_count(contender) for contender in measured.samples):
            _curves(panel, measured, colours)
        else:
            _bars(panel, measured)
        panel.set_title(f"{measured.title}, {measured.unit}", fontsize=9)
    for panel in panels.flat[len(row.measured) :]:
        panel.set_axis_off()
    handles = {name: handle for panel in panels.flat for handle, name in zip(*panel.get_legend_handles_labels())}
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(row.title)
    figure.tight_layout(rect=(0, 0.16 / lines if handles else 0, 1, 1))
    path = folder / f"{row.name}.svg"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def _count(contender: Contender) -> Optional[int]:
    """How many services or hosts there are, where that differs between contenders."""
    found = _COUNTED.match(contender.column)
    return int(found.group(1)) if found else None


def _curves(panel: Any, measured: Measured, colours: Mapping[str, str]) -> None:
    names = list(dict.fromkeys(contender.line for contender in measured.samples))
    numbers = [number for number in map(_count, measured.samples) if number]
    for name in names:
        mine = [contender for contender in measured.samples if contender.line == name]
        spreads = [measured.spread(contender) for contender in mine]
        counts = [_count(contender) for contender in mine]
        colour = colours[name]
        if counts == [None]:
            panel.axhline(spreads[0].median, label=name, color=colour, linestyle="--", linewidth=1)
            continue
        errors = [[one.median - one.low for one in spreads], [one.high - one.median for one in spreads]]
        panel.errorbar(counts, [one.median for one in spreads], yerr=errors, label=name, color=colour, marker="o", markersize=3, capsize=2)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlim(min(numbers) / 1.5, max(numbers) * 1.5)
    panel.set_xlabel("hosts" if any(contender.column.endswith("hosts") for contender in measured.samples) else "services")
    panel.grid(True, which="major", alpha=0.3)


def _bars(panel: Any, measured: Measured) -> None:
    contenders: List[Contender] = list(measured.samples)[::-1]
    spreads = [measured.spread(contender) for contender in contenders]
    errors = [[one.median - one.low for one in spreads], [one.high - one.median for one in spreads]]
    panel.barh([str(one) for one in contenders], [one.median for one in spreads], xerr=errors, color="C0", height=0.6, capsize=2)
    panel.grid(True, axis="x", alpha=0.3)
