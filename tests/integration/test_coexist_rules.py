# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence and rules of others on one host, loaded in every order: both do what they do alone, and nobody loses a rule.

The real programs of others are in molecule/coexist.
"""

from __future__ import annotations

import itertools
import re
from typing import Callable, List, Sequence

import pytest
from field_rules import (
    ANSWERED,
    BOTH,
    INSIDE,
    MYAPP,
    OTHER,
    OUTSIDE,
    PORTS,
    UNANSWERED,
    blocked,
    counters,
    fence,
    iptables,
    passes,
)
from lab import Lab

KINDS = ["nft", "legacy"]
VERSIONS = ("iptables", "ip6tables")
Load = Callable[[Lab], None]

# A container of Docker, as far as the network knows: its bridge, and a namespace behind it.
CONTAINER = """
set -e
ip link add docker0 type bridge
ip address add 172.17.0.1/16 dev docker0
ip link set docker0 up
ip netns add container
ip link add box type veth peer name eth0 netns container
ip link set box master docker0 up
ip -n container address add 172.17.0.2/16 dev eth0
ip -n container link set eth0 up
ip -n container route add default via 172.17.0.1
sysctl -qw net.ipv4.ip_forward=1
"""
# What dockerd loads for the bridge and one published port.
DOCKER = """
-t nat -N DOCKER
-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-t nat -I POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-t nat -A DOCKER ! -i docker0 -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-N DOCKER
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2 ! -i docker0 -o docker0 -p tcp --dport 80 -j ACCEPT
-A DOCKER-USER -j RETURN
-P FORWARD DROP
"""
CLIENT = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM if sys.argv[1] == "tcp" else socket.SOCK_DGRAM)
sock.settimeout(float(sys.argv[2]))
sock.connect(("192.0.2.1", 7000))
sock.send(b"who am I?")
print(int(sock.recv(100).split()[0]))
"""


def _docker(kind: str) -> Load:
    def load(lab: Lab) -> None:
        lab.run(["sh", "-c", CONTAINER])
        iptables(lab, *DOCKER.strip().splitlines(), version=f"iptables-{kind}")

    return load


def _masquerade(*kinds: str) -> Load:
    """Everything that leaves is translated, this host's own traffic among it."""

    def load(lab: Lab) -> None:
        for kind, version in itertools.product(kinds, VERSIONS):
            iptables(lab, "-t nat -I POSTROUTING ! -o lo -j MASQUERADE", "-I OUTPUT -j ACCEPT", version=f"{version}-{kind}")

    return load


def _masquerade_at_random(lab: Lab) -> None:
    """The same, to other ports."""
    for version, protocol in itertools.product(VERSIONS, ("tcp", "udp")):
        how = "-j MASQUERADE --to-ports 40000-40999 --random-fully"
        iptables(lab, f"-t nat -I POSTROUTING ! -o lo -p {protocol} {how}", version=version)


def _chains_around(lab: Lab) -> None:
    """Somebody's chains before and behind each of ours, which accept everything; a map and a counter, to have all there is."""
    priorities = (-400, -300, 0, 9, 10, 11, 98, 99, 110, 111, 400)
    hooks = [(hook, number) for hook in ("output", "postrouting") for number in priorities]
    chains = "\n".join(
        f"chain {hook}_{index} {{ type filter hook {hook} priority {number}; policy accept; counter accept; }}"
        for index, (hook, number) in enumerate(hooks)
    )
    lab.nft(
        f"""
        table inet foreign {{
            counter seen {{ }}
            map marks {{ type inet_service : mark; elements = {{ 7000 : 0x1 }}; }}
            {chains}
        }}
        """
    )


def _ours(lab: Lab) -> None:
    fence(lab)
    lab.run(["sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=50000-50999"])


def _container_gets_out(lab: Lab, protocol: str) -> bool:
    command = ["ip", "netns", "exec", "container", "python3", "-c", CLIENT, protocol, str(ANSWERED["timeout"])]
    return lab.run(command, check=False).rc == 0


def _theirs(lab: Lab) -> List[str]:
    """All rules but ours, handles included: a table that was made again has other ones."""
    listing = lab.run(["nft", "--stateless", "--handle", "list", "ruleset"]).out
    tables = re.findall(r"^table .*?^}", listing, re.MULTILINE | re.DOTALL)
    legacy = [lab.run([f"{version}-legacy-save"]).out for version in VERSIONS]
    rules = [re.sub(r"^#.*|\[\d+:\d+\]$", "", text, flags=re.MULTILINE) for text in legacy]
    return [table for table in tables if not re.match(r"table \w+ portfence ", table)] + rules


def _without_handles(tables: Sequence[str]) -> List[str]:
    return sorted(re.sub(r" # handle \d+", "", table) for table in tables)


def _keeps_the_policy(lab: Lab) -> None:
    for protocol, family in BOTH:
        used = {passes(lab, protocol, family=family, uid=MYAPP), passes(lab, protocol, family=family, uid=MYAPP, source_port=OUTSIDE)}
        assert used <= set(PORTS)
        assert passes(lab, protocol, family=family, uid=OTHER) not in PORTS
        # Theirs may give it another port before we look; connection tracking does, on a port whose last connection it remembers.
        free = next(port for port in PORTS if port not in used)
        seen = lab.connect(protocol, family=family, uid=OTHER, source_port=free, **UNANSWERED).port
        assert seen not in PORTS
        assert seen is None or seen in range(40000, 41000)


FOREIGN = {
    "docker": (_docker("nft"),),
    "docker_legacy": (_docker("legacy"),),
    "masquerade": (_masquerade("nft"),),
    "masquerade_legacy": (_masquerade("legacy"),),
    "masquerade_at_random": (_masquerade_at_random,),
    "both_kinds_of_iptables": (_masquerade("nft", "legacy"),),
    "chains_around": (_chains_around,),
    "all": (_docker("legacy"), _masquerade("nft", "legacy"), _chains_around),
}


@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN.keys())
def test_both_hold_in_every_order(lab: Lab, foreign: Sequence[Load], first: str) -> None:
    for load in (_ours, *foreign) if first == "ours" else (*foreign, _ours):
        load(lab)
    _keeps_the_policy(lab)
    if "docker0" in lab.run(["ip", "-brief", "link"]).out:
        assert all(_container_gets_out(lab, protocol) for protocol in ("tcp", "udp"))


def test_rules_of_others_outlive_every_change_of_ours(lab: Lab) -> None:
    for load in FOREIGN["all"]:
        load(lab)
    before = _theirs(lab)
    assert len(before) > 6
    fence(lab)
    assert _theirs(lab) == before
    fence(lab, source_ports="51000-51999", assignment="app", on_violation="reject")
    assert _theirs(lab) == before
    assert lab.module("port_probe", services=[]).get("failed") is not True
    assert _theirs(lab) == before
    assert not lab.module("fence", state="absent", purge=True).get("failed")
    assert _theirs(lab) == before


@pytest.mark.parametrize("kind", KINDS)
def test_ours_outlive_that_iptables_is_flushed(lab: Lab, kind: str) -> None:
    _masquerade("nft", "legacy")(lab)
    _ours(lab)
    for version in VERSIONS:
        iptables(lab, "-F", "-X", "-Z", "-t nat -F", "-t nat -X", "-t raw -F", version=f"{version}-{kind}")
    _keeps_the_policy(lab)
    assert lab.module("fence_info")["drift"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_ours_outlive_that_iptables_is_restored(lab: Lab, kind: str) -> None:
    """What netfilter-persistent and iptables.service do at boot and when they are restarted."""
    _masquerade(kind)(lab)
    saved = {version: lab.run([f"{version}-{kind}-save"]).out for version in VERSIONS}

    def restore() -> None:
        for version, text in saved.items():
            lab.run([f"{version}-{kind}-restore"], data=text)

    restore()
    before = _theirs(lab)
    _ours(lab)
    restore()
    assert _without_handles(_theirs(lab)) == _without_handles(before)
    _keeps_the_policy(lab)
    assert lab.module("fence_info")["drift"] == []


@pytest.mark.parametrize(("protocol", "family"), BOTH)
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_masquerade_keeps_the_port_that_a_program_bound(lab: Lab, protocol: str, family: int, first: str) -> None:
    if first == "theirs":
        _masquerade("nft", "legacy")(lab)
    fence(lab, assignment="app")
    if first == "ours":
        _masquerade("nft", "legacy")(lab)
    assert passes(lab, protocol, family=family, uid=MYAPP, source_port=INSIDE) == INSIDE


@pytest.mark.parametrize(("protocol", "family"), BOTH)
def test_a_masquerade_that_chooses_ports_at_random_does_not_let_another_port_out(lab: Lab, protocol: str, family: int) -> None:
    """A limit to know: such a rule takes the bound port from an ``app`` service. It is stopped, and counted."""
    fence(lab, assignment="app")
    _masquerade_at_random(lab)
    assert blocked(lab, protocol, family=family, uid=MYAPP, source_port=INSIDE)
    assert counters(lab)["violations"] > 0
