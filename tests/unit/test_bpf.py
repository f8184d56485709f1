# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services → bytes of the maps → commands of bpftool."""

from __future__ import annotations

import struct
from math import gcd
from typing import Any, Dict

import pytest
from ansible_collections.portfence.egress.plugins.module_utils import _bpf
from ansible_collections.portfence.egress.plugins.module_utils._bpf_boot import HOOKS, SCRIPT, drop_ins, unit_text
from ansible_collections.portfence.egress.plugins.module_utils._bpf_object import bpf_object
from ansible_collections.portfence.egress.plugins.module_utils._cgroups import UnitCgroup
from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_list
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Resolved
from ansible_collections.portfence.egress.plugins.module_utils._service import Service
from hypothesis import given
from hypothesis import strategies as st

FOLDER = "/maps"


def service(**keys: Any) -> Service:
    """A service with assignment bpf."""
    (declared,) = parse_list([{"name": "myapp", "source_ports": "50000-50999", "assignment": "bpf", **keys}])
    return declared.service


def fields(data: bytes) -> Dict[str, Any]:
    """``struct service`` of the program, field by field."""
    numbers = struct.unpack("<56I", data)
    names = ("flags", "ports", "tries", "alone")
    return {
        **dict(zip(names, numbers)),
        "strides": numbers[4:8],
        "start": numbers[8:24],
        "low": numbers[24:40],
        "size": numbers[40:],
    }


def port_at(found: Dict[str, Any], position: int) -> int:
    """What the program makes of a position."""
    index = max(index for index in range(16) if found["start"][index] <= position)
    return int(found["low"][index] + position - found["start"][index])


@pytest.mark.parametrize(
    ("keys", "flags"),
    [
        ({}, 0b1110),
        ({"assignment": "auto"}, 0b1100),
        ({"loopback": True}, 0b1111),
        ({"protocols": ["tcp"]}, 0b0110),
        ({"protocols": ["udp", "sctp"]}, 0b1010),
    ],
)
def test_flags(keys: Dict[str, Any], flags: int) -> None:
    """Loopback 1, strict bind 2, TCP 4, UDP 8."""
    assert fields(_bpf.service_bytes(service(**keys)))["flags"] == flags


@pytest.mark.parametrize(
    ("ports", "shared", "tries", "alone"),
    [
        (10, False, 10, 2**32 - 1),
        (5000, False, 1024, 2**32 - 1),
        (10, True, 20, 10),
        (1000, True, 1024, 32),
    ],
)
def test_tries(ports: int, shared: bool, tries: int, alone: int) -> None:
    """Every port of a small set is tried; sharing begins after some tries without."""
    found = fields(_bpf.service_bytes(service(source_ports=f"50000-{49999 + ports}", share_ports=shared)))
    assert (found["ports"], found["tries"], found["alone"]) == (ports, tries, alone)


@given(st.lists(st.tuples(st.integers(1, 65535), st.integers(0, 3000)), min_size=1, max_size=16))
def test_every_port_has_one_position_and_every_stride_meets_all(parts: Any) -> None:
    """The search of the program finds each port once."""
    wanted = service(source_ports=[f"{low}-{min(low + more, 65535)}" for low, more in parts])
    found = fields(_bpf.service_bytes(wanted))
    assert found["ports"] == wanted.source_ports.size
    assert [port_at(found, position) for position in range(found["ports"])] == [
        port for part in wanted.source_ports for port in range(part.low, part.high + 1)
    ]
    assert all(stride < found["ports"] and gcd(stride, found["ports"]) == 1 for stride in found["strides"])
    assert sum(found["size"]) == found["ports"]


def test_limits() -> None:
    """What the programs can't do is said; the limits themselves are within."""
    odd = [50001 + 2 * number for number in range(17)]
    assert _bpf.limit(service(source_ports=odd[:16])) is None
    assert _bpf.limit(service(source_ports=odd)) == "its source_ports have 17 ranges, and bpf takes 16"
    assert _bpf.limit(service(assignment="auto", group="staff")) == "its selector is group, and bpf takes user and unit"
    assert _bpf.limit(service(unit="worker.service")) is None
    assert "batch.slice is a slice" in str(_bpf.limit(service(unit="batch.slice")))
    few = [Resolved(service(), tuple(range(16384)), ())]
    assert _bpf.too_many(few) is None
    assert _bpf.too_many([Resolved(service(), tuple(range(16385)), ())]) is not None


def maps(*services: Service, cgroups: Any = None) -> _bpf.Maps:
    """Maps of services whose UIDs are 991, 992, …"""
    resolved = [
        Resolved(item, () if item.units else (991 + index,), (), tuple(UnitCgroup(unit, "system.slice") for unit in item.units))
        for index, item in enumerate(services)
    ]
    return _bpf.maps_of(resolved, cgroups=cgroups or {})


def test_maps_lead_from_owner_to_service() -> None:
    """By UID, by cgroup; levels are looked at when there is a unit only."""
    plain = maps(service())
    assert plain.by_uid == {struct.pack("<I", 991): b"myapp".ljust(32, b"\0")}
    assert list(plain.services) == [b"myapp".ljust(32, b"\0")]
    assert plain.levels == {bytes(4): bytes(4)}
    unit = maps(service(unit="worker.service"), cgroups={77: "myapp"})
    assert unit.by_uid == {} and unit.by_cgroup == {struct.pack("<Q", 77): b"myapp".ljust(32, b"\0")}
    assert unit.levels == {bytes(4): struct.pack("<I", 0xFFFE)}


def test_a_service_comes_before_its_owners_and_goes_after_them() -> None:
    """At no moment an owner leads to nothing."""
    old, new = maps(service(name="old", source_ports=50000)), maps(service(name="new", source_ports=51000))
    steps = [" ".join(command.split()[1:4]) for command in _bpf.changes(old, new, folder=FOLDER)]
    assert steps == [f"update pinned {FOLDER}/services", f"update pinned {FOLDER}/by_uid", f"delete pinned {FOLDER}/services"]


def test_nothing_is_done_where_nothing_differs() -> None:
    """And only what differs is written."""
    one = maps(service(), service(name="other", source_ports=52000))
    assert _bpf.changes(one, one, folder=FOLDER) == []
    two = maps(service(), service(name="other", source_ports=52001))
    (command,) = _bpf.changes(one, two, folder=FOLDER)
    assert command.startswith(f"map update pinned {FOLDER}/services key hex 6f 74 68 65 72 00")


def test_fill_is_read_back() -> None:
    """What the commands write is what a dump of the maps gives."""
    wanted = maps(service(unit="worker.service"), cgroups={77: "myapp"})
    written: Dict[str, Any] = {name: [] for name in _bpf.NAMES}
    for command in _bpf.fill(wanted, folder=FOLDER):
        words = command.split()
        value = words.index("value")
        element = {"key": [f"0x{byte}" for byte in words[6:value]], "value": [f"0x{byte}" for byte in words[value + 2 :]]}
        written[words[3].rpartition("/")[2]].append(element)
    assert _bpf.Maps(**{name: _bpf.parse_dump(dump) for name, dump in written.items()}) == wanted


@pytest.mark.parametrize("dump", [None, [{}], [{"key": ["0x1g"], "value": []}], [{"key": [1], "value": []}]])
def test_dumps_that_are_none(dump: Any) -> None:
    """Are an error with a message."""
    with pytest.raises(PortFenceError, match="no map"):
        _bpf.parse_dump(dump)


def test_outputs_of_a_batch() -> None:
    """Up to the command that failed; what bpftool says about the batch itself is none."""
    good = '{"command":["map"],"output":[]}'
    assert _bpf.parse_outputs(f'[{good},{{"error":"reading batch file failed: Bad file descriptor"}}]') == [[]]
    assert _bpf.parse_outputs(f'[{good},{{"command":["prog"],"output":{{"error":"no such file"}}}}]') == [[]]
    with pytest.raises(PortFenceError, match="something else"):
        _bpf.parse_outputs("Error")


def test_attached() -> None:
    """Ours by name, whatever the version calls the hooks; an empty line is an empty list."""
    assert _bpf.parse_attached("\n", HOOKS) == []
    text = '[{"id":7,"attach_type":"connect4","name":"portfence_conn4"},{"id":8,"attach_type":"device","name":"sd_devices"}]'
    assert _bpf.parse_attached(text, HOOKS) == [("connect4", 7)]
    with pytest.raises(PortFenceError, match="no list of programs"):
        _bpf.parse_attached("Error", HOOKS)


def test_object_is_for_every_little_endian_machine() -> None:
    """An ELF file for eBPF with the names that the host side looks for."""
    data = bpf_object()
    assert data[:6] == b"\x7fELF\x02\x01"
    assert struct.unpack_from("<H", data, 18) == (247,)  # EM_BPF
    assert len(data) < 20_000
    for name in (*HOOKS, *_bpf.NAMES):
        assert name.encode() + b"\0" in data
        assert len(name) < 16  # BPF_OBJ_NAME_LEN


def test_texts_for_boot() -> None:
    """The unit comes before the network; a unit of a service joins before it starts and leaves when it has stopped."""
    unit = unit_text(cgroup="/sys/fs/cgroup")
    assert "Before=sysinit.target network-pre.target shutdown.target\n" in unit
    assert "; exec /bin/sh /etc/portfence/bpf-load load /etc/portfence /sys/fs/cgroup'\n" in unit
    ((path, text),) = drop_ins({"worker@.service": "myapp"}, cgroup="/sys/fs/cgroup").items()
    assert path == "/etc/systemd/system/worker@.service.d/60-portfence-bpf.conf"
    assert "ExecStartPre=-+/bin/sh /etc/portfence/bpf-load join /sys/fs/cgroup myapp\n" in text
    assert "." not in SCRIPT.partition("now=")[2].partition("\n")[0]  # bpffs takes no dots
