# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No moment open: the policy changes again and again under a fenced account that never stops trying, and under 1,000 sessions that talk.

The account tries from ports outside, and from ports that the kernel chooses, all of which are outside as well; TCP and UDP, IPv4 and IPv6.
With PORTFENCE_LONG=1 there are hundreds of changes.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, NamedTuple

import pytest
from bpf_lab import BpfLab
from field_rules import MYAPP, OTHER, fence, until
from lab import Lab, Session
from no_gap import OUTSIDE
from watch import CHOSEN, PROGRAM, STOP, Talk, leaked, start, watch, watched

# Sessions by protocol and family; 1,000 in all.
SESSIONS = {("tcp", 4): 400, ("tcp", 6): 400, ("udp", 4): 100, ("udp", 6): 100}


# What the policies below allow the account, one or the other of them.
ALLOWED = "50000-53000"


class Case(NamedTuple):
    """So many changes of policies with this assignment, under the backend and, with iptables, its variant. The account is known by `selector`."""

    assignment: str
    backend: str
    count: int
    selector: str = "user"


LONG = os.environ.get("PORTFENCE_LONG") == "1"
# One for each policy, or many.
FEW = 100 if LONG else 6
CASES = [
    Case("app", "nftables", 500 if LONG else 60),
    Case("rewrite", "nftables", 100 if LONG else 24),
    Case("bpf", "nftables", FEW),
    Case("app", "iptables-nft", FEW),
    Case("rewrite", "iptables-nft", FEW),
    Case("app", "iptables-legacy", FEW),
    Case("rewrite", "iptables-legacy", FEW),
    Case("app", "nftables", FEW, "group"),
    Case("rewrite", "nftables", FEW, "group"),
    Case("host", "nftables", FEW),
]


def service(case: Case, ports: str = "50000-51999", **changes: Any) -> Dict[str, Any]:
    return {"name": "myapp", case.selector: str(MYAPP), "source_ports": ports, "assignment": case.assignment, **changes}


def policies(case: Case) -> List[List[Dict[str, Any]]]:
    """Policies that differ in everything, and all allow the account no other ports than ALLOWED."""
    # Of ranges, the kernel has one.
    apart = "50000-52998" if case.assignment == "host" else ["50000-51999", "53000"]
    others = [{"name": f"s{number}", "user": str(21000 + number), "source_ports": f"{60000 + number}"} for number in range(20)]
    return [
        [service(case)],
        [service(case, on_violation="reject"), *others],
        [service(case, "50000-52999"), *others[:7]],
        [service(case, "50000-51999", exclusive=False)],
        [service(case, apart), {"name": "other", "user": str(OTHER), "source_ports": "54000-54999"}],
        # Under another name, the account goes to other chains.
        [{**service(case), "name": "renamed"}],
    ]


def change(lab: Lab, case: Case) -> None:
    """Change the policy again and again."""
    lab.run(["sh", "-c", "cat >/run/apply.py"], data=PROGRAM.read_text(encoding="utf-8"))
    command = [sys.executable, "/run/apply.py", "apply", str(case.count), lab.backend]
    assert lab.run(command, data=json.dumps(policies(case)), env={"PYTHONPATH": lab.collections()}, timeout=900).out == f"{case.count}\n"


def choose(lab: Lab, ports: range) -> None:
    """Let the kernel choose these ports, which no policy allows."""
    lab.run(["sysctl", "-qw", f"net.ipv4.ip_local_port_range={ports.start} {ports.stop - 1}"])


def sessions_of(lab: Lab, assignment: str) -> List[Session]:
    """Each binds a port of its own out of the first thousand of the service. Where others are translated, every second one binds none."""
    choose(lab, CHOSEN)
    kinds = [kind for kind, number in SESSIONS.items() for _number in range(number)]
    translated = assignment == "rewrite"
    return [
        lab.open(protocol, family=family, uid=MYAPP, source_port=None if translated and number % 2 else 50000 + number)
        for number, (protocol, family) in enumerate(kinds)
    ]


@pytest.mark.parametrize("ports", [OUTSIDE, range(30000, 31000), range(60000, 61000)], ids=lambda ports: str(ports.start))
def test_a_leak_would_be_seen(ports: range) -> None:
    """The same under rules that are deleted and loaded again."""
    with watched(watch(ALLOWED), uid=MYAPP) as lab:
        choose(lab, ports)
        fence(lab, assignment="app")
        rules = lab.run(["nft", "list", "table", "inet", "portfence"]).out
        with ThreadPoolExecutor(1) as pool:
            said = start(lab, pool, uid=MYAPP, ports=ports)
            try:
                for _number in range(20):
                    lab.nft("delete table inet portfence")
                    lab.nft(rules)
            finally:
                lab.run(["touch", STOP])
        assert said.result()["tried"] > 0
        assert leaked(lab) > 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_nothing_leaks_and_nothing_is_cut_while_the_policy_changes(case: Case) -> None:
    with watched(watch(ALLOWED), uid=MYAPP, kind=BpfLab if case.assignment == "bpf" else Lab) as lab:
        if case.backend != "nftables":
            lab.use_iptables(case.backend.partition("-")[2])
        assert not lab.module("fence", services=[service(case, "50000-51998")], backend=lab.backend).get("failed")
        sessions = sessions_of(lab, case.assignment)
        choose(lab, OUTSIDE)
        with ThreadPoolExecutor(1) as pool, Talk(sessions) as talk:
            said = start(lab, pool, uid=MYAPP)
            try:
                change(lab, case)
            finally:
                during = list(talk.turns)
                lab.run(["touch", STOP])
            goes_on = until(lambda: all(after > before for before, after in zip(during, talk.turns)))
        last = policies(case)[(case.count - 1) % len(policies(case))]
        assert not lab.module("fence", services=last, purge=True, backend=lab.backend)["changed"]
        assert said.result()["tried"] > 10 * case.count
        assert leaked(lab) == 0
        assert talk.cut == []
        assert all(during) and goes_on
