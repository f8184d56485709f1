# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever stands in files of ours, and in sysctl.d, is read or refused with a message that names the file."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, Tuple

from ansible_collections.portfence.egress.plugins.module_utils import _classid_files, _counts, _ephemeral_record, _lock_file, _sysctl
from ansible_collections.portfence.egress.plugins.module_utils._counters import Counters
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_boot import RESERVED_KEY
from ansible_collections.portfence.egress.plugins.module_utils._namespace_files import Folder
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet
from ansible_collections.portfence.egress.plugins.module_utils._service import Service
from ansible_collections.portfence.egress.plugins.module_utils._store import FOLDER, PREVIOUS_FILE, PROBE_COUNTS_FILE, Store
from ansible_collections.portfence.egress.tests.fuzz.source import FakeHost, Source, Target, check_message

_SERVICES: Tuple[Any, ...] = (
    Service(name="a", users=("a",), source_ports=PortSet.parse("50000-50999")).to_dict(),
    Service(name="a", units=("a.service",), source_ports=PortSet.parse("1-2,5")).to_dict(),
)
_NAMESPACES: Tuple[Any, ...] = (
    {"name": "a", "source_ports": "50000-50999", "ipv4": "10.9.0.0/30", "ipv6": "fd09::/126", "dns": ["::1"], "units": ["a.service"], "protocols": ["tcp"]},
)
_FORWARDING: Tuple[Any, ...] = ({"opened": ["ipv4", "ipv6"], "kept": ["eth0"]},)
_OWNERS: Tuple[Any, ...] = (
    {
        "namespace": "x",
        "owners": [{"name": "a", "reserved_ports": ["50000-50999"], "local_port_range": "1024-2000", "persist": True}],
        "reserved_before": "1,5-6",
        "range_before": "32768-60999",
    },
)
_COUNTS: Tuple[Any, ...] = (
    {"a": {"violations": {"packets": 5, "of": 7, "counter": "1.2"}, "intrusions": {"packets": 0, "of": 0, "counter": ""}}},
    {},
)
_PREVIOUS: Tuple[Any, ...] = ({"backend": "nftables", "by": "root", "services": list(_SERVICES)},)
_SYSCTL = (
    _ephemeral_record.HEADER
    + "# owner a: reserved_ports=50000-50999 local_port_range=1024-2000\n# before the first owner: local_port_range=32768-60999\n"
    + "net.ipv4.ip_local_port_range = 1024 2000\nnet.ipv4.ip_local_reserved_ports = 1,50000-50999\n",
    "# a comment\n; another\n-net/ipv4/ip_local_reserved_ports=5\nkernel.core_pattern=|/bin/x %p\n",
)
_CLASSIDS = (_classid_files.HEADER + "a 0x100001 a.service b@.service\nb 0x100002\n",)
_UNIT = ("[Unit]\nDescription=x\n[Service]\nUser = alice\nPAMName=login\nExecStart=/bin/true \\\n  User=mallory\n[Install]\n",)
_LOCK = (
    "---\nformat: 1\nserial: 3\nranges:\n"
    "  - {domain: d, host: h, service: a, ports: 16384-16895, since: 2026-01-31}\n"
    "  - {domain: d, host: \"h \u05d0\", service: a, ports: 17000, since: 2026-01-31, until: 2026-02-28, renamed: h}\n"
    "  - {service: \"0\", ports: 20000-20001, since: 2026-01-31}\n",
    "---\nformat: 1\nserial: 0\nranges: []\n",
)  # fmt: skip


def _records(source: Source) -> Dict[str, str]:
    return {
        "service": source.json(_SERVICES),
        "namespace": source.json(_NAMESPACES),
        "forwarding": source.json(_FORWARDING),
        "owners": source.json(_OWNERS),
        "counts": source.json(_COUNTS),
        "previous": source.json(_PREVIOUS),
        "sysctl": source.edited(source.pick(_SYSCTL)),
        "classids": source.edited(source.pick(_CLASSIDS)),
        "unit": source.edited(source.pick(_UNIT)),
        "comment": source.text().replace("\n", ""),
    }


def _check_records(texts: Dict[str, str]) -> bool:
    """Each file by itself: a result, or an error for people that says which file."""
    host = FakeHost(
        files={
            f"{FOLDER}/a.json": texts["service"],
            "/etc/portfence/namespaces.d/a.json": texts["namespace"],
            "/etc/portfence/namespaces.json": texts["forwarding"],
            PROBE_COUNTS_FILE: texts["counts"],
            PREVIOUS_FILE: texts["previous"],
        }
    )
    refused = [
        _refused(lambda: Store(host).read(), f"{FOLDER}/a.json"),
        _refused(lambda: Folder(host).stored(), "/etc/portfence/namespaces.d/a.json"),
        _refused(lambda: Folder(host).record(), "/etc/portfence/namespaces.json"),
        _refused(lambda: _ephemeral_record.parse_file(texts["sysctl"]), "/etc/sysctl.d/60-portfence.conf"),
    ]
    # What is not vital, or mended by the next run, counts as not there.
    counters = Counters({"violations_a": (7, 420)}, {"violations_a": "1.2"})
    counts = _counts.probe_counts(host, counters)
    assert all(isinstance(number, int) for events in counts.values() for number in events.values())
    assert json.loads(_counts.add_counts(texts["counts"], {"a": {"violations": 1}}, before=counters, after=counters))["a"]["violations"]["packets"]
    json.dumps(Store(host).previous())
    _ephemeral_record.parse_record(texts["owners"], namespace="x")
    # What sysctl.d and unit files of others set is found by line; a line ends with a line feed.
    _ephemeral_record.foreign_keys(texts["sysctl"])
    value = _sysctl.value_in(texts["sysctl"], RESERVED_KEY)
    assert value is None or value in texts["sysctl"]
    assert _sysctl.value_in(f"# {texts['comment']}{RESERVED_KEY} = 1\n{RESERVED_KEY} = 2\n#{texts['comment']}{RESERVED_KEY} = 3", RESERVED_KEY) == "2"
    assert _classid_files.value_of([f"[Service]\nUser=a\n#{texts['comment']}User=root\n"], "User") == "a"
    for read in (_sysctl.kernel_ports, _sysctl.kernel_range):
        try:
            read(value or "")
        except ValueError as error:
            check_message(str(error))
    found = _classid_files.value_of([texts["unit"]], "User")
    assert "\n" not in found and found in texts["unit"]
    try:
        cgroups = _classid_files.parse_record(texts["classids"])
        assert _classid_files.parse_record(_classid_files.format_record(cgroups)) == cgroups
    except ValueError as error:
        check_message(str(error))
        refused.append(True)
    return sum(refused) <= 1


def _refused(read: Callable[[], Any], path: str) -> bool:
    try:
        read()
    except PortFenceError as error:
        check_message(str(error))
        assert path in str(error), error
        return True
    return False


def _lock_text(source: Source) -> Tuple[str, str]:
    text = source.edited(source.pick(_LOCK))
    if source.chance(4):
        name = source.pick(("d", "h", "a"))
        text = text.replace(f": {name},", source.pick((f': "{name}",', f': "\\u{ord(name):04x}",', f": {name} ,", f": {source.text()},")))
    if source.chance(4):
        text = text.replace("\n", "\r\n")
    return text, source.pick(("h", "h \u05d0", "x"))


def _check_lock_file(given: Tuple[str, str]) -> bool:
    """What was read is written back as the same; the short way to the ranges of one host agrees with the long one."""
    text, host = given
    refused: List[InputError] = []
    try:
        _lock_file.ranges_of(text, domain="d", host=host, path="p")
    except InputError as error:
        check_message(str(error))
        refused.append(error)
    try:
        lock = _lock_file.parse(text, path="p")
    except InputError as error:
        check_message(str(error))
        return False
    assert not refused
    assert _lock_file.parse(_lock_file.render(lock), path="p") == lock
    short = _lock_file.ranges_of(text, domain="d", host=host, path="p")
    assert short == _lock_file.ranges_of(_lock_file.render(lock), domain="d", host=host, path="p")
    return True


TARGETS = {"records": Target(_records, _check_records), "lock_file": Target(_lock_text, _check_lock_file)}
