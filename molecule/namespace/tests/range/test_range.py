# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The service moved to other ports while its client held a session."""

from __future__ import annotations

import time

from client import RANGE
from testhost import session
from testinfra.host import Host


def test_session_goes_on(host: Host) -> None:
    """The open connection keeps its port and gets answers."""
    assert host.check_output("systemctl show --property=MainPID --value client.service") == host.check_output("cat /run/client-pid")
    before = session(host, "session", folder="/run/client")
    assert before["seen"] in RANGE
    assert host.service("client.service").is_running
    # Far more than a busy machine needs.
    end = time.monotonic() + 30
    while time.monotonic() < end and session(host, "session", folder="/run/client")["rounds"] < before["rounds"] + 5:
        time.sleep(0.2)
    after = session(host, "session", folder="/run/client")
    assert after["rounds"] >= before["rounds"] + 5
    assert after["seen"] == before["seen"]


def test_new_connections_have_the_new_ports(host: Host) -> None:
    """Whatever starts from now on is in the new range."""
    output = host.check_output("ip netns exec myapp /usr/bin/python3 /usr/local/lib/test-host/connect.py tcp 203.0.113.2 9000")
    assert int(output.split()[1].strip(",")) in range(51000, 51500)


def test_a_running_unit_sees_the_dns_file_of_its_start(host: Host) -> None:
    """The file was replaced under the mount that systemd made, so that the unit has to be restarted; it had not before that."""
    assert host.check_output("cat /run/restart-for-range") == ""
    assert host.check_output("cat /run/restart-for-dns") == "client.service"
    pid = host.check_output("cat /run/client-pid")
    assert "192.0.2.2" not in host.check_output(f"nsenter --target {pid} --mount cat /etc/resolv.conf")
