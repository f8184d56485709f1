# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-pull on a host of the project examples/project, from a bare git repository: the host fences itself and nobody else."""

from __future__ import annotations

import os
import re
import shlex
import sys

import pytest
from lab import REPOSITORY, Lab, Result
from test_playbooks import Control

NAME = "web2.example.com"
RANGE = "16896-17407"  # that of web2 in port-allocations.yml
ORIGIN, CLONE, WORK = "/var/lib/origin.git", "/var/lib/portfence-pull/project", "/var/lib/work"
MORE = "egress_services__more: {more: {source_ports: 50000-50999}}\n"
GIT = "git -c user.name=t -c user.email=t@example.com -c commit.gpgSign=false"


class Puller:
    """The lab as web2.example.com, with the project in a repository of its own."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.control = Control(lab)
        lab.run(["hostname", "web2"])
        lab.run(["sh", "-c", "cat > /etc/hosts"], data=f"127.0.0.1 localhost\n127.0.1.1 {NAME} web2\n")
        lab.run(["cp", "-r", REPOSITORY / "examples/project", WORK])
        # The program of this test's environment, instead of what the host would find by itself.
        self.write("inventory/group_vars/web.yml", f"ansible_python_interpreter: {sys.executable}\n")
        lab.run(["sh", "-c", f"git init -q --bare -b main {ORIGIN} && cd {WORK} && git init -q -b main && git remote add origin {ORIGIN}"])
        self.push()

    def write(self, name: str, text: str) -> None:
        """A file of the project."""
        self.lab.run(["sh", "-c", 'mkdir -p "${1%/*}" && cat > "$1"', "sh", f"{WORK}/{name}"], data=text)

    def push(self) -> None:
        """Everything that was written goes to the repository."""
        self.lab.run(["sh", "-c", f"cd {WORK} && git add --all && {GIT} commit -qm change && git push -q origin main"])

    def pull(self, *options: str) -> Result:
        """The command of the service, with the address of this repository."""
        unit = (REPOSITORY / "examples/project/pull/portfence-pull.service").read_text(encoding="utf-8").replace("\\\n", " ")
        command = shlex.split(re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)[0])
        command[command.index("--url") + 1] = ORIGIN
        assert command[0] == "ansible-pull" and command[command.index("--directory") + 1] == CLONE
        return self.control.run(command[0], *options, *command[1:], ANSIBLE_HOME="/var/lib/portfence-pull")


@pytest.fixture(name="puller")
def fixture_puller(lab: Lab) -> Puller:
    puller = Puller(lab)
    lab.run(["touch", "/run/mark"])
    return puller


def test_a_host_fences_itself_and_nobody_else(puller: Puller) -> None:
    lab = puller.lab
    done = puller.pull()
    assert done.rc == 0, done.out + done.err
    assert f"{NAME}: 1 service, changed, probe passed" in done.out
    for other in ("web1", "web3", "web4"):
        assert f"{other}.example.com" not in done.out
    assert lab.module("fence_info")["services"]["myapp"]["source_ports"] == [RANGE]
    low, high = map(int, RANGE.split("-"))
    for protocol in ("tcp", "udp"):
        assert low <= (lab.connect(protocol, user="myapp", source_port=45001).port or 0) <= high
    fenced = puller.control.state()

    again = puller.pull()
    assert again.rc == 0 and f"{NAME}: 1 service, unchanged, probe passed" in again.out, again.out
    assert "changed=0" in again.out.rpartition("PLAY RECAP")[2]
    assert puller.control.state() == fenced


def test_a_mistake_of_another_host_stops_this_one(puller: Puller) -> None:
    assert puller.pull().rc == 0
    before = puller.control.state()
    # The same ports for another host behind the same address.
    puller.write("inventory/host_vars/web4.example.com.yml", "egress_services__x: {x: {source_ports: 50000-50099}}\n")
    puller.write("inventory/host_vars/web2.example.com.yml", MORE)
    puller.push()
    done = puller.pull()
    assert done.rc != 0
    said = "web2.example.com: egress_services__more.more.source_ports: found 50000-50999 in the NAT domain dc1, where 50000-50099 is x's on web4"
    assert said in done.out + done.err
    assert "Load the fence" not in done.out
    assert puller.control.state() == before


def test_a_change_in_the_project_arrives_with_the_next_run(puller: Puller) -> None:
    """A change of which a part is encrypted."""
    assert puller.pull().rc == 0
    before = puller.control.state()
    name = "inventory/host_vars/web2.example.com.yml"
    puller.write(name, MORE)
    puller.lab.run(["sh", "-c", "echo secret > /etc/portfence-vault; chmod 600 /etc/portfence-vault; touch --reference /run/mark /etc/portfence-vault"])
    vault = ["--vault-password-file", "/etc/portfence-vault"]
    puller.lab.run([os.path.join(os.path.dirname(sys.executable), "ansible-vault"), "encrypt", *vault, f"{WORK}/{name}"])
    puller.push()
    # What ansible-playbook says without the password depends on where it needs it first.
    assert puller.pull().rc != 0 and puller.control.state() == before
    predicted = puller.pull("--check", *vault)
    assert predicted.rc == 0 and f"{NAME}: 2 services in the policy, would change" in predicted.out, predicted.out
    assert puller.control.state() == before
    assert f"{NAME}: 2 services, changed, probe passed" in puller.pull(*vault).out


def test_a_host_that_the_inventory_does_not_have_does_nothing(puller: Puller) -> None:
    puller.lab.run(["hostname", "stranger"])
    before = puller.control.state()
    done = puller.pull()
    assert puller.control.state() == before
    assert "no hosts" in (done.out + done.err).lower(), done.out + done.err
    assert done.rc != 0
