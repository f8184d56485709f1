# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL at the system calls by which modules change something: old or new, whole, in the kernel and after a boot, and the next run goes on."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import pytest
from bpf_lab import BpfLab
from crash import Crashes, Press, Pressure, Subject, crash, each, either
from ephemeral import RANGE_KEY, RESERVED_KEY, live
from lab import Lab
from listing import rules
from module_server import Supervised
from net_cls import ROOT, NetClsLab
from watch import watched

UID = 991
# From one policy to the other the account goes to other chains and ports, and is assigned them in another way.
APP: Dict[str, Any] = {"name": "myapp", "source_ports": "50000-50999", "assignment": "app"}
OTHER: Dict[str, Any] = {"name": "other", "user": "20002", "source_ports": "53000-53999"}
RENAMED: Dict[str, Any] = {"name": "renamed", "user": "myapp", "source_ports": "51000-51999"}
THIRD: Dict[str, Any] = {"name": "third", "user": "20003", "source_ports": "54000", "assignment": "app", "on_violation": "reject"}
NOTHING: Dict[str, Any] = {"state": "absent", "purge": True}
# Of all that comes to where the fenced account sends to, nothing may be from ports that neither policy allows.
WATCH = """
table inet watch {
    counter leaked { }
    chain input {
        type filter hook input priority 0;
        meta l4proto { tcp, udp } th dport 7000 th sport != { 50000-50999, 51000-51999 } counter name leaked
    }
}
"""


WATCH_CGROUP = """
table inet watch {
    counter leaked { }
    chain output {
        type filter hook output priority 0;
        # What the kernel sends of itself, such as a reset for a socket that is gone, is nobody's.
        tcp flags & (syn | ack) == syn tcp dport 7000 meta cgroup != { 0x100001, 0x100002 } counter name leaked
        udp dport 7000 meta cgroup != { 0x100001, 0x100002 } counter name leaked
    }
}
"""


def in_force(lab: Lab) -> Any:
    """The rules of the kernel, but for what nothing leads to, which judges no packet."""
    listing = rules(lab)
    # Family and table and name of what has been found to be in use, and what it refers to.
    used: Set[str] = {_key(item["chain"]) for item in listing if "hook" in item.get("chain", {})}
    while True:
        found = {
            f"{thing['family']} {thing['table']} {name}"
            for item in listing
            for kind, thing in item.items()
            if kind in ("rule", "map") and _key(thing) in used
            for name in _references(thing.get("expr", thing.get("elem", [])))
        }
        if found <= used:
            break
        used |= found
    tables = {key.rpartition(" ")[0] for key in used}
    return [
        item
        for item in listing
        for kind, thing in item.items()
        if (f"{thing['family']} {thing['name']}" in tables if kind == "table" else _key(thing) in used)
    ]


def _key(thing: Dict[str, Any]) -> str:
    return f"{thing['family']} {thing['table']} {thing.get('chain', thing.get('name'))}"


def _references(part: Any) -> Iterator[str]:
    """Names of chains, maps and counters in an expression."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key in ("jump", "goto"):
                yield value["target"]
            elif key in ("counter", "limit") and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(part, list):
        for item in part:
            yield from _references(item)
    elif isinstance(part, str) and part.startswith("@"):
        yield part[1:]


def judge(crashes: Crashes, count: int) -> None:
    assert not crashes.problems, "\n".join([f"{len(crashes.problems)} of {len(crashes.killed)}", *(problem[:2000] for problem in crashes.problems[:5])])
    assert len(crashes.killed) >= count


@pytest.fixture(name="host")
def fixture_host() -> Iterator[Lab]:
    with watched(WATCH, uid=UID) as lab:
        yield lab


def press(lab: Lab) -> Pressure:
    return Pressure(lab, "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--")


@pytest.fixture(name="modules")
def fixture_modules(host: Lab) -> Iterator[Supervised]:
    with Supervised(host) as modules:
        yield modules


def fence(*services: Dict[str, Any], **params: Any) -> Dict[str, Any]:
    return {"services": list(services), "purge": True, **params}


def saved(lab: Lab) -> List[str]:
    """The rules of iptables and ip6tables, each with its table."""
    found: List[str] = []
    table = ""
    for line in lab.run(["sh", "-c", "iptables-save; ip6tables-save"]).out.splitlines():
        if line.startswith("*"):
            table = line
        elif line.startswith("-A"):
            found.append(f"{table} {line}")
    return sorted(found)


def anything(seen: Any, expected: Sequence[Any]) -> bool:
    """Its tables change one after the other. That nothing gets out is what counts."""
    return bool(seen)


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_fence_changes(host: Lab, modules: Supervised, backend: str, points: Optional[int]) -> None:
    look, whole = (in_force, either) if backend == "nftables" else (saved, anything)
    if backend == "iptables" and points is not None:
        points //= 2
    states = fence(APP, OTHER, backend=backend), fence(RENAMED, THIRD, backend=backend)
    judge(crash(host, modules, Subject("fence", states, look, whole, either, Press(press)), points=points), 14 if backend == "iptables" else 28)


# Its ports are exclusive in both states, while everything else about it changes, and another service beside it.
HELD = (
    {"name": "held", "user": "20004", "source_ports": "52000-52099", "assignment": "app", "protocols": ["tcp", "udp"]},
    {"name": "kept", "user": "20005", "source_ports": ["51900-52099", "52200"], "assignment": "rewrite", "on_violation": "reject"},
)
WATCH_EXCLUSIVE = """
table inet watch {
    counter leaked { }
    chain input {
        type filter hook input priority 0;
        meta l4proto { tcp, udp } th dport 7000 th sport 52000-52099 counter name leaked
    }
}
"""


def press_exclusive(lab: Lab) -> Pressure:
    """An account without a service."""
    return Pressure(lab, "setpriv", "--reuid=20009", "--regid=20009", "--clear-groups", "--", port=52050)


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_exclusive_ports_stay_exclusive(variant: str, points: Optional[int]) -> None:
    """With iptables, whose tables change one after the other. With nftables there is one change, and what can pass meanwhile is in docs/threat-model.md."""
    states = fence(HELD[0], OTHER, backend="iptables"), fence(HELD[1], THIRD, backend="iptables")
    with watched(WATCH_EXCLUSIVE, uid=UID) as lab, Supervised(lab) as modules:
        lab.use_iptables(variant)
        subject = Subject("fence", states, saved, anything, either, Press(press_exclusive))
        judge(crash(lab, modules, subject, points=points and 5), 10)


def test_fence_comes_and_goes(host: Lab, modules: Supervised, points: Optional[int]) -> None:
    judge(crash(host, modules, Subject("fence", (fence(APP, OTHER), NOTHING), in_force), points=points), 28)


BPF_STATES = (
    fence({"name": "myapp", "source_ports": "50000-50999", "assignment": "bpf"}, {**OTHER, "assignment": "bpf"}),
    fence({"name": "renamed", "user": "myapp", "source_ports": "51000-51999", "assignment": "bpf"}, THIRD),
)
MAPS = "/sys/fs/bpf/portfence/maps"


def programs(lab: Lab) -> Any:
    """The rules, what is pinned and attached, and what the maps hold."""
    pinned = lab.run(["sh", "-c", "find /sys/fs/bpf -mindepth 1 -path '*portfence*' | sort"]).out.split()
    attached = json.loads(lab.run(["bpftool", "-j", "cgroup", "show", "/sys/fs/cgroup"]).out.strip() or "[]")
    held = {
        name: sorted(json.dumps(item) for item in json.loads(lab.run(["bpftool", "-j", "map", "dump", "pinned", f"{MAPS}/{name}"]).out))
        for name in ("by_uid", "services", "levels", "by_cgroup")
        if f"{MAPS}/{name}" in pinned
    }
    return in_force(lab), (pinned, sorted(item["name"] for item in attached), held)


def press_programs(lab: Lab) -> Pressure:
    """In the group that the programs are attached to, from ports of the kernel's choice, which are none of the service's."""
    join = 'echo 0 >/sys/fs/cgroup/cgroup.procs && exec "$@"'
    return Pressure(lab, "sh", "-c", join, "sh", "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--", port=0)


@pytest.mark.parametrize("to", ["changes", "comes and goes"])
def test_programs_that_assign_ports(to: str, points: Optional[int]) -> None:
    """Killed in bpf(2) as well. Nothing leaves from outside, with the programs of one state, of both or of none: the fence is behind them."""
    states = BPF_STATES if to == "changes" else (BPF_STATES[0], NOTHING)
    with watched(WATCH, uid=UID, kind=BpfLab) as lab, Supervised(lab) as modules:
        subject = Subject("fence", states, programs, anything, each, Press(press_programs) if to == "changes" else None)
        # A round takes seconds.
        crashes = crash(lab, modules, subject, points=points and 3, among=": bpf ")
    judge(crashes, 6)
    assert any("bpftool: bpf " in where for where in crashes.killed), crashes.killed


class SliceLab(BpfLab):
    """Its host has a slice from boot on."""

    def power_on(self) -> None:
        super().power_on()
        self.run(["mkdir", "/sys/fs/cgroup/apps.slice"])


SLICES = (
    fence({"name": "apps", "unit": "apps.slice", "source_ports": "52000-52099", "assignment": "app"}, OTHER),
    fence({"name": "batch", "unit": "apps.slice", "source_ports": "51000-51099", "assignment": "rewrite"}, THIRD),
)


def fenced_units(lab: Lab) -> Any:
    """The rules without the cgroups in them, which are others after each boot; whether these are in; and what units are told."""
    listing = json.dumps(in_force(lab))
    for line in lab.run(["find", "/sys/fs/cgroup", "-maxdepth", "1", "-name", "apps.slice", "-printf", "%i\n"]).out.split():
        listing = listing.replace(line, "CGROUP")
    told = lab.run(["sh", "-c", "grep -H . /etc/systemd/system/*.d/50-portfence.conf"], check=False).out
    return listing, frozenset(told.splitlines())


def with_drop_ins(seen: Any, expected: Sequence[Any]) -> bool:
    """Whatever is in force, its units are told all of it."""
    return any(seen[0] == listing and told <= seen[1] for listing, told in expected)


@pytest.mark.parametrize("to", ["changes", "comes and goes"])
def test_units(to: str, points: Optional[int]) -> None:
    states = SLICES if to == "changes" else (SLICES[0], fence(THIRD))
    with SliceLab() as lab, Supervised(lab) as modules:
        subject = Subject("fence", states, fenced_units, with_drop_ins, with_drop_ins)
        # Of what does not change, nothing is written.
        judge(crash(lab, modules, subject, points=points and 5, among="" if to == "changes" else "50-portfence.conf"), 10)


def ports_of(lab: Lab) -> Any:
    return [live(lab, key) for key in (RANGE_KEY, RESERVED_KEY)]


@pytest.mark.parametrize(
    "states",
    [
        (
            {"reserved_ports": ["50000-50999"], "local_port_range": "40000-49999"},
            {"reserved_ports": ["51000-51999", "53000"], "local_port_range": "30000-39999"},
        ),
        ({"reserved_ports": ["50000-50999"], "local_port_range": "40000-49999"}, {"state": "absent"}),
    ],
    ids=["changes", "comes and goes"],
)
def test_ephemeral_ports(host: Lab, modules: Supervised, states: Any, points: Optional[int]) -> None:
    # The units load them at boot again.
    assert not host.module("fence", services=[OTHER]).get("failed")
    judge(crash(host, modules, Subject("ephemeral_ports", states, ports_of, each), points=points), 28)


PAIRS = {"ipv4": "198.51.100.0/31", "ipv6": "fd00:1::/127"}
MYAPP: Dict[str, Any] = {"name": "myapp", "source_ports": "50000-50999", **PAIRS}
MOVED: Dict[str, Any] = {"name": "myapp", "source_ports": "51000-51999", "on_violation": "reject", **PAIRS}


def namespaces(*items: Dict[str, Any]) -> Dict[str, Any]:
    return {"namespaces": list(items), "purge": True}


class Made(NamedTuple):
    """What there is of the namespace myapp, in parts that change one at a time."""

    host: str
    forwarding: str
    port_range: str
    rules: str
    addresses: str

    @property
    def of_boot(self) -> Tuple[Any, ...]:
        """What one script makes is old or new as a whole."""
        return self.host, (self.port_range, self.rules, self.addresses)


def made(lab: Lab) -> Made:
    inside = "ip netns exec myapp"
    scripts = [
        "for family in inet ip ip6; do nft -s list table $family portfence_namespaces; done",
        "cd /proc/sys/net; grep -H . ipv[46]/conf/*/forwarding",
        f"{inside} cat /proc/sys/net/ipv4/ip_local_port_range",
        f"{inside} nft -s list ruleset",
        f"{inside} ip -o address | grep eth0 | grep -v fe80 | tr -s ' ' | cut -d ' ' -f 2-6; {inside} ip route; {inside} ip -6 route | grep default",
    ]
    return Made(*(lab.run(["sh", "-c", f"{{ {script}; }} 2>/dev/null"], check=False).out for script in scripts))


def press_namespace(lab: Lab) -> Pressure:
    lab.nft(WATCH.replace("hook input", "hook prerouting").replace("meta l4proto", 'iifname "pf-myapp" meta l4proto'))
    return Pressure(lab, "ip", "netns", "exec", "myapp")


def let_namespace_out(lab: Lab) -> None:
    lab.run(["ip", "netns", "exec", "myapp", "nft", "flush", "ruleset"])


def fenced_before_it_can_send(seen: Made, expected: Sequence[Made]) -> bool:
    """It is made in steps."""
    return not seen.addresses or seen.rules == expected[0].rules


def made_by_boot(seen: Made, expected: Sequence[Made]) -> bool:
    return each(seen.of_boot, [item.of_boot for item in expected])


def test_network_namespace_changes(host: Lab, modules: Supervised, points: Optional[int]) -> None:
    states = namespaces(MYAPP), namespaces(MOVED)
    subject = Subject("network_namespace", states, made, each, made_by_boot, Press(press_namespace, let_namespace_out, lambda lab: lab))
    judge(crash(host, modules, subject, points=points), 20)


def test_network_namespace_comes_and_goes(host: Lab, modules: Supervised, points: Optional[int]) -> None:
    states = namespaces(MYAPP), namespaces()
    subject = Subject("network_namespace", states, made, fenced_before_it_can_send, made_by_boot)
    judge(crash(host, modules, subject, points=points), 20)


def classids(lab: Lab) -> Any:
    found = lab.run(["sh", "-c", f"cd {ROOT} && grep -H . */net_cls.classid"], check=False).out.split()
    return {line.partition("/")[0]: int(line.partition(":")[2]) for line in found}


def each_cgroup(seen: Any, expected: Sequence[Any]) -> bool:
    """The kernel takes one at a time; one that is being made has none for a moment, and nobody in it."""
    return all(seen.get(name) in (0, *(item.get(name) for item in expected)) for name in {*seen, *expected[0], *expected[1]})


def press_cgroup(lab: Lab) -> Pressure:
    lab.nft(WATCH_CGROUP)
    return Pressure(lab, "sh", "-c", f'echo $$ >{ROOT}/legacy/cgroup.procs && exec "$@"', "sh")


def lose_classid(lab: Lab) -> None:
    lab.run(["sh", "-c", f"echo 0 >{ROOT}/legacy/net_cls.classid"])


@pytest.mark.parametrize(
    "states",
    [
        ([("legacy", "0x100001"), ("second", "0x100003")], [("legacy", "0x100002"), ("third", "0x100003")]),
        ([("legacy", "0x100001"), ("second", "0x100003")], []),
    ],
    ids=["changes", "comes and goes"],
)
def test_cgroup_classid(states: Any, points: Optional[int]) -> None:
    cgroups = [{"cgroups": [{"name": name, "classid": classid} for name, classid in state], "purge": True} for state in states]
    # In a cgroup that goes, nobody is held.
    press_it = Press(press_cgroup, lose_classid, lambda lab: lab) if all(states) else None
    subject = Subject("cgroup_classid", (cgroups[0], cgroups[1]), classids, each_cgroup, either, press_it)
    with NetClsLab() as lab, Supervised(lab) as modules:
        judge(crash(lab, modules, subject, points=points), 28)


ACCOUNTS = [{"name": "first", "uid": 981}, {"name": "second", "uid": 982, "home": "/var/lib/second", "create_home": True}]


def accounts_of(lab: Lab) -> List[str]:
    """What programs are told of two accounts and their groups, and whether somebody can log in.

    useradd(8) and userdel(8) change one file after the other. An entry in /etc/shadow that is missing, or left over, lets nobody in.
    """
    found = []
    for name in ("first", "second"):
        account = lab.run(["sh", "-c", f"grep '^{name}:' /etc/passwd"], check=False).out
        shadow = lab.run(["sh", "-c", f"grep '^{name}:' /etc/shadow"], check=False).out
        group = lab.run(["sh", "-c", f"grep '^{name}:' /etc/group"], check=False).out if account else ""
        found.append(account + group + ("" if shadow.startswith(f"{name}:!:") else shadow))
    return found


def test_service_account(host: Lab, modules: Supervised, points: Optional[int]) -> None:
    states = {"accounts": ACCOUNTS}, {"accounts": ACCOUNTS, "state": "absent"}
    judge(crash(host, modules, Subject("service_account", states, accounts_of, each, each), points=points), 20)
