# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fence that version 0.1.0 wrote is taken over: nothing leaks, nothing is cut, no count is lost.

Meanwhile, over TCP and UDP, IPv4 and IPv6, a fenced account tries from outside of its ports, and one without a service from exclusive ports.

version_0_1_0/etc is what 0.1.0 left on a host with these services, byte for byte.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from field_rules import BOTH, UNANSWERED, until
from lab import Lab, Session
from watch import STOP, Talk, leaked, start, watch

WRITTEN = Path(__file__).with_name("version_0_1_0")
BOUND, TRANSLATED, CHOSEN = 991, 992, 994
SERVICES: List[Dict[str, Any]] = [
    {"name": "bound", "user": "991", "source_ports": "50000-50999", "assignment": "app"},
    {"name": "translated", "user": ["992", "993"], "source_ports": ["51000-51499", "52000"], "assignment": "rewrite", "on_violation": "reject"},
    {"name": "chosen", "user": "994", "source_ports": "53000-53999", "assignment": "host", "exclusive": False},
    {"name": "together", "group": "2000", "source_ports": "54000-54099", "assignment": "app", "on_violation": "log", "protocols": ["tcp"]},
]
PORTS = {"name": "site", "local_port_range": "53000-53999", "reserved_ports": ["50000-50999", "51000-51499", "52000", "54000-54099"]}
# An account without a service, and exclusive ports that it tries; those that the owner of the range uses are others.
NOBODY, EXCLUSIVE = 65534, range(50500, 51000)
# Of its thousands of packets, so many may be on their way while the kernel goes over to the new rules: see "Changes" in docs/threat-model.md.
FEW = 8
# Counts at the peer what must not arrive from there, in both families.
WATCH_EXCLUSIVE = f"""
table inet watch_exclusive {{
    counter leaked {{ }}
    chain input {{
        type filter hook input priority 0;
        meta l4proto {{ tcp, udp }} th sport {EXCLUSIVE.start}-{EXCLUSIVE.stop - 1} counter name leaked
    }}
}}
"""
FILES = ("/etc/portfence/fence.nft", "/etc/sysctl.d/60-portfence.conf", "/etc/systemd/system/portfence.service")


@pytest.fixture(name="old")
def fixture_old() -> Iterator[Lab]:
    """A host that booted with what 0.1.0 wrote."""
    with Lab(capture=False) as lab:
        for path in sorted(WRITTEN.rglob("*")):
            place = Path("/", path.relative_to(WRITTEN))
            if path.is_file():
                lab.run(["sh", "-c", 'mkdir -p "$(dirname "$1")" && cat >"$1"', "sh", place], data=path.read_text(encoding="utf-8"))
        lab.run(["ln", "-s", "../portfence.service", "/etc/systemd/system/sysinit.target.wants/portfence.service"])
        lab.reboot()
        lab.peer.nft(watch("50000-54099") + WATCH_EXCLUSIVE)
        yield lab


def counts(lab: Lab) -> Dict[str, int]:
    """Packets of every service, of violations and intrusions."""
    services = lab.module("fence_info")["services"]
    return {f"{kind} {name}": found[kind]["packets"] for name, found in services.items() for kind in ("violations", "intrusions") if found[kind]}


def blocked_at_all(lab: Lab, protocol: str, **how: Any) -> bool:
    """Whether a client gets no answer. What arrives is counted at the peer."""
    return lab.connect(protocol, **{**UNANSWERED, **how}).error == ("timeout" if protocol == "tcp" else "EPERM")


def sessions_of_services(lab: Lab) -> List[Session]:
    """Connections that the policy allows, over TCP and UDP, IPv4 and IPv6: from own ports, translated ones, and those of the kernel's choice."""
    sessions: List[Session] = []
    for protocol, family in BOTH:
        sessions += [lab.open(protocol, family=family, uid=BOUND, source_port=50000 + number) for number in range(15)]
        translated = [lab.open(protocol, family=family, uid=TRANSLATED) for _number in range(15)]
        assert {session.port for session in translated} <= {*range(51000, 51500), 52000}
        chosen = [lab.open(protocol, family=family, uid=CHOSEN) for _number in range(5)]
        assert {session.port for session in chosen} <= {*range(53000, 54000)}
        sessions += translated + chosen
    return sessions


def test_a_fence_of_version_0_1_0_is_taken_over(old: Lab) -> None:
    for protocol, family in BOTH:
        assert blocked_at_all(old, protocol, family=family, uid=BOUND, source_port=49000)
        assert blocked_at_all(old, protocol, family=family, uid=CHOSEN, source_port=49000)
        assert blocked_at_all(old, protocol, family=family, uid=0, source_port=52000)
    sessions = sessions_of_services(old)
    # Read by this version, before anything is changed.
    before = counts(old)
    assert before["violations bound"] > 0 and before["violations chosen"] > 0 and before["intrusions translated"] > 0
    with ThreadPoolExecutor(2) as pool, Talk(sessions) as talk:
        said = {"violations bound": start(old, pool, uid=BOUND), "intrusions bound": start(old, pool, uid=NOBODY, ports=EXCLUSIVE)}
        try:
            assert until(lambda: all(count > before[kind] + 100 for kind, count in counts(old).items() if kind in said))
            assert not old.module("fence", services=SERVICES).get("failed")
            assert not old.module("ephemeral_ports", **PORTS).get("failed")
            during = list(talk.turns)
        finally:
            old.run(["touch", STOP])
        goes_on = until(lambda: all(after > turns for turns, after in zip(during, talk.turns)))
    assert min(future.result()["tried"] for future in said.values()) > 1000
    assert leaked(old) == 0
    passed = old.peer.counter("inet watch_exclusive", "leaked")
    assert passed <= FEW
    assert talk.cut == [] and goes_on
    after = counts(old)
    for kind, future in said.items():
        assert after.pop(kind) >= future.result()["refused"] + before.pop(kind)
    assert after == before

    assert not old.module("fence", services=SERVICES)["changed"]
    assert not old.module("ephemeral_ports", **PORTS)["changed"]
    old.reboot()
    assert not old.module("fence", services=SERVICES)["changed"]
    assert old.connect(uid=CHOSEN).port in range(53000, 54000)
    for protocol, family in BOTH:
        assert blocked_at_all(old, protocol, family=family, uid=BOUND, source_port=49001)
        assert blocked_at_all(old, protocol, family=family, uid=NOBODY, source_port=EXCLUSIVE.start)
    assert leaked(old) == 0
    assert old.peer.counter("inet watch_exclusive", "leaked") == passed


def test_a_fence_of_version_0_1_0_is_removed(old: Lab) -> None:
    assert old.module("fence", state="absent", purge=True)["changed"]
    assert old.module("ephemeral_ports", name="site", state="absent", purge=True)["changed"]
    assert old.run(["nft", "list", "ruleset"]).out == ""
    for path in (*FILES, "/etc/portfence", "/etc/systemd/system/sysinit.target.wants/portfence.service"):
        assert old.run(["test", "-L", path, "-o", "-e", path], check=False).rc == 1, path
    assert old.connect(uid=BOUND, source_port=49000).port == 49000
