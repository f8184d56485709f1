# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people ask and hand over: sockets out of logs, identity maps for edges and Suricata, networks of containers."""

from __future__ import annotations

import csv
import io
import re
from datetime import datetime, timezone
from typing import Any, List, Tuple

from ansible_collections.portfence.egress.plugins.module_utils import _edge, _identify, _identity, _suricata
from ansible_collections.portfence.egress.plugins.module_utils._containers import network_origin
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, Problem
from ansible_collections.portfence.egress.plugins.module_utils._pools import read_name, read_pools
from ansible_collections.portfence.egress.tests.fuzz.compiler import Nftables
from ansible_collections.portfence.egress.tests.fuzz.source import Source, Target, check_message

_NOW = datetime(2026, 2, 1, 12, 0, tzinfo=timezone.utc)
_ADDRESSES = ("10.1.2.3:50432", "[fd00::1]:50432", "fd00::1", "::ffff:10.1.2.3", "10.1.2.3", "[fd00::1]", "10.1.2.3:", "fe80::1%eth0", "[::1", ":5")
_PORTS = (50432, "50432", None, 0, "65536", "\u0665", " 5 ", 10**5000, True)
_TIMES = (None, "2026-01-31", "2026-01-31T10:00:00Z", "2026-01-31T10:00:00+25:00", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-02-31", _NOW)
_ENTRIES: List[Any] = [
    {"address": "10.0.0.1/32", "protocol": "tcp", "service": "a", "source_ports": "50000-50999", "hosts": ["h1", "h2"]},
    {"address": "10.0.0.0/24", "protocol": "udp", "service": "b", "source_ports": "51000", "hosts": ["h3"]},
    {"address": "fd00::1/128", "protocol": "sctp", "service": "A", "source_ports": "52000-52001", "hosts": ["h\u05d0"]},
]
_NETWORKS: Tuple[Any, ...] = (
    [{"name": "x", "subnets": [{"subnet": "10.89.7.0/24"}, {"subnet": "fd00::/64"}], "network_interface": "podman1"}],
    [{"plugins": [{"type": "bridge", "bridge": "cni0", "ipam": {"ranges": [[{"subnet": "10.88.0.0/16"}]]}}, {"type": "portmap"}]}],
    [{"Id": "0123456789abcdef", "IPAM": {"Config": [{"Subnet": "172.18.0.0/16"}]}, "Options": {"com.docker.network.bridge.name": "br0"}}],
)


def _questions(source: Source) -> Tuple[Any, ...]:
    entries = source.reshaped(_ENTRIES, 25)
    if source.chance(2):
        entries = [{**entry, "hosts": [source.text(), "h"]} for entry in _ENTRIES]
    return (
        source.pick(_ADDRESSES) if source.chance(2) else source.text() if source.chance(2) else source.value(),
        source.pick(_PORTS) if source.chance(2) else source.value(),
        source.pick(_TIMES) if source.chance(2) else source.value(),
        entries,
        source.json(_NETWORKS),
        source.value(),
    )


def _check_questions(given: Tuple[Any, ...]) -> bool:
    address, port, time, entries, networks, anything = given
    problems: List[Problem] = []
    question = _identify.read_question(address=address, port=port, time=time, now=_NOW, problems=problems)
    assert (question is None) == bool(problems)
    _identify.networks("egress_addresses", anything, problems)
    read_pools(anything, problems)
    read_name("egress_nat_domain", anything, problems)
    for problem in problems:
        check_message(str(problem))
    for engine in ("podman", "docker"):
        try:
            network_origin(networks, engine=engine)
        except ValueError as error:
            check_message(str(error))
    try:
        identities = _identity.parse(entries)
    except InputError as error:
        check_message(str(error))
        return False
    _check_exports(identities)
    return True


def _check_exports(identities: Tuple[_identity.Identity, ...]) -> None:
    """Names of hosts are comments and cells, and nothing else: the rest is as with harmless ones."""
    harmless = tuple(_identity.Identity(item.address, item.protocol, item.part, item.service, ("h",)) for item in identities)
    for unknown in _edge.UNKNOWN:
        for (name, text), (_name, plain) in zip(_edge.formats(identities, unknown=unknown), _edge.formats(harmless, unknown=unknown)):
            assert _skeleton(text) == _skeleton(plain), name
    for (name, text), (_name, plain) in zip(_suricata.files(identities), _suricata.files(harmless)):
        assert text == plain, name
    check_table(_identity.to_csv(identities), rows=len(identities) + 1, columns=6)
    if len({host for item in identities for host in item.hosts}) > 2:
        nft = Nftables.shared()
        nft.run(f"flush ruleset\n{_edge.nftables_file(identities, unknown='drop')}")


def _skeleton(text: str) -> str:
    """Rules without what is in their comments."""
    return re.sub(r'comment "[A-Za-z0-9_.,:@+ -]*"', "comment", text)


def check_table(text: str, *, rows: int, columns: int) -> None:
    """A table has so many cells, whatever is in them, for everybody who splits it; none of them is a formula."""
    for delimiter in ",;\t|":
        found = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
        assert all(cell.lstrip()[:1] not in ("=", "+", "-", "@") or cell.lstrip("-").replace(".", "").isdigit() for row in found for cell in row)
        if delimiter == ",":
            assert len(found) == rows and all(len(row) == columns for row in found), found


TARGETS = {"questions": Target(_questions, _check_questions)}
