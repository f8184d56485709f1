# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters that make the lists of modules out of services."""

from __future__ import annotations

import importlib
from typing import Any, Dict

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.filter.assignments import assignments
from ansible_collections.portfence.egress.plugins.filter.cgroup_steps import cgroup_steps
from ansible_collections.portfence.egress.plugins.filter.cgroups import cgroups
from ansible_collections.portfence.egress.plugins.filter.namespaces import namespaces
from ansible_collections.portfence.egress.plugins.filter.present import present
from ansible_collections.portfence.egress.plugins.filter.reserved_ports import reserved_ports
from ansible_collections.portfence.egress.plugins.filter.service_accounts import service_accounts
from ansible_collections.portfence.egress.plugins.filter.services import services

FILTERS = {
    "assignments": assignments,
    "cgroup_steps": cgroup_steps,
    "cgroups": cgroups,
    "present": present,
    "reserved_ports": reserved_ports,
    "service_accounts": service_accounts,
}


def policy(**variables: Dict[str, Any]) -> Any:
    """Services as the filter "services" gives them."""
    return services({"egress_services": variables})


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_is_known_by_its_name(name: str) -> None:
    found = importlib.import_module(f"ansible_collections.portfence.egress.plugins.filter.{name}")
    assert found.FilterModule().filters() == {name: FILTERS[name]}
    assert yaml.safe_load(found.DOCUMENTATION)["name"] == name


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("value", ["myapp", {"myapp": {}}, None, [{"source_ports": 1}], ["myapp"]])
def test_what_is_no_list_of_services_is_refused(name: str, value: Any) -> None:
    with pytest.raises(AnsibleFilterError, match=f"{name} takes a list of services|services\\[0\\]: found"):
        FILTERS[name](value)


@pytest.mark.parametrize("name", [*FILTERS, "namespaces"])
@pytest.mark.parametrize("state", ["presnt", None, True])
def test_a_state_that_is_none_is_not_taken_for_absent(name: str, state: Any) -> None:
    with pytest.raises(AnsibleFilterError, match=r"^services\[1\].state: found .+; accepted: present, absent$"):
        {**FILTERS, "namespaces": namespaces}[name]([{"name": "a"}, {"name": "b", "state": state, "source_ports": "20000-20007"}])


def test_accounts_of_services() -> None:
    found = policy(
        b={"source_ports": "20000-20007", "uid": 991},
        a={"source_ports": "20010-20017", "user": ["one", "two", "990"]},
        group={"source_ports": "20030-20037", "group": "staff"},
        gone={"state": "absent"},
        theirs={"source_ports": "20040-20047", "manage_account": False},
    )
    wanted = [{"name": "one", "uid": None}, {"name": "two", "uid": None}, {"name": "b", "uid": 991}]
    assert service_accounts(found) == wanted
    assert service_accounts([{"name": "x", "user": "y"}]) == [{"name": "y", "uid": None}]
    assert service_accounts([{"name": "x"}]) == [{"name": "x", "uid": None}]
    assert service_accounts([{"name": "x", "unit": "x.service"}, {"name": "y", "classid": "0x100001"}, {"name": "z", "addresses": ["10.0.0.0/8"]}]) == []


def test_cgroups_of_services() -> None:
    found = policy(
        other={"source_ports": "20000-20007"},
        legacy={"source_ports": "20010-20017", "classid": "0x100001"},
        more={"source_ports": "20020-20027", "classid": "0x100002"},
        gone={"state": "absent"},
    )
    assert cgroups(found, {"legacy": ["legacy.service"]}) == [
        {"name": "legacy", "classid": "0x100001", "units": ["legacy.service"]},
        {"name": "more", "classid": "0x100002", "units": []},
        {"name": "gone", "state": "absent"},
        {"name": "other", "state": "absent"},
    ]


def test_ports_that_services_reserve() -> None:
    found = policy(
        b={"source_ports": ["20000-20007", 20100]},
        everything={"source_ports": "30000-39999", "assignment": "host"},
        gone={"state": "absent"},
    )
    assert reserved_ports(found) == ["20000-20007", "20100"]
    own = [{"name": "x", "source_ports": 54000}, {"name": "y", "source_ports": "5-6", "state": "absent"}]
    assert reserved_ports(own) == ["54000"]


def test_services_that_are_present() -> None:
    found = [{"name": "a"}, {"name": "b", "state": "absent"}, {"name": "c", "state": "present"}]
    assert [service["name"] for service in present(found)] == ["a", "c"]


def test_assignments_of_services() -> None:
    found = policy(a={"source_ports": "1024-1031", "assignment": "bpf"}, b={"source_ports": 2000}, gone={"state": "absent"})
    assert assignments(found) == ["bpf", "rewrite"]
    assert assignments([{"name": "x", "source_ports": 54000}]) == ["rewrite"]
    assert assignments(policy(gone={"state": "absent"})) == []
