# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The compiled fence admits exactly what the policy says: random policies, random packets.

Three readings have to agree: the nftables text as the kernel takes it (nft_model), the backend-neutral
:meth:`Ruleset.judge`, and the policy itself, read here as the user wrote it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict, List, Mapping, Optional, Set, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_list, parse_variables
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import Packet
from ansible_collections.portfence.egress.plugins.module_utils._service import LOG_LEVELS, ON_VIOLATION, PROTOCOLS
from ansible_collections.portfence.egress.tests.unit.nft_model import OPENING, Chances, Fate, Frame, read, send
from ansible_collections.portfence.egress.tests.unit.pipeline import compile_policy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

OWNERS = range(1000, 1005)
NAMES = st.text(alphabet="abcXYZ019_.-", min_size=1, max_size=6).filter(lambda name: name[0] not in ".-")


@st.composite
def policies(draw: st.DrawFn) -> Dict[str, Dict[str, Any]]:
    """Services without mistakes. Their ports lie side by side at one end of the scale, and they share no owner."""
    names = draw(st.lists(NAMES, min_size=2, max_size=4, unique=True))
    pieces = draw(st.lists(st.tuples(st.sampled_from([*names, None]), st.integers(1, 4)), min_size=3, max_size=9))
    port = draw(st.sampled_from([1, 65536 - sum(size for _owner, size in pieces)]))
    ports: Dict[Optional[str], List[str]] = {}
    for owner, size in pieces:
        ports.setdefault(owner, []).append(f"{port}-{port + size - 1}")
        port += size
    users = draw(st.tuples(*(st.sampled_from([*names, None]) for _owner in OWNERS)))
    groups = draw(st.tuples(*(st.sampled_from([*names, None]) for _owner in OWNERS)))
    services: Dict[str, Dict[str, Any]] = {}
    for name in names:
        selector, owners = draw(st.sampled_from([("user", users), ("group", groups)]))
        own = [number for number, owner in zip(OWNERS, owners) if owner == name]
        if name not in ports or not own:
            continue
        assignments = ["rewrite", "app"]
        if len(ports[name]) == 1 and all(other["assignment"] != "host" for other in services.values()):
            assignments.append("host")
        assignment = draw(st.sampled_from(assignments))
        services[name] = {
            selector: own,
            "source_ports": ports[name],
            "protocols": draw(st.lists(st.sampled_from(PROTOCOLS), min_size=1, unique=True)),
            "assignment": assignment,
            "on_violation": draw(st.sampled_from(ON_VIOLATION)),
            "exclusive": assignment != "host" and draw(st.booleans()),
            "loopback": draw(st.booleans()),
            "log": {"level": draw(st.sampled_from(LOG_LEVELS)), "rate": draw(st.sampled_from(["1/day", "10/second"]))},
        }
    return services


def numbers(service: Mapping[str, Any]) -> Set[int]:
    """The ports of a service."""
    bounds = [part.split("-") for part in service["source_ports"]]
    return {port for low, high in bounds for port in range(int(low), int(high) + 1)}


@st.composite
def frames(draw: st.DrawFn, services: Mapping[str, Mapping[str, Any]]) -> Frame:
    """Packets of the owners and of others, mostly with ports of the services or next to them."""
    near = sorted({port + step for service in services.values() for port in numbers(service) for step in (-1, 0, 1)})
    protocols = sorted({protocol for service in services.values() for protocol in service["protocols"]})
    uid = draw(st.sampled_from([*OWNERS, 0, None]))
    return Frame(
        protocol=draw(st.sampled_from(protocols * 2 + [*PROTOCOLS, "icmp"])),
        sport=min(65535, max(0, draw(st.sampled_from([*near, 40000])))),
        uid=uid,
        gid=None if uid is None else draw(st.sampled_from([*OWNERS, 0])),
        loopback=draw(st.sampled_from([False, False, True])),
        new=draw(st.booleans()),
    )


@st.composite
def situations(draw: st.DrawFn) -> Tuple[Dict[str, Dict[str, Any]], List[Frame]]:
    """A policy, and packets under it."""
    services = draw(policies())
    return services, draw(st.lists(frames(services), min_size=4, max_size=10))


@dataclass(frozen=True)
class Verdict:
    """What the policy says of an opening packet: its fate, whose ports it must leave with, and who counts it."""

    fate: str
    moved_to: Optional[str] = None
    counted: Tuple[str, ...] = ()


def read_directly(services: Mapping[str, Mapping[str, Any]], frame: Frame) -> Verdict:
    """The policy as a person reads it."""
    concerned = {
        name: service
        for name, service in services.items()
        if frame.protocol in service["protocols"] and (service["loopback"] or not frame.loopback)
    }
    by_user = [name for name, service in concerned.items() if frame.uid in service.get("user", ())]
    by_group = [name for name, service in concerned.items() if frame.gid in service.get("group", ())]
    if by_user or by_group:
        (own,) = by_user or by_group
        service = services[own]
        if frame.uid == 0 and not by_user:
            return Verdict("accept")  # root with a group of the service is not the service
        if service["assignment"] == "rewrite" and frame.new:
            return Verdict("accept", moved_to=own)
        if frame.sport in numbers(service):
            return Verdict("accept")
        fate = {"drop": "drop", "log": "accept", "reject": "drop" if service["assignment"] == "rewrite" else "reject"}
        return Verdict(fate[service["on_violation"]], counted=(f"violations_{own}",))
    if frame.uid is not None:
        for name, service in concerned.items():
            if service["exclusive"] and frame.sport in numbers(service):
                return Verdict("accept" if service["on_violation"] == "log" else "drop", counted=(f"intrusions_{name}",))
    return Verdict("accept")


@given(situations(), st.data())
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_the_fence_admits_exactly_what_the_policy_says(
    situation: Tuple[Dict[str, Dict[str, Any]], List[Frame]], data: st.DataObject
) -> None:
    services, packets = situation
    compiled = compile_policy({"egress_services": services})
    assert compiled.problems == ()
    tables = read(compiled.fence.body)
    assert tables.get("ip") == tables.get("ip6")
    limited = data.draw(st.booleans(), label="log limit is used up")
    chances = Chances(
        limited=limited,
        random=lambda modulus: data.draw(st.integers(0, modulus - 1), label="random"),
        pick=lambda low, high: data.draw(st.integers(low, high), label="port"),
    )
    for frame in packets:
        fate = send(tables, frame, chances=chances)
        expected = read_directly(services, frame)
        assert (fate.verdict, fate.counted) == (expected.fate, expected.counted)
        assert len(fate.logged) == (0 if limited else len(fate.counted))
        mover = read_directly(services, replace(frame, new=True, loopback=False)).moved_to
        zoned = mover is not None and frame.protocol != "tcp" and not frame.loopback
        assert fate.zone == (min(numbers(services[mover])) if zoned else 0)
        if expected.moved_to is None:
            assert fate.sport == frame.sport
        else:
            assert fate.sport in numbers(services[expected.moved_to])
            if frame.sport in numbers(services[expected.moved_to]):
                assert fate.sport == frame.sport, "a port inside is kept"


@given(situations())
def test_the_text_and_the_ruleset_agree(situation: Tuple[Dict[str, Dict[str, Any]], List[Frame]]) -> None:
    services, packets = situation
    compiled = compile_policy({"egress_services": services})
    tables = read(compiled.fence.body)
    for frame in packets:
        packet = Packet(frame.protocol, frame.sport, uid=frame.uid, gid=frame.gid, loopback=frame.loopback)
        breach, name = compiled.ruleset.judge(packet)
        # A packet that no NAT touches any more has its final port.
        fate = send({"inet": tables["inet"]}, frame)
        assert fate.counted == (() if name is None else (f"{breach}s_{name}",))
        blocks = {rules.name: rules.blocks for rules in compiled.ruleset.services}
        assert (fate.verdict == "accept") == (name is None or not blocks[name])


@given(situations(), st.sets(st.sampled_from(["fin", "syn", "rst", "ack", "psh", "ece", "cwr"])))
def test_only_what_opens_a_connection_is_looked_at(
    situation: Tuple[Dict[str, Dict[str, Any]], List[Frame]], flags: Set[str]
) -> None:
    """Replies of a server, live sessions and sessions that are older than the fence pass, with the port that they have."""
    services, packets = situation
    tables = read(compile_policy({"egress_services": services}).fence.body)
    for frame in packets:
        opens = flags & {"fin", "syn", "rst", "ack"} == OPENING
        tcp = Frame("tcp", frame.sport, frame.uid, frame.gid, frame.loopback, flags=frozenset(flags))
        if opens:
            assert send(tables, tcp) == send(tables, Frame("tcp", frame.sport, frame.uid, frame.gid, frame.loopback))
        else:
            assert send(tables, tcp) == Fate("accept", frame.sport)
        if frame.protocol != "tcp":
            reply = Frame(frame.protocol, frame.sport, frame.uid, frame.gid, frame.loopback, reply=True, new=False)
            assert replace(send(tables, reply), zone=0) == Fate("accept", frame.sport)


@given(policies())
def test_services_survive_being_written_and_read(services: Dict[str, Dict[str, Any]]) -> None:
    parsed = parse_variables({"egress_services": services})
    assert tuple(item.service for item in parse_list([service.to_dict() for service in parsed])) == parsed


@given(policies(), st.randoms(use_true_random=False))
def test_the_text_does_not_depend_on_order(services: Dict[str, Dict[str, Any]], random: Any) -> None:
    first = compile_policy({"egress_services": services}).fence
    shuffled = list(services.items())
    random.shuffle(shuffled)
    for _name, service in shuffled:
        for key in ("user", "group", "source_ports", "protocols"):
            service[key] = random.sample(service.get(key, []), len(service.get(key, [])))
    assert compile_policy({"egress_services__b": dict(shuffled)}).fence.text == first.text
