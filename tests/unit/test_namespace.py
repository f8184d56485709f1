# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network namespaces without a machine: addresses, names, what a task may say, and the files that follow from it."""

from __future__ import annotations

import ipaddress
from typing import Any, Dict, List

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.filter.namespaces import namespaces as namespaces_filter
from ansible_collections.portfence.egress.plugins.module_utils import _namespace_text as text
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, Problem
from ansible_collections.portfence.egress.plugins.module_utils._namespace import (
    IPV4_BLOCK,
    IPV6_BLOCK,
    Pair,
    default_ipv4,
    default_ipv6,
    interface_of,
    overlapping,
    pair,
    pair_of,
)
from ansible_collections.portfence.egress.plugins.module_utils._namespace_apply import merge
from ansible_collections.portfence.egress.plugins.module_utils._namespace_files import Files, Kept, names_in, units_in, wanted_files
from ansible_collections.portfence.egress.plugins.module_utils._nft_tables import transaction
from ansible_collections.portfence.egress.plugins.module_utils._namespace_spec import (
    Namespace,
    conflicts,
    from_services,
    parse,
    parse_request,
    unit_name,
)
from ansible_collections.portfence.egress.plugins.module_utils._namespace_text import Forwarding
from hypothesis import given
from hypothesis import strategies as st

PORTS = st.integers(1, 65535)


def read(**item: Any) -> Namespace:
    """A namespace without mistakes."""
    problems: List[Problem] = []
    found = parse({"name": "myapp", "source_ports": "50000-50999", **item}, path="namespaces[0]", problems=problems)
    assert problems == []
    return found


def mistakes(**item: Any) -> List[str]:
    """What is wrong with a namespace."""
    problems: List[Problem] = []
    parse({"name": "myapp", "source_ports": "50000-50999", **item}, path="namespaces[0]", problems=problems)
    return [str(problem) for problem in problems]


# ---- addresses and names ----


def test_default_networks() -> None:
    assert default_ipv4(50000) == "198.19.134.160/31"
    assert default_ipv6(50000) == "fd70:6f72:7466::c350:0/127"
    assert default_ipv4(1) == "198.18.0.2/31"
    assert default_ipv4(65535) == "198.19.255.254/31"


@given(PORTS, PORTS)
def test_default_networks_of_two_services_are_apart(one: int, other: int) -> None:
    for default, block in ((default_ipv4, IPV4_BLOCK), (default_ipv6, IPV6_BLOCK)):
        first, second = ipaddress.ip_network(default(one)), ipaddress.ip_network(default(other))
        assert first.overlaps(second) == (one == other)
        assert first.subnet_of(ipaddress.ip_network(block))


@pytest.mark.parametrize(
    "network, expected",
    [
        ("10.0.0.0/31", Pair("10.0.0.0", "10.0.0.1", 31)),
        ("10.0.0.4/30", Pair("10.0.0.5", "10.0.0.6", 30)),
        ("10.0.0.0/24", Pair("10.0.0.1", "10.0.0.2", 24)),
        ("fd00::/127", Pair("fd00::", "fd00::1", 127)),
        ("fd00::/64", Pair("fd00::1", "fd00::2", 64)),
    ],
)
def test_pair(network: str, expected: Pair) -> None:
    assert pair(network) == expected
    assert str(pair(network).network) == network


@pytest.mark.parametrize(
    "network",
    ["10.0.0.0", "10.0.0.1/31", "10.0.0.0/32", "fd00::/128", "224.0.0.0/30", "127.0.0.0/8", "fe80::/64", "x/31", "", "10.0.0.0/33"],
)
def test_networks_that_are_no_pair(network: str) -> None:
    with pytest.raises(ValueError, match="found .*(accepted|no router)"):
        pair(network)


def test_families() -> None:
    with pytest.raises(ValueError, match="accepted: an IPv6 network such as"):
        pair_of("10.0.0.0/31", "ipv6")


@given(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\Z"))
def test_interface_names(name: str) -> None:
    found = interface_of(name)
    assert found.startswith("pf-") and len(found) <= 15
    assert interface_of(name) == found
    if len(name) <= 12:
        assert found == f"pf-{name}"


def test_long_names_have_interfaces_of_their_own() -> None:
    assert interface_of("collector-in-berlin") != interface_of("collector-in-munich")


def test_overlapping() -> None:
    network = ipaddress.ip_network("10.0.0.0/31")
    assert overlapping(network, ["10.0.0.1", "10.0.0.2/31", "fd00::/8", "0.0.0.0/1", "10.0.0.3/24"]) == ["10.0.0.1", "0.0.0.0/1", "10.0.0.3/24"]


# ---- what a task says ----


def test_plain_data_reads_back() -> None:
    namespace = read(dns=["192.0.2.53"], units=["a", "b@.service"], protocols=["udp"], on_violation="reject", ipv4="10.0.0.0/30")
    assert read(**namespace.to_dict()) == namespace
    assert namespace.units == ("a.service", "b@.service")


def test_every_mistake_is_told_at_once() -> None:
    found = mistakes(name=".x", source_ports=[1, "x"], ipv4=5, ipv6="fd00::", dns=["a"], units=["-x", "b.timer"], protocols=["tcp", "icmp"], on_violation="no")
    paths = [line.split(": ")[0] for line in found]
    assert paths == [
        "namespaces[0].name", "namespaces[0].source_ports[1]", "namespaces[0].ipv4", "namespaces[0].ipv6", "namespaces[0].on_violation",
        "namespaces[0].protocols[1]", "namespaces[0].dns[0]", "namespaces[0].units[0]", "namespaces[0].units[1]",
    ]  # fmt: skip
    assert mistakes(source_ports=None) == ["namespaces[0].source_ports: missing; accepted: one range such as 50000-50999"]


@pytest.mark.parametrize(
    "given_name, expected",
    [
        ("a", "a.service"),
        ("a.b", "a.b.service"),
        ("a@.service", "a@.service"),
        ("a@x", "a@x.service"),
        ("a.socket", "a.socket"),
        (r"a\x2db.service", r"a\x2db.service"),
        (".service", None),
        ("a.slice", None),
        ("a/b.service", None),
        ("a b", None),
        ("a\n.service", None),
        ("../a", None),
        ("", None),
    ],
)
def test_unit_names(given_name: str, expected: Any) -> None:
    assert unit_name(given_name) == expected


def test_request() -> None:
    items: List[Dict[str, Any]] = [{"name": "a", "source_ports": 5000}, {"name": "b", "state": "absent"}]
    request = parse_request({"namespaces": items, "state": "present", "purge": False})
    assert (list(request.wanted), request.unwanted) == (["a"], ["b"])
    request = parse_request({"namespaces": items, "state": "absent", "purge": False})
    assert (list(request.wanted), list(request.unwanted)) == ([], ["a", "b"])
    with pytest.raises(InputError, match=r"namespaces\[1\]\.name: found 'a' a second time"):
        parse_request({"namespaces": [items[0], items[0]], "state": "present", "purge": False})


def test_merge() -> None:
    before = {"a": Kept(read(name="a")), "b": Kept(read(name="b"), "/run/portfence")}
    request = parse_request({"namespaces": [{"name": "c", "source_ports": 5000}, {"name": "a", "state": "absent"}], "state": "present", "purge": False})
    assert {name: item.base for name, item in merge(before, request, base="/etc/portfence").items()} == {"b": "/run/portfence", "c": "/etc/portfence"}
    purge = parse_request({"namespaces": [], "state": "absent", "purge": True})
    assert merge(before, purge, base="/etc/portfence") == {}


def test_conflicts() -> None:
    both = {"a": read(name="a", units=["x"]), "b": read(name="b", units=["x.service"], source_ports="50999")}
    found = [str(problem) for problem in conflicts(both, {"a": "A", "b": "B"})]
    assert found == [
        "B.source_ports: 50999 overlaps with 50000-50999 of A",
        "B.units: x.service already belongs to A; a unit has one namespace",
    ]
    same = {"a": read(name="a"), "b": read(name="b", source_ports="60000", ipv4="198.19.134.160/31")}
    (problem,) = conflicts(same, {"a": "A", "b": "B"})
    assert str(problem) == "B.ipv4: 198.19.134.160/31 overlaps with the network of A; give each its own"


def test_services() -> None:
    services = [
        {
            "name": "a", "assignment": "namespace", "source_ports": ["5000-5999"], "unit": ["a.service"], "protocols": ["tcp"],
            "on_violation": "log", "namespace": {"ipv4": "10.0.0.0/31", "ipv6": "", "dns": ["192.0.2.1"]}, "state": "present",
        },
        {"name": "b", "assignment": "rewrite", "source_ports": ["6000"]},
        {"name": "c", "assignment": "namespace", "state": "absent"},
        {"name": "d", "assignment": "namespace", "source_ports": 7000, "unit": "d"},
    ]  # fmt: skip
    expected = [
        {
            "name": "a", "source_ports": ["5000-5999"], "units": ["a.service"], "protocols": ["tcp"], "on_violation": "log",
            "ipv4": "10.0.0.0/31", "dns": ["192.0.2.1"],
        },
        {"name": "b", "state": "absent"},
        {"name": "c", "state": "absent"},
        {"name": "d", "source_ports": 7000, "units": ["d"]},
    ]  # fmt: skip
    assert from_services(services) == expected
    assert namespaces_filter(services) == expected


@pytest.mark.parametrize(
    "value, message",
    [
        ("x", "takes a list of services, found 'x'"),
        (["x"], r"services\[0\]: found 'x'; accepted: a mapping with name"),
        ([{"name": 1}], r"services\[0\]: found a mapping"),
        ([{"name": "a", "assignment": "namespace"}], r"services\[0\].source_ports: missing"),
    ],
)
def test_mistakes_of_the_filter(value: Any, message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        namespaces_filter(value)


# ---- files ----


def files(*items: Kept, forwarding: Forwarding = Forwarding()) -> Dict[str, str]:
    """Texts by path."""
    target = {item.namespace.name: item for item in items}
    return dict(wanted_files(target, families=("ipv4", "ipv6"), forwarding=forwarding).texts)


def test_paths() -> None:
    found = wanted_files({"myapp": Kept(read(dns=["192.0.2.53"], units=["a", "b.socket"]))}, families=("ipv4",), forwarding=Forwarding())
    assert sorted(found.texts) == [
        "/etc/netns/myapp/resolv.conf",
        "/etc/portfence/namespaces.d/myapp.json",
        "/etc/portfence/namespaces.d/myapp.sh",
        "/etc/portfence/namespaces.json",
        "/etc/portfence/namespaces.sh",
        "/etc/systemd/system/a.service.d/50-portfence-namespace.conf",
        "/etc/systemd/system/b.socket.d/50-portfence-namespace.conf",
        "/etc/systemd/system/nftables.service.d/portfence-namespaces.conf",
        "/etc/systemd/system/portfence-namespace@myapp.service",
        "/etc/systemd/system/portfence-namespaces.service",
    ]
    assert "ipv6" not in found.texts["/etc/portfence/namespaces.d/myapp.sh"]
    assert "table ip6" not in found.texts["/etc/portfence/namespaces.sh"]
    assert wanted_files({}, families=("ipv4",), forwarding=Forwarding()).texts == {}


def test_files_that_are_left_say_names_and_units() -> None:
    target = {name: Kept(read(name=name, source_ports=port, units=units)) for name, port, units in (("a", "5000", ["x@", "y.socket"]), ("b.c", "6000", []))}
    texts = wanted_files(target, families=("ipv4",), forwarding=Forwarding()).texts
    assert names_in(Files(texts)) == ["a", "b.c"]
    assert units_in(Files(texts)) == {"a": ["x@.service", "y.socket"]}
    units = {path: content for path, content in texts.items() if not path.startswith("/etc/portfence/")}
    assert names_in(Files(units)) == ["a", "b.c"]
    assert names_in(Files({path: content for path, content in texts.items() if path.endswith(".json")})) == ["a", "b.c"]
    assert names_in(Files({"/etc/portfence/namespaces.json": "{}", "/etc/portfence/namespaces.d/a.sh": ""})) == []


def test_rules_of_somebody_else_say_nothing_of_forwarding() -> None:
    family = {"match": {"op": "==", "left": {"meta": {"key": "nfproto"}}, "right": "ipv4"}}
    interface = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lan0"}}
    several = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": {"set": ["a", "b"]}}}

    def rule(*parts: Any, chain: str = "forward") -> Dict[str, Any]:
        return {"rule": {"chain": chain, "expr": list(parts)}}

    drop, accept = {"drop": None}, {"accept": None}
    ours = [rule(family, interface, accept), rule(family, {"counter": "refused"}, drop)]
    assert text.forwarding_of(ours) == Forwarding(("ipv4",), ("lan0",))
    theirs = [rule(family, drop, chain="to_a"), rule(family, interface, drop), rule(family, several, accept), rule(family, several, drop), rule(drop)]
    assert text.forwarding_of([{"chain": {"name": "forward"}}, *theirs]) == Forwarding()


def test_host_side_is_kept_for_boot_with_any_namespace() -> None:
    brief, lasting = Kept(read(name="a"), "/run/portfence"), Kept(read(name="b", source_ports="5000"))
    assert "/run/portfence/namespaces.sh" in files(brief)
    assert "/etc/portfence/namespaces.sh" in files(brief, lasting)
    assert "/run/systemd/system/portfence-namespace@a.service" in files(brief, lasting)


def test_forwarding_that_was_on_is_not_touched() -> None:
    assert "forwarding;" not in files(Kept(read()))["/etc/portfence/namespaces.sh"]
    assert "refused" not in files(Kept(read()))["/etc/portfence/namespaces.sh"]
    opened = files(Kept(read()), forwarding=Forwarding(("ipv4",), ("lan0", "default")))
    assert 'meta nfproto ipv4 iifname "lan0" accept' in opened["/etc/portfence/namespaces.sh"]
    assert 'iifname "default"' not in opened["/etc/portfence/namespaces.sh"]
    assert "nfproto ipv6" not in opened["/etc/portfence/namespaces.sh"]
    assert "net/ipv4/conf" in opened["/etc/portfence/namespaces.sh"] and "net/ipv6/conf" not in opened["/etc/portfence/namespaces.sh"]


def test_drop_ins() -> None:
    namespace = read(dns=["192.0.2.53"], units=["a", "b.socket"])
    service, sock = text.drop_in(namespace, "a.service"), text.drop_in(namespace, "b.socket")
    assert "[Service]\nNetworkNamespacePath=/run/netns/myapp\nBindReadOnlyPaths=/etc/netns/myapp/resolv.conf:/etc/resolv.conf\n" in service
    assert "[Socket]\n" in sock and "[Service]" not in sock
    assert "Bind" not in text.drop_in(read(), "a.service")


def test_transaction_removes_what_is_not_wanted() -> None:
    live = {
        "inet": [{"table": {"name": "t"}}, {"chain": {"name": "a"}}, {"chain": {"name": "b", "prio": 1}}, {"counter": {"name": "c"}}, {"map": {"name": "m"}}],
        "arp": [{"table": {"name": "t"}}],
    }
    wanted = {"inet": [{"table": {"name": "t"}}, {"chain": {"name": "a"}}, {"chain": {"name": "b", "prio": 2}}]}
    assert transaction(name="t", live=live, wanted=wanted, bodies="BODY").splitlines() == [
        "flush table inet t",
        "delete map inet t m",
        "delete chain inet t b",
        "delete counter inet t c",
        "delete table arp t",
        "BODY",
    ]
