# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel takes the rules of every golden case through both variants of iptables, and turns one fence into another."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._iptables import FAMILIES, Fence, compile_fence
from ansible_collections.portfence.egress.plugins.module_utils._iptables_listing import counting_chains
from ansible_collections.portfence.egress.plugins.module_utils._iptables_plan import removal, transaction
from ansible_collections.portfence.egress.plugins.module_utils._iptables_tool import Iptables
from ansible_collections.portfence.egress.plugins.module_utils._program import Result
from ansible_collections.portfence.egress.tests.golden.test_golden import FENCES, compiled

CASES = [case for case in FENCES if (case / "iptables.rules").exists()]


class Namespace(Host):
    """The machine, with the network namespace of a process."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._enter = ["nsenter", f"--net=/proc/{pid}/ns/net", "--"]

    def run(self, args: Sequence[str], *, data: Optional[str] = None, check: bool = True, killed: bool = False) -> Result:
        """Run a program there."""
        return super().run([*self._enter, *args], data=data, check=check, killed=killed)


@pytest.fixture(name="tool", params=["nft", "legacy"])
def fixture_tool(request: pytest.FixtureRequest) -> Iterator[Iptables]:
    """One variant in an empty network namespace, which goes with the process that holds it."""
    holding = ["unshare", "--net", "sh", "-c", "echo ready; exec cat"]
    with subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
        yield Iptables(Namespace(holder.pid), variant=request.param)


def fence_of(case: Path) -> Fence:
    """The rules of a case."""
    return compiled(case).rules


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_kernel_takes_it(case: Path, tool: Iptables) -> None:
    """Every chain is there and has as many rules as were written, and each jump stands in the first place."""
    for family, part in zip(FAMILIES, (case / "iptables.rules").read_text(encoding="utf-8").split("# IPv6\n")):
        tool.load(family, part)
    live, wanted = tool.live(), fence_of(case).families
    assert {family: set(tables) for family, tables in live.items()} == {f: set(tables) for f, tables in wanted.items()}
    for family, tables in live.items():
        for table, part in tables.items():
            sizes = {name: len(rules) for name, rules in part.chains.items()}
            assert sizes == {name: len(rules) for name, rules in wanted[family][table].items()}
            assert [(jump.position, jump.rule) for jump in part.jumps] == [(1, "-j portfence")]


def transitions() -> List[Tuple[Path, Path]]:
    """Every fence before and behind two others: a neighbour and a distant one."""
    count = len(CASES)
    return [(CASES[index], CASES[(index + step) % count]) for step in (1, count // 2) for index in range(count)]


def with_counts(text: str, counts: Dict[str, int]) -> str:
    """Rules that begin with these counts; what iptables-restore --counters reads."""
    lines = []
    for line in text.splitlines():
        name = line.rpartition("--comment ")[2] if "--comment" in line else ""
        lines.append(f"[{counts[name]}:{40 * counts[name]}] {line}" if name in counts else line)
    return "\n".join([*lines, ""])


@pytest.mark.parametrize(("before", "after"), transitions(), ids=lambda case: case.name)
def test_one_fence_becomes_another(before: Path, after: Path, tool: Iptables) -> None:
    """Whatever others put above: the result is the new fence as if it had been loaded alone, and what stays keeps its count."""
    old = fence_of(before)
    events = [rule.rpartition(" ")[2] for rules in old.families[4]["mangle"].values() for rule in rules if "--comment" in rule]
    counts = {name: index + 1 for index, name in enumerate(events)}
    for family in FAMILIES:
        # ip6tables-nft before 1.8.10 does not set counts.
        text = with_counts(old.rules(4), counts) if family == 4 else old.rules(family)
        tool._host.run([tool._restore[family], "--noflush", "--counters"], data=text)
        for table, hook in (("mangle", "POSTROUTING"), ("nat", "POSTROUTING"), ("filter", "OUTPUT")):
            icmp = "icmp" if family == 4 else "icmpv6"
            tool.load(family, f"*{table}\n-I {hook} -p {icmp} -j ACCEPT\nCOMMIT\n")
    counted = tool.counters()
    live = tool.live()
    assert all(jump.position == 2 for table, part in live[4].items() if table != "raw" for jump in part.jumps)
    new = compile_fence(compiled(after).ruleset, counted=counting_chains(live))
    wanted = tool.canonical(new)
    for family in FAMILIES:
        tool.load(family, transaction(live=live[family], wanted=wanted[family]))
    assert tool.live() == wanted
    kept = {rule.rpartition(" ")[2] for rules in new.families[4]["mangle"].values() for rule in rules if "--comment" in rule}
    assert tool.counters() == {name: counted.get(name, (0, 0)) for name in kept}
    for family in FAMILIES:
        tool.load(family, removal(tool.live()[family]))
    assert tool.live() == {}
    assert tool._host.run([tool._save[4]]).out.count("-p icmp -j ACCEPT") == 3
