# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Live against wanted → the input of iptables-restore that changes one family. Pure.

iptables-restore changes each table at its COMMIT, as a whole, one table after the other. Their order keeps the host
closed in between: a service is translated before its check begins to rely on it, and until it has ceased to. So the
table ``nat`` comes twice, at first with the rules of before behind the new ones.
"""

from __future__ import annotations

import re
from typing import Dict, List, Sequence, Set, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._iptables import CHAIN, EVENTS, HOOKS, LOOPBACK
from ansible_collections.portfence.egress.plugins.module_utils._iptables_listing import Jump, Listing, Part

_EMPTY = Part({}, ())
# Without the check nothing relies on the translation.
_REMOVAL = ("filter", "mangle", "nat", "raw")
_TARGET = re.compile(r" -[jg] ")
# A limit that several rules share, which the kernel knows by its name.
_SHARED_LIMIT = re.compile(r"-m hashlimit .*?--hashlimit-name \S+(?: --hashlimit-htable-expire \d+)?")


def transaction(*, live: Listing, wanted: Listing) -> str:
    """What turns the live chains into the wanted ones. Chains that hold the right count already are left alone.

    :param wanted: the kernel's own listing of the fence.
    """
    nat = wanted.get("nat", _EMPTY)
    merged = _merged(nat, live.get("nat", _EMPTY))
    steps: List[Tuple[str, Part]] = [("raw", wanted.get("raw", _EMPTY)), ("nat", merged), ("mangle", wanted["mangle"])]
    if merged.chains != nat.chains:
        steps.append(("nat", nat))
    steps.append(("filter", wanted.get("filter", _EMPTY)))
    state: Dict[str, Part] = _without_strange_limits(live, wanted)
    text = "".join(_block(table, now=part, then=state[table]) for table, part in live.items() if state[table] != part)
    for table, part in steps:
        if part != state.get(table, _EMPTY):
            text += _block(table, now=state.get(table, _EMPTY), then=part)
        state[table] = part
    return text


def _without_strange_limits(live: Listing, wanted: Listing) -> Dict[str, Part]:
    """The live chains; when somebody has changed the limit of the log, without all rules that log.

    The kernel leaves a limit as the first rule with its name made it, as long as there is a rule with that name. To log less for a moment
    leaves the fence as it is.
    """
    meant = _shared_limits(wanted)
    if not meant or _shared_limits(live) <= meant:
        return dict(live)
    return {
        table: Part({name: tuple(rule for rule in rules if not _SHARED_LIMIT.search(rule)) for name, rules in part.chains.items()}, part.jumps)
        for table, part in live.items()
    }


def _shared_limits(listing: Listing) -> Set[str]:
    rules = (rule for part in listing.values() for found in part.chains.values() for rule in found)
    return {limit[0] for limit in map(_SHARED_LIMIT.search, rules) if limit}


def removal(live: Listing) -> str:
    """What takes everything of ours away."""
    return "".join(_block(table, now=live[table], then=_EMPTY) for table in _REMOVAL if table in live)


def _merged(new: Part, old: Part) -> Part:
    """The new chains with what the old ones have more, so that whichever check is there finds what it relies on translated."""
    chains: Dict[str, Tuple[str, ...]] = {}
    for name in sorted({*new.chains, *old.chains}):
        first, rest = new.chains.get(name, ()), old.chains.get(name, ())
        more = tuple(rule for rule in rest if rule not in first)
        chains[name] = _in_turn(first, more) if more and name in (CHAIN, LOOPBACK) else (*first, *more)
    return Part(chains, (Jump(HOOKS["nat"], 1, f"-j {CHAIN}"),) if chains else ())


def _in_turn(first: Sequence[str], more: Sequence[str]) -> Tuple[str, ...]:
    """Rules that lead on to the chains of services, new and old, each old one behind the new one for the same packets.

    What a new one leaves as it is has to come to the old one, so that they jump where they would go to for good. To the chain for the loopback
    interface they still go: what else there is, is not for its packets.
    """
    behind: Dict[str, List[str]] = {}
    for rule in more:
        behind.setdefault(_TARGET.split(rule)[0], []).append(rule)
    rules = [rule for one in first for rule in (one, *behind.pop(_TARGET.split(one)[0], ()))]
    rules += [rule for rest in behind.values() for rule in rest]
    loopback = f"-o lo -g {LOOPBACK}"
    kept = [rule for rule in rules if rule != "-o lo -j RETURN" or loopback not in rules]
    return tuple(rule if rule == loopback else rule.replace(" -g ", " -j ") for rule in kept)


def _block(table: str, *, now: Part, then: Part) -> str:
    kept = {name for name, rules in then.chains.items() if _counts(name) and now.chains.get(name) == rules}
    stale = [name for name in now.chains if name not in then.chains]
    lines = [f"*{table}"]
    # In restore --noflush, this makes a chain or empties the one that is there.
    lines.extend(f":{name} - [0:0]" for name in (*then.chains, *stale) if name not in kept)
    lines.extend(f"-A {name} {rule}" for name, rules in then.chains.items() if name not in kept for rule in rules)
    if now.jumps != then.jumps:
        lines.extend(f"-D {jump.chain} {jump.rule}" for jump in now.jumps)
        lines.extend(f"-I {jump.chain} {jump.position} {jump.rule}" for jump in then.jumps)
    lines.extend(f"-X {name}" for name in stale)
    return "\n".join([*lines, "COMMIT", ""])


def _counts(chain: str) -> bool:
    return any(chain.startswith(f"pf-{event}-") for event in EVENTS)
