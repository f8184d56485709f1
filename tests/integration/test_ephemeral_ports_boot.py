# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ephemeral ports over a reboot: what sysctl.d gives, what other files take, and what the unit puts back."""

from __future__ import annotations

import shlex

from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_boot import BOOT_STEPS
from ephemeral import RANGE_KEY, RESERVED_KEY, boot_steps, live, ports, put, write
from lab import Lab

SYSCTL = "/lib/systemd/systemd-sysctl"


def test_boot(lab: Lab) -> None:
    write(lab, "/etc/sysctl.d/10-a.conf", "-net/ipv4/ip_local_reserved_ports=1000,1005-1010\n")
    write(lab, "/run/sysctl.d/20-b.conf", f"{RESERVED_KEY} = 2000\n")
    ports(lab, name="brief", reserved_ports=["3000"], persist=False)
    result = ports(lab, reserved_ports=["50000-50999"], local_port_range="40000-49999")
    assert not result["warnings"]
    assert live(lab) == "1000,1005-1010,2000,3000,50000-50999"
    lab.reboot()
    assert live(lab) == "1000,1005-1010,2000,50000-50999"
    assert live(lab, RANGE_KEY) == "40000 49999"
    # /run/sysctl.d went with the reboot, and with it the reason to keep 2000 in the file.
    assert ports(lab, reserved_ports=["50000-50999"], local_port_range="40000-49999")["changed"]
    assert not ports(lab, reserved_ports=["50000-50999"], local_port_range="40000-49999")["changed"]
    ports(lab, state="absent")
    assert live(lab, RANGE_KEY) == "32768 60999"
    assert live(lab) == "1000,1005-1010,2000"
    lab.reboot()
    assert live(lab) == "1000,1005-1010"


def test_file_that_is_masked_or_has_our_name(lab: Lab) -> None:
    write(lab, "/run/sysctl.d/10-a.conf", f"{RESERVED_KEY} = 1000\n")
    write(lab, "/run/sysctl.d/60-portfence.conf", f"{RESERVED_KEY} = 2000\n")
    lab.run(["ln", "-s", "/dev/null", "/etc/sysctl.d/10-a.conf"])
    ports(lab, reserved_ports=["50000"])
    assert live(lab) == "50000"


def test_file_that_is_read_later(lab: Lab) -> None:
    lab.run(["ln", "-sf", "../sysctl.conf", "/etc/sysctl.d/99-sysctl.conf"])
    write(lab, "/etc/sysctl.conf", f"{RESERVED_KEY} = 80\n{RANGE_KEY} = 20000 29999\n")
    lab.run([SYSCTL])
    result = ports(lab, reserved_ports=["50000-50999"], local_port_range="40000-49999")
    assert [warning.split(" and is")[0] for warning in result["warnings"]] == [
        f"/etc/sysctl.d/99-sysctl.conf -> /etc/sysctl.conf sets {RANGE_KEY} = 20000 29999",
        f"/etc/sysctl.d/99-sysctl.conf -> /etc/sysctl.conf sets {RESERVED_KEY} = 80",
    ]
    lab.reboot()
    assert (live(lab), live(lab, RANGE_KEY)) == ("80", "20000 29999")  # as the warning says
    boot_steps(lab)
    assert (live(lab), live(lab, RANGE_KEY)) == ("80,50000-50999", "40000 49999")
    assert not ports(lab, reserved_ports=["50000-50999"], local_port_range="40000-49999")["changed"]


def test_file_of_sysctl_alone(lab: Lab) -> None:
    lab.run(["rm", "-f", "/etc/sysctl.d/99-sysctl.conf"])
    write(lab, "/etc/sysctl.conf", f"{RESERVED_KEY} = 80\n")
    result = ports(lab, reserved_ports=["50000"])
    assert result["reserved_ports"] == ["80", "50000"]
    assert not result["warnings"]


def test_boot_steps_lose_nothing(lab: Lab) -> None:
    boot_steps(lab)
    assert (live(lab), live(lab, RANGE_KEY)) == ("", "32768 60999")
    ports(lab, reserved_ports=["50000-50999"])
    write(lab, "/etc/sysctl.d/10-later.conf", f"# {RESERVED_KEY} = 1\n-{RESERVED_KEY} = 1000, 1005-1010 \n")
    write(lab, "/etc/sysctl.d/20-later.conf", f"net/ipv4/ip_local_reserved_ports=2000\n{RESERVED_KEY} = a\nvm.x=1")
    write(lab, "/etc/sysctl.d/90-later.conf", f"{RESERVED_KEY}=3000\n")
    lab.reboot()
    assert live(lab) == "3000"
    put(lab, "7")
    boot_steps(lab)
    assert live(lab) == "7,1000,1005-1010,2000,3000,50000-50999"
    write(lab, "/etc/sysctl.d/95-wrong.conf", f"{RESERVED_KEY}=90-80\n")
    put(lab, "7")
    for step in BOOT_STEPS:
        lab.run(shlex.split(step), check=False)
    assert live(lab) == "7,50000-50999"
