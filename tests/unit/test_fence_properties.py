# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The compiled fence admits exactly what the policy says: random policies, random packets.

Three readings have to agree: the nftables text as the kernel takes it (nft_model), the backend-neutral
:meth:`Ruleset.judge`, and the policy itself, read here as the user wrote it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_list, parse_variables
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import Packet
from ansible_collections.portfence.egress.plugins.module_utils._service import LOG_LEVELS, ON_VIOLATION, PROTOCOLS
from ansible_collections.portfence.egress.tests.unit.nft_model import OPENING, Chances, Fate, Frame, read, send
from ansible_collections.portfence.egress.tests.unit.pipeline import compile_policy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

OWNERS = range(1000, 1005)
CLASSES = ["0x100001", "0x100002", "0x20000f"]
# Units as a service names them, each with the cgroups of its processes and the name that these have there.
UNITS = {
    "a.service": {"system.slice/a.service": "a.service", "system.slice/a.service/worker": "a.service"},
    "b@.service": {"system.slice/system-b.slice/b@x.service": "b@x.service", "system.slice/system-b.slice/b@y.service": "b@y.service"},
    "c.slice": {"c.slice": "c.slice", "c.slice/run-1.scope": "c.slice"},
}
OTHER_CGROUPS = [None, "system.slice", "system.slice/b.service", "system.slice/system-b.slice", "user.slice/a.service"]
# Networks of containers, each with addresses of it.
NETWORKS = {"10.0.0.0/24": "10.0.0.9", "10.0.1.128/25": "10.0.1.200", "fd00:1::/64": "fd00:1::5"}
OTHER_ADDRESSES = ["10.0.1.1", "fd00:2::1"]
INTERFACES = ["br-1", "br-2"]
OTHER_SELECTORS = ("classid", "unit", "addresses")
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
    classes = draw(st.permutations(CLASSES))
    units = draw(st.tuples(*(st.sampled_from([*names, None]) for _unit in UNITS)))
    networks = draw(st.tuples(*(st.sampled_from([*names, None]) for _network in NETWORKS)))
    services: Dict[str, Dict[str, Any]] = {}
    for name in names:
        selector = draw(st.sampled_from(["user", "user", "group", "group", *OTHER_SELECTORS]))
        own: Any = {
            "user": [number for number, owner in zip(OWNERS, users) if owner == name],
            "group": [number for number, owner in zip(OWNERS, groups) if owner == name],
            "unit": [unit for unit, owner in zip(UNITS, units) if owner == name],
            "addresses": [network for network, owner in zip(NETWORKS, networks) if owner == name],
            "classid": classes.pop() if selector == "classid" and classes else None,
        }[selector]
        if name not in ports or not own:
            continue
        assignments = ["rewrite", "app"]
        host = len(ports[name]) == 1 and all(other["assignment"] != "host" for other in services.values())
        if host and selector != "addresses":
            assignments.append("host")
        assignment = draw(st.sampled_from(assignments))
        services[name] = {
            selector: own,
            "source_ports": ports[name],
            "protocols": draw(st.lists(st.sampled_from(PROTOCOLS), min_size=1, unique=True)),
            "assignment": assignment,
            "on_violation": draw(st.sampled_from(ON_VIOLATION)),
            "exclusive": assignment != "host" and draw(st.booleans()),
            "loopback": selector != "addresses" and draw(st.booleans()),
            "log": {"level": draw(st.sampled_from(LOG_LEVELS)), "rate": draw(st.sampled_from(["1/day", "10/second"]))},
        }
        if selector == "addresses":
            services[name].update(interface=draw(st.sampled_from([None, *INTERFACES])), masquerade=draw(st.booleans()))
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
    frame = Frame(
        protocol=draw(st.sampled_from(protocols * 2 + [*PROTOCOLS, "icmp"])),
        sport=min(65535, max(0, draw(st.sampled_from([*near, 40000])))),
        new=draw(st.booleans()),
        # The half of the mark that is for others.
        mark=draw(st.sampled_from([0, 0xBEEF])),
    )
    if draw(st.integers(0, 3)) == 0:
        address = draw(st.sampled_from([*NETWORKS.values(), *OTHER_ADDRESSES]))
        near_by = [other for other in NETWORKS.values() if (":" in other) == (":" in address)]
        far = "2001:db8::1" if ":" in address else "192.0.2.1"
        destination = draw(st.sampled_from([far, far, *near_by]))
        return replace(frame, address=address, destination=destination, interface=draw(st.sampled_from([*INTERFACES, "eth1"])))
    uid = draw(st.sampled_from([*OWNERS, 0, None]))
    if uid is None:
        return replace(frame, loopback=draw(st.booleans()))
    return replace(
        frame,
        uid=uid,
        gid=draw(st.sampled_from([*OWNERS, 0])),
        classid=draw(st.sampled_from([0, *(int(number, 16) for number in CLASSES)])),
        cgroup=draw(st.sampled_from([*OTHER_CGROUPS, *(path for paths in UNITS.values() for path in paths)])),
        loopback=draw(st.sampled_from([False, False, True])),
    )


def family(frame: Frame) -> str:
    """As nftables names it."""
    return "ip6" if ":" in (frame.address or "") else "ip"


def unit_of(frame: Frame) -> Optional[str]:
    """The unit of a packet's cgroup, as a service names it."""
    return next((unit for unit, paths in UNITS.items() if frame.cgroup in paths), None)


def leaves_its_network(frame: Frame, networks: Sequence[str]) -> bool:
    """Whether a forwarded packet goes to no address of its service's networks."""
    return not any(ipaddress.ip_address(frame.destination) in ipaddress.ip_network(network) for network in networks)


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
    own: Optional[str] = None
    if frame.address is not None:
        address = ipaddress.ip_address(frame.address)
        for name, service in concerned.items():
            networks = service.get("addresses", ())
            inside = any(address in ipaddress.ip_network(network) for network in networks)
            if inside and service["interface"] in (None, frame.interface) and leaves_its_network(frame, networks):
                own = name
    elif frame.uid is not None:
        candidates = [
            *(name for name, service in concerned.items() if unit_of(frame) in service.get("unit", ())),
            *(name for name, service in concerned.items() if frame.classid == int(service.get("classid", "-1"), 16)),
            *(name for name, service in concerned.items() if frame.uid in service.get("user", ())),
            *(name for name, service in concerned.items() if frame.gid in service.get("group", ())),
        ]
        own = candidates[0] if candidates else None
    if own is not None:
        service = services[own]
        if frame.uid == 0 and "group" in service:
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
    tables = read(compiled.fence.body, members=compiled.fence.members)
    if not any("addresses" in service for service in services.values()):
        assert tables.get("ip") == tables.get("ip6")
    limited = data.draw(st.booleans(), label="log limit is used up")
    chances = Chances(
        limited=limited,
        random=lambda modulus: data.draw(st.integers(0, modulus - 1), label="random"),
        pick=lambda low, high: data.draw(st.integers(low, high), label="port"),
    )
    for frame in packets:
        fate = send(tables, frame, family=family(frame), chances=chances)
        expected = read_directly(services, frame)
        assert (fate.verdict, fate.counted) == (expected.fate, expected.counted)
        assert fate.mark == frame.mark or fate.verdict == "reject", "what is marked is cleared before it leaves"
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
        mover = None if expected.moved_to is None else services[expected.moved_to]
        assert fate.masqueraded == (mover is not None and "addresses" in mover and mover["masquerade"])


@given(situations())
def test_the_text_and_the_ruleset_agree(situation: Tuple[Dict[str, Dict[str, Any]], List[Frame]]) -> None:
    services, packets = situation
    compiled = compile_policy({"egress_services": services})
    tables = read(compiled.fence.body, members=compiled.fence.members)
    for frame in packets:
        if frame.address is not None and not leaves_its_network(frame, list(NETWORKS)):
            continue  # what stays in a network is not told to the ruleset
        packet = Packet(
            frame.protocol,
            frame.sport,
            uid=frame.uid,
            gid=frame.gid,
            loopback=frame.loopback,
            classid=frame.classid,
            unit=next((names[frame.cgroup] for names in UNITS.values() if frame.cgroup in names), None),
            address=frame.address,
            interface=frame.interface,
        )
        breach, name = compiled.ruleset.judge(packet)
        # A packet that no NAT touches any more has its final port.
        fate = send({"inet": tables["inet"]}, frame, family=family(frame))
        assert fate.counted == (() if name is None else (f"{breach}s_{name}",))
        blocks = {rules.name: rules.blocks for rules in compiled.ruleset.services}
        assert (fate.verdict == "accept") == (name is None or not blocks[name])


@given(situations(), st.sets(st.sampled_from(["fin", "syn", "rst", "ack", "psh", "ece", "cwr"])))
def test_only_what_opens_a_connection_is_looked_at(
    situation: Tuple[Dict[str, Dict[str, Any]], List[Frame]], flags: Set[str]
) -> None:
    """Replies of a server, live sessions and sessions that are older than the fence pass, with the port that they have."""
    services, packets = situation
    fence = compile_policy({"egress_services": services}).fence
    tables = read(fence.body, members=fence.members)
    for frame in packets:
        tcp = replace(frame, protocol="tcp", flags=frozenset(flags))
        if flags & {"fin", "syn", "rst", "ack"} == OPENING:
            assert send(tables, tcp, family=family(frame)) == send(tables, replace(tcp, flags=OPENING), family=family(frame))
        else:
            assert send(tables, tcp, family=family(frame)) == Fate("accept", frame.sport, mark=frame.mark)
        if frame.protocol != "tcp":
            reply = replace(frame, reply=True, new=False)
            assert replace(send(tables, reply, family=family(frame)), zone=0) == Fate("accept", frame.sport, mark=frame.mark)


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
        for key in ("user", "group", "unit", "addresses", "source_ports", "protocols"):
            service[key] = random.sample(service.get(key, []), len(service.get(key, [])))
    assert compile_policy({"egress_services__b": dict(shuffled)}).fence.text == first.text
