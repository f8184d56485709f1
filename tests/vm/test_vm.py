# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of a fence on a host with a kernel of its own: version 0.1.0, a real reboot, the upgrade, another reboot, the end.

The tests are steps, in the order of the file.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Dict, List

import pytest
from machine import Machine

REPOSITORY = Path(__file__).resolve().parents[2]
COLLECTIONS = os.environ["ANSIBLE_COLLECTIONS_PATH"]
UID = 991
MANY = 50
EARLY = Path(__file__).with_name("try_early.py")
UNIT = f"""\
[Unit]
Description=Tries to leave from outside of its ports before there is a network
DefaultDependencies=no
After=network-pre.target
Before=systemd-networkd.service network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/python3 -I /usr/local/lib/try_early.py {UID} 40001 50001

[Install]
WantedBy=network.target
"""
TALKER = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
PROTOCOLS = ["tcp", "udp", "sctp"]
OLD: Dict[str, Any] = {
    "myapp": {"source_ports": "50000-50999", "uid": UID, "assignment": "app", "protocols": PROTOCOLS},
    "web": {"source_ports": "51000-51999"},
}
NEW: Dict[str, Any] = {
    **OLD,
    "boxed": {"source_ports": "52000-52099", "assignment": "namespace"},
    "chosen": {"source_ports": "53000-53099", "assignment": "bpf"},
    "talker": {"source_ports": "54000-54099", "unit": "talker.service"},
    # Accounts to be made, more of them than one after the other is good for.
    **{f"many{number:02d}": {"source_ports": f"{55000 + 10 * number}-{55009 + 10 * number}"} for number in range(MANY)},
}


@pytest.fixture(name="version_0_1_0", scope="session")
def fixture_version_0_1_0(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The collection as it was released, from the history."""
    found = subprocess.run(
        ["git", "-C", REPOSITORY, "log", "--format=%H", "--grep=^Release 0.1.0$"], check=True, capture_output=True, text=True
    ).stdout.split()
    assert len(found) == 1, "this checkout lacks the history up to release 0.1.0"
    folder = tmp_path_factory.mktemp("old")
    place = folder / "ansible_collections/portfence/egress"
    place.mkdir(parents=True)
    archive = subprocess.run(["git", "-C", REPOSITORY, "archive", found[0]], check=True, stdout=subprocess.PIPE).stdout
    subprocess.run(["tar", "-x", "-C", place], check=True, input=archive)
    return str(folder)


def put(machine: Machine, path: str, text: str) -> None:
    machine.run(f"cat >{path} <<'END_OF_FILE'\n{text}END_OF_FILE")


def violations(machine: Machine, service: str) -> int:
    listed = json.loads(machine.run(f"nft -j list counter inet portfence violations_{service}"))
    return int(next(item["counter"]["packets"] for item in listed["nftables"] if "counter" in item))


def tried(machine: Machine) -> List[str]:
    """What the early unit met in this boot."""
    return [line for line in machine.run("journalctl -b -u try-early.service -o cat").splitlines() if line.startswith(tuple(PROTOCOLS))]


def met(*ports: int, told: str) -> List[str]:
    """The lines of the early unit, if each attempt from these ports ends alike."""
    return [f"{protocol} {port} over IPv{version}: {told}" for port in ports for version in (4, 6) for protocol in PROTOCOLS]


def entered(machine: Machine, *units: str) -> List[int]:
    """When units became active in this boot, microseconds of the monotonic clock."""
    return [int(machine.run(f"systemctl show --value --property ActiveEnterTimestampMonotonic {unit}")) for unit in units]


def test_what_kind_of_host_it_is(machine: Machine) -> None:
    assert machine.run("stat --file-system --format %T /sys/fs/cgroup") == "cgroup2fs\n"
    assert "cloud-amd64" in machine.run("uname -r")
    put(machine, "/usr/local/lib/try_early.py", EARLY.read_text(encoding="utf-8"))
    put(machine, "/etc/systemd/system/try-early.service", UNIT)
    put(machine, "/etc/systemd/system/talker.service", TALKER)
    machine.run("systemctl enable try-early.service talker.service; systemctl start talker.service")
    machine.run(f"useradd --system --no-create-home --shell /usr/sbin/nologin --uid {UID} myapp")
    machine.reboot()
    assert tried(machine) == met(40001, 50001, told="sent"), "what the fence is there for"


def test_version_0_1_0_stands_a_reboot(machine: Machine, version_0_1_0: str) -> None:
    said = machine.play("site", variables={"egress_services": OLD}, collections=version_0_1_0)
    assert "failed=0" in said and "changed=0" not in said
    assert machine.run("cat /etc/portfence/fence.nft").startswith("# The fence of this host")
    stands_a_reboot(machine)


def stands_a_reboot(machine: Machine) -> None:
    machine.reboot()
    assert tried(machine) == [*met(40001, told="held"), *met(50001, told="sent")]
    assert violations(machine, "myapp") >= 2 * len(PROTOCOLS)
    fence, before_network, early, network = entered(machine, "portfence.service", "network-pre.target", "try-early.service", "systemd-networkd.service")
    assert 0 < fence <= before_network <= early <= network
    assert machine.run("systemctl is-active portfence.service") == "active\n"


def test_the_upgrade_keeps_fence_and_counters(machine: Machine) -> None:
    counted = violations(machine, "myapp")
    said = machine.play("site", variables={"egress_services": NEW}, collections=COLLECTIONS)
    assert "probe passed" in said
    # Without those of the probe: had counters begun again, none would be left.
    assert f"violations so far: {counted}\"" in said
    again = machine.play("site", variables={"egress_services": NEW}, collections=COLLECTIONS)
    assert "changed=0" in again and f"{len(NEW)} services, unchanged" in again


def test_the_new_version_stands_a_reboot(machine: Machine) -> None:
    stands_a_reboot(machine)
    said = machine.play("verify", variables={"egress_services": NEW}, collections=COLLECTIONS)
    assert "changed=0" in said and "probe passed" in said


def test_nothing_is_left_at_the_end(machine: Machine) -> None:
    machine.play("remove", variables={"egress_services": NEW}, collections=COLLECTIONS)
    machine.reboot()
    assert machine.run("nft list ruleset") == ""
    assert machine.run("find / -xdev -path '*portfence*' ! -path '/var/log/*' ! -path '/var/lib/portfence*' ! -path '/home/*'") == ""
    assert [line for line in tried(machine) if line.endswith("sent")] == tried(machine) != []
