# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A probe from end to end: policy and accounts → plan → connections → verdict."""

from __future__ import annotations

import ipaddress
import random
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils import _probe, _probe_report
from ansible_collections.portfence.egress.plugins.module_utils._backends import counters_reader
from ansible_collections.portfence.egress.plugins.module_utils._counters import Counters
from ansible_collections.portfence.egress.plugins.module_utils._counts import add_counts, count, probe_counts, total
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, InputError, PortFenceError, Problem, shown
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._names import find_gids, find_uids
from ansible_collections.portfence.egress.plugins.module_utils._netns import FAMILIES, ipv6_in_use
from ansible_collections.portfence.egress.plugins.module_utils._nft import LIST_COUNTERS
from ansible_collections.portfence.egress.plugins.module_utils._nft_listing import parse_counters
from ansible_collections.portfence.egress.plugins.module_utils._nft_names import INNER_TABLE
from ansible_collections.portfence.egress.plugins.module_utils._policy import conflicts
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet, PortSyntaxError
from ansible_collections.portfence.egress.plugins.module_utils._probe_accounts import accounts_of, bystander
from ansible_collections.portfence.egress.plugins.module_utils._probe_client import (
    Client,
    Destination,
    open_files_limit,
)
from ansible_collections.portfence.egress.plugins.module_utils._probe_peer import Peer
from ansible_collections.portfence.egress.plugins.module_utils._probe_slots import slots_for
from ansible_collections.portfence.egress.plugins.module_utils._probe_sockets import Sockets
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Lookup, Resolved, resolve
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import Ruleset, build
from ansible_collections.portfence.egress.plugins.module_utils._service import Declared
from ansible_collections.portfence.egress.plugins.module_utils._store import PROBE_COUNTS_FILE, RUN, Store

_SHORTEST, _LONGEST = 0.1, 60.0
_FIRST_FREE_PORT = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


@dataclass(frozen=True)
class Target:
    """A responder somewhere else: its addresses by family, and its ports."""

    addresses: Mapping[str, str]
    ports: Tuple[int, ...]


@dataclass(frozen=True)
class Report:
    """What a probe found. ``message`` is None when everything is as the policy says."""

    result: Dict[str, Any]
    warnings: List[str]
    message: Optional[str]


def parse_target(given: Optional[Mapping[str, Any]]) -> Optional[Target]:
    """Read the parameter ``target``. Raises InputError with every mistake."""
    if given is None:
        return None
    problems: List[Problem] = []
    addresses: Dict[str, str] = {}
    for family in FAMILIES:
        key = f"address{family[-1]}"
        text = given.get(key)
        if text is None:
            continue
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            address = None
        if address is None or address.version != int(family[-1]) or "%" in text:
            problems.append(Problem(f"target.{key}", f"found {shown(text)}; accepted: an {_title(family)} address"))
        elif address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local:
            problems.append(
                Problem(f"target.{key}", f"found {text}; accepted: an address of another machine, not a special one")
            )
        else:
            addresses[family] = str(address)
    ports: List[int] = []
    try:
        ports = [port for part in PortSet.parse(given["ports"]) for port in range(part.low, part.high + 1)]
    except PortSyntaxError as error:
        problems.extend(Problem(f"target.ports{where}", text) for where, text in error.mistakes)
    if problems:
        raise InputError(what="the target of the probe", problems=problems)
    return Target(addresses, tuple(ports))


def check_timeout(timeout: float) -> None:
    """Raises InputError."""
    if not _SHORTEST <= timeout <= _LONGEST:
        problem = Problem("timeout", f"found {timeout:g}; accepted: {_SHORTEST:g} to {_LONGEST:g} seconds")
        raise InputError(what="the probe", problems=[problem])


def run_probe(
    *, host: Host, declared: Sequence[Declared], target: Optional[Target], timeout: float
) -> Report:
    """Probe these services of the host. Raises PortFenceError when the probe itself can't be made.

    :param declared: the services to probe; others that the host has are looked at too, to keep out of their way.
    :param timeout: seconds to wait for each connection.
    """
    # The fence must not change meanwhile, and two probes would take each other's addresses.
    with host.lock():
        begin = counters_reader(host)
        finish = begin()
        try:
            planned = _plan(host, declared, target)
        except BaseException:
            with suppress(PortFenceError):
                finish()  # what reads has the lock until it ends
            raise
        read = finish()
        attempts, law = planned.attempts, _probe.Law(planned.ruleset)
        inside = sorted({attempt.service for attempt in attempts if attempt.account.in_namespace})
        before = _with_namespaces(read, host, inside)
        outcomes, finish = _connect(host, attempts, target, timeout, law, begin)
        after = _with_namespaces(finish(), host, inside)
        lines = [_probe.judge(*pair, law=law) for pair in zip(attempts, outcomes)]
        counted = _probe_report.caused(lines, before=before.packets(), after=after.packets())
        _remember(host, counted, before=before, after=after)
        probes = probe_counts(host, after)
    broken = _probe_report.broken_paths(lines, peer="the temporary peer" if target is None else "the target")
    lines = [_probe_report.unproved(line, broken) for line in lines]
    return Report(
        result={
            "checks": [line.to_dict() for line in lines],
            "probed": sorted({line.attempt.service for line in lines}),
            "summary": _probe_report.summary(lines),
            "not_probed": _probe.not_probed(planned.ruleset, _present(declared)),
            "counted": counted,
            "violations": total(count(after, probes, item.service.name, "violations") for item in planned.resolved),
        },
        warnings=_warnings(lines, before.packets(), after.packets()),
        message=_probe_report.failure(lines, broken),
    )


class _Planned(NamedTuple):
    """All services of the host, and what is to be tried of those that are probed."""

    resolved: Sequence[Resolved]
    ruleset: Ruleset
    attempts: Sequence[_probe.Attempt]


def _plan(host: Host, declared: Sequence[Declared], target: Optional[Target]) -> _Planned:
    """Raises PortFenceError."""
    names = _present(declared)
    resolved = _resolve_host(host, declared)
    probed = [item for item in resolved if item.service.name in names]
    ruleset = build(resolved)
    other = bystander(resolved)
    attempts = _probe.plan(
        ruleset,
        names=names,
        given=_probe.Circumstances(
            accounts=accounts_of(probed, other, ruleset=ruleset, host=host),
            host_range={item.service.name for item in resolved if item.service.assignment == "host"},
            strict={item.service.name for item in resolved if item.service.refuses_bind},
            walled={item.service.name: item.service.wall for item in resolved if item.service.wall is not None},
            other=other,
            unreachable=_unreachable(host, target),
            first_free_port=int((host.read(_FIRST_FREE_PORT) or "1024").strip()),
        ),
    )
    return _Planned(resolved, ruleset, attempts)


def _present(declared: Sequence[Declared]) -> FrozenSet[str]:
    return frozenset(item.service.name for item in declared if item.service.state == "present")


def _resolve_host(host: Host, declared: Sequence[Declared]) -> Tuple[Resolved, ...]:
    """All services of the host with their ids, the declared ones instead of stored ones. Raises InputError and HostError."""
    merged = {**Store(host).read(), **{item.service.name: item for item in declared}}
    present = [item for item in merged.values() if item.service.state == "present"]
    resolved, problems = resolve(present, lookup=Lookup(uid=find_uids(host), gid=find_gids(host)), admin_uids={})
    problems = [*conflicts(present), *problems]
    if problems:
        raise InputError(what="the policy of this host", problems=problems)
    return resolved


def _unreachable(host: Host, target: Optional[Target]) -> Dict[str, str]:
    reasons = {}
    if target is not None:
        reasons = {
            family: f"the target has no {_title(family)} address" for family in FAMILIES if family not in target.addresses
        }
    if not ipv6_in_use(host):
        reasons["ipv6"] = "IPv6 is disabled on this host: no interface has an IPv6 address"
    return reasons


def _connect(
    host: Host,
    attempts: Sequence[_probe.Attempt],
    target: Optional[Target],
    timeout: float,
    law: _probe.Law,
    begin: Callable[[], Callable[[], Counters]],
) -> Tuple[List[_probe.Outcome], Callable[[], Counters]]:
    """What came of the attempts, and what gives the counters behind them, which this begins to read."""
    families = sorted({attempt.family for attempt in attempts if attempt.skipped is None})
    if not families:
        return [_probe.Outcome() for _attempt in attempts], begin()
    with ExitStack() as stack:
        slots = slots_for(attempts, files=open_files_limit())
        if target is None:
            peer = stack.enter_context(Peer(host=host, families=families, slots=slots))
            destination = Destination(peer.addresses, peer.sources, peer.ports, peer)
        else:
            sources = {family: _source(target.addresses[family], family) for family in families}
            destination = Destination(target.addresses, sources, random.sample(target.ports, min(slots, len(target.ports))))
        sockets = stack.enter_context(Sockets(attempts))
        held = partial(_probe.held, law=law)
        outcomes = Client(destination=destination, sockets=sockets, timeout=timeout, held=held).run(attempts)
        return outcomes, begin()  # nft reads while the peer goes


def _source(address: str, family: str) -> str:
    """This host's address towards the target. Raises HostError."""
    with socket.socket(socket.AF_INET6 if family == "ipv6" else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((address, 9))
        except OSError as error:
            raise HostError(f"this host can't reach the target {address}: {error.strerror}") from error
        source = str(sock.getsockname()[0])
    if source == address:
        raise HostError(
            f"the target {address} is an address of this host; such traffic takes the loopback interface, which is not"
            " fenced; give the address of another machine, or no target"
        )
    return source


def _with_namespaces(found: Counters, host: Host, namespaces: Sequence[str]) -> Counters:
    """The counters of the fence, and those of the fences inside network namespaces, each called ``namespace_violations_NAME``.

    :param namespaces: services whose network namespace has a fence, too.
    """
    nft = host.find("nft")
    for name in namespaces if nft is not None else ():
        nsenter = host.program("nsenter", package="util-linux")
        enter = [nsenter, f"--net=/run/netns/{name}", "--"]
        listed = host.run([*enter, nft, *LIST_COUNTERS, INNER_TABLE], check=False)
        inner = parse_counters(listed.out).counts if listed.rc == 0 else {}
        if f"violations_{name}" in inner:
            found.counts[f"namespace_violations_{name}"] = inner[f"violations_{name}"]
    return found


def _remember(host: Host, counted: Mapping[str, Mapping[str, int]], *, before: Counters, after: Counters) -> None:
    """Add to what probes have caused, so that reports can tell it from what services did."""
    grown = {name: events for name, events in counted.items() if any(events.values())}
    if grown:
        host.make_directory(RUN)
        host.write(PROBE_COUNTS_FILE, add_counts(host.read(PROBE_COUNTS_FILE), grown, before=before, after=after))


def _warnings(lines: Sequence[_probe.Line], before: Mapping[str, int], after: Mapping[str, int]) -> List[str]:
    absent = {
        f"{line.attempt.service} is not proved: {line.attempt.account.absent}"
        for line in lines
        if line.attempt.account.place is not None and line.attempt.account.absent is not None
    }
    return [
        *sorted(absent),
        *(
            f"the probe's packets were blocked, but the counter {name} of the fence did not move: something else blocks them"
            for name in _probe_report.uncounted(lines, before=before, after=after)
        ),
    ]


def _title(family: str) -> str:
    return family.replace("ip", "IP")
