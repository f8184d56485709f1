# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller needs for a large inventory: seconds and peak memory of the playbooks allocate and validate.

    scripts/run python bench/controller.py [HOSTS ...]

For each number of hosts an inventory is made: 10 services a host, sites of 50 hosts, each a NAT domain. Services come from

- same: one group variable for all hosts; the host's ranges are its own;
- templates: the same with a template of a host variable in each service, so that no two hosts have an equal policy;
- own: each host has a file of its own in host_vars, with ports written by hand.

Time is that of the whole command, from start to end; on a busy machine the seconds of processor time, those of all its processes, say
more. Memory is the largest sum of the resident memory of ansible-playbook and
its children, sampled, where pages that two processes share count once (Pss in /proc/PID/smaps_rollup).
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import List, Tuple

SITE = 50
SERVICES = 10
KINDS = ("same", "templates", "own")


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


def measure(command: List[str], folder: Path) -> Tuple[float, float, int]:
    """Seconds, seconds of processor time, and MiB of a command."""
    environment = {**os.environ, "ANSIBLE_HOME": str(folder / "home"), "ANSIBLE_LOCALHOST_WARNING": "0", "ANSIBLE_NOCOLOR": "1"}
    begin, used = time.monotonic(), processor()
    with open(folder / "log", "w+", encoding="utf-8") as log:
        with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT) as process:
            peak = 0
            while process.poll() is None:
                peak = max(peak, memory(process.pid))
                time.sleep(0.2)
        seconds = time.monotonic() - begin
        if process.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{log.read()[-4000:]}")
    return seconds, processor() - used, peak // 1024


def memory(pid: int) -> int:
    """KiB of a process and its descendants."""
    total = 0
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(memory(int(child)) for child in (task / "children").read_text(encoding="ascii").split())
    except (FileNotFoundError, ProcessLookupError):
        return total
    return total


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("hosts", nargs="*", type=int, default=[1000, 3000, 10000])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    print(f"{'hosts':>6}  {'services':<10} {'playbook':<16} {'seconds':>8} {'processor':>9} {'MiB':>6}", flush=True)
    for hosts in arguments.hosts:
        for kind in arguments.kinds:
            with tempfile.TemporaryDirectory() as name:
                inventory = write_inventory(Path(name), hosts=hosts, kind=kind)
                steps = (("allocate", "allocate"), ("allocate again", "allocate"), ("validate", "validate"))
                for label, playbook in steps if kind != "own" else steps[2:]:
                    seconds, used, peak = measure([program, "-i", str(inventory), f"portfence.egress.{playbook}"], Path(name))
                    print(f"{hosts:>6}  {kind:<10} {label:<16} {seconds:>8.1f} {used:>9.1f} {peak:>6}", flush=True)


if __name__ == "__main__":
    main()
