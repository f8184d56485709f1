# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What unmodified programs get on a host whose services have their ports from eBPF."""

from __future__ import annotations

import json

import pytest
from testhost import WAYS, connect
from testinfra.host import Host

MYAPP = range(50000, 51000)
SERVER = range(51000, 52000)
BATCH = range(52000, 52100)

each_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}{way[1]}")


@each_way
@pytest.mark.parametrize(("user", "ports"), [("myapp", MYAPP), ("server", SERVER)])
def test_unmodified_client_has_the_port_itself(host: Host, way: tuple[str, int], user: str, ports: range) -> None:
    """The socket has the port that the peer sees: nothing translates it."""
    outcome = connect(host, user=user, way=way)
    assert outcome.seen in ports
    assert outcome.local == outcome.seen


@each_way
def test_binds(host: Host, way: tuple[str, int]) -> None:
    """A port inside is kept. One outside is refused with bpf; with auto it is rewritten."""
    assert connect(host, user="myapp", way=way, bind=50123).seen == 50123
    refused = connect(host, user="myapp", way=way, bind=40001)
    assert (refused.seen, refused.local, refused.error) == (None, None, "EPERM")
    assert connect(host, user="server", way=way, bind=40002, translated=True).seen in SERVER


@each_way
def test_the_others(host: Host, way: tuple[str, int]) -> None:
    """A service that is rewritten, and accounts without a service."""
    outcome = connect(host, user="plain", way=way)
    assert outcome.seen in range(53000, 53100)
    assert connect(host, user="nobody", way=way, bind=40003).seen == 40003
    assert connect(host, user="nobody", way=way, bind=50124).seen is None


def test_a_unit_has_its_ports_however_often_it_starts(host: Host) -> None:
    """Every start makes a new cgroup. Debian 11 has no service with a unit."""
    if host.backend.get_hostname() == "debian11":
        assert not host.file("/etc/systemd/system/batch.service.d").exists
        return
    for _number in range(3):
        host.check_output("systemctl start batch.service")
        outcome = json.loads(host.check_output("cat /run/batch.json"))
        assert outcome["seen"] in BATCH
        assert outcome["local"] == outcome["seen"]


def test_boot_unit(host: Host) -> None:
    """It is enabled, and has not failed."""
    unit = host.service("portfence-bpf.service")
    assert unit.is_enabled
    assert host.run("systemctl is-failed portfence-bpf.service").stdout.strip() != "failed"
