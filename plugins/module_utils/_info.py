# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be seen of the fence of this machine. Reads only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, FrozenSet, List, Mapping, Optional

from ansible_collections.portfence.egress.plugins.module_utils import _json
from ansible_collections.portfence.egress.plugins.module_utils._apply import FenceOfHost, Outcome, Request
from ansible_collections.portfence.egress.plugins.module_utils._counters import Counters
from ansible_collections.portfence.egress.plugins.module_utils._counts import count, probe_counts, total
from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_boot import RANGE_KEY, RESERVED_KEY
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, InputError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Resolved
from ansible_collections.portfence.egress.plugins.module_utils._store import Store
from ansible_collections.portfence.egress.plugins.module_utils._usage import (
    Flow,
    Traffic,
    address,
    parse_flows,
    parse_sockets,
    usage,
)

_CONNTRACK_FILE = "/proc/net/nf_conntrack"


def gather(*, host: Host, fence: FenceOfHost) -> Dict[str, Any]:
    """Everything that fence_info returns; see its RETURN. Raises PortFenceError."""
    outcome = _compare(fence)
    counters = fence.counters(outcome)
    sockets = parse_sockets(host.run([host.program("ss", package="iproute2"), "-tunaeH"]).out)
    traffic = Traffic(sockets=sockets, flows=_flows(host), addresses=_addresses(host))
    probes = probe_counts(host, counters)
    return {
        **port_settings(host),
        **fence.facts(),
        "in_sync": not outcome.changes,
        "drift": outcome.changes,
        "assignments": outcome.assignments,
        "fallbacks": outcome.fallbacks,
        "previous": Store(host).previous(),
        "last_change": Store(host).last_change(),
        "violations": total(count(counters, probes, name, "violations") for name in _counted(counters)),
        "services": {
            item.service.name: {
                "source_ports": [str(part) for part in item.service.source_ports],
                "protocols": list(item.service.protocols),
                "assignment": item.service.assignment,
                "on_violation": item.service.on_violation,
                "exclusive": item.service.exclusive,
                "uids": list(item.uids),
                "gids": list(item.gids),
                "violations": count(counters, probes, item.service.name, "violations"),
                "intrusions": count(counters, probes, item.service.name, "intrusions"),
                **usage(_decided(item, outcome.assignments), traffic),
            }
            for item in outcome.services
        },
    }


def port_settings(host: Host) -> Dict[str, Any]:
    """What fence_info returns of the host in any case."""
    return {
        "local_port_range": host.sysctl(RANGE_KEY).replace(" ", "-"),
        "reserved_ports": host.sysctl(RESERVED_KEY),
    }


def _compare(fence: FenceOfHost) -> Outcome:
    """The stored services, and what an apply of them would have to do."""
    try:
        return fence.apply(Request(services=()), check_mode=True, diff=False)
    except InputError as error:
        return replace(fence.survey(), changes=[str(error)])


def _counted(counters: Counters) -> List[str]:
    """Services whose violations the fence counts, among them those that are not shown because nobody knows their owner."""
    start = "violations_"
    return [name[len(start) :] for name in counters.counts if name.startswith(start)]


def _decided(item: Resolved, assignments: Mapping[str, str]) -> Resolved:
    """The service with what became of "auto" on this host."""
    return replace(item, service=replace(item.service, assignment=assignments[item.service.name]))


def _flows(host: Host) -> Optional[List[Flow]]:
    """Tracked connections, from the kernel's file or else from the program conntrack; None when there is neither."""
    text = host.read(_CONNTRACK_FILE)
    if text is None:
        program = host.find("conntrack")
        text = None if program is None else host.run([program, "-L"]).out
    return None if text is None else parse_flows(text)


def _addresses(host: Host) -> FrozenSet[str]:
    printed = host.run([host.program("ip", package="iproute2"), "-j", "address", "show"]).out
    try:
        links = _json.load(printed)
        return frozenset(address(entry["local"]) for link in links for entry in link.get("addr_info", ()) if "local" in entry)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HostError(f"ip -j address show printed something that is no list of addresses: {printed[:200]!r}") from error
