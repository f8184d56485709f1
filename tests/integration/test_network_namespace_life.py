# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of network namespaces on a throwaway host: check mode, drift, boot, removal, refusals."""

from __future__ import annotations

from typing import Any, Dict

import pytest
from lab import PATIENCE, Lab
from namespaces import MYAPP, RANGE, WAYS, connect, count, inside, namespaces, refusal, state

WITH_ALL: Dict[str, Any] = {**MYAPP, "dns": ["192.0.2.53", "2001:db8::53"], "units": ["myapp", "worker@.service", "myapp.socket"]}
OTHER: Dict[str, Any] = {"name": "other", "source_ports": "52000-52099"}


def test_check_mode_and_idempotence(lab: Lab) -> None:
    start = state(lab)
    expected = namespaces(lab, WITH_ALL, check_mode=True, diff=True)
    assert state(lab) == start
    result = namespaces(lab, WITH_ALL, diff=True)
    assert {**result, "invocation": {}} == {**expected, "invocation": {}}
    assert result["changed"]
    assert "ip_local_port_range '50000 50999'" in result["diff"]["after"] and not result["diff"]["before"]
    once = state(lab)
    again = namespaces(lab, WITH_ALL, diff=True)
    assert not again["changed"] and again["diff"]["before"] == again["diff"]["after"]
    assert state(lab) == once


# RFC 4861: a router advertisement; this router may be used for half an hour.
ADVERTISE = """
import socket, struct
sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
index = socket.if_nametoindex("eth0")
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
sock.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0, 0, index))
"""


def learned_routes(lab: Lab) -> int:
    """How many default routes the lab has from routers that it listened to."""
    return lab.run(["ip", "-6", "route", "show", "default"]).out.count("proto ra")


def learn_route(lab: Lab) -> None:
    """Let the peer say that it is a router, and the lab hear it."""
    for node in (lab, lab.peer):
        node.run(["sh", "-c", "until test -z \"$(ip -6 address show tentative)\"; do sleep 0.02; done"])
    lab.peer.run(["python3", "-c", ADVERTISE])
    lab.run(["sh", "-c", f"timeout {PATIENCE:g} sh -c 'until ip -6 route show default | grep -q \"proto ra\"; do sleep 0.02; done'"])


def test_host_goes_on_listening_to_routers(lab: Lab) -> None:
    learn_route(lab)
    namespaces(lab, MYAPP)
    assert learned_routes(lab) == 1
    lab.run(["sh", "-c", "ip -6 route delete default proto ra"])
    learn_route(lab)
    namespaces(lab, state="absent", purge=True)
    assert learned_routes(lab) == 1


def test_removal_puts_everything_back(lab: Lab) -> None:
    # What interfaces do by themselves.
    lab.run(["sh", "-c", "ip link add lan0 type veth peer name lan1; echo 1 >/proc/sys/net/ipv4/conf/lan0/forwarding"])
    lab.run(["sh", "-c", "echo 2 >/proc/sys/net/ipv6/conf/lan0/accept_ra; echo 0 >/proc/sys/net/ipv4/conf/all/accept_redirects"])
    start = state(lab)
    namespaces(lab, WITH_ALL)
    assert lab.run(["cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra", "/proc/sys/net/ipv6/conf/eth0/forwarding"]).out == "1\n0\n"
    namespaces(lab, OTHER)
    namespaces(lab, {"name": "other"}, state="absent")
    assert connect(lab, "tcp", 6).port in RANGE
    result = namespaces(lab, {"name": "myapp"}, state="absent")
    assert result["changed"] and result["namespaces"] == []
    assert state(lab) == start
    assert not namespaces(lab, {"name": "myapp"}, state="absent")["changed"]
    assert not namespaces(lab, state="absent", purge=True)["changed"]


def test_one_of_several_goes(lab: Lab) -> None:
    namespaces(lab, MYAPP)
    alone = state(lab)
    namespaces(lab, WITH_ALL, OTHER)
    assert namespaces(lab, {**OTHER, "state": "absent"}, MYAPP)["changed"]
    assert state(lab) == alone
    before = namespaces(lab, OTHER, purge=True)["namespaces_before"]
    assert connect(lab, "udp", 4, name="other").port in range(52000, 52100)
    namespaces(lab, *before, purge=True)
    assert state(lab) == alone


# The kernel removes a veth pair some time after its namespace.
GONE = "while test -e /sys/class/net/pf-myapp; do sleep 0.02; done"
DAMAGE = [
    "ip link delete pf-myapp",
    "ip link set pf-myapp down",
    "ip -netns myapp link set eth0 down",
    "ip -netns myapp link set lo down",
    "ip -netns myapp route delete default",
    "ip -netns myapp -6 route delete default",
    "ip -netns myapp route add default via 10.0.0.1 dev eth0 onlink metric 5",
    "ip address add 10.0.0.1/24 dev pf-myapp",
    "ip -netns myapp address flush dev eth0",
    "ip -netns myapp address add fd99::1/64 dev eth0",
    f"ip netns delete myapp; {GONE}",
    f"ip netns delete myapp; {GONE}; touch /run/netns/myapp",
    "ip netns exec myapp nft flush ruleset",
    "ip netns exec myapp nft add chain inet portfence more",
    "ip netns exec myapp nft insert rule inet portfence postrouting accept",
    "ip netns exec myapp nft add set inet portfence s '{ type uid; }'",
    "ip netns exec myapp sh -c 'echo 32768 60999 >/proc/sys/net/ipv4/ip_local_port_range'",
    "nft flush ruleset",
    "nft delete table ip portfence_namespaces",
    "nft flush chain inet portfence_namespaces forward",
    "nft add chain inet portfence_namespaces more '{ type filter hook forward priority -1; policy drop; }'",
    "nft add table arp portfence_namespaces; nft add chain arp portfence_namespaces managed_by_portfence_egress",
    "echo 0 >/proc/sys/net/ipv6/conf/all/forwarding",
    "echo 0 >/proc/sys/net/ipv4/conf/eth0/forwarding",
    "echo 0 >/proc/sys/net/ipv4/conf/pf-myapp/forwarding",
    "echo 1 >/proc/sys/net/ipv6/conf/pf-myapp/accept_ra",
    "rm /etc/portfence/namespaces.json",
    "rm /etc/portfence/namespaces.sh",
    "rm /etc/portfence/namespaces.d/myapp.json /etc/portfence/namespaces.d/myapp.sh",
    "echo true >/etc/portfence/namespaces.d/myapp.sh",
    "rm /etc/netns/myapp/resolv.conf",
    "rm -r /etc/systemd/system/myapp.service.d",
    "rm -r /etc/portfence",
    "rm '/etc/systemd/system/sysinit.target.wants/portfence-namespace@myapp.service'",
    "touch /etc/portfence/namespaces.d/gone.sh",
    "touch /etc/portfence/namespaces.sh.portfence-new; cd /etc/systemd/system; cp portfence-namespaces.service portfence-namespaces.service.portfence-new",
    "cd /etc/systemd/system/nftables.service.d; cp portfence-namespaces.conf portfence-namespaces.conf.portfence-new",
    "cd /etc/systemd/system; cp portfence-namespace@myapp.service portfence-namespace@gone.service.portfence-new",
    # Before there was a drop-in.
    "cd /etc/systemd/system; rm -r nftables.service.d; sed -i '/^Wants=/a PartOf=nftables.service' portfence-namespaces.service",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_drift_is_mended(lab: Lab, damage: str) -> None:
    namespaces(lab, WITH_ALL)
    good, within = state(lab), inside(lab)
    lab.run(["sh", "-c", damage])
    bad = state(lab)
    assert namespaces(lab, WITH_ALL, check_mode=True)["changed"]
    assert state(lab) == bad
    assert namespaces(lab, WITH_ALL)["changed"]
    assert (state(lab), inside(lab)) == (good, within)
    assert not namespaces(lab, WITH_ALL)["changed"]
    for protocol, family in WAYS:
        assert connect(lab, protocol, family).port in RANGE


def test_what_systemctl_edit_writes_stays(lab: Lab) -> None:
    """It makes folders, whose names begin as those of our units do."""
    units = ["portfence-namespace@myapp.service", "portfence-namespace@web.service", "portfence-namespaces.service"]
    folders = [f"/etc/systemd/system/{unit}.{kind}" for unit in units for kind in ("d", "wants", "requires")]
    lab.run(["mkdir", "-p", *folders])
    for folder in folders:
        lab.run(["tee", f"{folder}/override.conf"], data="[Unit]\nDescription=Theirs\n")
    start = state(lab)
    assert namespaces(lab, WITH_ALL)["changed"]
    assert not namespaces(lab, WITH_ALL)["changed"]
    assert namespaces(lab, state="absent", purge=True)["changed"]
    assert not namespaces(lab, state="absent", purge=True)["changed"]
    assert state(lab) == start


FILES = "/etc/portfence /etc/netns /etc/systemd/system/*portfence* /etc/systemd/system/*/*portfence*"


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("gone", ["/etc/portfence", FILES])
def test_removal_without_files(lab: Lab, gone: str, kept: bool) -> None:
    """Nothing is forwarded unprotected where somebody removed what says that it was not before."""
    lab.run(["sh", "-c", f"ip link add lan0 type veth peer name lan1; echo {int(kept)} >/proc/sys/net/ipv4/conf/lan0/forwarding"])
    start = state(lab)
    namespaces(lab, WITH_ALL, OTHER)
    lab.run(["sh", "-c", f"rm -r {gone}; mkdir -p /etc/systemd/system; find /etc/systemd/system -mindepth 1 -type d -empty -delete"])
    bad = state(lab)
    expected = namespaces(lab, state="absent", purge=True, check_mode=True)
    assert state(lab) == bad
    result = namespaces(lab, state="absent", purge=True)
    assert result["changes"] == expected["changes"]
    assert {"remove the network namespace myapp", "remove the network namespace other"} < set(result["changes"])
    assert state(lab) == start
    assert not namespaces(lab, state="absent", purge=True)["changed"]


@pytest.mark.parametrize("flush", ["flush ruleset", "flush table inet portfence_namespaces"])
def test_removal_where_nothing_says_what_was_forwarded(lab: Lab, flush: str) -> None:
    start = state(lab)
    namespaces(lab, WITH_ALL)
    lab.run(["sh", "-c", f"rm -r /etc/portfence; nft {flush}"])
    for absent in (True, False):
        message = refusal(lab, *([] if absent else [WITH_ALL]), state="absent" if absent else "present", purge=True)
        assert "/etc/portfence/namespaces.json can't be read" in message
    # As the message says.
    lab.run(["sh", "-c", """mkdir /etc/portfence; echo '{"opened": ["ipv4", "ipv6"], "kept": []}' >/etc/portfence/namespaces.json"""])
    assert namespaces(lab, state="absent", purge=True)["changed"]
    assert state(lab) == start


def test_who_names_another_leaves_one_whose_files_are_gone(lab: Lab) -> None:
    namespaces(lab, WITH_ALL)
    lab.run(["sh", "-c", "rm /etc/portfence/namespaces.d/myapp.*"])
    result = namespaces(lab, {**WITH_ALL, "name": "third", "ipv4": "198.51.100.8/31", "ipv6": "fd00:9::/127", "source_ports": "59000-59099", "units": []})
    assert "remove the network namespace myapp" not in result["changes"]
    assert any(text.startswith("network namespace myapp: the file that declares it is gone") for text in result["warnings"])
    assert "myapp" in lab.run(["ip", "netns"]).out
    assert "remove the network namespace myapp" in namespaces(lab, {"name": "myapp", "state": "absent"})["changes"]
    assert "myapp" not in lab.run(["ip", "netns"]).out


def test_removal_without_files_after_a_boot(lab: Lab) -> None:
    """A host that forwards nothing has nothing to put back."""
    namespaces(lab, WITH_ALL)
    lab.run(["rm", "-r", "/etc/portfence"])
    lab.reboot(check=False)
    assert namespaces(lab, state="absent", purge=True)["changed"]
    assert "portfence" not in state(lab)
    assert not namespaces(lab, state="absent", purge=True)["changed"]


def test_counters_survive(lab: Lab) -> None:
    namespaces(lab, MYAPP)
    connect(lab, "udp", 4, bind=40000)
    namespaces(lab, {**MYAPP, "source_ports": "50000-50899"}, OTHER)
    assert count(lab, "violations_myapp", name="myapp") == 1


def test_boot(lab: Lab) -> None:
    """The scripts make everything again, before there is any network, and the module finds nothing to do."""
    lab.run(["sh", "-c", "echo net.ipv6.conf.default.accept_ra = 2 >/etc/sysctl.d/10-a.conf; sysctl -w net.ipv6.conf.default.accept_ra=2"])
    namespaces(lab, WITH_ALL, OTHER)
    before, within = state(lab), inside(lab)
    lab.reboot()
    assert inside(lab) == within
    assert not namespaces(lab, WITH_ALL, OTHER)["changed"]
    assert connect(lab, "tcp", 4).port in RANGE
    assert connect(lab, "udp", 6, name="other").port in range(52000, 52100)
    # The cable came after the boot; it has what interfaces have by default.
    assert lab.run(["cat", "/proc/sys/net/ipv6/conf/eth0/forwarding", "/proc/sys/net/ipv4/conf/eth0/forwarding"]).out == "0\n1\n"
    assert sorted(set(before.splitlines()) - set(state(lab).splitlines())) == ["ipv6/conf/eth0/accept_ra:1"]
    namespaces(lab, state="absent", purge=True)
    assert lab.run(["cat", "/proc/sys/net/ipv6/conf/all/forwarding", "/proc/sys/net/ipv4/conf/eth0/forwarding"]).out == "0\n0\n"


def test_without_persistence(lab: Lab) -> None:
    start = state(lab)
    namespaces(lab, WITH_ALL, persist=False)
    assert connect(lab, "tcp", 4).port in RANGE
    assert not namespaces(lab, WITH_ALL, persist=False)["changed"]
    assert lab.run(["ls", "/etc/portfence"], check=False).rc != 0
    namespaces(lab, WITH_ALL)
    assert not namespaces(lab, WITH_ALL)["changed"]
    assert lab.run(["ls", "/run/portfence"], check=False).rc != 0
    namespaces(lab, WITH_ALL, persist=False)
    lab.reboot()
    assert lab.run(["ip", "netns", "list"]).out == ""
    # It is kept outside of /run, because ip-netns(8) looks for it there.
    namespaces(lab, state="absent", purge=True)
    assert "netns" not in state(lab)
    assert start


# ---- refusals ----


@pytest.mark.parametrize(
    "how, item, message",
    [
        ("ip netns add myapp", {}, "/run/netns/myapp exists and was not made by this collection"),
        ("ip link add pf-myapp type veth peer name x", {}, "the interface pf-myapp exists and was not made by this collection"),
        ("ip route add 198.18.0.0/15 via 192.0.2.1", {}, "namespaces[0].ipv4: 198.19.134.160/31 overlaps with the route to 198.18.0.0/15 of eth0"),
        ("ip address add 198.19.134.161/32 dev eth0", {}, "namespaces[0].ipv4: 198.19.134.160/31 overlaps with the route to 198.19.134.161 of eth0"),
        ("ip -6 route add fd70::/16 dev eth0", {}, "namespaces[0].ipv6: fd70:6f72:7466::c350:0/127 overlaps with the route to fd70::/16 of eth0"),
        ("true", {"ipv4": "192.0.2.0/30"}, "namespaces[0].ipv4: 192.0.2.0/30 overlaps with the route to 192.0.2.0/24 of eth0"),
        ("true", {"ipv4": "10.0.0.1/31"}, "namespaces[0].ipv4: found '10.0.0.1/31'; accepted: a network"),
        ("true", {"ipv4": "fd00::/64"}, "namespaces[0].ipv4: found 'fd00::/64'; accepted: an IPv4 network"),
        ("true", {"ipv6": "fd00::/128"}, "namespaces[0].ipv6: found 'fd00::/128', which has no room for two addresses"),
        ("true", {"source_ports": "50000-50009,50020"}, "namespaces[0].source_ports: found 2 ranges"),
        ("true", {"source_ports": "1000-1100"}, "namespaces[0].source_ports: found 1000-1100; the kernel takes no"),
        ("true", {"units": ["batch.slice"]}, "namespaces[0].units[0]: found 'batch.slice'; accepted: a unit such as"),
        ("true", {"dns": ["localhost"]}, "namespaces[0].dns[0]: found 'localhost'; accepted: the IPv4 or IPv6 address"),
        ("true", {"name": "../x"}, "namespaces[0].name: found '../x'; accepted: 1 to 32 letters"),
        ("mkdir -p /etc/netns/myapp; echo >/etc/netns/myapp/resolv.conf", {"dns": ["192.0.2.53"]}, "/etc/netns/myapp/resolv.conf exists and was not written"),
        ("nft add table inet portfence_namespaces", {}, "table inet portfence_namespaces exists and was not written by this collection"),
    ],
)
def test_refusals(lab: Lab, how: str, item: Dict[str, Any], message: str) -> None:
    lab.run(["sh", "-c", how])
    assert message in refusal(lab, {**MYAPP, **item})


def test_conflicts(lab: Lab) -> None:
    namespaces(lab, {**MYAPP, "units": ["myapp"]})
    message = refusal(lab, {"name": "b", "source_ports": "50999-51000", "units": ["myapp.service"], "ipv4": "198.19.134.0/24"})
    stored = "/etc/portfence/namespaces.d/myapp.json"
    assert f"namespaces[0].source_ports: 50999-51000 overlaps with 50000-50999 of {stored}" in message
    assert f"namespaces[0].ipv4: 198.19.134.0/24 overlaps with the network of {stored}" in message
    assert f"namespaces[0].units: myapp.service already belongs to {stored}" in message


def test_unreadable_files(lab: Lab) -> None:
    start = state(lab)
    namespaces(lab, MYAPP)
    lab.run(["sh", "-c", "echo x >/etc/portfence/namespaces.d/myapp.json"])
    assert "/etc/portfence/namespaces.d/myapp.json: Expecting value" in refusal(lab, OTHER)
    assert namespaces(lab, state="absent", purge=True)["changed"]
    assert state(lab) == start


def test_hint_about_name_servers(lab: Lab) -> None:
    lab.run(["sh", "-c", "echo nameserver 127.0.0.53 >/etc/resolv.conf"])
    assert "set dns" in " ".join(namespaces(lab, MYAPP)["warnings"])
    assert "set dns" not in " ".join(namespaces(lab, {**OTHER, "dns": ["192.0.2.53"]})["warnings"])
    seen = lab.run(["ip", "netns", "exec", "other", "cat", "/etc/resolv.conf"]).out
    assert "nameserver 192.0.2.53\n" in seen


def test_host_without_ipv6(lab: Lab) -> None:
    lab.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6"])
    result = namespaces(lab, WITH_ALL)
    assert result["forwarding_opened"] == ["ipv4"]
    assert connect(lab, "tcp", 4).port in RANGE
    assert not namespaces(lab, WITH_ALL)["changed"]
    lab.run(["sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6"])
    assert namespaces(lab, WITH_ALL)["forwarding_opened"] == ["ipv4", "ipv6"]
    assert not namespaces(lab, WITH_ALL)["changed"]
