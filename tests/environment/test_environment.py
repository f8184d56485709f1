# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The execution environment, with the project examples/project in it as an automation controller lays it out.

AWX (awx/main/tasks/jobs.py, awx/main/models/inventory.py): the job runs in a folder with a copy of the project in project/,
and starts there; its inventory is the program inventory/hosts, which prints what the database has.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest
from containers import REPOSITORY, run


class Job:
    """The folder of a job, and the command that runs it."""

    def __init__(self, image: str, folder: Path) -> None:
        self.image = image
        self.folder = folder
        shutil.copytree(REPOSITORY / "examples/project", folder / "project")
        (folder / "inventory").mkdir()
        listed = [Path(sys.executable).with_name("ansible-inventory"), "-i", folder / "project/inventory", "--list", "--export"]
        self.data: Dict[str, Any] = json.loads(run(*listed))
        self.write()

    def write(self) -> None:
        """The inventory as a program."""
        program = self.folder / "inventory/hosts"
        program.write_text(f"#! /usr/bin/env python3\nprint({json.dumps(self.data)!r})\n", encoding="utf-8")
        # The environment runs as an account of its own.
        run("chmod", "-R", "a+rwX", self.folder)
        run("chmod", "a+x", program)

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """A command in the environment, as it ends."""
        # Without a cgroup, for the same reason as the isolation of builds.
        podman = ["podman", "run", "--rm", "--cgroups=disabled", "--network=none", f"--volume={self.folder}:/runner", "--env=ANSIBLE_NOCOLOR=1"]
        return subprocess.run([*podman, self.image, *command], capture_output=True, text=True, check=False, timeout=900)

    def play(self, playbook: str, *options: str) -> "subprocess.CompletedProcess[str]":
        """A playbook of the project."""
        # ansible-runner keeps options of a run there for the next one.
        (self.folder / "env/cmdline").unlink(missing_ok=True)
        command = ["ansible-runner", "run", "/runner", "--inventory", "/runner/inventory/hosts", "--playbook", playbook]
        done = self.run(*command, *(["--cmdline", " ".join(options)] if options else []))
        assert "Traceback" not in done.stdout + done.stderr
        return done


@pytest.fixture(name="job")
def fixture_job(environment: str, tmp_path: Path) -> Job:
    return Job(environment, tmp_path / "job")


def test_the_collection_is_in_the_environment_and_brings_nothing_else(job: Job) -> None:
    documented = job.run("ansible-doc", "portfence.egress.fence")
    assert documented.returncode == 0 and "MODULE portfence.egress.fence (/usr/share/ansible/collections/" in documented.stdout
    listed = job.run("ansible-galaxy", "collection", "list", "--format", "json")
    found = [name for names in json.loads(listed.stdout).values() for name in names]
    assert found == ["ansible._protomatter", "portfence.egress"]  # the former is a part of ansible-core
    assert job.run("ssh", "-V").returncode == 0
    assert job.run("id", "-u").stdout.strip() == "1000"


def test_playbooks_of_the_project_find_policies_and_ranges(job: Job) -> None:
    done = job.play("validate.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 hosts, 4 services: nothing found" in done.stdout
    (job.folder / "project/port-allocations.yml").unlink()
    missing = job.play("validate.yml")
    assert missing.returncode != 0
    assert "found auto, and no range for it is in /runner/project/port-allocations.yml" in missing.stdout


def test_allocation_is_predicted_and_its_file_is_the_copy_of_the_job(job: Job) -> None:
    lock = job.folder / "project/port-allocations.yml"
    before = lock.read_bytes()
    job.data["web"]["hosts"].append("web5.example.com")
    job.write()
    predicted = job.play("portfence.egress.allocate", "--check", "--diff")
    assert predicted.returncode == 0, predicted.stdout + predicted.stderr
    assert "+  - {domain: dc1, host: web5.example.com, service: myapp, ports: 18432-18943," in predicted.stdout
    assert "5 ranges, 1 handed out, 0 given back (check mode: nothing was written)" in predicted.stdout
    assert lock.read_bytes() == before
    assert job.play("portfence.egress.allocate").returncode == 0
    assert lock.read_bytes() != before


def test_site_stops_at_a_mistake_before_it_connects(job: Job) -> None:
    job.data["_meta"]["hostvars"]["web4.example.com"] = {"egress_services__x": {"x": {"source_ports": "16384-16400"}}}
    job.write()
    done = job.play("site.yml", "--limit", "web1.example.com")
    assert done.returncode != 0
    assert "web4.example.com: egress_services__x.x.source_ports: found 16384-16400, which lies inside the pools" in done.stdout
    assert "Fence the hosts" not in done.stdout and "UNREACHABLE" not in done.stdout
