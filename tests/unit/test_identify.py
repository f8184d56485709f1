# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who was behind an address and a port: from inside and outside of a NAT, now and then, renamed and gone."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any, Dict, List

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.filter.identify import DOCUMENTATION, FilterModule, identify
from ansible_collections.portfence.egress.plugins.module_utils._allocator import Holding, Key
from ansible_collections.portfence.egress.plugins.module_utils._lock_file import LockFile, render
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange

WEB = {"source_ports": "auto", "size": 512}
MAIL = {"source_ports": "auto", "size": 64, "scope": "service"}
TOOL = {"source_ports": ["50000-50099", 50200]}
CRON = {"source_ports": "51000-51099", "scope": "service"}
EAST = {"egress_nat_domain": "east", "egress_addresses": ["203.0.113.7", "2001:db8:7::/64"]}
WEST = {"egress_nat_domain": "west", "egress_addresses": "203.0.113.8"}
HOSTS: Dict[str, Dict[str, Any]] = {
    "web1": {**EAST, "ansible_host": "10.1.0.1", "egress_services": {"web": WEB, "mail": MAIL, "cron": CRON}},
    "www2": {
        **EAST,
        "ansible_host": "10.1.0.2",
        "egress_addresses": [*EAST["egress_addresses"], "10.1.9.0/24"],
        "egress_services": {"web": WEB, "tool": TOOL, "cron": CRON},
    },
    # Of the same domain, with an address of its own.
    "six": {"egress_nat_domain": "east", "egress_addresses": "2001:db8:9::6", "egress_services": {"web": WEB}},
    "web3": {**WEST, "ansible_host": "10.1.0.1", "egress_services": {"web": WEB}},
    "10.4.0.4": {"egress_services": {"mail": MAIL}, "egress_services__team": {"tool": TOOL}, "egress_addresses": ["192.0.2.99"]},
    **{f"10.4.0.{number}": {"egress_services": {"mail": MAIL}, "egress_addresses": ["192.0.2.99"]} for number in (5, 6, 7)},
}


def holding(owner: str, ports: str, since: str, until: str = "", renamed: str = "") -> Holding:
    """A line of the file: DOMAIN/HOST/SERVICE or SERVICE."""
    domain, host, service = owner.split("/") if "/" in owner else ("", "", owner)
    end = date.fromisoformat(until) if until else None
    return Holding(Key(domain, host, service), PortRange.parse(ports), date.fromisoformat(since), end, renamed)


HOLDINGS = (
    holding("mail", "16384-16447", "2026-01-01"),
    holding("fax", "16448-16511", "2026-01-01", "2026-02-01"),
    holding("east/web1/web", "16896-17407", "2026-01-01"),
    holding("east/web2/web", "17408-17919", "2026-01-01", "2026-02-01", "www2"),
    holding("east/www2/web", "17408-17919", "2026-02-01"),
    holding("east/gone/web", "17920-18431", "2026-01-01", "2026-01-31"),
    holding("east/www2/web", "17920-18431", "2026-06-01", "2026-06-30"),
    holding("east/web1/db", "17920-18431", "2026-03-15", "2026-04-01"),
    holding("east/six/web", "18432-18943", "2026-01-01"),
    holding("west/web3/web", "16896-17407", "2026-01-05"),
)


@pytest.fixture(name="lock", scope="module")
def fixture_lock(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("inventory") / "port-allocations.yml"
    path.write_text(render(LockFile(7, HOLDINGS)), encoding="utf-8")
    return str(path)


def ask(lock: str, address: str, time: str = "") -> List[str]:
    """The answer in words."""
    text: List[str] = identify(HOSTS, address, time=time or None, lock_file=lock)["text"]
    return text


WEB1 = "web on web1 in the NAT domain east: 16896-17407 since 2026-01-01"
WWW2 = "web on www2 in the NAT domain east: 17408-17919 since 2026-02-01"
WEB2 = "web on web2 (now www2) in the NAT domain east: 17408-17919 since 2026-01-01 until 2026-02-01"
GONE = "web on gone (not in the inventory any more) in the NAT domain east: 17920-18431 since 2026-01-01 until 2026-01-31"
MAIL1 = "mail on web1: 16384-16447 since 2026-01-01"


@pytest.mark.parametrize(
    ("address", "time", "want"),
    [
        ("203.0.113.7:16896", "", [WEB1]),
        ("203.0.113.7:17407", "", [WEB1]),
        ("[2001:db8:7::99]:17000", "", [WEB1]),
        ("[::ffff:203.0.113.7]:17000", "", [WEB1]),
        ("203.0.113.8:17000", "", ["web on web3 in the NAT domain west: 16896-17407 since 2026-01-05"]),
        ("[2001:db8:9::6]:18432", "", ["web on six in the NAT domain east: 18432-18943 since 2026-01-01"]),
        ("203.0.113.7:18432", "", []),
        ("[2001:db8:9::6]:17000", "", []),
        # Two hosts have the address inside; each has the port.
        ("10.1.0.1:17000", "", [WEB1, "web on web3 in the NAT domain west: 16896-17407 since 2026-01-05"]),
        ("10.1.0.2:17000", "", []),
        ("10.1.0.2:17408", "", [WWW2]),
        ("10.1.9.77:17408", "", [WWW2]),
        ("203.0.113.7:16448", "", []),
        ("192.0.2.1:17000", "", []),
        # What a service has everywhere names the service; the address names the host, where it is one's.
        ("203.0.113.7:16400", "", [MAIL1]),
        ("192.0.2.99:16400", "", ["mail on one of 10.4.0.4, 10.4.0.5, 10.4.0.6 and 1 more: 16384-16447 since 2026-01-01"]),
        ("10.4.0.6:16400", "", ["mail on 10.4.0.6: 16384-16447 since 2026-01-01"]),
        ("10.4.0.4:16400", "", ["mail on 10.4.0.4: 16384-16447 since 2026-01-01"]),
        ("203.0.113.8:16400", "", []),
        # Ports written by hand.
        ("10.4.0.4:50200", "", ["tool on 10.4.0.4: 50200, written by hand"]),
        ("203.0.113.7:50099", "", ["tool on www2 in the NAT domain east: 50000-50099, written by hand"]),
        ("203.0.113.7:51000", "", ["cron on one of web1, www2 in the NAT domain east: 51000-51099, written by hand"]),
        ("10.1.0.2:51000", "", ["cron on www2 in the NAT domain east: 51000-51099, written by hand"]),
        # The past.
        ("203.0.113.7:17000", "2025-12-31", []),
        ("203.0.113.7:16448", "2026-01-01", ["fax on one of web1, www2, if the service was there then: 16448-16511 since 2026-01-01 until 2026-02-01"]),
        ("10.4.0.7:16448", "2026-01-01", ["fax on 10.4.0.7, if the service was there then: 16448-16511 since 2026-01-01 until 2026-02-01"]),
        ("192.0.2.1:16448", "2026-01-01", []),
        ("203.0.113.7:17000", "2026-01-01", [WEB1]),
        ("203.0.113.7:17500", "2026-01-15", [WEB2]),
        ("10.1.0.2:17500", "2026-01-15", [WEB2]),
        ("203.0.113.7:17500", "2026-02-01", [WEB2, WWW2]),
        ("203.0.113.7:17500", "2026-02-02", [WWW2]),
        ("203.0.113.7:18000", "", []),
        ("203.0.113.7:18000", "2026-01-31", [GONE]),
        ("203.0.113.7:18000", "2026-02-01", []),
        ("203.0.113.8:18000", "2026-01-31", []),
        ("10.1.0.1:18000", "2026-01-31", []),
        ("10.1.0.1:18000", "2026-03-20", ["db on web1 in the NAT domain east: 17920-18431 since 2026-03-15 until 2026-04-01"]),
        # The day is that of UTC.
        ("203.0.113.7:18000", "2026-02-01T00:30:00+01:00", [GONE]),
        ("203.0.113.7:18000", "2026-01-31T23:59:59Z", [GONE]),
        ("203.0.113.7:18000", "2026-01-31T23:30:00-01:00", []),
    ],
)
def test_who_it_was(lock: str, address: str, time: str, want: List[str]) -> None:
    assert ask(lock, address, time) == want


def test_an_answer_is_data(lock: str) -> None:
    got = identify(HOSTS, "203.0.113.7", "17500", datetime(2026, 1, 15, 12, tzinfo=timezone.utc), lock)
    assert got == {
        "question": "203.0.113.7:17500",
        "day": "2026-01-15",
        "hosts": ["web1", "www2"],
        "matches": [
            {
                "service": "web",
                "host": "web2",
                "hosts": ["www2"],
                "nat_domain": "east",
                "ports": "17408-17919",
                "since": "2026-01-01",
                "until": "2026-02-01",
                "allocated": True,
                "certain": True,
            }
        ],
        "text": [WEB2],
        "unread": [],
    }
    assert identify(HOSTS, "2001:DB8:7::1", 1, date(2026, 1, 15), lock)["question"] == "[2001:db8:7::1]:1"


def test_the_id_of_a_host_outlives_its_name(lock: str) -> None:
    hosts = copy.deepcopy(HOSTS)
    hosts["front"] = {**hosts.pop("web1"), "egress_host_id": "web1"}
    got = identify(hosts, "203.0.113.7", 17000, None, lock)
    assert got["text"] == ["web on web1 (now front) in the NAT domain east: 16896-17407 since 2026-01-01"]


def test_without_a_file_there_are_ports_written_by_hand(tmp_path: Path) -> None:
    """Whoever has allocated ones as well is told what is missing."""
    nowhere = identify(HOSTS, "203.0.113.7:17000")
    assert (nowhere["matches"], len(nowhere["unread"])) == ([], 1)
    assert nowhere["unread"][0].startswith("egress_lock_file: missing, and the inventory is no file that port-allocations.yml could lie beside")
    beside = identify(HOSTS, "203.0.113.7:50000", inventory_sources=[str(tmp_path)])
    assert [match["service"] for match in beside["matches"]] == ["tool"]
    path = tmp_path.parent / "port-allocations.yml"
    assert beside["unread"] == [f"{path}: there is no such file; run: ansible-playbook portfence.egress.allocate -i INVENTORY"]
    by_hand = {name: {**host, "egress_services": {"tool": {"source_ports": "50000-50009"}}} for name, host in HOSTS.items()}
    assert identify(by_hand, "203.0.113.7:50000")["unread"] == []
    (tmp_path / "port-allocations.yml").write_text("", encoding="utf-8")
    with pytest.raises(AnsibleFilterError, match="port-allocations.yml was written with the inventory named in another way"):
        identify(HOSTS, "203.0.113.7:50000", inventory_sources=[str(tmp_path)])
    with pytest.raises(AnsibleFilterError, match="/nowhere: there is no such file"):
        identify(HOSTS, "203.0.113.7:50000", lock_file="/nowhere")


def test_all_mistakes_of_a_question_are_told() -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        identify(HOSTS, "web1", 70000, "yesterday")
    assert str(caught.value) == (
        "the question has 3 mistakes:\n"
        "  address: found 'web1'; accepted: an IPv4 or IPv6 address, with or without a port: 10.1.2.3, 10.1.2.3:50432, 2001:db8::1,"
        " [2001:db8::1]:50432\n"
        "  port: found 70000; accepted: a port from 1 to 65535\n"
        "  time: found 'yesterday'; accepted: a day 2026-01-31 or a time 2026-01-31T23:15:00+01:00 (UTC where it does not say)"
    )


@pytest.mark.parametrize(
    ("address", "port", "message"),
    [
        (None, None, "address: missing"),
        ("10.1.0.1", None, "port: missing; accepted: a port from 1 to 65535"),
        ("10.1.0.1:80", 81, "port: found 81, and 80 in the address; accepted: one of the two"),
        ("[2001:db8::1]80", None, "address: found '[2001:db8::1]80'"),
        ("10.1.0.1:", None, "port: found ''"),
        ("10.1.0.1", True, "port: found True"),
        ("10.1.0.1", "0", "port: found '0'"),
    ],
)
def test_a_mistake_in_the_question(address: Any, port: Any, message: str) -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        identify(HOSTS, address, port)
    assert f"the question has 1 mistake:\n  {message}" in str(caught.value)


def test_all_mistakes_in_places_are_told() -> None:
    hosts = {"a": {"egress_addresses": ["10.0.0.1", "x"]}, "b": {"egress_addresses": 7}, "c": {"egress_nat_domain": ""}}
    with pytest.raises(AnsibleFilterError) as caught:
        identify(hosts, "10.0.0.1", 5)
    lines = str(caught.value).splitlines()
    assert lines[0] == "the inventory has 3 mistakes:"
    accepted = "accepted: an IPv4 or IPv6 address, or a network such as 10.1.0.0/16, or a list of them"
    assert lines[1] == f"  a: egress_addresses[1]: found 'x'; {accepted}"
    assert lines[2] == f"  b: egress_addresses: found 7; {accepted}"
    assert lines[3].startswith("  c: egress_nat_domain: found ''")


def test_templates_are_read_through_ansible(tmp_path: Path, lock: str) -> None:
    edge = {**EAST, "egress_addresses": ["{{ edge }}"], "edge": "203.0.113.9"}
    for name, value in (("good", "{{ edge }}"), ("bad", "{{ nowhere }}")):
        inventory = {"all": {"hosts": {"web1": {**edge, "egress_addresses": value, "egress_services": {"web": WEB}}}}}
        (tmp_path / name).write_text(yaml.safe_dump(inventory), encoding="utf-8")
    program = Path(sys.executable).with_name("ansible-playbook")
    command = [program, "portfence.egress.identify", "-e", f"egress_lock_file={lock}", "-e", "address=203.0.113.9:17000", "-i"]
    environment = {**os.environ, "ANSIBLE_HOME": str(tmp_path / "home"), "ANSIBLE_NOCOLOR": "1"}
    good, bad = (
        subprocess.run([*command, str(tmp_path / name)], env=environment, capture_output=True, text=True, check=False) for name in ("good", "bad")
    )
    assert f'"{WEB1}"' in good.stdout
    assert (good.returncode, bad.returncode) == (0, 0)
    assert "203.0.113.9:17000: nobody has this port (and no host has this address)" in bad.stdout
    assert "not read, and may have it as well: web1: egress_addresses: found a template that fails: 'nowhere' is undefined" in bad.stdout


def test_it_takes_hosts() -> None:
    assert FilterModule().filters() == {"identify": identify}
    assert yaml.safe_load(DOCUMENTATION)["name"] == "identify"
    with pytest.raises(AnsibleFilterError, match="takes hostvars, found a list"):
        identify([], "10.0.0.1", 5)
