# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks allocate and validate on an inventory of three hosts in two NAT domains. They connect to no host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest
import yaml

SERVICES = {"app": {"source_ports": "auto", "size": 200}, "all": {"source_ports": "auto", "size": 1000, "scope": "service"}}
LINES = """\
  - {service: all, ports: 16384-17407, since: 2026-01-31}
  - {domain: x, host: web1, service: app, ports: 17408-17663, since: 2026-01-31}
  - {domain: x, host: web2, service: app, ports: 17664-17919, since: 2026-01-31}
  - {domain: z, host: web3, service: app, ports: 17408-17663, since: 2026-01-31}
"""


class Control:
    """A folder with an inventory, and ansible-playbook."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = folder / "port-allocations.yml"
        self.inventory: Dict[str, Any] = {
            "all": {
                "vars": {"egress_services": SERVICES, "egress_allocation_date": "2026-01-31"},
                "children": {
                    "site_x": {"hosts": {"web1": {}, "web2": {}}, "vars": {"egress_nat_domain": "x"}},
                    "site_z": {"hosts": {"web3": {}}, "vars": {"egress_nat_domain": "z"}},
                },
            }
        }

    def play(self, playbook: str, *options: str) -> "subprocess.CompletedProcess[str]":
        """Run a playbook of the collection."""
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(self.inventory), encoding="utf-8")
        done = subprocess.run(
            [Path(sys.executable).with_name("ansible-playbook"), "-i", "hosts.yml", f"portfence.egress.{playbook}", *options],
            cwd=self.folder,
            env={**os.environ, "ANSIBLE_HOME": str(self.folder / "home"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr
        return done

    def ok(self, playbook: str, *options: str) -> str:
        """Its output, where it must not fail."""
        done = self.play(playbook, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refused(self, playbook: str, *options: str) -> str:
        """Its output, where it must fail."""
        done = self.play(playbook, *options)
        assert done.returncode != 0, done.stdout
        return done.stdout + done.stderr

    def lines(self) -> str:
        """The ranges in the file."""
        return self.lock.read_text(encoding="utf-8").partition("ranges:\n")[2]


@pytest.fixture(name="control")
def fixture_control(tmp_path: Path) -> Control:
    return Control(tmp_path)


def test_allocate_twice_then_validate(control: Control) -> None:
    missing = control.refused("validate")
    assert "web1, web2, web3: egress_services.app.source_ports: found auto, and no range for it is in " in missing
    assert "port-allocations.yml; run: ansible-playbook portfence.egress.allocate -i INVENTORY" in missing

    predicted = control.ok("allocate", "--check", "--diff")
    assert "+  - {domain: x, host: web2, service: app, ports: 17664-17919, since: 2026-01-31}" in predicted
    assert "4 ranges, 4 handed out, 0 given back (check mode: nothing was written)" in predicted
    assert "changed=1" in predicted
    assert not control.lock.exists()

    assert "4 ranges, 4 handed out, 0 given back" in control.ok("allocate")
    assert control.lines() == LINES
    written = control.lock.read_bytes()
    again = control.ok("allocate", "-e", "egress_allocation_date=2027-12-31", "--limit", "web1")
    assert "changed=0" in again
    assert control.lock.read_bytes() == written
    assert "3 hosts, 6 services: nothing found" in control.ok("validate")


def test_a_host_leaves_another_is_renamed_and_one_has_an_id(control: Control) -> None:
    control.ok("allocate")
    children = control.inventory["all"]["children"]
    children["site_x"]["hosts"] = {"new1": {}}
    children["site_z"]["hosts"] = {"new3": {"egress_host_id": "web3"}}
    control.ok("allocate", "-e", '{"egress_renamed_hosts": {"web1": "new1"}, "egress_allocation_date": "2026-02-01"}')
    assert control.lines().splitlines()[1:] == [
        "  - {domain: x, host: new1, service: app, ports: 17408-17663, since: 2026-02-01}",
        "  - {domain: x, host: web1, service: app, ports: 17408-17663, since: 2026-01-31, until: 2026-02-01, renamed: new1}",
        "  - {domain: x, host: web2, service: app, ports: 17664-17919, since: 2026-01-31, until: 2026-02-01}",
        "  - {domain: z, host: web3, service: app, ports: 17408-17663, since: 2026-01-31}",
    ]
    children["site_x"]["hosts"] = {"new1": {}, "web9": {}}
    control.ok("allocate", "-e", "egress_allocation_date=2026-02-10", "-e", "egress_quarantine_days=10")
    assert "host: web9, service: app, ports: 17920-18175, since: 2026-02-10" in control.lines()


def test_a_file_that_changes_while_it_is_planned_is_left_alone(control: Control) -> None:
    control.ok("allocate")
    children = control.inventory["all"]["children"]
    # While the variables of this host are read, somebody else writes the file.
    command = f"echo '# by another' >> {control.lock}; echo z"
    children["site_z"]["hosts"]["web4"] = {"another": command, "egress_nat_domain": "{{ lookup('pipe', another) }}"}
    assert "port-allocations.yml was changed by somebody else since this run read it" in control.refused("allocate")
    assert control.lines() == LINES + "# by another\n"


def test_everything_that_is_wrong_is_in_one_report(control: Control) -> None:
    everywhere = control.inventory["all"]
    everywhere["vars"]["egress_port_pools"] = ["20000-20999", "20500-21999"]
    everywhere["vars"]["egress_services__hand"] = {"hand": {"source_ports": 20100, "on_violation": "shout"}}
    everywhere["vars"].update(egress_probe_sample="many", egress_classid_units="legacy.service")
    everywhere["children"]["one"] = {"hosts": {"web1": {}}, "vars": {"egress_services__x": {"x": {"source_ports": 1000}}}}
    everywhere["children"]["two"] = {"hosts": {"web1": {}}, "vars": {"egress_services__x": {"x": {"source_ports": 2000}}}}
    everywhere["children"]["site_z"]["hosts"]["web3"] = {"egress_services__y": "{{ not_there }}"}
    said = control.refused("allocate")
    for line in (
        "findings in the policies of 3 hosts:",
        "web1, web2, web3: egress_port_pools[1]: found 20500-21999, which overlaps with 20000-20999 of egress_port_pools[0]",
        "web1, web2, web3: egress_probe_sample: found 'many'; accepted: a number of services, 0 or more",
        "web1, web2, web3: egress_classid_units: found 'legacy.service'; accepted: a mapping of service names to lists of units",
        "web1, web2, web3: egress_services__hand.hand.on_violation: found 'shout'; accepted: drop, reject, log",
        "web1, web2, web3: egress_services__hand.hand.source_ports: found 20100, which lies inside the pools 20000-21999",
        "web1: egress_services__x.x.source_ports: found 1000 in the group one and 2000 in the group two, which Ansible prefers",
        "web2: egress_services__hand.hand.source_ports: found 20100 in the NAT domain x, where 20100 is hand's on web1",
        "web3: egress_services__y: found a template that fails before any host is touched: ",
    ):
        assert line in said, line
    assert not control.lock.exists()


def test_a_range_on_ports_that_another_host_has_by_hand_is_refused(control: Control) -> None:
    """Each host's ports by hand lie outside of its own pools, but not of those of the other."""
    hosts = control.inventory["all"]["children"]["site_x"]["hosts"]
    control.inventory["all"]["vars"]["egress_services"] = {}
    hosts["web1"] = {"egress_port_pools": ["20000-20999"], "egress_services": {"hand": {"source_ports": "30000-30099"}}}
    hosts["web2"] = {"egress_port_pools": ["29952-30999"], "egress_services": {"app": {"source_ports": "auto", "size": 64}}}
    hosts["web1"]["egress_services"]["own"] = {"source_ports": "auto", "size": 64}
    text = control.refused("allocate")
    assert "30000" in text and "web1" in text and "web2" in text
    assert not control.lock.exists()


def test_a_clock_that_is_behind_the_file_is_refused(control: Control) -> None:
    control.ok("allocate")
    said = control.refused("allocate", "-e", "egress_allocation_date=2026-01-30")
    assert "port-allocations.yml: found the day 2026-01-31, and today is 2026-01-30 in UTC; accepted: the right date on the controller" in said
    assert control.lines() == LINES


@pytest.mark.parametrize("playbook", ["allocate", "validate", "export", "identify"])
def test_a_host_without_services_may_have_an_address_made_of_facts(control: Control, playbook: str) -> None:
    control.ok("allocate")
    for host in ("web1", "web2", "web3"):
        control.inventory["all"]["children"]["site_x" if host != "web3" else "site_z"]["hosts"][host] = {"egress_addresses": [f"192.0.2.{host[3]}"]}
    # The first of all, so that what is done once is done for it.
    facts = {"ansible_host": "{{ ansible_facts.default_ipv4.address }}", "egress_services": {}}
    control.inventory["all"]["hosts"] = {"a": facts}
    control.ok(playbook, "-e", f"edge_export={control.folder}/export", "-e", "address=192.0.2.1:17409")


def test_rules_for_a_gateway_need_the_whole_inventory_to_be_right(control: Control) -> None:
    control.ok("allocate")
    control.inventory["all"]["vars"]["egress_addresses"] = ["192.0.2.1"]
    # No host reads this line for itself.
    with control.lock.open("a", encoding="utf-8") as file:
        file.write("  - {domain: z, host: web9, service: app, ports: 17408-17663, since: 2026-01-31}\n")
    assert "17408-17663 of app on web9 in z overlaps with" in control.refused("export", "-e", f"edge_export={control.folder}/export").replace("\n", " ")
    assert not (control.folder / "export").exists()


def test_names_that_are_no_rename_leave_the_file_alone(control: Control) -> None:
    control.ok("allocate")
    for renames, message in (
        ('{"web9": "web1"}', "egress_renamed_hosts.web9: found web1, and web9 never held a range;"),
        ('{"web1": "web9"}', "egress_renamed_hosts.web1: found web9, and the inventory has no such host;"),
        ('{"web1": null}', "egress_renamed_hosts.web1: found nothing; accepted: a name of 1 to 253 printable characters"),
        ('{"": "web1"}', "egress_renamed_hosts: found ''; accepted: a name of 1 to 253 printable characters"),
    ):
        assert message in control.refused("allocate", "-e", f'{{"egress_renamed_hosts": {renames}}}')
        assert control.lines() == LINES
    said = control.refused("allocate", "-e", "egress_allocation_date=soon")
    assert "egress_allocation_date: found 'soon'; accepted: a day such as 2026-01-31" in said
    assert "found the day" not in said, "one mistake is one"


def test_a_nat_domain_with_another_name_is_not_taken_for_hosts_that_left(control: Control) -> None:
    control.ok("allocate")
    control.inventory["all"]["children"]["site_x"]["vars"]["egress_nat_domain"] = "xx"
    said = control.refused("allocate")
    assert "found 3 hosts, and 2 that hold ranges are not among them: web1 in x (now in xx), web2 in x (now in xx); accepted:" in said
    assert control.lines() == LINES
    assert "5 ranges" not in control.ok("allocate", "-e", "egress_missing_hosts=true", "-e", "egress_allocation_date=2026-02-01")
    assert "domain: xx, host: web1" in control.lines()


def test_how_a_policy_is_carried_out_is_validated_as_well(control: Control) -> None:
    control.ok("allocate")
    wrong = {
        "egress_enforcement": ("aduit", "'aduit'; accepted: audit, enforce"),
        "egress_purge": ("maybe", "'maybe'; accepted: true, false"),
        "egress_serial": ([1, "200%"], "a list; accepted: a number of hosts from 1, a percentage such as 25%, or a list of them"),
        "egress_max_fail_percentage": ("many", "'many'; accepted: a percentage from 0 to 100"),
        "egress_classid_units": (["a.service"], "a list; accepted: a mapping of service names to lists of units"),
        "egress_probe_sample": (-1, "-1; accepted: a number of services, 0 or more"),
        "egress_addresses": ("web1", "'web1'; accepted: an IPv4 or IPv6 address, or a network such as 10.1.0.0/16, or a list of them"),
    }
    control.inventory["all"]["children"]["site_z"]["hosts"]["web3"] = {name: value for name, (value, _said) in wrong.items()}
    for playbook in ("validate", "site"):
        said = control.refused(playbook)
        for name, (_value, message) in wrong.items():
            assert f"web3: {name}: found {message}" in said
    right = {
        "egress_enforcement": "audit",
        "egress_purge": "yes",
        "egress_serial": [1, "25%", "3"],
        "egress_max_fail_percentage": "25%",
        "egress_classid_units": {"app": ["a.service"], "all": "b.service"},
        "egress_probe_sample": "0",
        # Who asks later may know the facts.
        "egress_addresses": ["{{ ansible_facts.default_ipv4.address }}"],
    }
    control.inventory["all"]["children"]["site_z"]["hosts"]["web3"] = right
    assert "nothing found" in control.ok("validate")


@pytest.mark.parametrize("playbook", ["site", "verify", "preview", "report", "remove", "rollback", "edge"])
def test_a_target_without_a_host_is_a_mistake(control: Control, playbook: str) -> None:
    said = control.refused(playbook, "-e", "target=nosuch")
    assert "target: found nosuch, which no host of the inventory matches; accepted: a group, a host or a pattern of them" in said


def test_what_could_not_be_read_is_told_with_the_answer(control: Control) -> None:
    """A host that nothing is known of may be the one; the others are found all the same."""
    control.ok("allocate")
    hosts = control.inventory["all"]["children"]["site_x"]["hosts"]
    hosts["web1"] = {"egress_addresses": ["192.0.2.1"]}
    hosts["web2"] = {"egress_addresses": "{{ ansible_facts.default_ipv4.address }}"}
    said = control.ok("identify", "-e", "address=192.0.2.1:17409")
    assert "app on web1 in the NAT domain x: 17408-17663 since 2026-01-31" in said
    assert "not read, and may have it as well: web2: egress_addresses: found a template that fails: " in said
    assert "192.0.2.1:5 on 2026-02-01: nobody had this port there" in control.ok("identify", "-e", "address=192.0.2.1:5", "-e", "time=2026-02-01")


@pytest.mark.parametrize(("playbook", "written"), [("export", "identity.json"), ("report", "report.html")])
def test_files_are_written_here_whatever_localhost_is(control: Control, playbook: str, written: str) -> None:
    control.ok("allocate")
    control.inventory["all"]["vars"]["egress_addresses"] = ["192.0.2.1"]
    control.inventory["all"]["children"]["site_x"]["hosts"] = {"web1": {"ansible_host": "127.0.0.1", "ansible_port": 9}}
    control.inventory["all"]["children"]["site_z"]["hosts"] = {}
    elsewhere = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9, "egress_services": {}}
    control.inventory["all"]["hosts"] = {"localhost": elsewhere}
    folder = control.folder / "written"
    done = control.play(playbook, "-e", f"edge_export={folder}", "-e", f"egress_report={folder}", "-e", "egress_missing_hosts=true")
    assert (folder / written).exists(), done.stdout + done.stderr


@pytest.mark.parametrize("playbook", ["site", "report", "remove"])
def test_hosts_outside_of_the_target_have_no_part(control: Control, playbook: str) -> None:
    """Not even in the recap; a target without hosts is told by one of the others."""
    control.ok("allocate")
    there = control.ok(playbook, "--list-hosts", "-e", "target=site_z")
    assert "web3" in there and "web1" not in there and "web2" not in there
    assert "target: found site_y, which no host of the inventory matches" in control.refused(playbook, "-e", "target=site_y")


@pytest.mark.parametrize("limit", ["", "web3", "site_z", "all:!web1", "~web[23]", "localhost,web2", "@hosts.limit", "all:!web*"])
def test_the_whole_inventory_is_taken_whatever_the_limit(control: Control, limit: str) -> None:
    control.inventory["all"]["hosts"] = {"~odd": {}}  # a name that is no pattern of itself
    (control.folder / "hosts.limit").write_text("web2\n", encoding="utf-8")
    options = ["--limit", limit] if limit else []
    for playbook, said in (("allocate", "5 ranges, 5 handed out"), ("validate", "4 hosts, 8 services: nothing found")):
        done = control.play(playbook, *options)
        assert done.returncode == 0 and said in done.stdout, done.stdout + done.stderr
        assert "Could not match" not in done.stdout + done.stderr
