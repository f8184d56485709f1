# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ruleset → the rules of iptables and ip6tables. Pure.

Chains of ours are jumped to from the first place of a built-in chain and hand on what they do not drop, so that
rules of others go on deciding about it. Both variants, iptables-nft and iptables-legacy, take the same text.

==========  ============  ==================================================================================
table       hook          what it does
==========  ============  ==================================================================================
``raw``     OUTPUT        gives flows of rewritten services a zone of connection tracking (see ``_nftables._zones``)
``nat``     POSTROUTING   gives the port: one out of the ranges with ``rewrite``, else the one that the program has
``mangle``  POSTROUTING   the check and the guard
``filter``  OUTPUT        answers violations of services with ``reject``
==========  ============  ==================================================================================

No table of iptables stands behind ``nat`` at POSTROUTING (100): ``mangle`` (-150) is the last that may drop. The port on
the wire is enforced all the same:

- A connection whose port is settled already (its conntrack entry is confirmed) is judged by the port that the other side
  answers to, whoever translated it (``--ctrepldstport``).
- A connection that opens is given its port by our rule, the first of its nat chain, and a connection is translated once: a
  rule of somebody else cannot move it out again. That is why services that choose a port themselves have a rule there, too.
  Only a nat chain of nftables with a priority below 100 comes before it, and translation by the other variant of iptables,
  whose chain has our priority: of two such chains the kernel asks the one first that was registered last
  (``nf_hook_entries_grow``).
- The guard sees the port that a program of another account chose, not what a rule of somebody else makes of it.

There are no verdict maps: a packet that opens a connection passes every rule before its own, so its cost grows with the
number of services.

Counts are those of a rule in a chain of its own, which is left alone while its service lives.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Callable, Collection, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange, PortSet
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import Ruleset, ServiceRules
from ansible_collections.portfence.egress.plugins.module_utils._service import LOG_BURST, LOG_CEILING, LOG_LEVELS, PREFIX_BYTES, PROTOCOLS

FAMILIES = (4, 6)
HOOKS = {"raw": "OUTPUT", "nat": "POSTROUTING", "mangle": "POSTROUTING", "filter": "OUTPUT"}
CHAIN = "portfence"
LOOPBACK = f"{CHAIN}-lo"
# An empty chain that tells our chains from others that somebody else named alike.
MARKER = "managed-by-portfence-egress"
KINDS = ("assign", "breach", "check", "guard", "intrusions", "refuse", "violations", "zone")
EVENTS = ("violations", "intrusions")

# Of the protocols with ports, those that conntrack knows the ports of on every kernel, and that SNAT takes ports for.
NAT_PROTOCOLS = ("tcp", "udp", "sctp")

# Bytes of a chain's name (XT_EXTENSION_MAXNAMELEN) that are left for the service behind "pf-violations-".
_NAME_BYTES = 14
# XT_MULTI_PORTS; a range takes two.
_MULTIPORT = 15
_NOT_OPENING = "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j RETURN"
_REPLY = "! -p tcp -m conntrack --ctdir REPLY -j RETURN"
# The owner match takes a packet without a socket for no owner's; (uid_t) -1 is no UID.
_HAS_OWNER = "-m owner --uid-owner 0-4294967294"
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
# XT_LIMIT_SCALE: the finest step of the limit match.
_FASTEST = 10000
# Shorter than in nftables, so that a name has room: no byte of struct xt_log_info is left behind these.
_LOGGED_NAME = PREFIX_BYTES["iptables"] - len("violation : ")
# What all rules of a family may log together: without a mode, hashlimit has one bucket for each name. The kernel finds it by the name and
# leaves it as the first rule made it, so the name tells what it is. A bucket that nothing was taken from for so many milliseconds is forgotten;
# it is full again long before.
_LOG_LIMIT = (
    f"-m hashlimit --hashlimit-upto {LOG_CEILING}/second --hashlimit-burst {LOG_BURST}"
    f" --hashlimit-name portfence-{LOG_CEILING}-{LOG_BURST} --hashlimit-htable-expire {2000 * LOG_BURST // LOG_CEILING}"
)
_REJECTS = {4: "icmp-port-unreachable", 6: "icmp6-port-unreachable"}

# Chain to its rules, without "-A" and the chain's name.
Chains = Dict[str, List[str]]


@dataclass(frozen=True)
class Fence:
    """A compiled fence: by family and table, our chains with their rules. Each table has a jump to :data:`CHAIN`."""

    families: Mapping[int, Mapping[str, Mapping[str, Sequence[str]]]]

    def rules(self, family: int) -> str:
        """The input of ``iptables-restore --noflush`` for a kernel that has nothing of ours."""
        return "".join(_table_text(name, chains) for name, chains in self.families[family].items())


def _table_text(name: str, chains: Mapping[str, Sequence[str]]) -> str:
    lines = [f"*{name}", *(f":{chain} - [0:0]" for chain in chains)]
    lines.extend(f"-A {chain} {rule}" for chain, rules in chains.items() for rule in rules)
    return "\n".join([*lines, f"-I {HOOKS[name]} 1 -j {CHAIN}", "COMMIT", ""])


def short(name: str) -> str:
    """A service's name as part of the name of a chain. A long one is cut, and told from others by "+" and a hash."""
    if len(name) <= _NAME_BYTES:
        return name
    return f"{name[:_NAME_BYTES - 7]}+{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def is_ours(chain: str) -> bool:
    """Whether a chain has a name as we give them."""
    return chain in (CHAIN, LOOPBACK, MARKER) or any(chain.startswith(f"pf-{kind}-") for kind in KINDS)


def unsupported(ruleset: Ruleset) -> List[Tuple[str, str, str]]:
    """What iptables can't express: service, key, and what was found and what would do."""
    found = []
    for rules in ruleset.services:
        if rules.units:
            message = f"found {rules.units[0].unit}; iptables matches a cgroup as it was when the rule was loaded, not the one that"
            found.append((rules.name, "unit", f"{message} a unit gets when it starts again; accepted with iptables: user, group, classid"))
        if rules.addresses:
            message = f"found {', '.join(rules.addresses)}; the backend iptables can't fence what the host forwards; accepted with iptables:"
            found.append((rules.name, "addresses", f"{message} user, group, classid"))
        found.extend(
            (
                rules.name,
                "protocols",
                f"found {protocol} with assignment {rules.assignment}; iptables can't give ports to {protocol};"
                " accepted with the backend iptables: assignment app, or without this protocol",
            )
            for protocol in rules.rewritten
            if protocol not in NAT_PROTOCOLS
        )
        if rules.log.prefix is not None and len(rules.log.prefix) > PREFIX_BYTES["iptables"]:
            limit = PREFIX_BYTES["iptables"]
            found.append(
                (rules.name, "log.prefix", f"found {len(rules.log.prefix)} bytes; accepted: at most {limit} with iptables")
            )
        number, unit = _rate(rules)
        if number > _FASTEST * _SECONDS[unit]:
            found.append(
                (rules.name, "log.rate", f"found {rules.log.rate}; accepted: at most {_FASTEST}/second with iptables")
            )
    return found


def compile_fence(ruleset: Ruleset, *, counted: Collection[str] = ()) -> Fence:
    """Write the ruleset as rules of both families.

    :param counted: chains of counts that the table ``filter`` has; those of services that stay are kept.
    """
    families = {}
    for family in FAMILIES:
        tables = {
            "raw": _zones(ruleset),
            "nat": _assignment(ruleset),
            "mangle": _check(ruleset),
            "filter": _refusal(ruleset, family, counted),
        }
        families[family] = {name: {MARKER: [], **chains} for name, chains in tables.items() if chains}
    return Fence(families)


def _check(ruleset: Ruleset) -> Chains:
    services = ruleset.services
    chains: Chains = {CHAIN: [_NOT_OPENING]}
    if any(set(rules.protocols) != {"tcp"} for rules in services):
        chains[CHAIN].append(_REPLY)
    _dispatch(chains, services, lambda some: [*_owners(some, "check"), *_guards(some)])
    for rules in services:
        chains[_chain("check", rules)] = _check_rules(rules)
        chains[_chain("breach", rules)] = _event(rules, "violations")
        chains[_chain("violations", rules)] = [_count(rules, "violations")]
        if rules.exclusive:
            chains[_chain("guard", rules)] = _event(rules, "intrusions")
            chains[_chain("intrusions", rules)] = [_count(rules, "intrusions")]
    return chains


def _check_rules(rules: ServiceRules) -> List[str]:
    tracked = [protocol for protocol in rules.protocols if protocol in NAT_PROTOCOLS]
    lines = _spared(rules)
    lines.extend(_inside(rules, [protocol for protocol in rules.protocols if protocol not in tracked]))
    breach = f"-g {_chain('breach', rules)}"
    if tracked:
        settled = "-m conntrack --ctstatus CONFIRMED"
        lines.extend(f"{settled} --ctrepldstport {_colon(part)} -j RETURN" for part in rules.ports)
        lines.append(f"{settled} {breach}")
        if rules.rewrite:
            # Not true for what conntrack does not follow.
            lines.append("-m conntrack ! --ctstatus CONFIRMED -j RETURN")
        lines.extend(_inside(rules, tracked))
    return [*lines, breach]


def _assignment(ruleset: Ruleset) -> Chains:
    services = [rules for rules in ruleset.services if set(rules.protocols) & set(NAT_PROTOCOLS)]
    if not services:
        return {}
    chains: Chains = {CHAIN: [_NOT_OPENING]}
    _dispatch(chains, services, lambda some: _owners(some, "assign", protocols=NAT_PROTOCOLS))
    for rules in services:
        chains[_chain("assign", rules)] = _assign_rules(rules)
    return chains


def _assign_rules(rules: ServiceRules) -> List[str]:
    """Ports inside are kept (a clash is solved within their range); with rewrite, others are spread over the ranges by size."""
    lines = _spared(rules)
    parts = list(rules.ports)
    for protocol in rules.protocols:
        if protocol not in NAT_PROTOCOLS:
            continue
        if len(parts) > 1 or protocol not in rules.rewritten:
            lines.extend(
                f"-p {protocol} -m multiport --sports {_colon(part)} -j SNAT --to-source :{part}" for part in parts
            )
        if protocol not in rules.rewritten:
            continue
        left = rules.ports.size
        for part in parts[:-1]:
            share = f"-m statistic --mode random --probability {part.size / left:.10f}"
            lines.append(f"-p {protocol} {share} -j SNAT --to-source :{part}")
            left -= part.size
        lines.append(f"-p {protocol} -j SNAT --to-source :{parts[-1]}")
    return lines


def _zones(ruleset: Ruleset) -> Chains:
    zoned = {rules.name for rules in ruleset.services if set(rules.rewritten) - {"tcp"}}
    if not zoned:
        return {}
    chains: Chains = {
        CHAIN: [
            "-p tcp -j RETURN",
            "-o lo -j RETURN",
            *_owners(ruleset.services, "zone", only=zoned, protocols=PROTOCOLS[1:]),
        ]
    }
    for rules in ruleset.services:
        if rules.name in zoned:
            chains[_chain("zone", rules)] = [*_spared(rules), f"-j CT --zone-orig {rules.ports.ranges[0].low}"]
    return chains


def _refusal(ruleset: Ruleset, family: int, counted: Collection[str]) -> Chains:
    services = [rules for rules in ruleset.services if rules.refuse]
    kept = [rules for rules in ruleset.services if rules.refuse or _chain("violations", rules) in counted]
    if not kept:
        return {}
    chains: Chains = {CHAIN: []}
    if services:
        names = {rules.name for rules in services}
        concerned = _concerned(ruleset.services, names)
        chains[CHAIN].append(_NOT_OPENING)
        if any(set(rules.protocols) != {"tcp"} for rules in concerned):
            chains[CHAIN].append(_REPLY)
        _dispatch(chains, concerned, lambda some: _owners(some, "refuse", only=names))
    for rules in services:
        chains[_chain("refuse", rules)] = [
            *_spared(rules),
            *_inside(rules, rules.refused),
            _log(rules, "violations"),
            f"-j {_chain('violations', rules)}",
            "-p tcp -j REJECT --reject-with tcp-reset",
            f"! -p tcp -j REJECT --reject-with {_REJECTS[family]}",
        ]
    chains.update({_chain("violations", rules): [_count(rules, "violations")] for rules in kept})
    return chains


def _concerned(services: Sequence[ServiceRules], names: Collection[str]) -> List[ServiceRules]:
    """The services with these names, and those that a packet of theirs may belong to in the first place."""
    last = max((_rank(rules) for rules in services if rules.name in names), default=0)
    return [rules for rules in services if rules.name in names or _rank(rules) < last]


def _rank(rules: ServiceRules) -> int:
    """Class, user and group decide in this order."""
    return 0 if rules.classids else 1 if rules.uids else 2


def _dispatch(chains: Chains, services: Sequence[ServiceRules], rules_of: Callable[[Sequence[ServiceRules]], List[str]]) -> None:
    """What stays on the host, then the look-up of the service, one rule after the other."""
    on_loopback = rules_of([rules for rules in services if rules.loopback])
    if on_loopback:
        chains[LOOPBACK] = on_loopback
    chains[CHAIN].append(f"-o lo -g {LOOPBACK}" if on_loopback else "-o lo -j RETURN")
    chains[CHAIN].extend(rules_of(services))


def _owners(
    services: Sequence[ServiceRules],
    kind: str,
    *,
    only: Optional[Collection[str]] = None,
    protocols: Sequence[str] = PROTOCOLS,
) -> List[str]:
    """From an owner to the chain of the service; packets of services other than ``only`` are let go."""
    if only is not None:
        services = _concerned(services, only)
    lines = []
    for rank in range(3):
        for rules in services:
            verdict = f"-g {_chain(kind, rules)}" if only is None or rules.name in only else "-j RETURN"
            lines.extend(
                f"-p {protocol} {match} {verdict}"
                for match in _matches(rules, rank)
                for protocol in rules.protocols
                if protocol in protocols
            )
    return lines


def _matches(rules: ServiceRules, rank: int) -> List[str]:
    if rank == 0:
        return [f"-m cgroup --cgroup {classid}" for classid in rules.classids]
    ids, key = ((rules.uids, "uid"), (rules.gids, "gid"))[rank - 1]
    return [f"-m owner --{key}-owner {number}" for number in ids]


def _guards(services: Sequence[ServiceRules]) -> List[str]:
    return [
        f"-p {protocol} {_HAS_OWNER} -m multiport --sports {ports} -g {_chain('guard', rules)}"
        for rules in services
        if rules.exclusive
        for protocol in rules.protocols
        for ports in _chunks(rules.ports)
    ]


def _event(rules: ServiceRules, event: str) -> List[str]:
    return [_log(rules, event), f"-j {_chain(event, rules)}", f"-j {'DROP' if rules.blocks else 'RETURN'}"]


def _count(rules: ServiceRules, event: str) -> str:
    return f"-m comment --comment {event}_{rules.name}"


def _log(rules: ServiceRules, event: str) -> str:
    prefix = rules.log.prefix if event == "violations" else None
    if prefix is None:
        prefix = f"{event[:-1]} {rules.name[:_LOGGED_NAME]}: "
    number, unit = _rate(rules)
    # Credit for a burst may not last longer than a day (xt_limit.c: user2credits() must not overflow).
    burst = max(1, min(5, number * _SECONDS["day"] // _SECONDS[unit]))
    level = LOG_LEVELS.index(rules.log.level)
    return (
        f"-m limit --limit {rules.log.rate} --limit-burst {burst} {_LOG_LIMIT}"
        f' -j LOG --log-prefix "{prefix}" --log-level {level} --log-uid'
    )


def _rate(rules: ServiceRules) -> Tuple[int, str]:
    number, unit = rules.log.rate.split("/")
    return int(number), unit


def _spared(rules: ServiceRules) -> List[str]:
    return ["-m owner --uid-owner 0 -j RETURN"] if rules.spares_root else []


def _inside(rules: ServiceRules, protocols: Sequence[str]) -> List[str]:
    return [
        f"-p {protocol} -m multiport --sports {ports} -j RETURN"
        for protocol in protocols
        for ports in _chunks(rules.ports)
    ]


def _chunks(ports: PortSet) -> List[str]:
    """The ports in as many lists as multiport needs."""
    chunks: List[List[str]] = []
    room = 0
    for part in ports:
        size = 1 if part.size == 1 else 2
        if size > room:
            chunks.append([])
            room = _MULTIPORT
        chunks[-1].append(_colon(part))
        room -= size
    return [",".join(chunk) for chunk in chunks]


def _colon(part: PortRange) -> str:
    return str(part).replace("-", ":")


def _chain(kind: str, rules: ServiceRules) -> str:
    return f"pf-{kind}-{short(rules.name)}"
