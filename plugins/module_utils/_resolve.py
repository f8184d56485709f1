# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of accounts, groups and units → what the kernel compares. Pure but for the injected look-up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Collection, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._cgroups import UnitCgroup, default_slice, locate
from ansible_collections.portfence.egress.plugins.module_utils._errors import Problem
from ansible_collections.portfence.egress.plugins.module_utils._service import HIGHEST_ID, Declared, Service, is_id

# Stands for an account that does not exist yet, in a prediction only; counted down, and never loaded in the kernel's live tables.
FIRST_PLANNED_UID = HIGHEST_ID - 1


@dataclass(frozen=True)
class Resolved:
    """A service with the ids of its owners, and the places of its units.

    :ivar classids: its class, and the one that its cgroup still has.
    """

    service: Service
    uids: Tuple[int, ...]
    gids: Tuple[int, ...]
    units: Tuple[UnitCgroup, ...] = ()
    classids: Tuple[int, ...] = ()


@dataclass(frozen=True)
class Lookup:
    """How names are found: functions that give an id, the slice of a unit, or the class of a cgroup; None for a name that does not exist."""

    uid: Callable[[str], Optional[int]]
    gid: Callable[[str], Optional[int]]
    slice_of: Callable[[str], Optional[str]] = default_slice
    classid_of: Callable[[str], Optional[int]] = lambda _name: None


def resolve(
    declared: Sequence[Declared],
    *,
    lookup: Lookup,
    admin_uids: Mapping[int, str],
    planned_accounts: Collection[str] = (),
) -> Tuple[Tuple[Resolved, ...], List[Problem]]:
    """Find the ids of every service.

    :param admin_uids: UIDs that are fenced only where the service sets ``allow_admin``, each with the reason.
    :param planned_accounts: accounts that would exist if this were not check mode.
    :returns: the services, and a problem for every name that is unknown, every admin, and every id that two services
        share.
    """
    problems: List[Problem] = []
    resolved: List[Resolved] = []
    owners: Dict[Tuple[str, int], str] = {}
    classids = {item.service.classid for item in declared}
    planned = {name: FIRST_PLANNED_UID - index for index, name in enumerate(sorted(planned_accounts))}
    for item in declared:
        ids: Dict[str, List[int]] = {"user": [], "group": []}
        for kind, names, find in (
            ("user", item.service.users, lookup.uid),
            ("group", item.service.groups, lookup.gid),
        ):
            for name in names:
                number = int(name) if is_id(name) else find(name)
                if number is None:
                    number = planned.get(name) if kind == "user" else None
                if number is None:
                    problems.append(
                        Problem(
                            f"{item.path}.{kind}",
                            f"there is no {kind} {name} on this host; create it first, or write an existing name or id",
                        )
                    )
                    continue
                owner = owners.setdefault((kind, number), item.path)
                if owner != item.path:
                    problems.append(
                        Problem(f"{item.path}.{kind}", f"{name} has id {number}, which already belongs to {owner}")
                    )
                ids[kind].append(number)
        if not item.service.allow_admin:
            problems.extend(_admins(item, ids, admin_uids))
        units = _locate(item, lookup, problems)
        resolved.append(
            Resolved(
                item.service, tuple(sorted(set(ids["user"]))), tuple(sorted(set(ids["group"]))), units, _classids(item.service, lookup, classids)
            )
        )
    return tuple(resolved), problems


def _classids(service: Service, lookup: Lookup, classids: Collection[Optional[int]]) -> Tuple[int, ...]:
    """The class of a service, and the one that the host still gives its processes: until its cgroup has the new one, both are its own.

    :param classids: those of all services; what one of them is to have is no other's any more.
    """
    if service.classid is None:
        return ()
    before = lookup.classid_of(service.name)
    return (service.classid,) if before is None or before in classids else (service.classid, before)


def _locate(item: Declared, lookup: Lookup, problems: List[Problem]) -> Tuple[UnitCgroup, ...]:
    units = []
    for unit in sorted(item.service.units):
        slice_name = lookup.slice_of(unit)
        if slice_name is None:
            problems.append(
                Problem(f"{item.path}.unit", f"there is no unit {unit} on this host; install it first, or write the name of another one")
            )
        else:
            units.append(locate(unit, slice_name))
    return tuple(units)


def _admins(item: Declared, ids: Mapping[str, Sequence[int]], admin_uids: Mapping[int, str]) -> List[Problem]:
    problems = [
        Problem(
            f"{item.path}.user",
            f"UID {uid} is {admin_uids[uid]}, which is not fenced unless the service sets allow_admin: true",
        )
        for uid in ids["user"]
        if uid in admin_uids
    ]
    if 0 in ids["group"]:
        problems.append(
            Problem(f"{item.path}.group", "GID 0 is root's group, which is not fenced unless the service sets allow_admin: true")
        )
    return problems
