# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the playbook takes for a fleet, against as many pings as it has round trips."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, Dict, Sequence

from control import ROUND_TRIPS, UNCHANGED_ROUND_TRIPS, check, environment, policy, program
from field import Field, Lab, services
from harness import Claim, Contender, Measured, Row, interleave

NAME = "fleet"
FLEETS = (30, 50)
SERVICES, LOW, PORTS = 10, 20000, 8
KERNEL_PORTS = "10000 19998"
FORKS = 10
PATIENCE = 3600

PING, FIRST, AGAIN = "ansible -m ping", "site, first run", "site, second run"
PINGS = {FIRST: ROUND_TRIPS, AGAIN: UNCHANGED_ROUND_TRIPS}
LIMIT = 1.5

METHOD = f"""A host is a set of namespaces on this machine (network, mounts, names, processes) with files of its own and a cable to a peer of its own;
Ansible runs on the machine and comes in by `nsenter`. All hosts share the processors with the controller. Each has {SERVICES} services of {PORTS}
ports. Against the seconds of `ansible -m ping` for the same hosts, by the same connection and with the same {FORKS} forks. Site comes to
a host {ROUND_TRIPS} times, and {UNCHANGED_ROUND_TRIPS} where nothing is to be done: once with a command, which costs less than a ping, else with
modules. It may take {LIMIT} times as many pings. `site` takes one host first, then all others, as it comes, and proves each fence by connecting.
First run: on hosts that were never fenced."""


def run(_place: Field, *, rounds: int, fleets: Sequence[int] = FLEETS) -> Row:
    """Measure."""
    contenders: Dict[Contender, Callable[[], float]] = {}
    with ExitStack() as stack:
        for number in fleets:
            fleet = stack.enter_context(Fleet(number))
            column = f"{number} hosts"
            contenders[Contender(PING, column)] = fleet.ping
            contenders[Contender(FIRST, column)] = fleet.first
            contenders[Contender(AGAIN, column)] = fleet.again
        samples = interleave(contenders, rounds=rounds, warm_up=False)
    columns = list(dict.fromkeys(contender.column for contender in samples))
    return Row(
        NAME,
        "What a fleet takes",
        METHOD,
        measured=[Measured("seconds", "The whole fleet", "seconds", samples)],
        claims=[
            Claim(f"{line}, {column}, to {PING} ({pings} round trips)", "seconds", Contender(line, column), Contender(PING, column), LIMIT * pings)
            for line, pings in PINGS.items()
            for column in columns
        ],
        facts={"rounds": str(rounds)},
    )


class Fleet:
    """Hosts that Ansible comes to. They are new for each first run."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._labs = ExitStack()
        self._folder = tempfile.TemporaryDirectory()
        self._inventory = Path(self._folder.name) / "hosts.json"
        self._fenced = False

    def __enter__(self) -> Fleet:
        self._start()
        return self

    def __exit__(self, *_about: object) -> None:
        self._labs.close()
        self._folder.cleanup()

    def _start(self) -> None:
        """Make the hosts anew."""
        self._labs.close()
        hosts = {}
        for index in range(self._number):
            lab = self._labs.enter_context(Lab(capture=False))
            lab.run(["sysctl", "-qw", f"net.ipv4.ip_local_port_range={KERNEL_PORTS}"])
            # A process of the host, which shows the way in. It has nothing to do.
            hosts[f"host{index:03d}"] = {"ansible_nsenter_pid": lab.serve(9)}
        common = {
            "ansible_connection": "community.docker.nsenter",
            "ansible_user": "root",
            "ansible_python_interpreter": sys.executable,
            "egress_services": policy(services(SERVICES, low=LOW, size=PORTS)),
        }
        self._inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": common}}), encoding="utf-8")
        self._fenced = False

    def ping(self) -> float:
        """Seconds of one."""
        return self._ansible("ansible", "all", "-m", "ansible.builtin.ping", wanted='"ping": "pong"')

    def first(self) -> float:
        """Seconds on new hosts."""
        self._start()
        seconds = self._ansible("ansible-playbook", "portfence.egress.site", wanted=f"{SERVICES} services, changed, probe passed")
        self._fenced = True
        return seconds

    def again(self) -> float:
        """Seconds where nothing is to be done."""
        if not self._fenced:
            self.first()
        return self._ansible("ansible-playbook", "portfence.egress.site", wanted=f"{SERVICES} services, unchanged, probe passed")

    def _ansible(self, name: str, *options: str, wanted: str) -> float:
        """Seconds of a program of Ansible. Raises LabError unless each host says what is wanted."""
        variables = {**os.environ, **environment(os.environ["ANSIBLE_COLLECTIONS_PATH"]), "ANSIBLE_HOME": self._folder.name, "ANSIBLE_FORKS": str(FORKS)}
        command = [program(name), "-i", str(self._inventory), *options]
        begin = time.monotonic()
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            env=variables,
            timeout=PATIENCE,
            check=False,
        )
        seconds = time.monotonic() - begin
        check(done.stdout, done.returncode, wanted=wanted, times=self._number)
        return seconds
