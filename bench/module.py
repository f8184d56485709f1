# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the module takes on the host, against nft that loads and lists the same."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from typing import Any, Callable, Dict, List, Sequence

from field import Field, Lab, LabError, Service, fence, services
from harness import Claim, Contender, Measured, Row, interleave

NAME = "module"
SIZES = (1, 100, 1000)
LOW, PORTS = 20000, 8
KERNEL_PORTS = "10000 19998"
RULES = "/var/tmp/fence.nft"
RAW, FIRST = "nft -f, nft -j list", "module, first run"
AGAIN, AFTER_BOOT = "module, nothing to do", "module, nothing to do, first time since boot"

METHOD = f"""One service has {PORTS} ports and the assignment `rewrite`. The module `portfence.egress.fence` runs as Ansible starts it on a host, without
Ansible: a Python process that reads its arguments and prints its result. First run: on a host without a fence, it plans, tries the rules in
a throwaway network namespace, loads them, and writes everything for boot. Nothing to do: the same again, by which the kernel is asked
whether it has exactly this fence; the first time since boot, the rules are tried once more for that. Against them: `nft -f` of the file
that the module wrote, and `nft -j list` of its tables."""

_CLEAR = (
    "nft flush ruleset; rm -rf /etc/portfence /run/portfence /etc/systemd/system/portfence* /etc/systemd/system/*/portfence*"
    " /usr/local/bin/portfence*"
)
_LIST = "nft -j list table inet portfence && nft -j list table ip portfence && nft -j list table ip6 portfence"


def run(place: Field, *, rounds: int, sizes: Sequence[int] = SIZES) -> Row:
    """Measure."""
    contenders: Dict[Contender, Callable[[], float]] = {}
    for number in sizes:
        lab, other = place.lab(Lab, ports=KERNEL_PORTS), place.lab(Lab, ports=KERNEL_PORTS)
        fenced = services(number, low=LOW, size=PORTS)
        rules = fence(lab, [one.wanted("rewrite") for one in fenced])["fence"]
        other.run(["sh", "-c", f"cat >{RULES}"], data=rules)
        column = f"{number} services" if number > 1 else "1 service"
        contenders[Contender(RAW, column)] = partial(_raw, other)
        contenders[Contender(FIRST, column)] = partial(_first, lab, fenced)
        contenders[Contender(AGAIN, column)] = partial(_again, lab, fenced)
        contenders[Contender(AFTER_BOOT, column)] = partial(_after_boot, lab, fenced)
    measured = Measured("seconds", "The module alone", "seconds", interleave(contenders, rounds=rounds))
    last = list(contenders)[-1].column
    return Row(
        NAME,
        "What a run of the module takes",
        METHOD,
        measured=[measured],
        claims=[
            Claim(f"module, {last}, first run, to nft", "seconds", Contender(FIRST, last), Contender(RAW, last), 2.5),
            Claim(f"module, {last}, nothing to do, to nft", "seconds", Contender(AGAIN, last), Contender(RAW, last), 2.5),
            Claim(f"module, {last}, nothing to do, first time since boot, to nft", "seconds", Contender(AFTER_BOOT, last), Contender(RAW, last)),
        ],
        facts={"rounds": str(rounds)},
    )


def _raw(lab: Lab) -> float:
    lab.nft("flush ruleset\n")
    begin = time.monotonic()
    lab.run(["sh", "-c", f"nft -f {RULES} && {_LIST}"])
    return time.monotonic() - begin


def _first(lab: Lab, fenced: List[Service]) -> float:
    lab.run(["sh", "-c", _CLEAR])
    return _module(lab, fenced, changes=True)


def _again(lab: Lab, fenced: List[Service]) -> float:
    # Whatever ran before in this lab left the fence.
    return _module(lab, fenced, changes=False)


def _after_boot(lab: Lab, fenced: List[Service]) -> float:
    lab.run(["rm", "-rf", "/run/portfence"])
    return _module(lab, fenced, changes=False)


def _module(lab: Lab, fenced: List[Service], *, changes: bool) -> float:
    """Seconds of the process. Raises LabError unless it did what it should."""
    arguments: Dict[str, Any] = {"services": [one.wanted("rewrite") for one in fenced], "backend": "nftables", "purge": True}
    environment = {"PYTHONPATH": lab.collections(), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "ansible_collections.portfence.egress.plugins.modules.fence"]
    data = json.dumps({"ANSIBLE_MODULE_ARGS": arguments})
    begin = time.monotonic()
    result = lab.run(command, data=data, env=environment, check=False)
    seconds = time.monotonic() - begin
    answer = json.loads(result.out)
    if answer.get("failed") or answer["changed"] is not changes:
        raise LabError(f"the module ended in another way than it should: {result.out[:2000]}")
    return seconds
