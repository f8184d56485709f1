# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service and the timer of examples/project/pull on a host with systemd, which is web2.example.com of that project."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Iterator, Set

import pytest
from containers import REPOSITORY, run

NAME = "portfence-pull-host"
URL, ORIGIN = "https://git.example.com/portfence-project.git", "/srv/portfence-project.git"
# What has mounts that all of the host sees: a network namespace, and the controller net_cls.
MORE = """\
egress_services__more:
  tenant:
    unit: tenant.service
    source_ports: 57000-57499
    assignment: namespace
    namespace: {ipv4: 10.99.0.0/31, ipv6: "fd00:99::/127"}
  legacy:
    classid: "0x100001"
    source_ports: 55500-55599
"""
GIT = "git -c user.name=t -c user.email=t@example.com"


class Host:
    """A container."""

    def run(self, script: str, *, data: str = "", check: bool = True) -> str:
        """What a script on it prints."""
        command = ["podman", "exec", "--interactive", NAME, "sh", "-c", script]
        done = subprocess.run(command, input=data, capture_output=True, text=True, check=False, timeout=900)
        assert not check or done.returncode == 0, f"{script}: {done.stdout}{done.stderr}\n{self.journal()}"
        return done.stdout

    def mounted(self) -> Set[str]:
        """Places and kinds of mounts, as the host sees them."""
        return set(self.run("findmnt --raw --noheadings --output TARGET,FSTYPE").splitlines())

    def push(self) -> None:
        """What is in the folder of the project goes to its repository."""
        self.run(f"cd /root/checkout && git add --all && {GIT} commit -qm change && git push -q origin main")

    def journal(self) -> str:
        """What the service said."""
        return self.run("journalctl --unit portfence-pull.service --output cat --no-pager", check=False)


@pytest.fixture(name="machine", scope="module")
def fixture_machine(host: str) -> Iterator[Host]:
    podman = os.environ["PORTFENCE_PODMAN_APART"]
    kind = ["--network=none", "--privileged", "--systemd=always"]
    run(podman, "run", "--detach", "--name", NAME, "--hostname", "web2.example.com", *kind, host, "/sbin/init")
    try:
        machine = Host()
        machine.run("for _ in $(seq 1200); do systemctl is-system-running | grep -qE 'running|degraded' && exit 0; sleep 0.1; done; exit 1")
        run("podman", "cp", REPOSITORY / "examples/project", f"{NAME}:/root/checkout")
        machine.run("mkdir /root/checkout/inventory/host_vars && cat > /root/checkout/inventory/host_vars/web2.example.com.yml", data=MORE)
        machine.run(f"git init -q --bare -b main {ORIGIN} && cd /root/checkout && git init -q -b main && git remote add origin {ORIGIN}")
        machine.push()
        machine.run("printf '[Service]\\nExecStart=/bin/sleep infinity\\n' > /etc/systemd/system/tenant.service")
        machine.run(f"cp /root/checkout/pull/* /etc/systemd/system/ && sed -i s#{URL}#{ORIGIN}# /etc/systemd/system/portfence-pull.service")
        # As systemd makes it on a host, and leaves it in a container.
        machine.run("mount --make-rshared / && systemctl daemon-reload")
        yield machine
    finally:
        run("podman", "rm", "--force", "--time", "0", NAME)


def test_the_units_are_what_systemd_takes(machine: Host) -> None:
    assert machine.run("systemd-analyze verify portfence-pull.service portfence-pull.timer 2>&1 | grep portfence-pull || :") == ""
    machine.run("systemctl enable --now portfence-pull.timer")
    assert "portfence-pull.timer" in machine.run("systemctl list-timers --no-pager")
    machine.run("systemctl disable --now portfence-pull.timer")


def test_the_service_fences_the_host_changes_nothing_and_follows_the_project(machine: Host) -> None:
    machine.run("systemctl start portfence-pull.service")
    assert "web2.example.com: 3 services, changed, probe passed" in machine.journal()
    info = json.loads(machine.run("ansible localhost -m portfence.egress.fence_info").partition("=>")[2])
    assert info["services"]["myapp"]["source_ports"] == ["16896-17407"]
    # Seen from outside of the service.
    assert {"/run/netns/tenant nsfs", "/run/portfence/net_cls cgroup"} <= machine.mounted()
    machine.run("systemctl start portfence-pull.service")
    again = machine.journal()
    assert "web2.example.com: 3 services, unchanged, probe passed" in again, again
    assert "changed=0" in again.rpartition("PLAY RECAP")[2]

    # A service that goes takes its mounts along, for the whole host.
    machine.run("cat > /root/checkout/inventory/host_vars/web2.example.com.yml", data=MORE.replace("55500-55599", "55500-55599\n    state: absent"))
    machine.push()
    machine.run("systemctl start portfence-pull.service")
    assert machine.journal().count("web2.example.com: 2 services, changed, probe passed") == 1
    assert not {place for place in machine.mounted() if "net_cls" in place and "portfence" in place}
