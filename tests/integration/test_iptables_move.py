# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From one backend to the other: never two fences afterwards, never none in between. And what "auto" chooses."""

from __future__ import annotations

import threading
from typing import Any, Dict, List

import pytest
from field_rules import passes
from lab import Lab

REWRITTEN, BOUND, OTHER = 20001, 20003, 20002
SERVICES = [
    {"name": "rewritten", "user": str(REWRITTEN), "source_ports": "50000-50999"},
    {"name": "bound", "user": str(BOUND), "source_ports": "52000-52999", "assignment": "app"},
]
BOTH_KEPT = {"iptables": "/etc/portfence/fence.iptables", "nftables": "/etc/portfence/fence.nft"}


@pytest.fixture(name="host", params=["nft", "legacy"])
def fixture_host(request: pytest.FixtureRequest, lab: Lab) -> Lab:
    lab.use_iptables(request.param)
    return lab


def fence(lab: Lab, backend: str, *services: Dict[str, Any], **params: Any) -> Dict[str, Any]:
    result = lab.module("fence", services=list(services or SERVICES), backend=backend, **params)
    assert not result.get("failed"), result["msg"]
    return result


def holders(lab: Lab) -> List[str]:
    """Who holds a fence in the kernel."""
    found = []
    if "portfence" in lab.run(["nft", "list", "tables"]).out:
        found.append("nftables")
    for variant in ("nft", "legacy"):
        if "pf-check-" in lab.run([f"iptables-{variant}-save"]).out + lab.run([f"ip6tables-{variant}-save"]).out:
            found.append(f"iptables-{variant}")
    return found


class Breakers:
    """Clients that go on breaking the policy, in a thread, over both protocols and families."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.rounds = 0

    def __enter__(self) -> Breakers:
        self._thread.start()
        return self

    def __exit__(self, *_about: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        port = 40000
        while not self._stop.is_set():
            for family in (4, 6):
                # Each towards a port of its own, by which the peer tells them apart.
                for uid, chosen in ((BOUND, port), (REWRITTEN, port + 1), (OTHER, 52000 + port % 1000), (OTHER, 50000 + port % 1000)):
                    for protocol in ("udp", "tcp"):
                        with self._lab.socket(protocol, family=family, uid=uid) as sock:
                            sock.setblocking(False)
                            try:
                                sock.bind(("0.0.0.0" if family == 4 else "::", chosen))
                                sock.connect((self._lab.peer.addresses[family], uid))
                                sock.send(b"?\n")
                            except OSError:
                                pass  # refused, not connected yet, or the port is still taken
            self.rounds += 1
            port = 40000 + (port + 2) % 8000

    def wait(self, rounds: int) -> None:
        """Until everybody has tried that often again."""
        goal = self.rounds + rounds
        while self.rounds < goal:
            assert self._thread.is_alive()
            self._stop.wait(0.01)


def test_a_host_moves_without_a_gap(host: Lab) -> None:
    """There and back, and from one variant to the other, while clients go on trying: nothing forbidden is seen at the peer."""
    fence(host, "nftables")
    host.peer.packets()
    with Breakers(host) as breakers:
        breakers.wait(1)
        for backend in ("iptables", "nftables", "iptables"):
            assert fence(host, backend)["changed"]
            breakers.wait(1)
    seen = [packet for packet in host.peer.packets() if packet.protocol in ("tcp", "udp") and packet.flags & 0x17 in (0, 2)]
    assert {packet.destination_port for packet in seen} <= {REWRITTEN, OTHER}
    rewritten = [packet for packet in seen if packet.destination_port == REWRITTEN]
    assert [packet for packet in rewritten if packet.source_port not in range(50000, 51000)] == []
    # Where two packets would be one flow to the peer, the kernel gives one of them another port: no service's.
    others = [packet.source_port for packet in seen if packet.destination_port == OTHER]
    assert [port for port in others if port in range(50000, 51000) or port in range(52000, 53000)] == []
    assert {(packet.family, packet.protocol) for packet in rewritten} == {(4, "tcp"), (4, "udp"), (6, "tcp"), (6, "udp")}


def test_a_host_keeps_one_fence(host: Lab) -> None:
    label = f"iptables-{fence(host, 'iptables')['iptables_variant']}"
    assert holders(host) == [label]
    for backend, holder, other in (("nftables", "nftables", "iptables"), ("iptables", label, "nftables")):
        predicted = fence(host, backend, check_mode=True)
        moved = fence(host, backend)
        assert predicted["changes"] == moved["changes"]
        assert moved["backend_before"] == other
        gone = label if other == "iptables" else other
        assert moved["changes"][0] == "load the fence into the kernel"
        assert f"remove the fence of {gone} from the kernel" in moved["changes"]
        assert f"remove {BOTH_KEPT[other]}" in moved["changes"]
        assert holders(host) == [holder]
        assert not fence(host, backend)["changed"]
        assert host.module("fence_info")["backend"] == backend
        host.reboot()
        assert holders(host) == [holder]
        assert host.module("fence_info")["in_sync"]


def test_the_other_variant_is_noticed(host: Lab) -> None:
    """An admin made the host use the other iptables: the fence moves, and leaves nothing behind."""
    before = str(fence(host, "iptables")["iptables_variant"])
    after = {"nft": "legacy", "legacy": "nft"}[before]
    host.use_iptables(after)
    moved = fence(host, "iptables")
    assert f"remove the fence of iptables-{before} from the kernel" in moved["changes"]
    assert holders(host) == [f"iptables-{after}"]
    assert not fence(host, "iptables")["changed"]


def test_rewritten_sessions_survive_the_move(host: Lab) -> None:
    """Conntrack keeps what one backend translated, as long as the translation of the kernel stays in use."""
    fence(host, "nftables")
    sessions = [host.open("tcp", family=family, uid=REWRITTEN) for family in (4, 6)]
    flows = [host.open("udp", family=family, uid=REWRITTEN) for family in (4, 6)]
    for backend in ("iptables", "nftables", "iptables"):
        fence(host, backend)
        assert all(session.alive(timeout=5.0) for session in sessions), backend
        assert all(flow.alive(timeout=5.0) for flow in flows), backend
        sessions.append(host.open("tcp", uid=REWRITTEN))
        assert sessions[-1].port in range(50000, 51000)
    for session in sessions + flows:
        session.close()


def test_removal_takes_the_fence_of_whoever_holds_it(host: Lab) -> None:
    fence(host, "iptables")
    assert fence(host, "nftables", state="absent", purge=True)["changed"]
    assert holders(host) == []
    assert not fence(host, "auto", state="absent", purge=True)["changed"]


def test_auto_stays_with_what_the_host_has(host: Lab) -> None:
    assert fence(host, "auto", check_mode=True)["backend"] == "nftables"
    fence(host, "iptables")
    other = {"name": "more", "user": "20009", "source_ports": 53}
    assert fence(host, "auto", other)["backend"] == "iptables"
    fence(host, "auto", state="absent", purge=True)
    fence(host, "iptables", persist=False)
    assert fence(host, "auto", persist=False) == {**fence(host, "iptables", persist=False), "invocation": fence(host, "auto", persist=False)["invocation"]}
    fence(host, "auto", state="absent", purge=True)
    assert fence(host, "auto")["backend"] == "nftables"


@pytest.mark.parametrize("nft", ["", "#!/bin/sh\necho 'nftables v0.9.0 (Fearless Fosdick)'\n", "#!/bin/sh\n[ $1 = --version ] && exec /run/nft $1\nexit 1\n"])
def test_auto_takes_iptables_where_nftables_can_not_be_used(host: Lab, nft: str) -> None:
    """Missing, too old, or without a kernel for it."""
    host.run(["sh", "-c", "touch /run/nft && mount --bind /usr/sbin/nft /run/nft"])
    host.run(["sh", "-c", f"cat > /run/fake && chmod {755 if nft else 644} /run/fake && mount --bind /run/fake /usr/sbin/nft"], data=nft)
    try:
        assert fence(host, "auto")["backend"] == "iptables"
        assert not fence(host, "auto")["changed"]
        assert host.module("fence_info")["in_sync"]
        assert passes(host, "tcp", uid=REWRITTEN, source_port=40001) in range(50000, 51000)
    finally:
        host.run(["umount", "/usr/sbin/nft"])


def test_a_change_of_assignment_leaves_no_gap(host: Lab) -> None:
    """Each table changes by itself; their order keeps what is not translated any more from passing unchecked."""
    changes: List[Dict[str, Any]] = [{"assignment": "app"}, {}, {"source_ports": "51000-51999"}, {"assignment": "app"}, {}]
    fence(host, "iptables")
    host.peer.packets()
    with Breakers(host) as breakers:
        for change in changes:
            fence(host, "iptables", {**SERVICES[0], **change}, SERVICES[1])
            breakers.wait(1)
    seen = [packet for packet in host.peer.packets() if packet.destination_port == REWRITTEN and packet.flags & 0x17 in (0, 2)]
    assert seen and [packet for packet in seen if packet.source_port not in range(50000, 52000)] == []
