# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of ephemeral ports share: the kernel's values, files, and tasks in a lab."""

from __future__ import annotations

import os
import shlex
from typing import Any, Dict

from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_boot import BOOT_STEPS
from lab import Lab

FILE = "/etc/sysctl.d/60-portfence.conf"
RECORD = "/run/portfence/ephemeral-ports.json"
RANGE_KEY = "net.ipv4.ip_local_port_range"
RESERVED_KEY = "net.ipv4.ip_local_reserved_ports"


def path_of(key: str) -> str:
    """The file of a setting."""
    return f"/proc/sys/{key.replace('.', '/')}"


def live(lab: Lab, key: str = RESERVED_KEY, *, netns: str = "") -> str:
    """The kernel's value. dd, because the kernel gives a list to the first read alone."""
    enter = ["ip", "netns", "exec", netns] if netns else []
    return " ".join(lab.run([*enter, "dd", f"if={path_of(key)}", "bs=256k", "status=none"]).out.split())


def put(lab: Lab, value: str, key: str = RESERVED_KEY, *, netns: str = "") -> None:
    """Change the kernel's value, as somebody else does."""
    enter = ["ip", "netns", "exec", netns] if netns else []
    lab.run([*enter, "tee", path_of(key)], data=f"{value}\n")


def write(lab: Lab, path: str, text: str) -> None:
    """Write a file, as somebody else does."""
    lab.run(["sh", "-c", f"mkdir -p {os.path.dirname(path)}; cat > {path}"], data=text)


def state(lab: Lab) -> str:
    """All that the module can change."""
    find = "find /etc/sysctl.d /run/portfence -type f ! -name README.sysctl 2>/dev/null | sort | while read -r f; do echo \"== $f\"; cat $f; done"
    return "\n".join([live(lab, RANGE_KEY), live(lab), lab.run(["sh", "-c", find]).out])


def ports(lab: Lab, **params: Any) -> Dict[str, Any]:
    """The result of a task that has to succeed."""
    result = lab.module("ephemeral_ports", **params)
    assert not result.get("failed"), result["msg"]
    return result


def refusal(lab: Lab, **params: Any) -> str:
    """The message of a task that has to fail and to leave everything as it was."""
    before = state(lab)
    result = lab.module("ephemeral_ports", **params)
    assert result.get("failed"), result
    assert state(lab) == before
    return str(result["msg"])


def boot_steps(lab: Lab) -> None:
    """Run the commands for the unit, as systemd does."""
    for step in BOOT_STEPS:
        done = lab.run(shlex.split(step))
        assert (done.out, done.err) == ("", "")
