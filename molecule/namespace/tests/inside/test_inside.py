# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Units live in the namespace of their service."""

from __future__ import annotations

from client import RANGE, ask, is_inside, seen
from testhost import WAYS
from testinfra.host import Host


def test_client_is_inside(host: Host) -> None:
    """The unmodified program has a port of its service, as the peer sees it."""
    assert is_inside(host)
    assert seen(host) in RANGE


def test_instances_of_a_template(host: Host) -> None:
    """Over every way, a program that binds nothing has a port of its service; other ports do not get out."""
    for way in WAYS:
        assert ask(host, way).seen in RANGE
        assert ask(host, way, bind=50123).seen == 50123
        assert ask(host, way, bind=40000).seen is None
    assert "nameserver 203.0.113.2" in host.check_output("cat /run/ask-resolv.conf")
    assert "nameserver 203.0.113.2" in host.check_output("ip netns exec myapp cat /etc/resolv.conf")


def test_other_programs_are_not_concerned(host: Host) -> None:
    """The host itself keeps its ports and its DNS file."""
    output = host.check_output("/usr/bin/python3 /usr/local/lib/test-host/connect.py tcp 203.0.113.2 9001 40003")
    assert '"seen": 40003' in output
    assert host.check_output("cat /etc/resolv.conf") == "nameserver 192.0.2.1"


def test_host_is_no_router(host: Host) -> None:
    """Forwarding is on for the namespace alone."""
    assert host.check_output("cat /proc/sys/net/ipv4/ip_forward") == "0"
    assert 'counter name "refused" drop' in host.check_output("nft list chain inet portfence_namespaces forward")
