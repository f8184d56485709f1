# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Job slicing: what docs/scale.md says that a slice of the project examples/project knows, and what it does not.

AWX (Inventory.get_script_data in awx/main/models/inventory.py): slice N of COUNT has the hosts N - 1, N - 1 + COUNT, ... of those
that are enabled, in the order of their names, with their groups and variables. The others are not in its inventory at all.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest

PROJECT = Path(__file__).resolve().parents[2] / "examples/project"
RANGES = {"web1": "16384-16895", "web2": "16896-17407", "web3": "17408-17919", "web4": "17920-18431"}
SHOW = """\
- import_playbook: portfence.egress.policies
- hosts: all
  gather_facts: false
  tasks:
    - debug:
        msg: "{{ egress_policy | map(attribute='source_ports') | flatten | join(' ') }}"
"""
LEFT = ("-e", "egress_missing_hosts=true")


class Controller:
    """A copy of the project, and jobs that run in it."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        shutil.copytree(PROJECT, self.project)
        self.lock = self.project / "port-allocations.yml"
        self.folder = folder
        self.environment = {**os.environ, "ANSIBLE_HOME": str(folder / "home"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0"}
        self.data: Dict[str, Any] = json.loads(self._run("ansible-inventory", "-i", self.project / "inventory", "--list", "--export").stdout)

    def _run(self, program: str, *options: object) -> "subprocess.CompletedProcess[str]":
        command = [Path(sys.executable).with_name(program), *map(str, options)]
        return subprocess.run(command, cwd=self.project, env=self.environment, capture_output=True, text=True, check=False)

    def play(self, playbook: str, *options: str, number: int = 1, count: int = 1) -> "subprocess.CompletedProcess[str]":
        """A job, or one slice of it."""
        data = copy.deepcopy(self.data)
        hosts = sorted(data["web"]["hosts"])
        data["web"]["hosts"] = hosts[number - 1 :: count]
        for name in set(hosts) - set(data["web"]["hosts"]):
            data["_meta"]["hostvars"].pop(name, None)
        program = self.folder / "hosts"
        program.write_text(f"#!{sys.executable}\nprint({json.dumps(data)!r})\n", encoding="utf-8")
        program.chmod(0o700)
        done = self._run("ansible-playbook", "-i", program, playbook, *options)
        assert "Traceback" not in done.stdout + done.stderr
        return done

    def ok(self, playbook: str, *options: str, **part: int) -> str:
        """Its output, where it must not fail."""
        done = self.play(playbook, *options, **part)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def variables(self, host: str) -> Dict[str, Any]:
        """Those of a host, to be changed."""
        found: Dict[str, Any] = self.data["_meta"]["hostvars"].setdefault(f"{host}.example.com", {})
        return found


@pytest.fixture(name="controller")
def fixture_controller(tmp_path: Path) -> Controller:
    return Controller(tmp_path)


def test_a_slice_reads_the_ranges_of_its_hosts(controller: Controller) -> None:
    (controller.project / "show.yml").write_text(SHOW, encoding="utf-8")
    for number, names in ((1, ("web1", "web3")), (2, ("web2", "web4"))):
        assert "2 hosts, 2 services: nothing found" in controller.ok("validate.yml", number=number, count=2)
        said = controller.ok("show.yml", number=number, count=2)
        assert {name for name, ports in RANGES.items() if f'"msg": "{ports}"' in said} == set(names)


def test_only_the_whole_inventory_shows_an_overlap_across_slices(controller: Controller) -> None:
    for host in ("web1", "web2"):
        controller.variables(host)["egress_services__hand"] = {host: {"source_ports": "50000-50099"}}
    for number in (1, 2):
        assert "nothing found" in controller.ok("validate.yml", number=number, count=2)
    whole = controller.play("validate.yml")
    assert whole.returncode != 0
    assert "found 50000-50099 in the NAT domain dc1, where 50000-50099 is web1's on web1.example.com" in whole.stdout + whole.stderr


def test_allocation_in_a_slice_takes_the_ranges_of_the_others_away(controller: Controller) -> None:
    before = controller.lock.read_text(encoding="utf-8")
    stopped = controller.play("portfence.egress.allocate", number=1, count=2)
    assert stopped.returncode != 0
    assert "found 2 hosts, and 2 that hold ranges are not among them: web2.example.com in dc1, web4.example.com in dc1;" in stopped.stdout + stopped.stderr
    assert controller.lock.read_text(encoding="utf-8") == before
    predicted = controller.ok("portfence.egress.allocate", "--check", *LEFT, number=1, count=2)
    assert "2 ranges, 0 handed out, 2 given back (check mode: nothing was written)" in predicted
    controller.ok("portfence.egress.allocate", "-e", "egress_allocation_date=2026-03-01", *LEFT, number=1, count=2)
    assert "host: web2.example.com, service: myapp, ports: 16896-17407, since: 2026-01-31, until: 2026-03-01}" in controller.lock.read_text("utf-8")
    refused = controller.play("validate.yml", number=2, count=2)
    assert "web2.example.com, web4.example.com: egress_services.myapp.source_ports: found auto, and no range" in refused.stdout + refused.stderr

    # The whole inventory mends it, on that day without a trace, unless somebody else has one of the ranges by then.
    controller.ok("portfence.egress.allocate", "-e", "egress_allocation_date=2026-03-01")
    assert controller.lock.read_text("utf-8").partition("ranges:")[2] == before.partition("ranges:")[2]


def test_a_range_given_back_by_a_slice_can_be_lost(controller: Controller) -> None:
    controller.data["web"]["hosts"].append("web5.example.com")
    done = controller.ok("portfence.egress.allocate", "-e", "egress_quarantine_days=0", *LEFT, number=1, count=2)
    assert "3 ranges, 1 handed out, 2 given back" in done
    assert "host: web5.example.com, service: myapp, ports: 16896-17407" in controller.lock.read_text("utf-8")
    controller.ok("portfence.egress.allocate")
    assert "host: web2.example.com, service: myapp, ports: 18432-18943" in controller.lock.read_text("utf-8")


def test_export_and_identify_know_the_hosts_of_the_slice_alone(controller: Controller) -> None:
    for number, host in enumerate(RANGES, 1):
        controller.variables(host)["egress_addresses"] = [f"192.0.2.{number}"]
    for playbook, options in (("identify", ["-e", "address=192.0.2.2:16900"]), ("export", [])):
        whole = controller.ok(f"portfence.egress.{playbook}", *options, "-e", f"edge_export={controller.folder}/whole")
        part = controller.ok(f"portfence.egress.{playbook}", *options, "-e", f"edge_export={controller.folder}/part", number=1, count=2)
        if playbook == "identify":
            assert "web2.example.com" in whole and "nobody has this port (and no host has this address)" in part
    tables = {name: "".join(path.read_text("utf-8") for path in sorted((controller.folder / name).glob("*.csv"))) for name in ("whole", "part")}
    assert "web2.example.com" in tables["whole"] and "web2.example.com" not in tables["part"] and "web3.example.com" in tables["part"]
