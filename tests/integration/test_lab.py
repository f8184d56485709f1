# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab itself: what the other tests lean on, and that the machine does not notice it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, Set

import pytest
from lab import PATIENCE, Lab, LabError

ACCOUNT = 20001
BOTH = [(protocol, family) for protocol in ("tcp", "udp") for family in (4, 6)]
DROP_ACCOUNT = f"""
table inet test {{
    counter seen {{ }}
    chain out {{
        type filter hook postrouting priority 110;
        meta skuid {ACCOUNT} counter name seen drop
    }}
}}
"""


MARK = "portfence-lab-was-here"
FOLDERS = ("/etc", "/var/lib", "/var/log", "/run", "/root", "/home")
SYSCTLS = [Path("/proc/sys/net/ipv4") / name for name in ("ip_local_port_range", "ip_local_reserved_ports", "ip_forward")]


def _machine() -> Dict[str, object]:
    """What a lab must leave alone, as far as nothing else on the machine changes it either."""
    accounts = [Path("/etc") / name for name in ("passwd", "shadow", "group", "gshadow", "hosts", "hostname", "resolv.conf")]
    tables = subprocess.run(["nft", "list", "tables"], check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
    return {
        "files": {path: path.read_bytes() for path in [*accounts, *SYSCTLS] if path.exists()},
        "interfaces": {name for _index, name in socket.if_nameindex() if name == "eth0"},
        "marks": [folder for folder in FOLDERS if os.path.exists(f"{folder}/{MARK}")],
        "name": socket.gethostname(),
        "overlays": [line for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines() if "/run/upper" in line],
        "tables": [line for line in tables.splitlines() if line in ("table inet test", "table inet portfence")],
        "units": sorted(Path("/etc/systemd/system").glob("portfence*")),
    }


def test_nothing_of_the_machine_changes() -> None:
    before = _machine()
    with Lab() as lab:
        lab.add_user("lab-account", ACCOUNT)
        lab.nft(DROP_ACCOUNT)
        for folder in FOLDERS:
            lab.run(["sh", "-c", f"echo lab > {folder}/{MARK}"])
        lab.run(["sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 50000", "net.ipv4.ip_local_reserved_ports=45000", "net.ipv4.ip_forward=1"])
        lab.module("fence", services=[{"name": "lab-account", "source_ports": "50000-50999"}])
        assert lab.run(["hostname"]).out == "lab\n"
        assert _machine() == before
        lab.reboot()
        assert lab.run(["cat", f"/etc/{MARK}"]).out == "lab\n"
    assert _machine() == before
    assert not before["marks"]


def test_sysctls_that_belong_to_the_machine_cannot_be_written(lab: Lab) -> None:
    for path in ("/proc/sys/kernel/panic", "/proc/sys/fs/file-max", "/proc/sys/vm/swappiness"):
        assert "Read-only" in lab.run(["sh", "-c", f"cat {path} > {path}"], check=False).err
    lab.run(["sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=50000-50999"])


VICTIM = """
import sys
sys.path.insert(0, sys.argv[1])
from lab import Lab
with Lab() as lab:
    lab.serve(8443)
    links = lab.run(["sh", "-c", "readlink /proc/self/ns/net /proc/self/ns/mnt /proc/self/ns/pid"]).out
    peer = lab.peer.run(["readlink", "/proc/self/ns/net"]).out
    print(*links.split(), *peer.split(), flush=True)
    lab.run(["sleep", "1000"], timeout=1000)
"""


def _namespaces_in_use() -> Set[str]:
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("net", "mnt", "pid", "pid_for_children"):
            try:
                found.add(os.readlink(process / "ns" / name))
            except OSError:
                pass  # the process ended, or is a zombie
    return found


def test_nothing_is_left_after_a_kill() -> None:
    command = [sys.executable, "-c", VICTIM, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as victim:
        assert victim.stdout is not None
        namespaces = set(victim.stdout.readline().split())
        assert len(namespaces) == 4
        assert namespaces <= _namespaces_in_use()
        victim.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while namespaces & _namespaces_in_use() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not namespaces & _namespaces_in_use()


@pytest.mark.parametrize(("protocol", "family"), BOTH)
def test_the_peer_reports_the_port_it_saw(lab: Lab, protocol: str, family: int) -> None:
    assert lab.connect(protocol, family=family, source_port=45678) == (45678, None)
    packets = lab.peer.packets()
    assert {(packet.protocol, packet.family, packet.source) for packet in packets} == {(protocol, family, lab.addresses[family])}
    assert {(packet.source_port, packet.destination_port) for packet in packets} == {(45678, 7000)}


@pytest.mark.parametrize(("protocol", "family"), BOTH)
def test_what_is_dropped_does_not_arrive(lab: Lab, protocol: str, family: int) -> None:
    lab.nft(DROP_ACCOUNT)
    assert lab.connect(protocol, family=family, uid=ACCOUNT, timeout=0.3) == (None, "timeout" if protocol == "tcp" else "EPERM")
    assert not lab.peer.packets()
    assert lab.connect(protocol, family=family, uid=ACCOUNT + 1).error is None
    assert lab.connect(protocol, family=family).error is None


@pytest.mark.parametrize(("protocol", "family"), BOTH)
def test_the_peer_reaches_a_server_of_an_account(lab: Lab, protocol: str, family: int) -> None:
    assert lab.peer.connect(protocol, family=family, port=8443, timeout=PATIENCE).error == "ECONNREFUSED"
    lab.serve(8443, uid=ACCOUNT)
    assert lab.peer.connect(protocol, family=family, port=8443, source_port=45678) == (45678, None)
    lab.nft(DROP_ACCOUNT)
    assert lab.peer.connect(protocol, family=family, port=8443, timeout=0.3).error == "timeout"


def test_a_program_runs_as_the_account(lab: Lab) -> None:
    lab.add_user("myapp", ACCOUNT)
    lab.run(["groupadd", "--gid", "20009", "extra"])
    lab.run(["usermod", "--append", "--groups", "extra", "myapp"])
    assert lab.run(["id", "-un"], user="myapp").out == "myapp\n"
    assert lab.run(["id", "-Gn"], user="myapp").out == "myapp extra\n"
    assert lab.run(["id", "-u"], uid=ACCOUNT + 5).out == f"{ACCOUNT + 5}\n"
    assert lab.run(["id", "-G"], uid=ACCOUNT, gid=20009).out == "20009\n"
    assert lab.run(["id", "-u"]).out == "0\n"


def test_a_program_that_fails_or_hangs_is_noticed(lab: Lab) -> None:
    with pytest.raises(LabError, match="status 3"):
        lab.run(["sh", "-c", "exit 3"])
    assert lab.run(["sh", "-c", "cat; exit 3"], data="text", check=False) == (3, "text", "")
    with pytest.raises(LabError, match="longer than"):
        lab.run(["sh", "-c", "sleep 1000 & sleep 1000"], timeout=0.2)
    assert "sleep" not in lab.run(["ps", "-A", "-o", "args="]).out


def test_sessions_tell_whether_data_gets_through(lab: Lab) -> None:
    lab.serve(8443, uid=ACCOUNT)
    sessions = [lab.open(uid=ACCOUNT), lab.open("udp", uid=ACCOUNT), lab.peer.open(port=8443), lab.open()]
    try:
        assert [session.alive() for session in sessions] == [True, True, True, True]
        lab.nft(DROP_ACCOUNT)
        assert [session.alive(timeout=0.3) for session in sessions] == [False, False, False, True]
    finally:
        for session in sessions:
            session.close()


def test_reboot_loses_what_a_reboot_loses(lab: Lab) -> None:
    lab.nft(DROP_ACCOUNT)
    lab.serve(8443)
    lab.run(["sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40999", "net.ipv4.ip_local_reserved_ports=50000-50999"])
    lab.run(["sh", "-c", "echo net.ipv4.ip_local_port_range=41000 41999 > /etc/sysctl.d/60-test.conf; touch /run/state"])
    assert not lab.reboot()
    assert lab.run(["nft", "list", "tables"]).out == ""
    assert lab.run(["sysctl", "-n", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports"]).out == "41000\t41999\n\n"
    assert lab.run(["ls", "/run"]).out == "lock\n"
    assert lab.peer.connect(port=8443, timeout=PATIENCE).error == "ECONNREFUSED"
    for protocol, family in BOTH:
        assert lab.connect(protocol, family=family).port in range(41000, 42000)


def test_reboot_runs_our_unit_before_the_network_is_up(lab: Lab) -> None:
    unit = """
        [Service]
        ExecStartPre=-/bin/false
        ExecStart=/usr/sbin/nft -f /etc/test.nft
        ExecStart=/usr/sbin/ip -brief link
    """
    for path, text in (("/etc/systemd/system/portfence.service", unit), ("/etc/test.nft", DROP_ACCOUNT)):
        lab.run(["tee", path], data=text)
    assert not lab.reboot()
    lab.run(["mkdir", "-p", "/etc/systemd/system/sysinit.target.wants"])
    lab.run(["ln", "-s", "../portfence.service", "/etc/systemd/system/sysinit.target.wants/"])
    ignored, loaded, links = lab.reboot()
    assert (ignored.rc, loaded.rc) == (1, 0)
    assert "eth0" not in links.out
    assert lab.connect("udp", uid=ACCOUNT).error == "EPERM"
    lab.run(["sh", "-c", "echo nonsense > /etc/test.nft"])
    with pytest.raises(LabError, match="nonsense"):
        lab.reboot()


def _module_results(lab: Lab) -> List[Dict[str, object]]:
    services = [{"name": "myapp", "source_ports": "50000-50999"}]
    return [lab.module("fence", services=services, check_mode=check_mode, diff=True) for check_mode in (True, False, True)]


def test_a_module_runs_for_real(lab: Lab) -> None:
    assert lab.module("fence", services=[{"name": "myapp", "source_ports": "50000-50999"}])["failed"]
    lab.add_user("myapp", ACCOUNT)
    predicted, done, again = _module_results(lab)
    assert (predicted["changed"], done["changed"], again["changed"]) == (True, True, False)
    assert all(isinstance(text, str) for text in done["warnings"])
    with pytest.raises(LabError, match="No module named"):
        lab.module("there_is_no_such_module")
