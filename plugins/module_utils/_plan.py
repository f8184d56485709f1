# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wanted against live → what has to be done. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Dict, List, Mapping, Sequence

from ansible_collections.portfence.egress.plugins.module_utils._cgroups import UnitCgroup
from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._nft_listing import (
    Listing,
    elements_of,
    family_of,
    is_ours,
    names_of,
    without_elements,
)
from ansible_collections.portfence.egress.plugins.module_utils._nftables import CHECK_FAMILY, TABLE, Fence, emptied
from ansible_collections.portfence.egress.plugins.module_utils._service import Declared

# Kinds of objects that stay unless they differ from what is wanted (rules are flushed with their chains).
_KEPT = {"table", "chain", "rule", "counter"}


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
    """The one ``nft -f`` input that turns the live tables into the wanted ones.

    Counters and base chains that stay are never deleted, so no count is lost and no packet passes in between.

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
        lines.extend(emptied(family, {name: spec for name, spec in fence.maps[family].items() if name not in known}))
        # Maps are filled anew; nothing else stays of what somebody may have added. Maps can hold references to the rest.
        added = {kind for item in now for kind in item} - _KEPT
        for kind in sorted(added, key=lambda kind: (kind not in ("map", "set"), kind)):
            lines.extend(f"delete {kind} {table} {name}" for name in names_of(now, kind))
        declared = _by_name(then, "chain")
        for name, chain in _by_name(now, "chain").items():
            if declared.get(name) != chain:
                lines.append(f"delete chain {table} {name}")
        counters = names_of(then, "counter")
        lines.extend(f"delete counter {table} {name}" for name in names_of(now, "counter") if name not in counters)
    return "\n".join([*lines, fence.body, *member_commands(fence, cgroups)])


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
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _by_name(listing: Listing, kind: str) -> Dict[str, Any]:
    return {item[kind]["name"]: item[kind] for item in listing if kind in item}
