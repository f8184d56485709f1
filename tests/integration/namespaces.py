# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of network namespaces share: tasks in a lab, programs inside, and all that the module can change."""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, NamedTuple, Optional

from lab import Lab, Seen
from lab_keeper import LAB_ADDRESSES, PEER_ADDRESSES, PORT

LOW, HIGH = 50000, 50999
RANGE = range(LOW, HIGH + 1)
MYAPP: Dict[str, Any] = {"name": "myapp", "source_ports": f"{LOW}-{HIGH}"}
WAYS = [(protocol, family) for protocol in ("tcp", "udp") for family in (4, 6)]

# An ordinary program: connects, from a port of its own choice only if it is told one, and prints what it met.
CLIENT = """
import errno, json, socket, sys
protocol, address, port, own = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
sock = socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
sock.settimeout(float(sys.argv[5]))
seen = error = None
try:
    if own:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", own))
    sock.connect((address, port))
    if protocol == "udp":
        sock.send(b"?")
    seen = int(sock.recv(100))
except socket.timeout:
    error = "timeout"
except OSError as problem:
    error = errno.errorcode[problem.errno]
print(json.dumps([seen, error]))
"""

# Opens a connection, tells so by a file, waits for another file, and tries whether it still holds.
SESSION = """
import os, socket, sys, time
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
print(int(sock.recv(100)))
open(sys.argv[3] + ".open", "w").close()
while not os.path.exists(sys.argv[3] + ".go"):
    time.sleep(0.02)
sock.sendall(b"still there?")
print(sock.recv(100).decode())
"""

# Takes source ports towards one server until there are no more; prints them, and the errno of the end.
EXHAUST = """
import errno, json, socket, sys
protocol, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
held, ports = [], []
try:
    while True:
        sock = socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
        held.append(sock)
        sock.settimeout(10)
        sock.connect((address, port))
        ports.append(sock.getsockname()[1])
except OSError as problem:
    print(json.dumps([sorted(ports), errno.errorcode[problem.errno]]))
"""


class Exhausted(NamedTuple):
    """The source ports that a program could have, and what it met then."""

    ports: List[int]
    error: str


def namespaces(lab: Lab, *items: Dict[str, Any], **params: Any) -> Dict[str, Any]:
    """The result of a task that has to succeed."""
    result = lab.module("network_namespace", namespaces=list(items), **params)
    assert not result.get("failed"), result["msg"]
    return result


def refusal(lab: Lab, *items: Dict[str, Any], **params: Any) -> str:
    """The message of a task that has to fail and to leave everything as it was."""
    before = state(lab)
    result = lab.module("network_namespace", namespaces=list(items), **params)
    assert result.get("failed"), result
    assert state(lab) == before
    return str(result["msg"])


def connect(
    lab: Lab, protocol: str, family: int, *, name: str = "myapp", bind: int = 0, address: Optional[str] = None, timeout: float = 1.0
) -> Seen:
    """An ordinary program in a namespace connects to the peer."""
    args = [protocol, address or PEER_ADDRESSES[family], PORT, bind, timeout]
    out = lab.run(["ip", "netns", "exec", name, "python3", "-c", CLIENT, *map(str, args)]).out
    return Seen(*json.loads(out))


def exhaust(lab: Lab, protocol: str, family: int, *, name: str = "myapp") -> Exhausted:
    """A program in a namespace takes as many source ports as it gets."""
    args = [protocol, PEER_ADDRESSES[family], str(PORT)]
    return Exhausted(*json.loads(lab.run(["ip", "netns", "exec", name, "python3", "-c", EXHAUST, *args]).out))


def count(lab: Lab, counter: str, *, name: Optional[str] = None) -> int:
    """Packets of a counter, inside a namespace or of the host's side."""
    if name is not None:
        printed = lab.run(["ip", "netns", "exec", name, "nft", "list", "counter", "inet", "portfence", counter]).out
    else:
        printed = lab.run(["nft", "list", "counter", "inet", "portfence_namespaces", counter]).out
    found = re.search(r"packets (\d+)", printed)
    assert found is not None, printed
    return int(found.group(1))


def state(lab: Lab) -> str:
    """All that the module can change, without counts."""
    script = """
    nft -s list ruleset | sort
    ip netns list | cut -d ' ' -f 1 | sort
    ip -o link | sed 's/^[0-9]*: //; s/@.*//'
    cd /proc/sys/net; grep -H . ipv4/ip_forward ipv[46]/conf/*/forwarding ipv[46]/conf/*/accept_redirects ipv6/conf/*/accept_ra
    ip -6 route show default
    find /etc/portfence /etc/netns /etc/systemd/system /run/portfence ! -name '*.wants' -printf '%p %y %m %l\n' 2>/dev/null | sort
    find /etc/portfence /etc/netns /run/portfence -type f -exec sha256sum {} + 2>/dev/null | sort -k 2
    find /etc/systemd/system -name '*portfence*' -type f -exec sha256sum {} + 2>/dev/null | sort -k 2
    """
    return lab.run(["sh", "-c", script], check=False).out


def inside(lab: Lab, name: str = "myapp") -> str:
    """What a namespace looks like from within, without what is chosen anew for every veth pair."""
    script = """
    cat /proc/sys/net/ipv4/ip_local_port_range; nft -s list ruleset | sort; ip route; ip -6 route | grep -v fe80
    ip -o addr | grep -v fe80 | sed 's/^[0-9]*: //; s/valid_lft.*//'; ip -o link | sed 's/^[0-9]*: //; s/@[^ ]*//; s/link.ether.*//'
    """
    return lab.run(["ip", "netns", "exec", name, "sh", "-c", script]).out


def third_host(lab: Lab) -> None:
    """A machine on another interface of the lab, which uses the lab as its router."""
    for line in (
        "netns add third",
        "link add lan0 type veth peer name eth0 netns third",
        "address add 10.20.0.1/24 dev lan0",
        "address add fd20::1/64 dev lan0 nodad",
        "link set lan0 up",
        "-netns third link set lo up",
        "-netns third address add 10.20.0.2/24 dev eth0",
        "-netns third address add fd20::2/64 dev eth0 nodad",
        "-netns third link set eth0 up",
        "-netns third route add default via 10.20.0.1",
        "-netns third -6 route add default via fd20::1",
    ):
        lab.run(["ip", *line.split()])
    # Whoever forwards for others asks for neighbours from a link-local address, which takes a second to be usable.
    wait = "until ip -6 route get fd20::1 | grep -q ^local && test -z \"$(ip -6 address show tentative)\"; do sleep 0.02; done"
    lab.run(["sh", "-c", wait])
    lab.run(["ip", "netns", "exec", "third", "sh", "-c", "until test -z \"$(ip -6 address show tentative)\"; do sleep 0.02; done"])
    lab.peer.run(["sh", "-c", "until test -z \"$(ip -6 address show tentative)\"; do sleep 0.02; done"])
    lab.peer.run(["ip", "route", "add", "10.20.0.0/24", "via", LAB_ADDRESSES[4]])
    lab.peer.run(["ip", "-6", "route", "add", "fd20::/64", "via", LAB_ADDRESSES[6]])
