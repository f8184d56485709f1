# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user may write: spellings and defaults that are read, and how variables are merged."""

from __future__ import annotations

from typing import Any, Dict

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError
from ansible_collections.portfence.egress.plugins.module_utils._policy import conflicts, parse_list, parse_variables
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet
from ansible_collections.portfence.egress.plugins.module_utils._service import Log, Service


def read(service: Dict[str, Any], *, name: str = "myapp", backend: str = "nftables") -> Service:
    """The one service of a policy."""
    (found,) = parse_variables({"egress_services": {name: service}}, backend=backend)
    return found


def test_the_common_case_needs_nothing_but_ports() -> None:
    assert read({"source_ports": "50000-50999"}) == Service(
        name="myapp",
        users=("myapp",),
        groups=(),
        source_ports=PortSet.parse("50000-50999"),
        protocols=("tcp", "udp"),
        assignment="rewrite",
        on_violation="drop",
        exclusive=True,
        loopback=False,
        log=Log(prefix=None, level="warning", rate="10/second"),
        state="present",
        uid=None,
        manage_account=True,
        allow_admin=False,
    )


@pytest.mark.parametrize(
    ("given", "attribute", "value"),
    [
        ({"user": "otel"}, "users", ("otel",)),
        ({"user": 1005}, "users", ("1005",)),
        ({"user": "01005"}, "users", ("1005",)),
        ({"user": ["web", 33, "web"]}, "users", ("web", "33")),
        ({"user": []}, "users", ("myapp",)),
        ({"user": None}, "users", ("myapp",)),
        ({"user": "EXAMPLE\\svc_app"}, "users", ("EXAMPLE\\svc_app",)),
        ({"user": "svc@example.com"}, "users", ("svc@example.com",)),
        ({"user": "dienst\u00e4"}, "users", ("dienst\u00e4",)),
        ({"user": 4294967294}, "users", ("4294967294",)),
        ({"group": "otel"}, "groups", ("otel",)),
        ({"group": "otel"}, "users", ()),
        ({"group": ["otel", 0]}, "groups", ("otel", "0")),
        ({"group": "otel", "user": []}, "users", ()),
        ({"protocols": "udp"}, "protocols", ("udp",)),
        ({"protocols": ["udplite", "dccp", "sctp", "udp", "tcp", "tcp"]}, "protocols", ("tcp", "udp", "sctp", "dccp", "udplite")),
        ({"assignment": "app"}, "assignment", "app"),
        ({"assignment": "host"}, "exclusive", False),
        ({"assignment": "host", "exclusive": False}, "exclusive", False),
        ({"on_violation": "reject"}, "on_violation", "reject"),
        ({"exclusive": False}, "exclusive", False),
        ({"exclusive": "no"}, "exclusive", False),
        ({"loopback": "True"}, "loopback", True),
        ({"allow_admin": "yes"}, "allow_admin", True),
        ({"manage_account": "off"}, "manage_account", False),
        ({"uid": 990}, "uid", 990),
        ({"uid": "990"}, "uid", 990),
        ({"log": {"level": "err"}}, "log", Log(level="err")),
        ({"log": {"rate": "1/minute"}}, "log", Log(rate="1/minute")),
        ({"log": {"prefix": None}}, "log", Log()),
        ({"log": {}}, "log", Log()),
        ({"log": {"prefix": "PORT VIOLATION: "}}, "log", Log(prefix="PORT VIOLATION: ")),
        ({"log": {"prefix": "x" * 127}}, "log", Log(prefix="x" * 127)),
        ({"log": {"prefix": "!#%&()*+,-./:;<=>?@[]^_{|}~ "}}, "log", Log(prefix="!#%&()*+,-./:;<=>?@[]^_{|}~ ")),
    ],
)
def test_what_is_written_is_understood(given: Dict[str, Any], attribute: str, value: object) -> None:
    assert getattr(read({"source_ports": 50000, **given}), attribute) == value


@pytest.mark.parametrize("name", ["a", "_x", "my.app-1_b", "7", "A" * 32, "check", "postrouting", "drop"])
def test_good_names(name: str) -> None:
    assert read({"source_ports": 50000}, name=name).name == name


def test_an_absent_service_needs_no_other_key() -> None:
    assert read({"state": "absent"}) == Service(name="myapp", state="absent")


def test_a_prefix_is_measured_against_the_backend() -> None:
    assert read({"source_ports": 1, "log": {"prefix": "x" * 29}}, backend="iptables").log.prefix == "x" * 29
    with pytest.raises(InputError, match="found 30 bytes; accepted: at most 29 with iptables"):
        read({"source_ports": 1, "log": {"prefix": "x" * 30}}, backend="iptables")


def test_variables_are_merged_and_sorted_by_name() -> None:
    services = parse_variables(
        {
            "egress_services__web": {"web": {"source_ports": 51000}},
            "egress_services": {"zeta": {"source_ports": 50000}, "alpha": {"source_ports": 50001}},
            "egress_services__empty": None,
            "egress_services__none": {},
        }
    )
    assert [service.name for service in services] == ["alpha", "web", "zeta"]
    assert parse_variables({}) == ()


def test_a_name_in_two_variables_names_both() -> None:
    with pytest.raises(InputError) as error:
        parse_variables(
            {
                "egress_services__web": {"myapp": {"source_ports": 51000}},
                "egress_services": {"myapp": {"source_ports": 50000}},
            }
        )
    assert str(error.value) == (
        "the egress policy has 1 mistake:\n"
        "  egress_services__web.myapp: the service is already defined in egress_services; define it in one of the two"
    )


def test_the_order_in_which_variables_come_does_not_matter() -> None:
    first = {"egress_services": {"a": {"source_ports": 50000}}, "egress_services__b": {"b": {"source_ports": 50001}}}
    second = dict(reversed(list(first.items())))
    assert parse_variables(first) == parse_variables(second)


def test_a_list_keeps_its_order_and_its_paths() -> None:
    declared = parse_list([{"name": "zeta", "source_ports": 50000}, {"name": "alpha", "state": "absent"}])
    assert [(item.path, item.service.name) for item in declared] == [("services[0]", "zeta"), ("services[1]", "alpha")]


def test_a_list_is_not_asked_for_contradictions() -> None:
    """A module asks once it knows all services of the host."""
    declared = parse_list([{"name": "a", "source_ports": "1-9"}, {"name": "b", "source_ports": "5-12"}], where="services")
    assert [str(problem) for problem in conflicts(declared)] == [
        "services[1].source_ports: 5-9 also belongs to services[0]; services of one host can't share source ports"
    ]


def test_an_absent_service_contradicts_nobody() -> None:
    declared = parse_list([{"name": "a", "source_ports": "1-9"}, {"name": "b", "source_ports": "5-12", "state": "absent"}])
    assert conflicts(declared) == []


def test_neighbours_do_not_overlap() -> None:
    ports = {"a": "1-9", "b": "10-19", "c": ["20", "22"], "d": "21"}
    services = {name: {"source_ports": value} for name, value in ports.items()}
    assert len(parse_variables({"egress_services": services})) == 4


@pytest.mark.parametrize(
    "service",
    [
        {"source_ports": "50000-50999"},
        {"source_ports": ["50000-50100", 50300], "user": ["a", 5], "log": {"prefix": "P: ", "rate": "5/hour"}},
        {"source_ports": 50000, "group": ["a", "7"], "assignment": "app", "exclusive": False, "on_violation": "log"},
        {"source_ports": 50000, "assignment": "host", "protocols": ["sctp"], "loopback": True, "uid": 1234},
        {"source_ports": 50000, "user": 0, "allow_admin": True, "manage_account": False},
        {"state": "absent"},
    ],
)
def test_plain_data_is_read_back(service: Dict[str, Any]) -> None:
    read_once = read(service)
    (item,) = parse_list([read_once.to_dict()])
    assert item.service == read_once
    assert item.service.to_dict() == read_once.to_dict()
