# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps in which cgroups change around a fence, and which classes a fence knows meanwhile."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Tuple

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.filter.cgroup_steps import cgroup_steps
from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_list
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Lookup, resolve

Units = Dict[str, List[str]]
PORTS = {"a": "50000-50009", "b": "50010-50019", "c": "50020-50029"}


def services(**classids: Optional[str]) -> List[Dict[str, Any]]:
    """Services by the last digit of their class; "" for none, None for an absent service."""
    made: List[Dict[str, Any]] = []
    for name, digit in classids.items():
        made.append({"name": name, "source_ports": PORTS[name], **({"classid": f"0x10000{digit}"} if digit else {})})
        if digit is None:
            made[-1] = {"name": name, "state": "absent"}
    return made


def short(step: Optional[Dict[str, Any]]) -> Optional[str]:
    """A step in one line: name, last digit of the class, units; -name for one that goes."""
    if step is None:
        return None
    items = step["cgroups"]
    told = [f"-{item['name']}" if "classid" not in item else " ".join([item["name"] + item["classid"][-1], *item["units"]]) for item in items]
    return ", ".join(told) + (" !" if step["purge"] else "")


def steps(record: Optional[List[str]], policy: List[Dict[str, Any]], units: Optional[Units] = None, *, purge: bool = False) -> Tuple[Any, ...]:
    found = cgroup_steps(policy, units, record, purge)
    return tuple(short(found[name]) for name in ("first", "second", "last", "back")) + (found["renumbered"],)


A1 = "a 0x100001 a.service"
CASES: Dict[str, Tuple[Tuple[Any, ...], Tuple[Any, ...]]] = {
    "nothing": (([], services(a="")), (None, None, "-a", None, False)),
    "new": (([], services(a="1"), {"a": ["a"]}), ("a1 a.service", None, None, None, False)),
    "unchanged": (([A1], services(a="1"), {"a": ["a"]}), ("a1 a.service", None, None, None, False)),
    "class goes": (([A1], services(a="", b="2")), ("b2", None, "b2, -a", None, False)),
    "service goes": (([A1], services(a=None, b="2")), ("b2", None, "b2, -a", None, False)),
    "all go": (([A1], services(a="")), (None, None, "-a", None, False)),
    "another number": (([A1], services(a="2"), {"a": ["a"]}), ("a1 a.service", "a2 a.service", None, "a1 a.service", True)),
    "another number and unit": (([A1], services(a="2"), {"a": ["n"]}), ("a1 a.service n.service", "a2 n.service", None, "a1 a.service n.service", True)),
    "a unit goes": (([A1], services(a="1")), ("a1 a.service", "a1", None, "a1 a.service", False)),
    "a unit moves": (([A1], services(a="1", b="2"), {"b": ["a"]}), ("a1 a.service, b2", "a1, b2 a.service", None, "a1 a.service, b2", False)),
    "an instance moves": (
        (["a 0x100001 w@.service"], services(a="1", b="2"), {"b": ["w@x"]}),
        ("a1 w@.service, b2", "a1, b2 w@x.service", None, "a1 w@.service, b2", False),
    ),
    "another name": (
        ([A1], services(a=None, b="1"), {"b": ["a", "n"]}),
        ("a1 a.service n.service", "b1 a.service n.service, -a", None, "a1 a.service n.service, -b", False),
    ),
    "both want a unit": (([A1], services(a="1", b="2"), {"a": ["a"], "b": ["a"]}), ("a1 a.service, b2 a.service", None, None, None, False)),
    # Left to the module, which refuses them.
    "number of a stranger": (([A1], services(b="1")), ("b1", None, None, None, False)),
    "unit of a stranger": (([A1], services(b="2"), {"b": ["a"]}), ("b2 a.service", None, None, None, False)),
    "unreadable": ((["a"], services(b="2")), ("b2", None, None, None, False)),
    "not looked at": ((None, services(a="", b="2")), ("b2, -a", None, None, None, False)),
}


@pytest.mark.parametrize("given, expected", CASES.values(), ids=CASES)
def test_steps(given: Tuple[Any, ...], expected: Tuple[Any, ...]) -> None:
    assert steps(*given) == expected


def test_what_no_service_calls_for_goes_with_purge_only() -> None:
    assert steps([A1], services(b="2")) == ("b2", None, None, None, False)
    assert steps([A1], services(b="2"), purge=True) == ("b2", None, "b2 !", None, False)
    assert steps([A1], services(b="1"), {"b": ["a"]}, purge=True)[:3] == ("a1 a.service", "b1 a.service, -a", None)


@pytest.mark.parametrize(
    "record, policy, units, message",
    [
        ([A1], services(a="", b="1"), {}, "b.classid: found 0x100001, which the processes of a have until this run is over"),
        ([A1], services(a="2", b="1"), {}, "b.classid: found 0x100001, which the processes of a have until this run is over"),
        ([A1, "b 0x100002"], services(a="2", b="1"), {}, "a.classid: found 0x100002, which the processes of b have until this run is over"),
        ([A1, "b 0x100002"], services(a=None, b="1"), {}, "b.classid: found 0x100001, which the processes of a have until this run is over"),
        ([A1], services(a=None, b="2"), {"b": ["a"]}, "b.classid: found 0x100002 for a.service, which has the class 0x100001 of a now, and a goes"),
    ],
)
def test_what_no_order_keeps_closed_is_refused(record: List[str], policy: List[Dict[str, Any]], units: Units, message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=re.escape(message)) as caught:
        cgroup_steps(policy, units, record)
    assert "accepted: " in str(caught.value)


def test_a_fence_knows_the_class_that_a_cgroup_still_has() -> None:
    record = {"a": 0x100001, "b": 0x100003, "c": 0x100009}
    host = Lookup(uid=lambda _name: 7, gid=lambda _name: None, classid_of=record.get)
    resolved, problems = resolve(parse_list(services(a="2", b="1", c="")), lookup=host, admin_uids={})
    assert problems == []
    # The policy says whose the class 1 is; a service without a class is known by its account.
    assert {item.service.name: item.classids for item in resolved} == {"a": (0x100002,), "b": (0x100001, 0x100003), "c": ()}
