# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Under a flood of violations the log is as long as its rate says, and the fence is as large as it was.

Accounts send from thousands of source ports to thousands of destinations: two that have a service, from ports that are nobody's and from those
of the other one, and one that has none, from the ports of both. A network namespace writes nothing to the kernel log, so what is counted is how
often the kernel gets to a rule's log: iptables tells that of its LOG rules; with nftables, a counter is put into each rule between limit and log.
"""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Tuple

import pytest
from bpf_lab import BpfLab
from field_rules import BOTH, MYAPP, OTHER, blocked, passes
from lab import Lab

# Packets that a limit lets pass at once, beside its rate: nft's default, and what the fence gives iptables.
BURST = 5
# What all rules together may log: so many lines a second, and at once. iptables has one for each family.
CEILING, AT_ONCE = 5, 200
SERVICES: List[Dict[str, Any]] = [
    {"name": "dropping", "user": str(MYAPP), "source_ports": "50000-50999", "assignment": "app"},
    {"name": "rejecting", "user": str(OTHER), "source_ports": "52000-52999", "assignment": "app", "on_violation": "reject", "log": {"rate": "60/minute"}},
]
RATES = {"dropping": 10.0, "rejecting": 1.0}  # a second; the first one is the default
NOBODY = 65534
# The two ranges of ports from which each account sends, none of which can be in use by another one.
FLOODS = {
    MYAPP: ("40000", "41000", "52000", "52500"),
    OTHER: ("42000", "43000", "50000", "50500"),
    NOBODY: ("50500", "51000", "52500", "53000"),
}
# What is refused on its way out does not get as far as here.
UNREACHED = ("check_rejecting", "pf-breach-rejecting")

# Sends from every port of the two ranges in turn, to a destination that no packet before went to. Prints how often.
_FLOOD = """
import errno, itertools, socket, sys, time
first, end, second, second_end, seconds = map(int, sys.argv[1:])
ports = itertools.cycle([*range(first, end), *range(second, second_end)])
to = {socket.AF_INET: "198.51.100.%d", socket.AF_INET6: "2001:db8:51::%x"}
until = time.monotonic() + seconds
for number in itertools.count(1):
    port = next(ports)
    for family in to:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(family, kind) as sock:
                sock.setblocking(False)
                try:
                    sock.bind(("", port))
                    sock.connect((to[family] % (number % 250 + 1), number % 60000 + 1))
                    sock.send(b"anybody there?")
                except OSError as error:
                    if error.errno not in (errno.EINPROGRESS, errno.EPERM, errno.ECONNREFUSED):
                        raise
    if time.monotonic() > until:
        break
print(4 * number)
"""


# By hand: another rate in the place of the limit of all services, and rules without that limit.
LIFTED = (
    """
    nft list table inet portfence | sed 's,rate 5/second burst 200,rate 5000/second burst 5000,' >/run/lifted
    nft delete table inet portfence
    nft -f /run/lifted
    """,
    """
    nft list table inet portfence | sed 's/ limit name "logged"//' >/run/lifted
    nft delete table inet portfence
    nft -f /run/lifted
    """,
)
# The kernel makes the limit anew when there has been no rule with it.
LIFTED_IPTABLES = (
    """
    for stem in iptables ip6tables; do
        $stem-save | sed 's,upto 5/sec --hashlimit-burst 200 ,upto 5000/sec --hashlimit-burst 5000 ,' >/run/lifted
        for table in filter mangle; do $stem -t $table -F; done
        $stem-restore </run/lifted
    done
    """,
    """
    for stem in iptables ip6tables; do
        $stem-save | sed 's,-m hashlimit .*--hashlimit-name portfence-5-200 --hashlimit-htable-expire [0-9]* ,,' | $stem-restore
    done
    """,
)


def flood(lab: Lab, *, seconds: int) -> Dict[int, int]:
    """All accounts at once, for so many seconds; how many packets each tried to send."""
    run = lab.inside if isinstance(lab, BpfLab) else lab.run

    def one(uid: int) -> int:
        become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]
        return int(run([*become, "/usr/bin/python3", "-I", "-c", _FLOOD, *FLOODS[uid], str(seconds)]).out)

    with ThreadPoolExecutor(len(FLOODS)) as pool:
        return dict(zip(FLOODS, pool.map(one, FLOODS)))


class NftablesLog:
    """Lines that each rule of the fence would have written to the kernel log since this was made."""

    _RULE = re.compile(
        r'(limit rate \S+(?: burst \d+ packets)? limit name "logged")(?: counter packets (\d+) bytes \d+)? (log prefix .*) # handle (\d+)$'
    )

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        rules = self._rules()
        assert rules, "nothing is logged"
        lab.nft("".join(f"replace rule inet portfence {chain} handle {rule[4]} {rule[1]} counter {rule[3]}\n" for chain, rule in rules.items()))

    def lines(self) -> Dict[str, int]:
        """By chain."""
        return {chain: int(rule[2]) for chain, rule in self._rules().items()}

    def _rules(self) -> Dict[str, "re.Match[str]"]:
        found: Dict[str, "re.Match[str]"] = {}
        chain = ""
        for line in self._lab.run(["nft", "-a", "list", "table", "inet", "portfence"]).out.splitlines():
            if line.strip().startswith("chain "):
                chain = line.split()[1]
            if " log " in line:
                rule = self._RULE.search(line)
                assert rule is not None and chain not in found, f"a log without a limit, or a second one: {line}"
                found[chain] = rule
        return found


class IptablesLog:
    """The same, in the rules of IPv4 and IPv6."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._before = self._counts()
        assert self._before, "nothing is logged"

    def lines(self) -> Dict[str, int]:
        """By program, table and chain."""
        return {place: count - self._before[place] for place, count in self._counts().items()}

    def _counts(self) -> Dict[str, int]:
        counts: Dict[str, int] = {}
        for program in ("iptables", "ip6tables"):
            for table in ("raw", "mangle", "nat", "filter"):
                for line in self._lab.run([f"{program}-save", "-c", "-t", table]).out.splitlines():
                    if " -j LOG " in line:
                        assert " -m limit " in line and " -m hashlimit " in line, f"a log without a limit: {line}"
                        place = f"{program} {table} {line.split()[2]}"
                        assert place not in counts, f"a second log: {line}"
                        counts[place] = int(line[1:].partition(":")[0])
        return counts


def shape(lab: Lab) -> List[str]:
    """All rules, sets, maps and counters without what they have counted; and the files of the fence with their sizes."""
    files = "find /etc /run /var -xdev -type f -path '*portfence*' -not -path '/var/lib/collections/*' -printf '%p %s %T@\\n' | sort"
    saved = "for program in iptables ip6tables; do $program-save; done | sed 's/\\[[0-9:]*\\]//; /^#/d'"
    rules = lab.run(["nft", "-s", "list", "ruleset"]) if lab.backend == "auto" else lab.run(["sh", "-c", saved])
    return rules.out.splitlines() + lab.run(["sh", "-c", files]).out.splitlines()


def connections(lab: Lab) -> int:
    """Connections that the kernel remembers."""
    return int(lab.run(["cat", "/proc/sys/net/netfilter/nf_conntrack_count"]).out)


@pytest.mark.parametrize("backend", ["nftables", "iptables-nft", "iptables-legacy"])
def test_a_flood_fills_neither_log_nor_fence(lab: Lab, backend: str) -> None:
    if backend != "nftables":
        lab.use_iptables(backend.partition("-")[2])
    assert not lab.module("fence", services=SERVICES, backend=lab.backend).get("failed")
    for protocol, family in BOTH:  # what the kernel makes with the first packet
        assert blocked(lab, protocol, family=family, uid=MYAPP, source_port=40000)
    begin = time.monotonic()
    log = NftablesLog(lab) if backend == "nftables" else IptablesLog(lab)
    before, remembered = shape(lab), connections(lab)
    lab.peer.packets()

    tried = flood(lab, seconds=3)
    lines = log.lines()
    seconds = time.monotonic() - begin

    assert min(tried.values()) > 500
    assert lab.peer.packets() == []
    counted = lab.module("fence_info")["services"]
    assert sum(counted[name][kind]["packets"] for name in RATES for kind in ("violations", "intrusions")) >= sum(tried.values())
    for place, count in lines.items():
        rate = next(rate for name, rate in RATES.items() if place.endswith(name))
        at_least = 0 if place.endswith(UNREACHED) else BURST
        assert at_least <= count <= BURST + rate * seconds + 1, (lines, seconds)
    assert shape(lab) == before
    assert connections(lab) <= remembered
    for protocol, family in BOTH:
        assert blocked(lab, protocol, family=family, uid=MYAPP, source_port=40001)
        assert blocked(lab, protocol, family=family, uid=OTHER, source_port=50001)
        assert passes(lab, protocol, family=family, uid=MYAPP, source_port=50001) == 50001


@pytest.mark.parametrize("backend", ["nftables", "iptables-nft", "iptables-legacy"])
def test_the_log_of_a_host_has_a_ceiling(lab: Lab, backend: str) -> None:
    """An account without a service uses the ports of twenty services, each of which may log ten lines a second."""
    if backend != "nftables":
        lab.use_iptables(backend.partition("-")[2])
    low = int(FLOODS[NOBODY][0])
    services = [
        {"name": f"s{number}", "user": str(30000 + number), "source_ports": f"{low + 25 * number}-{low + 25 * number + 24}", "assignment": "app"}
        for number in range(20)
    ]
    assert not lab.module("fence", services=services, backend=lab.backend).get("failed")
    begin = time.monotonic()
    log = NftablesLog(lab) if backend == "nftables" else IptablesLog(lab)
    tried = flood(lab, seconds=3)[NOBODY]
    lines = log.lines()
    seconds = time.monotonic() - begin
    packets = [found["intrusions"]["packets"] for found in lab.module("fence_info")["services"].values()]
    assert tried > 500 and min(packets) > BURST
    for family in ("",) if backend == "nftables" else ("iptables ", "ip6tables "):
        logged = sum(count for place, count in lines.items() if place.startswith(family))
        assert AT_ONCE <= logged <= AT_ONCE + CEILING * seconds + 1, (lines, seconds)


# More than the host may log.
EAGER: List[Dict[str, Any]] = [{**service, "log": {"rate": "1000/second"}} for service in SERVICES]


def logged_in_a_flood(lab: Lab) -> Dict[str, Tuple[int, float]]:
    """How many lines the rules of a family would have written, with one for both in nftables, and the seconds that they had for it."""
    # What an earlier flood has used up of the limits is there again after so long.
    time.sleep(1.2)
    begin = time.monotonic()
    log = NftablesLog(lab) if lab.backend == "auto" else IptablesLog(lab)
    tried = flood(lab, seconds=2)
    lines = log.lines()
    seconds = time.monotonic() - begin
    assert min(tried.values()) > 300
    families = ("",) if lab.backend == "auto" else ("iptables ", "ip6tables ")
    return {family: (sum(count for place, count in lines.items() if place.startswith(family)), seconds) for family in families}


@pytest.mark.parametrize("backend", ["nftables", "iptables-nft", "iptables-legacy"])
def test_a_rate_above_the_ceiling_does_not_lift_it(lab: Lab, backend: str) -> None:
    """Neither for what is dropped nor for what is rejected, nor after somebody has lifted it by hand."""
    if backend != "nftables":
        lab.use_iptables(backend.partition("-")[2])
    assert not lab.module("fence", services=EAGER, backend=lab.backend).get("failed")
    lab.peer.packets()
    for logged, seconds in logged_in_a_flood(lab).values():
        assert AT_ONCE <= logged <= AT_ONCE + CEILING * seconds + 1, (logged, seconds)
    for harm in LIFTED if backend == "nftables" else LIFTED_IPTABLES:
        lab.run(["sh", "-ec", harm])
        assert lab.module("fence", services=EAGER, backend=lab.backend)["changes"] == ["load the fence into the kernel"]
        assert not lab.module("fence", services=EAGER, backend=lab.backend)["changed"]
        for logged, seconds in logged_in_a_flood(lab).values():
            assert AT_ONCE <= logged <= AT_ONCE + CEILING * seconds + 1, (harm, logged, seconds)
    assert lab.peer.packets() == []


def test_a_flood_leaves_the_ebpf_maps_as_they_are() -> None:
    with BpfLab() as lab:
        result = lab.module("fence", services=[{**service, "assignment": "bpf"} for service in SERVICES])
        assert not result.get("failed"), result["msg"]
        dump = "for map in /sys/fs/bpf/portfence/maps/*; do echo $map; bpftool map dump pinned $map; done"
        before = [lab.run(["sh", "-c", dump]).out, *shape(lab)]
        assert "by_uid" in before[0]
        lab.peer.packets()
        assert min(flood(lab, seconds=2).values()) > 500
        assert lab.peer.packets() == []
        assert [lab.run(["sh", "-c", dump]).out, *shape(lab)] == before
