# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller needs for a large inventory: time and memory of the playbooks allocate and validate."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

from control import environment, program
from field import Field, LabError
from harness import Claim, Contender, Measured, Row

NAME = "controller"
SIZES = (1000, 3000, 10000)
SITE = 50
SERVICES = 10
KINDS = ("same", "templates", "own")
KIND_TITLES = {"same": "one policy", "templates": "a template", "own": "a file each"}

METHOD = f"""Seconds of the whole command `ansible-playbook`, seconds of processor time of all its processes, and their memory at its peak (Pss,
sampled). No host is connected to. Each host has {SERVICES} services; sites of {SITE} hosts are a NAT domain each. One policy: a group variable for
all hosts, the ranges are handed out. A template: the same with a template of a host's variable in each service, so that no two hosts have an equal
policy. A file each: ports written by hand into `host_vars`. Allocate: the first run hands all ranges out, the second finds them. What must be reached
is growth that is not more than that of the number of hosts."""


class Used(NamedTuple):
    """What a command took."""

    seconds: float
    processor: float
    memory: float  # MiB


def run(_place: Field, *, rounds: int, sizes: Sequence[int] = SIZES, kinds: Sequence[str] = KINDS) -> Row:
    """Measure."""
    found: Dict[Contender, List[Used]] = {}
    cases = [(hosts, kind) for hosts in sizes for kind in kinds]
    for number in range(rounds):
        first = number % len(cases)
        for hosts, kind in cases[first:] + cases[:first]:
            for line, used in _measure(hosts, kind).items():
                found.setdefault(Contender(line, f"{hosts} hosts"), []).append(used)
    ordered = sorted(found, key=lambda contender: (sizes.index(int(contender.column.split()[0])), contender.line))
    measured = [
        Measured("seconds", "Time", "seconds", {one: [used.seconds for used in found[one]] for one in ordered}),
        Measured("processor", "Processor time", "seconds", {one: [used.processor for used in found[one]] for one in ordered}),
        Measured("memory", "Memory", "MiB", {one: [used.memory for used in found[one]] for one in ordered}),
    ]
    return Row(
        NAME,
        "What the controller needs",
        METHOD,
        measured=measured,
        claims=[
            Claim(
                f"{line}, {metric.title.lower()}, {sizes[-1]} hosts to {sizes[0]}",
                metric.key,
                Contender(line, f"{sizes[-1]} hosts"),
                Contender(line, f"{sizes[0]} hosts"),
                sizes[-1] / sizes[0],
            )
            for line in dict.fromkeys(contender.line for contender in ordered)
            for metric in measured[1:]
        ],
        facts={"rounds": str(rounds)},
    )


def _measure(hosts: int, kind: str) -> Dict[str, Used]:
    """What each step took, in the order in which they are done."""
    with tempfile.TemporaryDirectory() as name:
        inventory = write_inventory(Path(name), hosts=hosts, kind=kind)
        steps = {"allocate, first run": "allocate", "allocate, second run": "allocate", "validate": "validate"}
        return {
            f"{step}, {KIND_TITLES[kind]}": measure([program("ansible-playbook"), "-i", str(inventory), f"portfence.egress.{book}"], Path(name))
            for step, book in steps.items()
            if kind != "own" or book == "validate"
        }


def write_inventory(folder: Path, *, hosts: int, kind: str) -> Path:
    """Make an inventory; gives its path."""
    lines = ["all:", "  children:"]
    for first in range(0, hosts, SITE):
        lines += [f"    site{first // SITE:04d}:", f"      vars: {{egress_nat_domain: nat{first // SITE:04d}}}", "      hosts:"]
        lines += [f"        host{index:05d}: {{tier: t{index}}}" for index in range(first, min(hosts, first + SITE))]
    (folder / "hosts.yml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    extra = ', log: {prefix: "{{ tier }} "}' if kind == "templates" else ""
    if kind == "own":
        (folder / "host_vars").mkdir()
        for index in range(hosts):
            # The host's place in its site decides about its ports: 20 apart, 10 services of 2.
            low = 30000 + 20 * (index % SITE)
            text = "".join(f"  svc{number}: {{source_ports: {low + 2 * number}-{low + 2 * number + 1}}}\n" for number in range(SERVICES))
            (folder / "host_vars" / f"host{index:05d}.yml").write_text(f"egress_services:\n{text}", encoding="utf-8")
    else:
        (folder / "group_vars").mkdir()
        text = "".join(f"  svc{number}: {{source_ports: auto, size: 16{extra}}}\n" for number in range(SERVICES))
        (folder / "group_vars" / "all.yml").write_text(f"egress_services:\n{text}", encoding="utf-8")
    return folder / "hosts.yml"


def processor() -> float:
    """Seconds that ended children have used."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(command: List[str], folder: Path) -> Used:
    """What a command takes. Raises LabError when it fails."""
    variables = {**os.environ, **environment(os.environ["ANSIBLE_COLLECTIONS_PATH"]), "ANSIBLE_HOME": str(folder / "home")}
    begin, used = time.monotonic(), processor()
    with open(folder / "log", "w+", encoding="utf-8") as log:
        with subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT) as process:
            peak = 0
            while process.poll() is None:
                peak = max(peak, memory(process.pid))
                time.sleep(0.2)
        seconds = time.monotonic() - begin
        if process.returncode:
            log.seek(0)
            raise LabError(f"{' '.join(command)} failed:\n{log.read()[-4000:]}")
    return Used(seconds, processor() - used, peak / 1024)


def memory(pid: int) -> int:
    """KiB of a process and its descendants; pages that two of them share count once."""
    total = 0
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(memory(int(child)) for child in (task / "children").read_text(encoding="ascii").split())
    except (FileNotFoundError, ProcessLookupError):
        return total
    return total
