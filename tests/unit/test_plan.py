# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wanted against live: which services stay, and the one transaction that changes the kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Optional

import pytest
from ansible_collections.portfence.egress.plugins.module_utils import _plan
from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._nft_listing import MARKER, Listing, in_order
from ansible_collections.portfence.egress.plugins.module_utils._nftables import Fence
from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_list
from ansible_collections.portfence.egress.plugins.module_utils._service import Declared

SPEC = "type inet_service : verdict; flags interval;"
FENCE = Fence(tables={"inet": "\tchain c {\n\t}\n"}, chains={"inet": {}}, maps={"inet": {"m": SPEC}})

RANGES = {"map": {"name": "m", "type": "inet_service", "flags": ["interval"]}}


def declared(*names: str, source: str = "given", state: str = "present") -> List[Declared]:
    """Services with these names, with a path that says where they come from."""
    data = [{"name": name, "source_ports": 50000, "state": state} for name in names]
    return list(parse_list(data, where=source))


def stored(*names: str) -> Dict[str, Declared]:
    """What a host has."""
    return {item.service.name: item for item in declared(*names, source="stored")}


@pytest.mark.parametrize(
    ("given", "state", "purge", "expected"),
    [
        (["c"], "present", False, {"a": "stored", "b": "stored", "c": "given"}),
        (["b"], "present", False, {"a": "stored", "b": "given"}),
        ([], "present", False, {"a": "stored", "b": "stored"}),
        (["c"], "present", True, {"c": "given"}),
        ([], "present", True, {}),
        (["b", "zz"], "absent", False, {"a": "stored"}),
        (["b"], "absent", True, {}),
        ([], "absent", True, {}),
        ([], "absent", False, {"a": "stored", "b": "stored"}),
    ],
)
def test_merge(given: List[str], state: str, purge: bool, expected: Dict[str, str]) -> None:
    merged = _plan.merge(stored("b", "a"), declared(*given), state=state, purge=purge)
    assert {name: item.path.split("[")[0] for name, item in merged.items()} == expected


def test_a_service_that_is_absent_itself_goes() -> None:
    given = [*declared("a", state="absent"), *declared("c")]
    assert list(_plan.merge(stored("a", "b"), given, state="present", purge=False)) == ["b", "c"]


def test_the_result_is_sorted_by_name() -> None:
    assert list(_plan.merge(stored("z", "m"), declared("a", "q"), state="present", purge=False)) == ["a", "m", "q", "z"]


def table(*objects: Dict[str, Any], family: str = "inet") -> Listing:
    """A listing with our marker."""
    marker = {"chain": {"family": family, "name": MARKER}}
    complete = [{kind: {"family": family, **content} for kind, content in item.items()} for item in objects]
    return [marker, *complete]


def chain(name: str, priority: Optional[int] = None) -> Dict[str, Any]:
    """A chain as nft lists it."""
    return {"chain": {"name": name} if priority is None else {"name": name, "prio": priority}}


def commands(text: str) -> List[str]:
    """The lines before the tables."""
    return text[: text.index("table inet portfence {")].splitlines()


def test_the_first_load() -> None:
    text = _plan.transaction(live={}, wanted=table(chain("c")), fence=FENCE, cgroups={})
    assert text == (
        "add table inet portfence\n"
        f"add map inet portfence m {{ {SPEC} }}\n"
        "flush table inet portfence\n"
        "delete map inet portfence m\n"
    ) + FENCE.body


def test_what_stays_is_not_deleted() -> None:
    """A counter keeps its count, a limit what was used of it; a base chain that were deleted would let packets through in between."""
    objects = {"counter": {"name": "violations_a"}}, {"limit": {"name": "logged", "rate": 50}}, RANGES
    now = table(chain("old"), chain("c"), chain("base", 110), *objects)
    then = table(chain("c"), chain("base", 110), *objects)
    assert commands(_plan.transaction(live={"inet": now}, wanted=then, fence=FENCE, cgroups={})) == [
        "add table inet portfence",
        "flush table inet portfence",
        "delete map inet portfence m",
        "delete chain inet portfence old",
    ]


def test_a_limit_that_differs_is_made_anew() -> None:
    now, then = (table({"limit": {"name": "logged", "rate": rate}}) for rate in (500, 50))
    assert "delete limit inet portfence logged" in commands(_plan.transaction(live={"inet": now}, wanted=then, fence=FENCE, cgroups={}))


def owners(**chains: str) -> Dict[str, Any]:
    """A map of accounts as nft lists it: u1="check_a" leads UID 1 to check_a."""
    elements = [[{"concat": ["tcp", int(name[1:])]}, {"goto": {"target": target}}] for name, target in chains.items()]
    return {"map": {"name": "uids", "type": ["inet_proto", "uid"], "elem": elements}}


def test_elements_of_owners_that_stay_are_not_touched() -> None:
    now = table(chain("a"), chain("b"), owners(u1="a", u2="b", u3="a"))
    then = table(chain("a"), chain("b"), owners(u1="a", u3="b", u4="b"))
    assert commands(_plan.transaction(live={"inet": now}, wanted=then, fence=FENCE, cgroups={}))[2:] == [
        "flush table inet portfence",
        "delete map inet portfence m",
        "delete element inet portfence uids { tcp . 2, tcp . 3 }",
    ]
    assert _plan.preparation(live={"inet": now}, wanted=then, fence=FENCE) == _plan.Preparation()


def test_a_map_with_an_element_of_another_kind_is_filled_anew() -> None:
    commented = owners(u1="a")
    commented["map"]["elem"] = [[{"elem": {"val": key, "comment": "by hand"}}, verdict] for key, verdict in commented["map"]["elem"]]
    lines = commands(_plan.transaction(live={"inet": table(chain("a"), commented)}, wanted=table(chain("a"), owners(u1="a")), fence=FENCE, cgroups={}))
    assert "delete map inet portfence uids" in lines


def test_a_new_chain_is_there_before_owners_are_led_to_it() -> None:
    fence = replace(FENCE, chains={"inet": {"a": "A\n", "b": "B\n", "looks_up": "vmap @uids\n"}})
    now = table(chain("a"), owners(u1="a", u2="a"))
    then = table(chain("a"), chain("b"), chain("looks_up"), {"counter": {"name": "violations_b"}}, owners(u1="a", u2="b"))
    assert _plan.preparation(live={"inet": now}, wanted=then, fence=fence) == _plan.Preparation(
        "table inet portfence {\n\tcounter violations_b { packets 0 bytes 0 }\nB\n}\n",
        "flush chain inet portfence b\ndelete chain inet portfence b\ndelete counter inet portfence violations_b\n",
    )
    # Somebody who was not fenced may come to a new chain in the same step.
    assert _plan.preparation(live={"inet": table(chain("a"), owners(u1="a"))}, wanted=then, fence=fence) == _plan.Preparation()
    assert _plan.preparation(live={}, wanted=then, fence=fence) == _plan.Preparation()


def test_the_limit_of_the_host_is_there_before_new_chains_ask_it() -> None:
    """The first run of a version that has it."""
    fence = replace(FENCE, chains={"inet": {"b": "B\n"}})
    now = table(chain("a"), owners(u1="a"))
    then = table(chain("b"), {"limit": {"name": "logged"}}, owners(u1="b"))
    assert _plan.preparation(live={"inet": now}, wanted=then, fence=fence) == _plan.Preparation(
        "table inet portfence {\n\tlimit logged { rate 5/second burst 200 packets }\nB\n}\n",
        "flush chain inet portfence b\ndelete chain inet portfence b\ndelete limit inet portfence logged\n",
    )


def test_a_map_is_known_before_its_table_is_flushed() -> None:
    """nft 0.9.8 crashes otherwise; what is live is known already."""
    now = table({"map": {"name": "old"}})
    assert commands(_plan.transaction(live={"inet": now}, wanted=table(), fence=FENCE, cgroups={})) == [
        "add table inet portfence",
        f"add map inet portfence m {{ {SPEC} }}",
        "flush table inet portfence",
        "delete map inet portfence m",
        "delete map inet portfence old",
    ]


def test_a_base_chain_that_differs_is_made_anew() -> None:
    text = _plan.transaction(live={"inet": table(chain("base", 100))}, wanted=table(chain("base", 110)), fence=FENCE, cgroups={})
    assert "delete chain inet portfence base" in commands(text)


def test_what_somebody_added_goes() -> None:
    """Maps and sets first: they can hold references to the others."""
    now = table(
        {"limit": {"name": "l"}},
        {"ct helper": {"name": "h"}},
        {"counter": {"name": "extra"}},
        RANGES,
        {"set": {"name": "s"}},
        {"rule": {"chain": "c", "expr": []}},
    )
    assert commands(_plan.transaction(live={"inet": now}, wanted=table(), fence=FENCE, cgroups={}))[2:] == [
        "delete map inet portfence m",
        "delete set inet portfence s",
        "delete ct helper inet portfence h",
        "delete limit inet portfence l",
        "delete counter inet portfence extra",
    ]


def test_equal_means_the_same_tables_with_the_same_content() -> None:
    wanted = table(chain("c"))
    assert _plan.equal(live={"inet": table(chain("c"))}, wanted=wanted, fence=FENCE, cgroups={})
    assert not _plan.equal(live={}, wanted=wanted, fence=FENCE, cgroups={})
    assert not _plan.equal(live={"inet": table(chain("c"), chain("d"))}, wanted=wanted, fence=FENCE, cgroups={})
    assert not _plan.equal(live={"inet": table(chain("c")), "ip": table(family="ip")}, wanted=wanted, fence=FENCE, cgroups={})


def test_removal_names_every_table_of_ours() -> None:
    assert _plan.removal({"inet": table(), "ip6": table(family="ip6")}) == (
        "delete table inet portfence\ndelete table ip6 portfence\n"
    )
    assert _plan.removal({}) == ""


def test_a_foreign_table_of_our_name_is_left_alone() -> None:
    _plan.check_owner({"inet": table()})
    with pytest.raises(PortFenceError) as error:
        _plan.check_owner({"inet": table(), "ip": [chain("output")]})
    assert str(error.value) == (
        "table ip portfence exists and was not written by this collection; look at it with 'nft list table ip portfence',"
        " then rename it, or delete it with 'nft delete table ip portfence'"
    )


def test_objects_are_listed_by_kind_and_name() -> None:
    first = "table inet t {\n\tmap m {\n\t\ttype mark : verdict\n\t\telements = { 1 : accept,\n\t\t\t     2 : drop }\n\t}\n"
    chains = ["\tchain b {\n\t}\n", "\tchain a {\n\t\ttype filter hook output priority 0; policy accept;\n\t\taccept\n\t}\n"]
    text = "\n".join([first, *chains]) + "}\ntable ip t {\n}\n"
    head, body = first.split("\n", 1)
    assert in_order(text) == head + "\n" + "\n".join([chains[1], chains[0], body]) + "}\ntable ip t {\n}\n"
    assert in_order(in_order(text)) == in_order(text)
    odd = "table inet t {\n\tflags dormant\n\tchain b {\n\t}\n\n\tchain a {\n\t}\n}\n"
    assert in_order(odd) == odd
