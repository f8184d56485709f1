# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fenced host has besides the fence."""

from __future__ import annotations

from testinfra.host import Host

PORTS = {*range(50000, 51000), *range(52000, 53000), 53500}


def ports(text: str) -> set[int]:
    """Return the ports of a list such as 1000,1005-1010."""
    found: set[int] = set()
    for part in text.replace(" ", "").split(","):
        bounds = part.split("-")
        found.update(range(int(bounds[0]), int(bounds[-1]) + 1))
    return found


def test_service_account(host: Host) -> None:
    """The account of the service cannot log in."""
    assert host.user("myapp").shell.endswith("/nologin")
    assert host.check_output("passwd --status myapp").split()[1] == "L"
    assert host.user("myapp").uid < 1000


def test_ports_are_reserved(host: Host) -> None:
    """The kernel gives nobody a port of a service by itself, now and after the next boot."""
    assert PORTS <= ports(host.file("/proc/sys/net/ipv4/ip_local_reserved_ports").content_string)
    persistent = host.file("/etc/sysctl.d/60-portfence.conf").content_string
    settings = dict(line.split("=", 1) for line in persistent.splitlines() if "=" in line and not line.startswith("#"))
    reserved = {name.strip(): value for name, value in settings.items()}["net.ipv4.ip_local_reserved_ports"]
    assert PORTS <= ports(reserved)


def test_boot_unit(host: Host) -> None:
    """The unit that loads the fence is enabled, and nothing on the host has failed."""
    assert host.service("portfence.service").is_enabled
    assert host.check_output("systemctl --failed --no-legend") == ""
