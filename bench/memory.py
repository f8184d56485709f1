# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much memory the rules of a host take in the kernel."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Sequence

from field import Field, Lab, fence, owner_rules, services
from harness import Contender, Measured, Row, interleave

NAME = "memory"
SIZES = (100, 1000, 5000)
LOW, PORTS = 20000, 8
OWNER_MATCH = "iptables, owner match"
# /proc/meminfo: what the kernel itself has allocated, without the cache of files.
_KINDS = ("SUnreclaim", "Percpu", "VmallocUsed")

METHOD = f"""By how much SUnreclaim, Percpu and VmallocUsed of `/proc/meminfo` grow when the rules are loaded into a fresh network namespace, divided by
the number of services. One service has {PORTS} ports. The whole machine is counted, so other programs show as spread, mostly where there are few services."""


def run(place: Field, *, rounds: int, sizes: Sequence[int] = SIZES) -> Row:
    """Measure."""
    contenders: Dict[Contender, Callable[[], float]] = {}
    for number in sizes:
        lab, fenced = place.lab(Lab, ports="10000 19998"), services(number, low=LOW, size=PORTS)
        column = f"{number} services"
        lab.run(["sh", "-c", "cat >/var/tmp/rules"], data=owner_rules(fenced))
        load = "iptables-restore /var/tmp/rules && ip6tables-restore /var/tmp/rules"
        contenders[Contender(OWNER_MATCH, column)] = partial(_grown, lab, load, number)
        for assignment in ("app", "rewrite"):
            rules = fence(lab, [one.wanted(assignment) for one in fenced], persist=False)["fence"]
            lab.run(["sh", "-c", f"cat >/var/tmp/{assignment}"], data=rules)
            contenders[Contender(f"fence, {assignment}", column)] = partial(_grown, lab, f"nft -f /var/tmp/{assignment}", number)
        lab.nft("flush ruleset\n")
    measured = Measured("kernel", "Memory of the kernel", "KiB a service", interleave(contenders, rounds=rounds))
    return Row(NAME, "What a service takes of the kernel's memory", METHOD, measured=[measured], facts={"rounds": str(rounds)})


def _grown(lab: Lab, load: str, number: int) -> float:
    """KiB a service. The namespace is gone afterwards."""
    time.sleep(0.3)  # the kernel frees what was there before in the background
    before = _allocated()
    text = lab.run(["unshare", "--net", "sh", "-ec", f"{load}; cat /proc/meminfo"]).out
    return (_sum(text) - before) / number


def _allocated() -> int:
    return _sum(Path("/proc/meminfo").read_text(encoding="ascii"))


def _sum(text: str) -> int:
    return sum(int(line.split()[1]) for line in text.splitlines() if line.split(":")[0] in _KINDS)
