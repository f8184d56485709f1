# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service that is known by where its processes are, as an attacker: every attempt of attempts_places.py, and what the peer saw of it, is the
second table of docs/threat-model.md.

``pytest tests/integration/test_attacks_places.py --update-attacks`` writes the table that was seen, for ``git diff`` to judge.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any, Dict, List

import pytest
from attacks import FILES
from attempts_places import PLACES, UID
from field_rules import until
from lab import Lab
from lab_keeper import PEER_ADDRESSES
from namespaces import connect
from net_cls import ROOT, NetClsLab
from test_attacks import BLOCKED, CHOSEN, EACH, FIRST, MOVED, NOT_POSSIBLE, OUT, PAGE, PYTHON, said_of

BEGIN, END = "<!-- places: begin -->\n", "<!-- places: end -->\n"
SELECTORS = ("unit", "classid", "namespace", "addresses")
PROGRAM = "/run/attack/attacks.py"
SERVICE: Dict[str, Any] = {"name": "tenant", "source_ports": "50000-50999"}
# A container of the host, which forwards for it and others.
CONTAINER = """
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
ip netns add tenant
ip netns exec tenant sysctl -qw net.ipv6.conf.default.accept_dad=0
ip link add br0 type veth peer name eth0 netns tenant
ip address add 172.17.0.1/16 dev br0
ip address add fd00:17::1/64 dev br0 nodad
ip link set br0 up
ip -netns tenant link set lo up
ip -netns tenant address add 172.17.0.2/16 dev eth0
ip -netns tenant address add fd00:17::2/64 dev eth0 nodad
ip -netns tenant link set eth0 up
ip -netns tenant route add default via 172.17.0.1
ip -netns tenant -6 route add default via fd00:17::1
"""


def succeed(lab: Lab, name: str, **params: Any) -> None:
    result = lab.module(name, **params)
    assert not result.get("failed"), result["msg"]


class Place:
    """A lab with a service that is known by this selector."""

    def __init__(self, lab: Lab, selector: str, stack: ExitStack) -> None:
        self.lab = lab
        self._enter: List[str] = []
        chosen = f"net.ipv4.ip_local_port_range={CHOSEN.start} {CHOSEN.stop - 1}"
        lab.run(["sysctl", "-qw", chosen])
        lab.run(["install", "-d", "-m", "1777", os.path.dirname(PROGRAM)])
        for name in FILES:
            path = f"{os.path.dirname(PROGRAM)}/{name}"
            lab.run(["sh", "-c", f"cat > {path} && chmod 644 {path}"], data=(PAGE.parents[1] / "tests/integration" / name).read_text("utf-8"))
        if selector == "unit":
            self._unit(stack)
        elif selector == "classid":
            succeed(lab, "cgroup_classid", cgroups=[{"name": "tenant", "classid": "0x100001"}])
            succeed(lab, "fence", services=[{**SERVICE, "classid": "0x100001", "assignment": "app"}])
            self._join(f"{ROOT}/tenant")
        elif selector == "namespace":
            lab.add_user("tenant", UID)
            succeed(lab, "network_namespace", namespaces=[SERVICE])
            succeed(lab, "fence", services=[{**SERVICE, "assignment": "namespace"}])
            self._enter = ["ip", "netns", "exec", "tenant"]
        else:
            lab.run(["sh", "-ec", CONTAINER])
            succeed(lab, "fence", services=[{**SERVICE, "addresses": ["172.17.0.0/16", "fd00:17::/64"], "interface": "br0"}])
            self._enter = ["ip", "netns", "exec", "tenant"]
            lab.run([*self._enter, "sysctl", "-qw", chosen])
            # The way is there, and the neighbours know each other.
            assert until(lambda: all(connect(lab, "udp", family, name="tenant").port is not None for family in PEER_ADDRESSES))

    def _unit(self, stack: ExitStack) -> None:
        """A slice at the top of the hierarchy, which systemd would have made."""
        unit = f"portfencetest{os.getpid()}.slice"
        group = f"/sys/fs/cgroup/{unit}"
        self.lab.run(["sh", "-c", f"mount -t cgroup2 none /sys/fs/cgroup && mkdir {group}"])
        stack.callback(self.lab.run, ["find", group, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"])
        succeed(self.lab, "fence", services=[{**SERVICE, "unit": unit, "assignment": "app"}])
        self._join(group)

    def _join(self, group: str) -> None:
        self._enter = ["sh", "-c", f'echo 0 >{group}/cgroup.procs && exec "$@"', "sh"]

    def outcome(self, name: str, *, number: int) -> str:
        """Make an attempt, and say what the peer saw and what the program met."""
        first = FIRST + number * EACH
        become = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--"] if PLACES[name].account == "fenced" else []
        self.lab.peer.packets()
        done = self.lab.run([*self._enter, *become, PYTHON, "-EsB", PROGRAM, name, str(first)])
        # What the peer answers to an address that is nobody's comes back to it.
        packets = [packet for packet in self.lab.peer.packets() if packet.source not in PEER_ADDRESSES.values()]
        return said_of(packets, first=first, met=done.out.split())


def table(outcomes: Dict[str, Dict[str, str]]) -> str:
    """The attempts as Markdown, a line each."""
    lines = [f"| the service … | {' | '.join(f'`{name}`' for name in SELECTORS)} | |", f"|---{'|---' * len(SELECTORS)}|---|"]
    for name, attempt in PLACES.items():
        lines.append(f"| {attempt.words} | {' | '.join(outcomes[selector][name] for selector in SELECTORS)} | {attempt.note} |")
    return "".join(f"{line}\n" for line in lines)


def test_what_the_threat_model_says_of_places(request: pytest.FixtureRequest) -> None:
    outcomes: Dict[str, Dict[str, str]] = {}
    for selector in SELECTORS:
        with NetClsLab() if selector == "classid" else Lab() as lab, ExitStack() as stack:
            place = Place(lab, selector, stack)
            outcomes[selector] = {
                name: NOT_POSSIBLE if selector in attempt.without else place.outcome(name, number=number)
                for number, (name, attempt) in enumerate(PLACES.items())
            }
    page = PAGE.read_text(encoding="utf-8")
    if request.config.getoption("--update-attacks"):
        head, _begin, rest = page.partition(BEGIN)
        PAGE.write_text(head + BEGIN + table(outcomes) + END + rest.partition(END)[2], encoding="utf-8")
        return
    assert table(outcomes) == page.partition(BEGIN)[2].partition(END)[0]


def test_a_host_that_drops_what_has_no_way_back_holds_every_address_of_a_container(lab: Lab) -> None:
    with ExitStack() as stack:
        place = Place(lab, "addresses", stack)
        assert place.outcome("place_free_bind", number=0).startswith(OUT)
        lab.nft("table inet guard { chain pre { type filter hook prerouting priority raw; iifname br0 fib saddr . iif oif missing drop; }; }")
        assert place.outcome("place_free_bind", number=1).startswith(BLOCKED)
        assert place.outcome("place_bind", number=2) == MOVED
