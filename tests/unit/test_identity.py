# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is behind an address and a source port, and the files that say so to others."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any, Dict, List, Tuple

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.filter.identities import identities
from ansible_collections.portfence.egress.plugins.filter.identity_files import identity_files
from ansible_collections.portfence.egress.plugins.module_utils._csv import to_csv
from ansible_collections.portfence.egress.plugins.module_utils._suricata import FIRST_SID

MYAPP = {"name": "myapp", "source_ports": "50000-50999"}
WEB1 = {"ansible_host": "10.0.0.1", "egress_policy": [MYAPP]}


def entry(**changes: Any) -> Dict[str, Any]:
    """One identity."""
    return {"address": "10.0.0.1/32", "protocol": "tcp", "source_ports": "50000-50999", "service": "myapp", "hosts": ["web1"], **changes}


def test_a_service_has_an_identity_for_each_address_protocol_and_range() -> None:
    policy = [{**MYAPP, "source_ports": ["50000-50001", 50010], "protocols": ["udp"]}, {"name": "gone", "state": "absent"}]
    hosts = {"web1": {"egress_addresses": ["2001:db8::1", "10.0.0.1"], "egress_policy": policy}}
    assert identities(hosts) == [
        entry(protocol="udp", source_ports="50000-50001"),
        entry(protocol="udp", source_ports="50010"),
        entry(address="2001:db8::1/128", protocol="udp", source_ports="50000-50001"),
        entry(address="2001:db8::1/128", protocol="udp", source_ports="50010"),
    ]


@pytest.mark.parametrize(
    ("name", "variables", "address"),
    [
        ("web1", {"ansible_host": "10.0.0.1"}, "10.0.0.1/32"),
        ("10.0.0.2", {"ansible_host": "gate.example.com"}, "10.0.0.2/32"),
        ("10.0.0.2", {"egress_addresses": ["192.0.2.0/28"], "ansible_host": "10.0.0.1"}, "192.0.2.0/28"),
    ],
)
def test_where_the_address_comes_from(name: str, variables: Dict[str, Any], address: str) -> None:
    assert {found["address"] for found in identities({name: {**variables, "egress_policy": [MYAPP]}})} == {address}


def test_hosts_behind_one_address_share_a_service_or_are_told_apart() -> None:
    nat = {"egress_addresses": ["192.0.2.1"]}
    hosts = {name: {**nat, "egress_policy": [{**MYAPP, "protocols": ["tcp"]}]} for name in ("b", "a")}
    assert identities(hosts) == [entry(address="192.0.2.1/32", hosts=["a", "b"])]
    hosts["b"] = {**nat, "egress_policy": [{"name": "other", "protocols": ["tcp"], "source_ports": "51000-51999"}]}
    assert [(found["service"], found["hosts"]) for found in identities(hosts)] == [("myapp", ["a"]), ("other", ["b"])]


def test_what_a_host_forwards_as_it_is_keeps_its_address() -> None:
    box = {"name": "box", "source_ports": 60000, "protocols": ["tcp"], "addresses": ["172.17.0.0/16"]}
    raw = {**box, "name": "raw", "addresses": ["fd00::/64"], "source_ports": 60001, "masquerade": False}
    hosts = {"web1": {"ansible_host": "10.0.0.1", "egress_policy": [box, raw]}}
    assert [(found["address"], found["service"]) for found in identities(hosts)] == [("10.0.0.1/32", "box"), ("fd00::/64", "raw")]


def test_every_mistake_is_told() -> None:
    nat = {"egress_addresses": ["192.0.2.1"]}
    hosts = {
        "a": {**nat, "egress_policy": [MYAPP]},
        "b": {**nat, "egress_policy": [{"name": "other", "source_ports": "50999-51000", "protocols": ["tcp"]}]},
        "c": {"egress_policy": [MYAPP]},
        "d": {"egress_addresses": ["10.0.0.300"], "egress_policy": [{"name": "gone", "state": "absent"}]},
        "e": {"egress_addresses": ["192.0.2.0/30"], "egress_policy": [{"name": "wide", "source_ports": 50000, "protocols": ["udp"]}]},
        "f": {},
    }
    with pytest.raises(AnsibleFilterError) as caught:
        identities(hosts)
    text = str(caught.value)
    assert text.startswith("the identity map has 4 mistakes:")
    assert "b.other: 192.0.2.1/32 tcp 50999-51000 is myapp of a as well" in text
    assert "c.egress_addresses: missing, and c is no address either" in text
    assert "d.egress_addresses[0]: found '10.0.0.300'" in text
    assert "a.myapp: 192.0.2.1/32 udp 50000-50999 is wide of e as well (192.0.2.0/30, 50000)" in text
    around = {"egress_addresses": ["192.0.2.0/29"], "egress_policy": [{"name": "none", "source_ports": 1}]}
    with pytest.raises(AnsibleFilterError, match=r"(?s)1 mistake:.*a.myapp: 192.0.2.1/32 udp 50000-50999 is wide of f as well"):
        identities({"a": hosts["a"], "e": around, "f": {**hosts["e"], "egress_addresses": ["192.0.2.0/28"]}})


@pytest.mark.parametrize("found", [None, [], "web1", {"web1": []}])
def test_no_mapping(found: Any) -> None:
    with pytest.raises(AnsibleFilterError):
        identities(found)


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "here"},
        {"protocol": "icmp"},
        {"source_ports": "1,3"},
        {"source_ports": "9-1"},
        {"service": 'a"; drop'},
        {"service": None},
        {"hosts": []},
        {"hosts": [1]},
    ],
)
def test_a_map_that_was_changed_by_hand_is_checked(changes: Dict[str, Any]) -> None:
    with pytest.raises(AnsibleFilterError, match=r"the identity map has 1 mistake:\n  identities\[1\]\.[a-z_]+: "):
        identity_files([entry(address="10.0.0.9"), entry(**changes)])
    with pytest.raises(AnsibleFilterError, match="found nothing; accepted: a list"):
        identity_files(None)
    with pytest.raises(AnsibleFilterError, match="unknown: found 'accept'; accepted: log, drop"):
        identity_files([], unknown="accept")


def test_every_mistake_of_a_map_is_told() -> None:
    wrong = entry(address="10.0.0.300", protocol="icmp", source_ports=["1-2", 0], service="", hosts="web1", port=1)
    with pytest.raises(AnsibleFilterError) as caught:
        identity_files([wrong, "web1"])
    places = [line.split(": ")[0] for line in str(caught.value).splitlines()[1:]]
    keys = ("'port'", "address", "protocol", "source_ports[1]", "service", "hosts")
    assert places == [*(f"  identities[0].{key}" for key in keys), "  identities[1]"]


@pytest.mark.parametrize("text", ["=1+1", "\n=1+1", " +1", "\uff1d1+1", "@x", "-1", "\tx"])
def test_a_spreadsheet_takes_nothing_for_a_formula(text: str) -> None:
    assert to_csv(["a"], [[text]]).startswith(("a\n'", "a\n\"'"))
    assert to_csv(["a"], [["1=1"], [-1]]) == "a\n1=1\n-1\n"


def test_for_people_and_programs() -> None:
    hosts: List[str] = ["=cmd|' /C calc'!A0", 'say "hi", you\n']
    entries = [entry(hosts=hosts), entry(service="b.x", source_ports="51000")]
    files = identity_files(entries)
    assert json.loads(files["identity.json"]) == entries
    rows = list(csv.reader(io.StringIO(files["identity.csv"])))
    assert rows[0] == ["address", "protocol", "first_port", "last_port", "service", "hosts"]
    assert rows[1] == ["10.0.0.1/32", "tcp", "50000", "50999", "myapp", "'=cmd|' /C calc'!A0 say \"hi\", you\n"]
    assert json.loads(identity_files([])["identity.json"]) == []


@pytest.mark.parametrize("host", ['x" : drop', "a; flush ruleset", "}", "b\nadd table inet y", "$(reboot)", "é" * 200])
def test_names_of_hosts_are_literals(host: str) -> None:
    files = identity_files([entry(hosts=[host])])
    plain = identity_files([entry(hosts=["h"])])
    for name in ("edge.nft", "edge.rules.v4", "edge.rules.v6"):
        comment = r'comment "[A-Za-z0-9_.,:@+ -]{0,120}"'
        assert re.sub(comment, "", files[name]) == re.sub(comment, "", plain[name])
    for name in ("suricata-addresses.yaml", "suricata-ports.yaml", "suricata.rules"):
        assert files[name] == plain[name]


def suricata(entries: List[Dict[str, Any]]) -> Tuple[Dict[str, str], Dict[str, str], List[str]]:
    """Address variables, port variables, and rules."""
    files = identity_files(entries)
    addresses, ports = (yaml.safe_load(files[f"suricata-{kind}.yaml"].partition("---")[2]) for kind in ("addresses", "ports"))
    rules = [line for line in files["suricata.rules"].splitlines() if not line.startswith("#")]
    for rule in rules:
        found = RULE.fullmatch(rule)
        assert found and found[1] in addresses and (found[2] == "any" or found[2][1:] in ports)
        assert len(rule) < 8192, "DETECT_MAX_RULE_SIZE of Suricata"
    return addresses, ports, rules


RULE = re.compile(
    r'alert (?:tcp|udp|sctp) \$(\w+) (any|\$\w+) -> any any \(msg:"[^";]+"; flow:to_server;(?: flags:S,PUCE;)?'
    r"(?: flowbits:(?:set|isnotset),[\w.-]+;){2}(?: noalert;)? sid:(\d+); rev:1;\)"
)


def test_for_suricata() -> None:
    alike = [entry(), entry(address="10.0.0.2/32"), entry(protocol="udp"), entry(address="10.0.0.2/32", protocol="udp")]
    others = [entry(service="my-app", source_ports="51000"), entry(service="my.app", protocol="udp", source_ports="52000-52001", address="fd00::/64")]
    addresses, ports, rules = suricata([*alike, *others])
    assert addresses["PORTFENCE_HOSTS"] == "[$PORTFENCE_HOSTS_IPV4,$PORTFENCE_HOSTS_IPV6]"
    assert (addresses["PORTFENCE_HOSTS_IPV4"], addresses["PORTFENCE_HOSTS_IPV6"]) == ("[10.0.0.1/32,10.0.0.2/32]", "[fd00::/64]")
    assert (addresses["PORTFENCE_MYAPP_HOSTS"], ports["PORTFENCE_MYAPP_PORTS"]) == ("[10.0.0.1/32,10.0.0.2/32]", "[50000:50999]")
    assert len(addresses) == 6 and len(ports) == 3, "names that look alike in capitals are told apart"
    assert len(rules) == 7
    sids = [int(found[3]) for found in map(RULE.fullmatch, rules) if found]
    assert len(set(sids)) == len(sids) and all(FIRST_SID <= sid < 2_000_000 for sid in sids)
    fewer = suricata(alike)[2]
    assert set(fewer) <= set(rules), "a rule keeps its number"


def test_suricata_takes_no_ports_of_one_address_for_those_of_another() -> None:
    entries = [
        *(entry(address=address, source_ports="50000") for address in ("10.0.0.1/32", "10.0.0.2/32")),
        *(entry(address="10.1.0.0/16", source_ports=str(port)) for port in (50002, 50001)),
        entry(address="10.1.0.0/16", source_ports="50003", protocol="udp"),
        entry(address="fd00::/64", source_ports="50000"),
    ]
    addresses, ports, rules = suricata(entries)
    for name, hosts, own in (
        ("", "10.0.0.1/32,10.0.0.2/32,10.1.0.0/16,fd00::/64", "50000:50003"),
        ("_TCP_10_0_0_1", "10.0.0.1/32,10.0.0.2/32,fd00::/64", "50000"),
        ("_TCP_10_1_0_0NET16", "10.1.0.0/16", "50001:50002"),
        ("_UDP_10_1_0_0NET16", "10.1.0.0/16", "50003"),
    ):
        assert addresses.pop(f"PORTFENCE_MYAPP{name}_HOSTS") == f"[{hosts}]"
        assert ports.pop(f"PORTFENCE_MYAPP{name}_PORTS") == f"[{own}]"
        assert any(f"$PORTFENCE_MYAPP{name}_HOSTS $PORTFENCE_MYAPP{name}_PORTS" in rule for rule in rules) == bool(name)
    assert not ports and len(rules) == 6


def test_long_lists_for_suricata_are_made_of_short_ones() -> None:
    entries = [
        entry(address=f"2001:db8:{host:x}:1111:2222:3333:4444:5555/128", source_ports=str(10001 + 2 * port), service="x-" * 16)
        for host, port in [(host, 0) for host in range(900)] + [(0, port) for port in range(1, 5000)]
    ]
    addresses, ports, _rules = suricata(entries)

    def spelled_out(variables: Dict[str, str], name: str) -> List[str]:
        assert len(variables[name]) <= (8000 if variables is addresses else 1000)
        parts = variables[name][1:-1].split(",")
        return [leaf for part in parts for leaf in (spelled_out(variables, part[1:]) if part.startswith("$") else [part])]

    hosts = list(dict.fromkeys(item["address"] for item in entries))
    assert spelled_out(addresses, "PORTFENCE_HOSTS") == hosts
    names = [name for name in ports if re.fullmatch(r"PORTFENCE_(X_){16}_[0-9A-F]{8}(_TCP\w+5555)?_PORTS", name)]
    assert sorted(len(spelled_out(ports, name)) for name in names) == [1, 5000, 5000]
