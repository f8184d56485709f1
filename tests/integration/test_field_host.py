# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the fence logs, what it leaves to a boot, and which automatic port ranges the kernel is fit for.

A network namespace writes nothing to the kernel log unless the machine allows it, so logging is watched with a trace,
which shows every rule that a packet ran through to its end.
"""

from __future__ import annotations

from typing import Dict, List

import pytest
from field_rules import BOTH, INSIDE, MYAPP, NOT_INSIDE, OTHER, OUTSIDE, OWNER, blocked, counters, fence, filter_rules, iptables, passes, until
from lab import Lab, LabError

LOG_RULE = f"-A OUTPUT -p tcp {OWNER} {NOT_INSIDE} -j LOG --log-level 4 --log-prefix VIOLATION:"
TRACE = f"""
table inet watch {{
    chain out {{
        type filter hook output priority -300;
        meta skuid {{ {MYAPP}, {OTHER} }} meta nftrace set 1
    }}
}}
"""


def _logged(lab: Lab) -> List[int]:
    """Packets that each LOG rule of iptables has seen."""
    listing = lab.run(["iptables", "-nvxL", "OUTPUT"]).out
    return [int(line.split()[0]) for line in listing.splitlines() if " LOG " in line]


def test_a_log_rule_behind_the_drop_never_fires(lab: Lab) -> None:
    filter_rules(lab)
    iptables(lab, LOG_RULE)
    assert blocked(lab, "tcp", uid=MYAPP, source_port=OUTSIDE)
    assert _logged(lab) == [0]
    iptables(lab, "-F OUTPUT", LOG_RULE)
    filter_rules(lab)
    assert blocked(lab, "tcp", uid=MYAPP, source_port=OUTSIDE + 1)
    assert _logged(lab)[0] > 0


class Trace:
    """The rules that packets of the lab's accounts run through."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        lab.nft(TRACE)
        lab.run(["sh", "-c", "nft monitor trace >/run/trace 2>&1 &"])
        # The monitor does not say when it listens.
        assert until(lambda: self._send(MYAPP, OUTSIDE - 1) and "meta nftrace set 1" in self.text)

    def _send(self, uid: int, port: int) -> bool:
        with self._lab.socket("udp", uid=uid) as sock:
            sock.bind(("0.0.0.0", port))
            try:
                sock.sendto(b"who am I?", (self._lab.peer.addresses[4], 7000))
            except PermissionError:
                pass
        return True

    @property
    def text(self) -> str:
        """Everything so far."""
        return self._lab.run(["cat", "/run/trace"]).out

    def rules_of(self, *, uid: int, port: int) -> str:
        """The rules that a packet with this source port ran through."""
        seen = len(self.text)
        self._send(uid, port)
        self._send(OTHER, OUTSIDE - 2)  # when this one is there, so is the other
        assert until(lambda: f"udp sport {OUTSIDE - 2} " in self.text[seen:])
        return self.text[seen:]


LOGGED: Dict[str, Dict[str, object]] = {
    "portfence violation myapp: ": {},
    "PORT VIOLATION: ": {"log": {"prefix": "PORT VIOLATION: ", "level": "err", "rate": "1000/second"}},
}


@pytest.mark.parametrize("prefix", LOGGED)
@pytest.mark.parametrize("on_violation", ["drop", "reject", "log"])
def test_a_violation_is_logged_before_it_is_stopped(lab: Lab, prefix: str, on_violation: str) -> None:
    fence(lab, assignment="app", on_violation=on_violation, **LOGGED[prefix])
    trace = Trace(lab)
    rules = trace.rules_of(uid=MYAPP, port=OUTSIDE)
    assert rules.count(f'log prefix "{prefix}"') == 1
    end = {"drop": "drop (verdict drop)", "reject": "reject", "log": "accept (verdict accept)"}[on_violation]
    assert rules.index("log prefix") < rules.index('counter name "violations_myapp"') <= rules.index(end, rules.index("log prefix"))


def test_an_intrusion_is_logged_before_it_is_stopped(lab: Lab) -> None:
    fence(lab)
    rules = Trace(lab).rules_of(uid=OTHER, port=INSIDE)
    assert rules.count('log prefix "portfence intrusion myapp: "') == 1
    assert rules.index("log prefix") < rules.index('counter name "intrusions_myapp"')


def test_what_is_allowed_is_not_logged(lab: Lab) -> None:
    fence(lab, assignment="app")
    trace = Trace(lab)
    assert "log prefix" not in trace.rules_of(uid=MYAPP, port=INSIDE)
    assert "log prefix" not in trace.rules_of(uid=OTHER, port=OUTSIDE)


def test_a_flood_does_not_fill_the_log(lab: Lab) -> None:
    fence(lab, assignment="app", log={"rate": "1/hour"})
    trace = Trace(lab)
    rules = "".join(trace.rules_of(uid=MYAPP, port=port) for port in range(45200, 45230))
    # nft allows a burst of 5 above the rate; the rest is counted, not logged.
    assert rules.count("log prefix") <= 6
    assert counters(lab)["violations"] >= 30


def test_a_boot_needs_no_names(lab: Lab) -> None:
    lab.add_user("myapp", MYAPP)
    lab.add_user("other", OTHER)
    services = [{"name": name, "source_ports": ports, "assignment": "app"} for name, ports in (("myapp", "50000-50999"), ("other", "51000-51999"))]
    assert not lab.module("fence", services=services).get("failed")
    lab.run(["userdel", "other"])
    lab.reboot()
    for protocol, family in BOTH:
        assert blocked(lab, protocol, family=family, uid=MYAPP, source_port=OUTSIDE)
        assert blocked(lab, protocol, family=family, uid=OTHER, source_port=OUTSIDE)
        assert passes(lab, protocol, family=family, uid=MYAPP, source_port=INSIDE) == INSIDE


def test_one_unknown_name_aborts_the_whole_restore(lab: Lab) -> None:
    rules = "".join(
        f"-A OUTPUT -p udp -m owner --uid-owner {name} ! --sport 50000:50999 -j DROP\n" for name in (str(MYAPP), "no-such-user")
    )
    with pytest.raises(LabError, match="no-such-user"):
        lab.run(["iptables-restore"], data=f"*filter\n{rules}COMMIT\n")
    assert passes(lab, "udp", uid=MYAPP, source_port=OUTSIDE) == OUTSIDE


def test_one_unknown_name_leaves_the_fence_of_before(lab: Lab) -> None:
    fence(lab, assignment="app")
    before = lab.run(["nft", "-s", "list", "ruleset"]).out
    result = lab.module("fence", services=[{"name": "myapp", "user": str(MYAPP), "source_ports": "51000-51999"}, {"name": "ghost", "source_ports": 52000}])
    assert result["failed"] and "ghost" in result["msg"]
    assert lab.run(["nft", "-s", "list", "ruleset"]).out == before


def test_a_range_of_equal_parity_is_warned_of(lab: Lab) -> None:
    """The kernel halves the quality of its choice for 50000-51000, and says so once in a log that nobody reads."""
    doubtful = lab.module("ephemeral_ports", local_port_range="50000-51000")
    assert not doubtful.get("failed") and len(doubtful["warnings"]) == 1
    assert lab.run(["sysctl", "-n", "net.ipv4.ip_local_port_range"]).out.split() == ["50000", "51000"]
    assert not lab.module("ephemeral_ports", local_port_range="50000-50999")["warnings"]


def test_a_range_that_the_kernel_refuses_is_refused_with_a_reason(lab: Lab) -> None:
    with pytest.raises(LabError, match="Invalid argument"):
        lab.run(["sysctl", "-w", "net.ipv4.ip_local_port_range=1000 1999"])
    refused = lab.module("ephemeral_ports", local_port_range="1000-1999")
    assert refused["failed"] and "1024" in refused["msg"]
    assert lab.run(["sysctl", "-n", "net.ipv4.ip_local_port_range"]).out.split() == ["32768", "60999"]
