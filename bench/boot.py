# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a boot waits for the fence, against nft that loads the same file."""

from __future__ import annotations

import shlex
import time
from functools import partial
from typing import Callable, Dict, List, Sequence

from field import Field, Lab, fence, services
from harness import Claim, Contender, Measured, Row, interleave

NAME = "boot"
SIZES = (1, 100, 1000)
LOW, PORTS = 20000, 8
RAW, UNIT = "nft -f", "portfence.service"

METHOD = f"""The commands of `portfence.service`, as they stand in the unit that the module wrote, one after the other, each time in a fresh network
namespace; against `nft -f` of the same file there. One service has {PORTS} ports and the assignment `rewrite`; the ports are reserved
(`ephemeral_ports`), so that the unit has all of its work to do."""


def run(place: Field, *, rounds: int, sizes: Sequence[int] = SIZES) -> Row:
    """Measure."""
    contenders: Dict[Contender, Callable[[], float]] = {}
    for number in sizes:
        lab = place.lab(Lab, ports="10000 19998")
        fenced = services(number, low=LOW, size=PORTS)
        lab.module("ephemeral_ports", reserved_ports=[f"{one.low}-{one.high}" for one in fenced])
        fence(lab, [one.wanted("rewrite") for one in fenced])
        column = f"{number} services" if number > 1 else "1 service"
        contenders[Contender(RAW, column)] = partial(_boot, lab, ["exec nft -f /etc/portfence/fence.nft"])
        contenders[Contender(UNIT, column)] = partial(_boot, lab, [shlex.join(command) for command, _must in lab.boot_commands()])
    measured = Measured("seconds", "Loading the fence at boot", "seconds", interleave(contenders, rounds=rounds))
    last = list(contenders)[-1].column
    return Row(
        NAME,
        "What a boot waits",
        METHOD,
        measured=[measured],
        claims=[Claim(f"boot, {last}, to nft -f", "seconds", Contender(UNIT, last), Contender(RAW, last), 1.2)],
        facts={"rounds": str(rounds)},
    )


def _boot(lab: Lab, commands: List[str]) -> float:
    begin = time.monotonic()
    lab.run(["unshare", "--net", "sh", "-ec", "\n".join(commands)])
    return time.monotonic() - begin
