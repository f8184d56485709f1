# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fence of iptables treats every packet as the fence of nftables does: random policies, random packets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Set, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._iptables import NAT_PROTOCOLS, is_ours
from ansible_collections.portfence.egress.tests.unit import iptables_model, nft_model
from ansible_collections.portfence.egress.tests.unit.nft_model import OPENING, Chances, Fate, Frame
from ansible_collections.portfence.egress.tests.unit.pipeline import compile_policy
from ansible_collections.portfence.egress.tests.unit.test_fence_properties import numbers, policies, read_directly, situations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def expressible(services: Dict[str, Dict[str, Any]]) -> Dict[str, Dict[str, Any]]:
    """The policy without what iptables can't match or give ports to."""
    found = {}
    for name, service in services.items():
        if "unit" in service or "addresses" in service:
            continue
        protocols = service["protocols"]
        if service["assignment"] == "rewrite":
            protocols = [protocol for protocol in protocols if protocol in NAT_PROTOCOLS]
        if protocols:
            found[name] = {**service, "protocols": protocols}
    return found


def own_packets(frames: List[Frame]) -> List[Frame]:
    """Packets of this host's programs, as far as iptables looks at them."""
    return [replace(frame, mark=0) for frame in frames if frame.address is None]


@given(situations(), st.data())
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_both_backends_give_a_packet_the_same_fate(
    situation: Tuple[Dict[str, Dict[str, Any]], List[Frame]], data: st.DataObject
) -> None:
    services, packets = expressible(situation[0]), own_packets(situation[1])
    compiled = compile_policy({"egress_services": services})
    rules, tables = iptables_model.read(compiled.rules.rules(4)), nft_model.read(compiled.fence.body)
    chances = Chances(limited=data.draw(st.booleans(), label="log limit is used up"), pick=lambda low, high: high)
    for frame in packets:
        fate, other = iptables_model.send(rules, frame, chances=chances), nft_model.send(tables, frame, chances=chances)
        assert replace(fate, logged=()) == replace(other, logged=())
        assert len(fate.logged) == len(other.logged)


@given(situations(), st.data())
def test_ports_are_those_of_the_policy(
    situation: Tuple[Dict[str, Dict[str, Any]], List[Frame]], data: st.DataObject
) -> None:
    services, packets = expressible(situation[0]), own_packets(situation[1])
    rules = iptables_model.read(compile_policy({"egress_services": services}).rules.rules(6))
    chances = Chances(
        random=lambda modulus: data.draw(st.integers(0, modulus - 1), label="random"),
        pick=lambda low, high: data.draw(st.integers(low, high), label="port"),
    )
    for frame in packets:
        fate, expected = iptables_model.send(rules, frame, chances=chances), read_directly(services, frame)
        assert (fate.verdict, fate.counted) == (expected.fate, expected.counted)
        if expected.moved_to is None:
            assert fate.sport == frame.sport
        else:
            own = numbers(services[expected.moved_to])
            assert fate.sport in own and (frame.sport not in own or fate.sport == frame.sport)


@given(situations(), st.sets(st.sampled_from(["fin", "syn", "rst", "ack", "psh", "ece", "cwr"])))
def test_only_what_opens_a_connection_is_looked_at(
    situation: Tuple[Dict[str, Dict[str, Any]], List[Frame]], flags: Set[str]
) -> None:
    services, packets = expressible(situation[0]), own_packets(situation[1])
    rules = iptables_model.read(compile_policy({"egress_services": services}).rules.rules(4))
    for frame in packets:
        tcp = replace(frame, protocol="tcp", flags=frozenset(flags))
        if flags & {"fin", "syn", "rst", "ack"} != OPENING:
            assert iptables_model.send(rules, tcp) == Fate("accept", frame.sport)
        if frame.protocol != "tcp":
            reply = replace(frame, reply=True, new=False)
            assert replace(iptables_model.send(rules, reply), zone=0) == Fate("accept", frame.sport)


@given(policies())
def test_the_families_differ_in_how_they_refuse_alone(services: Dict[str, Dict[str, Any]]) -> None:
    fence = compile_policy({"egress_services": expressible(services)}).rules
    assert fence.rules(6).replace("icmp6-port-unreachable", "icmp-port-unreachable") == fence.rules(4)
    assert all(is_ours(chain) for chains in fence.families[4].values() for chain in chains)


@given(policies(), st.randoms(use_true_random=False))
def test_the_rules_do_not_depend_on_order(services: Dict[str, Dict[str, Any]], random: Any) -> None:
    services = expressible(services)
    first = compile_policy({"egress_services": services}).rules
    shuffled = list(services.items())
    random.shuffle(shuffled)
    for _name, service in shuffled:
        for key in ("user", "group", "source_ports", "protocols"):
            service[key] = random.sample(service.get(key, []), len(service.get(key, [])))
    assert compile_policy({"egress_services__b": dict(shuffled)}).rules == first
