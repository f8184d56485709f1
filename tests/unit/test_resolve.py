# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names to ids: unknown names, shared ids, accounts that are not fenced by mistake, accounts to come."""

from __future__ import annotations

from typing import Any, List, Mapping

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_variables
from ansible_collections.portfence.egress.plugins.module_utils._resolve import FIRST_PLANNED_UID, Lookup, resolve
from ansible_collections.portfence.egress.tests.unit.pipeline import NOBODY, declare, lookup, messages

HOST = lookup(users={"root": 0, "web": 33, "www": 33, "otel": 990, "admin": 1000}, groups={"root": 0, "web": 33})
ADMINS = {0: "root", 1000: "the account that Ansible connects with"}


def problems(services: Mapping[str, Any], *, names: Lookup = HOST) -> List[str]:
    """What is wrong with services that have no other mistake; each gets a port of its own."""
    complete = {name: {"source_ports": 50000 + index, **given} for index, (name, given) in enumerate(services.items())}
    declared = declare(parse_variables({"egress_services": complete}))
    _resolved, found = resolve(declared, lookup=names, admin_uids=ADMINS)
    return messages(found)


def test_names_and_numbers_become_sorted_ids() -> None:
    declared = declare(
        parse_variables(
            {
                "egress_services": {
                    "a": {"source_ports": 1, "user": ["otel", "web", 40, "990", "www"]},
                    "b": {"source_ports": 2, "group": ["web", "7"]},
                }
            }
        )
    )
    resolved, found = resolve(declared, lookup=HOST, admin_uids=ADMINS)
    assert not found
    assert [(item.service.name, item.uids, item.gids) for item in resolved] == [("a", (33, 40, 990), ()), ("b", (), (7, 33))]


@pytest.mark.parametrize(
    ("services", "expected"),
    [
        (
            {"a": {"user": ["gone", "web", "lost"]}, "b": {"group": "none"}},
            [
                "egress_services.a.user: there is no user gone on this host; create it first, or write an existing name or id",
                "egress_services.a.user: there is no user lost on this host; create it first, or write an existing name or id",
                "egress_services.b.group: there is no group none on this host; create it first, or write an existing name or id",
            ],
        ),
        (
            {"a": {"user": "web"}, "b": {"user": "www"}},
            ["egress_services.b.user: www has id 33, which already belongs to egress_services.a"],
        ),
        (
            {"a": {"user": "otel"}, "b": {"user": [5, 990]}},
            ["egress_services.b.user: 990 has id 990, which already belongs to egress_services.a"],
        ),
        ({"a": {"user": "web"}, "b": {"group": "web"}}, []),
        (
            {"a": {"user": "root"}},
            ["egress_services.a.user: UID 0 is root, which is not fenced unless the service sets allow_admin: true"],
        ),
        (
            {"a": {"user": [0, "admin"]}},
            [
                "egress_services.a.user: UID 0 is root, which is not fenced unless the service sets allow_admin: true",
                "egress_services.a.user: UID 1000 is the account that Ansible connects with, which is not fenced unless the"
                " service sets allow_admin: true",
            ],
        ),
        (
            {"a": {"group": "root"}},
            ["egress_services.a.group: GID 0 is root's group, which is not fenced unless the service sets allow_admin: true"],
        ),
        ({"a": {"user": [0, 1000], "allow_admin": True}, "b": {"group": 0, "allow_admin": True}}, []),
    ],
)
def test_problems_of_a_host(services: Mapping[str, Any], expected: List[str]) -> None:
    assert problems(services) == expected


@pytest.mark.parametrize("name", ["\u00b2", "\u0661\u0662"])
def test_only_ascii_digits_are_a_number(name: str) -> None:
    """Python's isdigit() takes these for digits as well."""
    assert problems({"a": {"user": name}}) == [
        f"egress_services.a.user: there is no user {name} on this host; create it first, or write an existing name or id"
    ]


def test_numbers_are_not_looked_up() -> None:
    asked: List[str] = []
    resolve(
        declare(parse_variables({"egress_services": {"a": {"source_ports": 1, "user": ["5", "x"]}}})),
        lookup=Lookup(uid=asked.append, gid=asked.append),
        admin_uids={},
    )
    assert asked == ["x"]


def test_accounts_to_come_stand_for_themselves() -> None:
    """In check mode an earlier task would have made them; a real id wins, and groups are not accounts."""
    services = {"a": {"source_ports": 1}, "b": {"source_ports": 2}, "web": {"source_ports": 3}, "g": {"source_ports": 4, "group": "a"}}
    resolved, found = resolve(
        declare(parse_variables({"egress_services": services})),
        lookup=HOST,
        admin_uids=ADMINS,
        planned_accounts=["web", "b", "a"],
    )
    assert messages(found) == [
        "egress_services.g.group: there is no group a on this host; create it first, or write an existing name or id"
    ]
    uids = {item.service.name: item.uids for item in resolved}
    assert uids == {"a": (FIRST_PLANNED_UID,), "b": (FIRST_PLANNED_UID - 1,), "web": (33,), "g": ()}


def test_a_service_may_name_one_account_twice() -> None:
    assert problems({"a": {"user": ["web", "www", 33]}}) == []
    assert problems({"a": {"user": 33}}, names=NOBODY) == []
