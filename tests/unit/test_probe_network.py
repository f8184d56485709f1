# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes: addresses, ports, packets and answers, as far as they can be looked at without a network."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any, Dict, Optional, Set

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError
from ansible_collections.portfence.egress.plugins.module_utils._netns import BLOCKS, Ends, free_ends
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet
from ansible_collections.portfence.egress.plugins.module_utils._probe import Account, Attempt
from ansible_collections.portfence.egress.plugins.module_utils._probe_client import held_for, off_beat, read_answer
from ansible_collections.portfence.egress.plugins.module_utils._probe_peer import Arrival, parse_opening
from ansible_collections.portfence.egress.plugins.module_utils._probe_responder import answer
from ansible_collections.portfence.egress.plugins.module_utils._probe_run import check_timeout, parse_target
from ansible_collections.portfence.egress.plugins.module_utils._probe_slots import Slots, shuffled, slots_for
from hypothesis import given
from hypothesis import strategies as st

IPV4 = BLOCKS["ipv4"][0]
IPV6 = BLOCKS["ipv6"][0]


def test_ends_of_the_first_free_network() -> None:
    assert free_ends(IPV4, taken=[], start=0) == Ends("198.51.100.1", "198.51.100.2", 30)
    assert free_ends(IPV4, taken=["198.51.100.2"], start=0) == Ends("198.51.100.5", "198.51.100.6", 30)
    assert free_ends(IPV4, taken=["198.51.100.128/25", "198.51.100.1"], start=32) == Ends("198.51.100.5", "198.51.100.6", 30)
    assert free_ends(IPV4, taken=["198.51.100.0/24"], start=7) is None
    assert free_ends(IPV6, taken=["2001:db8:ff::/64"], start=0) == Ends("2001:db8:ff:1::1", "2001:db8:ff:1::2", 126)


@given(st.integers(0, 65535), st.sets(st.integers(0, 255), max_size=60))
def test_ends_never_touch_what_is_taken(start: int, used: Set[int]) -> None:
    taken = [f"198.51.100.{number}" for number in used]
    ends = free_ends(IPV4, taken=taken, start=start)
    assert ends is not None or len(used) >= 64
    if ends is not None:
        network = ipaddress.ip_interface(f"{ends.host}/{ends.length}").network
        assert network.subnet_of(ipaddress.IPv4Network("198.51.100.0/24"))
        assert not any(ipaddress.ip_address(address) in network for address in taken)
        assert {ipaddress.ip_address(ends.host), ipaddress.ip_address(ends.peer)} == set(network.hosts())


def ipv4(protocol: int, payload: bytes, *, options: bytes = b"", fragment: int = 0) -> bytes:
    words = (20 + len(options)) // 4
    head = struct.pack("!BBHHHBBHII", 0x40 | words, 0, 20 + len(payload), 1, fragment, 64, protocol, 0, 1, 2)
    return head + options + payload


def ipv6(protocol: int, payload: bytes) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + bytes(32) + payload


def tcp(flags: int, source_port: int = 50001, port: int = 40000) -> bytes:
    return struct.pack("!HHIIBBHHH", source_port, port, 1, 0, 5 << 4, flags, 0, 0, 0)


UDP = struct.pack("!HHHH", 50002, 40000, 8, 0)
SYN, ACK, RST = 0x02, 0x10, 0x04


def test_openings_are_recognised() -> None:
    assert parse_opening(ipv4(6, tcp(SYN)), "ipv4") == Arrival("tcp", "ipv4", 50001, 40000)
    assert parse_opening(ipv4(6, tcp(SYN | 0xC0), options=bytes(8)), "ipv4") == Arrival("tcp", "ipv4", 50001, 40000)
    assert parse_opening(ipv6(6, tcp(SYN)), "ipv6") == Arrival("tcp", "ipv6", 50001, 40000)
    assert parse_opening(ipv4(17, UDP), "ipv4") == Arrival("udp", "ipv4", 50002, 40000)
    assert parse_opening(ipv6(17, UDP), "ipv6") == Arrival("udp", "ipv6", 50002, 40000)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        ipv4(6, tcp(ACK)),
        ipv4(6, tcp(SYN | ACK)),
        ipv4(6, tcp(RST)),
        ipv4(6, tcp(SYN)[:13]),
        ipv4(17, UDP[:7]),
        ipv4(1, bytes(20)),
        ipv4(17, UDP, fragment=8),
    ],
)
def test_anything_else_is_no_opening(packet: bytes) -> None:
    assert parse_opening(packet, "ipv4") is None


@given(st.binary(max_size=80), st.sampled_from(["ipv4", "ipv6"]))
def test_no_packet_is_too_strange(packet: bytes, family: str) -> None:
    found = parse_opening(packet, family)
    assert found is None or found.family == family


@given(st.integers(1, 65535))
def test_answers_are_read_as_they_were_given(port: int) -> None:
    assert read_answer(answer(port)) == port


@given(st.floats(0.1, 60.0))
def test_waiting_does_not_end_near_a_retransmission(timeout: float) -> None:
    wait = off_beat(timeout)
    assert timeout <= wait <= timeout + 0.3
    assert wait < 0.96 or 0.19 < wait % 1.0 < 0.96


@pytest.mark.parametrize(
    ("slowest", "seconds"),
    [
        pytest.param(0.001, 0.25, id="others arrive at once"),
        pytest.param(0.1, 0.5, id="others take a moment"),
        pytest.param(0.2, 3.2, id="others take so long that the segment would be sent again"),
        pytest.param(None, 3.2, id="nothing arrives"),
    ],
)
def test_what_should_not_arrive_is_waited_for_as_long_as_others_take(slowest: Optional[float], seconds: float) -> None:
    assert held_for(slowest, 3.0) == pytest.approx(seconds)


@pytest.mark.parametrize(("data", "port"), [(b"50000", 50000), (b" 7\r\n", 7), (b"", None), (b"SSH-2.0", None), (b"-1\n", None), (b"123456\n", None)])
def test_strange_answers(data: bytes, port: Optional[int]) -> None:
    assert read_answer(data) == port


@given(st.lists(st.integers(1, 65535), min_size=1, max_size=20))
def test_every_port_is_tried_once(ports: list[int]) -> None:
    assert sorted(shuffled(PortSet.parse(ports))) == sorted(set(ports))


def attempts(count: int, **changes: Any) -> list[Attempt]:
    return [Attempt("s", "unmodified", "tcp", "ipv4", Account("a", 1, 1), **changes) for _number in range(count)]


def test_slots() -> None:
    assert slots_for(attempts(5), files=1024) == 5
    assert slots_for(attempts(5, skipped="no"), files=1024) == 1
    assert slots_for(attempts(5000), files=1 << 20) == 200
    assert slots_for(attempts(5000), files=500) == 100
    assert slots_for(attempts(5000), files=50) == 1


def attempt(service: str, protocol: str = "tcp") -> Attempt:
    return Attempt(service, "unmodified", protocol, "ipv4", Account("a", 1, 1))


def test_a_slot_is_had_by_one_attempt_at_a_time() -> None:
    slots = Slots([1, 2])
    assert [slots.take(attempt(name)) for name in ("a", "b", "c")] == [1, 2, None]
    assert slots.take(attempt("a", "udp")) == 1
    slots.release(attempt("b"), 2)
    assert slots.take(attempt("c")) == 2


def test_a_service_has_each_slot_once_before_it_begins_again() -> None:
    slots = Slots([1, 2, 3])
    assert slots.take(attempt("b")) == 1
    for port in (2, 3):
        assert slots.take(attempt("a")) == port
        slots.release(attempt("a"), port)
    # Two ports are free, but the service has had both.
    assert slots.take(attempt("a")) is None
    slots.release(attempt("b"), 1)
    assert slots.take(attempt("a")) == 1
    assert slots.take(attempt("a")) == 2


def test_a_slot_that_was_put_back_was_not_had() -> None:
    slots = Slots([1])
    assert slots.take(attempt("a")) == 1
    slots.put_back(attempt("a"), 1)
    assert slots.take(attempt("a")) == 1


def target(**given_: Any) -> Dict[str, Any]:
    return {"address4": None, "address6": None, "ports": "40000-40001", **given_}


def test_target() -> None:
    assert parse_target(None) is None
    found = parse_target(target(address4="192.0.2.1", address6="2001:DB8::1"))
    assert found is not None
    assert (found.addresses, found.ports) == ({"ipv4": "192.0.2.1", "ipv6": "2001:db8::1"}, (40000, 40001))


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"address4": "2001:db8::1"}, "target.address4: found '2001:db8::1'; accepted: an IPv4 address"),
        ({"address6": "peer.example"}, "target.address6: found 'peer.example'; accepted: an IPv6 address"),
        ({"address6": "fe80::1%eth0"}, "target.address6: found 'fe80::1%eth0'; accepted: an IPv6 address"),
        ({"address4": "127.0.0.1"}, "target.address4: found 127.0.0.1; accepted: an address of another machine, not a special one"),
        ({"address6": "ff02::1"}, "target.address6: found ff02::1; accepted: an address of another machine, not a special one"),
        ({"ports": "0"}, "target.ports: found '0'; ports lie between 1 and 65535"),
        ({"ports": [1, "x"]}, "target.ports[1]: found 'x'; accepted: a port 50000, a range 50000-51000, or a list of them"),
    ],
)
def test_mistakes_in_the_target(given_: Dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_target(target(**given_))
    assert str(caught.value) == f"the target of the probe has 1 mistake:\n  {message}"


def test_all_mistakes_in_the_target_at_once() -> None:
    with pytest.raises(InputError) as caught:
        parse_target(target(address4="x", address6="y", ports="2-1"))
    assert [problem.path for problem in caught.value.problems] == ["target.address4", "target.address6", "target.ports"]


@pytest.mark.parametrize("seconds", [0.1, 1.0, 60.0])
def test_timeout(seconds: float) -> None:
    check_timeout(seconds)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.09, 61.0, float("nan")])
def test_timeout_out_of_bounds(seconds: float) -> None:
    with pytest.raises(InputError, match="accepted: 0.1 to 60 seconds"):
        check_timeout(seconds)
