# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter, called as Ansible calls it and through Ansible itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.filter.services import DOCUMENTATION, EXAMPLES, FilterModule, services


def test_the_filter_is_known_by_its_name() -> None:
    assert FilterModule().filters() == {"services": services}
    assert yaml.safe_load(DOCUMENTATION)["name"] == "services"


def test_a_service_comes_out_complete() -> None:
    assert services({"egress_services": {"myapp": {"source_ports": ["50000-50499", "50500-50999", 52000]}}}) == [
        {
            "name": "myapp",
            "state": "present",
            "user": ["myapp"],
            "group": [],
            "unit": [],
            "addresses": [],
            "source_ports": ["50000-50999", "52000"],
            "protocols": ["tcp", "udp"],
            "assignment": "rewrite",
            "on_violation": "drop",
            "exclusive": True,
            "loopback": False,
            "log": {"level": "warning", "rate": "10/second"},
            "manage_account": True,
            "allow_admin": False,
        }
    ]


def test_defaults_can_be_left_out() -> None:
    policy = {
        "audit": {"source_ports": 1, "user": ["a", "b"], "on_violation": "log", "log": {"rate": "1/minute"}},
        "gone": {"state": "absent"},
        "host": {"source_ports": 2, "assignment": "host", "protocols": ["tcp"]},
        "myapp": {"source_ports": ["50000-50499", 50500], "uid": 5},
        "unit": {"source_ports": 3, "unit": "a", "assignment": "bpf"},
    }
    short = services({"egress_services": policy}, defaults=False)
    assert short == [
        {
            "name": "audit",
            "state": "present",
            "user": ["a", "b"],
            "source_ports": ["1"],
            "on_violation": "log",
            "log": {"level": "warning", "rate": "1/minute"},
        },
        {"name": "gone", "state": "absent"},
        {
            "name": "host",
            "state": "present",
            "user": ["host"],
            "source_ports": ["2"],
            "protocols": ["tcp"],
            "assignment": "host",
            "exclusive": False,
        },
        {"name": "myapp", "state": "present", "user": ["myapp"], "source_ports": ["50000-50500"], "uid": 5},
        {"name": "unit", "state": "present", "unit": ["a.service"], "source_ports": ["3"], "assignment": "bpf", "share_ports": False},
    ]
    again = {item["name"]: {key: value for key, value in item.items() if key != "name"} for item in short}
    assert services({"egress_services": again}) == services({"egress_services": policy})


def test_what_comes_out_goes_in_again() -> None:
    policy = {"a": {"source_ports": 1, "uid": 5, "log": {"prefix": "A: "}}, "b": {"source_ports": 2, "group": "g"}}
    once = services({"egress_services": policy})
    again = {item["name"]: {key: value for key, value in item.items() if key != "name"} for item in once}
    assert services({"egress_services": again}) == once


def test_the_backend_decides_about_the_prefix() -> None:
    policy = {"egress_services": {"a": {"source_ports": 1, "log": {"prefix": "x" * 30}}}}
    assert len(services(policy)) == 1
    with pytest.raises(AnsibleFilterError, match="at most 29 with iptables"):
        services(policy, backend="iptables")


def test_auto_is_what_was_handed_out() -> None:
    policy = {"a": {"source_ports": "auto", "size": 100}, "b": {"source_ports": "auto", "size": 100, "scope": "service"}}
    found = {"services": {"a": ["1000-1127"], "b": ["2000-2127"]}, "host": {"a": ["3000-3127"]}, "missing": "is here"}
    for scope, ports in (("service", "1000-1127"), ("host", "3000-3127")):
        got = services({"egress_services": policy}, allocations={**found, "scope": scope})
        assert [item["source_ports"] for item in got] == [[ports], ["2000-2127"]]
        assert all("size" not in item and "scope" not in item for item in got)


def test_auto_without_a_range() -> None:
    policy = {"egress_services": {"a": {"source_ports": "auto", "size": 100}, "b": {"source_ports": "auto", "size": 100}}}
    found = {"services": {"a": ["1000-1063"]}, "host": {}, "scope": "service", "missing": "is in f; run: allocate"}
    with pytest.raises(AnsibleFilterError) as error:
        services(policy, allocations=found)
    assert str(error.value).splitlines()[1:] == [
        "  egress_services.a.source_ports: found 'auto', and a range of 64 ports only for it is in f; run: allocate",
        "  egress_services.b.source_ports: found 'auto', and no range for it is in f; run: allocate",
    ]
    with pytest.raises(AnsibleFilterError, match="no range for it was given; accepted: what the lookup"):
        services(policy)
    with pytest.raises(AnsibleFilterError, match="replaces in the inventory variables egress_services"):
        services({"service_policy": policy["egress_services"]}, allocations=found)


@pytest.mark.parametrize("allocations", [5, {}, {**dict.fromkeys(["services", "host"], {"a": "x"}), "scope": "host", "missing": ""}])
def test_allocations_that_are_none(allocations: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="^allocations: found .*; accepted: what the lookup"):
        services({}, allocations=allocations)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"source_ports": "auto"}, ".size: missing; source_ports: auto needs the number of ports, such as 512"),
        ({"source_ports": "auto", "size": 0}, ".size: found 0; accepted: the number of ports, 1 to 32768"),
        ({"source_ports": "auto", "size": "x"}, ".size: found 'x'; accepted: the number of ports, 1 to 32768"),
        ({"source_ports": 5, "size": 5}, ".size: accepted only with source_ports: auto"),
        ({"source_ports": 5, "scope": "all"}, ".scope: found 'all'; accepted: service, host"),
    ],
)
def test_keys_of_the_allocation(given: Any, message: str) -> None:
    with pytest.raises(AnsibleFilterError) as error:
        services({"egress_services": {"a": given}})
    assert f"egress_services.a{message}" in str(error.value)


@pytest.mark.parametrize("backend", ["pf", "", None, ["nftables"], {}, 5])
def test_an_unknown_backend(backend: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="^backend: found .*; accepted: auto, nftables, iptables$"):
        services({}, backend=backend)


@pytest.mark.parametrize("value", [None, [], "egress_services", 5])
def test_something_that_is_no_mapping(value: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="takes a mapping of variable names to their values"):
        services(value)


def play(tmp_path: Path, variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the example of the documentation as it stands, on this machine, with variables."""
    play_text = yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": yaml.safe_load(EXAMPLES)}])
    (tmp_path / "play.yml").write_text(play_text, encoding="utf-8")
    (tmp_path / "hosts.yml").write_text("all: {hosts: {localhost: {ansible_connection: local}}}\n", encoding="utf-8")
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "all.yml").write_text(variables, encoding="utf-8")
    program = Path(sys.executable).with_name("ansible-playbook")
    return subprocess.run(
        [program, "-i", "hosts.yml", "play.yml"],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_HOME": str(tmp_path), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_variables_of_every_team_are_merged_in_a_play(tmp_path: Path) -> None:
    done = play(
        tmp_path,
        "egress_services: {zeta: {source_ports: 50000-50999}}\n"
        "egress_services__team: {alpha: {source_ports: [51000, '51002-51009'], user: '{{ account }}'}}\n"
        "egress_services_other: {not: ours}\n"
        "account: otel\n",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.index('"name": "alpha"') < done.stdout.index('"name": "zeta"')
    assert '"otel"' in done.stdout


def test_what_yaml_makes_of_odd_values_is_told_in_a_play(tmp_path: Path) -> None:
    done = play(
        tmp_path,
        "egress_services:\n"
        "  1: {source_ports: 2026-01-01}\n"
        "  a: {source_ports: .nan, 2026-01-01: x, log: {prefix: !!binary aGVsbG8=}}\n"
        '  b: {source_ports: 50000:50999, user: "a\\nb; drop {}"}\n'
        "  c: {source_ports: 50000.5, protocols: {tcp: true}, exclusive: 2}\n",
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    said = done.stderr + done.stdout
    for line in (
        "the egress policy has 10 mistakes:",
        "egress_services.1: found the service name 1; accepted: 1 to 32 letters",
        "egress_services.1.source_ports: found datetime.date(2026, 1, 1); accepted: a port 50000",
        "egress_services.a.datetime.date(2026, 1, 1): unknown key; accepted: source_ports",
        "egress_services.a.source_ports: found nan; accepted: a port 50000",
        "egress_services.a.log.prefix: found b'hello'; accepted: text of at most 127 bytes",
        "egress_services.b.user: found 'a\\nb; drop {}'; accepted: the name or numeric id of a user",
        "egress_services.b.source_ports: found '50000:50999'; write 50000-50999",
        "egress_services.c.source_ports: found 50000.5; accepted: a port 50000",
        "egress_services.c.protocols: found a mapping; accepted: tcp, udp",
        "egress_services.c.exclusive: found 2; accepted: true, false",
    ):
        assert line in said, line


def test_an_audit_blocks_nothing() -> None:
    policy = {"egress_services": {"a": {"source_ports": 1, "on_violation": "reject"}, "b": {"source_ports": 2, "log": {"prefix": "B: "}}}}
    enforced = services(policy)
    assert services(policy, enforcement="enforce") == enforced
    assert services(policy, enforcement="audit") == [{**item, "on_violation": "log"} for item in enforced]


@pytest.mark.parametrize("found", ["Audit", True, None, []])
def test_enforcement_is_one_of_two_words(found: Any) -> None:
    with pytest.raises(AnsibleFilterError, match=r"^egress_enforcement: found .+; accepted: audit, enforce$"):
        services({}, enforcement=found)
