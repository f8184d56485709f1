# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of this scenario ask a host: what the programs of a service see, and what is in its cgroup."""

from __future__ import annotations

import json
import time

from testinfra.host import Host

INSIDE = range(20000, 22000)
CGROUP = "/run/portfence/net_cls/portfence/legacy"
UNITS = ["legacy.service", "legacy-worker@a.service", "legacy-worker@b.service", "legacy-root.service"]
# systemd-escape(1) writes "-" so. It answers no questions.
ESCAPED = r"legacy\x2descaped@a.service"
BYSTANDER = "bystander.service"
QUESTIONS = {"main", "nc", "curl", "tcp4", "tcp6", "udp4", "udp6"}


def seen(host: Host, unit: str, *, later: bool = False) -> dict[str, int | None]:
    """Return the ports that the programs of a unit left from, by question.

    `later` waits for a round that began after this call.
    """
    path = f"/run/{unit.removesuffix('.service')}/seen"
    # The round that leaves the file again may have begun before; the next one has not.
    for _round in range(2 if later else 0):
        host.check_output(f"rm -f {path}")
        answers(host, unit, path)
    return answers(host, unit, path)


def answers(host: Host, unit: str, path: str) -> dict[str, int | None]:
    """Return what a program of a unit has left at `path`, once it is there. Tests of one host may run at the same time."""
    # Far more than a busy machine needs.
    end = time.monotonic() + 60
    while time.monotonic() < end:
        file = host.run(f"cat {path}")
        if file.succeeded:
            return json.loads(file.stdout)
        time.sleep(0.2)
    raise AssertionError(f"{unit} does not run: {host.run(f'systemctl status {unit}').stdout}")


def processes(host: Host, unit: str) -> set[int]:
    """Return the processes of a unit, as systemd has them."""
    group = host.check_output("systemctl show --property=ControlGroup --value %s", unit)
    return {int(pid) for pid in host.check_output("cat %s", f"/sys/fs/cgroup{group}/cgroup.procs").split()}


def members(host: Host) -> set[int]:
    """Return the processes in the cgroup of net_cls."""
    return {int(pid) for pid in host.check_output(f"cat {CGROUP}/cgroup.procs").split()}
