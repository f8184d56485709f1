# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wanted against live → what has to be done. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence

from ansible_collections.portfence.egress.plugins.module_utils._cgroups import UnitCgroup
from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._nft_listing import (
    Listing,
    elements_of,
    family_of,
    is_ours,
    kept_maps,
    names_of,
    without_elements,
)
from ansible_collections.portfence.egress.plugins.module_utils._nft_names import CHECK_FAMILY, TABLE
from ansible_collections.portfence.egress.plugins.module_utils._nftables import (
    LOG_LIMIT,
    LOG_LIMIT_TEXT,
    Fence,
    emptied,
)
from ansible_collections.portfence.egress.plugins.module_utils._service import Declared

# Kinds of objects that stay unless they differ from what is wanted (rules are flushed with their chains).
_KEPT = {"table", "chain", "rule", "counter", "limit"}


def merge(
    stored: Mapping[str, Declared], given: Sequence[Declared], *, state: str, purge: bool
) -> Dict[str, Declared]:
    """The services that the host shall have afterwards.

    :param stored: what it has, by name.
    :param state: ``present`` adds or replaces the given services (one whose own state is ``absent`` goes),
        ``absent`` takes them away.
    :param purge: with ``present``, services that are not given go; with ``absent``, all services go.
    """
    names = {item.service.name for item in given}
    if state == "absent":
        return {} if purge else {name: item for name, item in stored.items() if name not in names}
    kept = {} if purge else {name: item for name, item in stored.items() if name not in names}
    added = {item.service.name: item for item in given if item.service.state == "present"}
    return dict(sorted({**kept, **added}.items()))


def check_owner(live: Mapping[str, Listing]) -> None:
    """Raises PortFenceError when a live table has our name but was not written by us."""
    for family, listing in live.items():
        if not is_ours(listing):
            raise PortFenceError(
                f"table {family} {TABLE} exists and was not written by this collection; look at it with"
                f" 'nft list table {family} {TABLE}', then rename it, or delete it with 'nft delete table {family} {TABLE}'"
            )


def transaction(
    *, live: Mapping[str, Listing], wanted: Listing, fence: Fence, cgroups: Mapping[UnitCgroup, Sequence[str]]
) -> str:
    """The ``nft -f`` input that turns the live tables into the wanted ones.

    Counters and base chains that stay are never deleted, so no count is lost. Nor are maps of owners, in which only elements change
    that differ: a packet that is on its way when the kernel goes over to the new generation runs through the old rules, and finds
    what is in a map in the new generation (nft_do_chain and nft_genmask_cur in the kernel's net/netfilter). In a map that is deleted
    along with the old rules it would find nothing, and pass. See :func:`preparation` as well.

    :param live: our tables as they are, by family.
    :param wanted: the kernel's own listing of the fence.
    :param cgroups: see :func:`member_commands`.
    """
    lines: List[str] = []
    for family in fence.tables:
        table = f"{family} {TABLE}"
        now = live.get(family, [])
        then = family_of(wanted, family)
        known = [*names_of(now, "map"), *names_of(now, "set")]
        kept = kept_maps(now, then)
        lines.extend(emptied(family, {name: spec for name, spec in fence.maps[family].items() if name not in known}))
        for name, (had, wants) in kept.items():
            gone = ", ".join(key for key, verdict in had.items() if wants.get(key) != verdict)
            if gone:
                lines.append(f"delete element {table} {name} {{ {gone} }}")
        # Other maps are filled anew; nothing else stays of what somebody may have added. Maps can hold references to the rest.
        added = {kind for item in now for kind in item} - _KEPT
        for kind in sorted(added, key=lambda kind: (kind not in ("map", "set"), kind)):
            lines.extend(f"delete {kind} {table} {name}" for name in names_of(now, kind) if kind != "map" or name not in kept)
        declared = _by_name(then, "chain")
        for name, chain in _by_name(now, "chain").items():
            if declared.get(name) != chain:
                lines.append(f"delete chain {table} {name}")
        limits = _by_name(then, "limit")
        lines.extend(f"delete limit {table} {name}" for name, limit in _by_name(now, "limit").items() if limits.get(name) != limit)
        counters = names_of(then, "counter")
        lines.extend(f"delete counter {table} {name}" for name in names_of(now, "counter") if name not in counters)
    return "\n".join([*lines, fence.body, *member_commands(fence, cgroups)])


@dataclass(frozen=True)
class Preparation:
    """What has to be in the kernel before the transaction, and what takes it away again; both empty where nothing has to."""

    add: str = ""
    undo: str = ""


def preparation(*, live: Mapping[str, Listing], wanted: Listing, fence: Fence) -> Preparation:
    """New chains that owners come to who were led to others before.

    The packet on its way, see :func:`transaction`, would find the new chain, and in it the rules of the old generation: none. So these
    chains are there one generation earlier. Nothing leads to them until then.
    """
    add: List[str] = []
    undo: List[str] = []
    for family, chains in fence.chains.items():
        now, then = live.get(family, []), family_of(wanted, family)
        known = names_of(now, "chain")
        moved = {
            wants[key].partition(" ")[2]
            for had, wants in kept_maps(now, then).values()
            for key, verdict in had.items()
            if wants.get(key, verdict) != verdict
        }
        if not moved - {"", *known}:
            continue
        counters = [name for name in names_of(then, "counter") if name not in names_of(now, "counter")]
        # Those that look into a map lead to the others, and are not led to by owners.
        new = {name: text for name, text in chains.items() if name not in known and "@" not in text}
        limited = LOG_LIMIT in names_of(then, "limit") and LOG_LIMIT not in names_of(now, "limit")
        table = f"{family} {TABLE}"
        objects = "".join(f"\tcounter {name} {{ packets 0 bytes 0 }}\n" for name in counters) + (LOG_LIMIT_TEXT if limited else "")
        body = objects + "".join(new.values())
        add.append(f"table {table} {{\n{body}}}\n")
        undo.extend(f"flush chain {table} {name}\n" for name in new)
        undo.extend(f"delete chain {table} {name}\n" for name in new)
        undo.extend(f"delete counter {table} {name}\n" for name in counters)
        if limited:
            undo.append(f"delete limit {table} {LOG_LIMIT}\n")
    return Preparation("".join(add), "".join(undo))


def member_commands(fence: Fence, cgroups: Mapping[UnitCgroup, Sequence[str]]) -> List[str]:
    """Commands that tell the fence which cgroups its units have.

    :param cgroups: place of a unit to the paths of the cgroups that exist there.
    """
    return [
        f'add element {CHECK_FAMILY} {TABLE} {member.map} {{ "{path}" : {member.verdict} }}'
        for member in fence.members
        for path in cgroups.get(member.place, ())
    ]


def removal(live: Mapping[str, Listing]) -> str:
    """The ``nft -f`` input that takes our tables away."""
    return "".join(f"delete table {family} {TABLE}\n" for family in live)


def equal(
    *, live: Mapping[str, Listing], wanted: Listing, fence: Fence, cgroups: Mapping[UnitCgroup, Sequence[str]]
) -> bool:
    """Whether the kernel has exactly this fence, and every cgroup of its units in it.

    The cgroups of units that have ended may be left; nft lists them by number.
    """
    if set(live) != set(fence.tables) or not has_members(live=live, fence=fence, cgroups=cgroups):
        return False
    return all(
        without_elements(listing, fence.member_maps) == without_elements(family_of(wanted, family), fence.member_maps)
        for family, listing in live.items()
    )


def has_members(*, live: Mapping[str, Listing], fence: Fence, cgroups: Mapping[UnitCgroup, Sequence[str]]) -> bool:
    """Whether every cgroup of the units of a fence is in its maps, and no other that exists."""
    for name in fence.member_maps:
        needed = {
            path: member.verdict for member in fence.members if member.map == name for path in cgroups.get(member.place, ())
        }
        found = {
            path: verdict for path, verdict in elements_of(live[CHECK_FAMILY], name).items() if not path.isdigit()
        }
        if found != needed:
            return False
    return True


def fingerprint(tables: Mapping[str, Listing], fence: Fence) -> str:
    """A text that is the same for the same tables, by family, but for the cgroups of units."""
    content = {family: without_elements(listing, fence.member_maps) for family, listing in tables.items()}
    # One nft prints the keys of an object in one order.
    return hashlib.sha256(repr(sorted(content.items())).encode()).hexdigest()


def _by_name(listing: Listing, kind: str) -> Dict[str, Any]:
    return {item[kind]["name"]: item[kind] for item in listing if kind in item}
