# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two ways to fence an account, for tests that compare them: the rules that people paste, and this collection.

A test that only watches the fence succeed does not know whether it would have noticed the failure. So each of the
field tests first lets the pasted rules fail, and then looks at the fence in the same way.
"""

from __future__ import annotations

import time
from typing import Any, Callable, Dict

from lab import PATIENCE, Lab, Node, Seen

MYAPP = 20001  # the account that is fenced
OTHER = 20002  # somebody else
PORTS = range(50000, 51000)
INSIDE = 50123
OUTSIDE = 45123

SYN = 2  # of FIN, SYN, RST, ACK, which are 0x17
BOTH = [(protocol, family) for protocol in ("tcp", "udp") for family in (4, 6)]
OWNER = f"-m owner --uid-owner {MYAPP}"
NOT_INSIDE = "! --sport 50000:50999"

# Nothing is blocked: a client waits as long as a busy machine may need. Blocked: shorter than TCP's retransmission.
ANSWERED = {"timeout": PATIENCE}
UNANSWERED = {"timeout": 0.4}


def fence(lab: Lab, **changes: Any) -> Dict[str, Any]:
    """Fence MYAPP into PORTS with the module and the backend of the lab, and return its result."""
    service = {"name": "myapp", "user": str(MYAPP), "source_ports": "50000-50999", **changes}
    result = lab.module("fence", services=[service], backend=lab.backend)
    assert not result.get("failed"), result["msg"]
    return result


def counters(lab: Lab) -> Dict[str, int]:
    """Packets of the violations and intrusions of MYAPP."""
    found = lab.module("fence_info")["services"]["myapp"]
    return {name: found[name]["packets"] for name in ("violations", "intrusions")}


def iptables(lab: Lab, *rules: str, version: str = "iptables") -> None:
    """Run one iptables command a rule, as a how-to has them."""
    for rule in rules:
        lab.run([version, *rule.split()])


def filter_rules(lab: Lab) -> None:
    """The heart of the how-to: drop what leaves from any other port."""
    iptables(lab, *(f"-A OUTPUT -p {protocol} {OWNER} {NOT_INSIDE} -j DROP" for protocol in ("tcp", "udp")))


def masquerade_rules(lab: Lab, *, version: str = "iptables") -> None:
    """The how-to for programs that can't bind: let NAT choose the port."""
    rules = (f"-t nat -A POSTROUTING -p {protocol} {OWNER} -j MASQUERADE --to-ports 50000-50999" for protocol in ("tcp", "udp"))
    iptables(lab, *rules, version=version)


def arrived(lab: Lab, protocol: str) -> bool:
    """Whether a datagram, or the opening of a connection, reached the peer since it was last asked.

    Other segments of TCP may be the last words of a connection of before.
    """
    return any(packet.protocol == protocol and packet.flags & 0x17 in (0, SYN) for packet in lab.peer.packets())


def blocked(lab: Lab, protocol: str, **how: Any) -> bool:
    """Whether a client gets nothing through to the peer: no answer, and no packet there."""
    lab.peer.packets()
    seen = lab.connect(protocol, **{**UNANSWERED, **how})
    if seen.port is None:
        assert not arrived(lab, protocol), f"the client met {seen.error}, but its packets arrived"
    return seen.port is None


def passes(node: Node, protocol: str, **how: Any) -> int:
    """The source port that the other side saw; the client has to get an answer."""
    seen: Seen = node.connect(protocol, **{**ANSWERED, **how})
    assert seen.port is not None, f"{protocol} {how}: {seen.error}"
    return seen.port


def until(condition: Callable[[], bool]) -> bool:
    """Wait for something that happens without telling; whether it did."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
