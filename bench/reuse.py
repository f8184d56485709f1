# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many connections a range carries, and when a port of it is free again."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List

from field import FIRST, PORT, BpfLab, Field, Service, fence
from harness import Contender, Measured, Row

NAME = "reuse"
SERVICE = Service("myapp", 100000, 50000, 100)
KERNEL_PORTS = "10000 19998"
PATIENCE = 150  # seconds
TIMES = 10  # connections one after the other, times the range

METHOD = f"""One service of {SERVICE.size} ports opens connections to one address and port of the peer until one fails within half a second, or {TIMES}
times as many have succeeded. At once: they stay open. In turn: each is closed by the client before the next, and its port is in TIME_WAIT.
Seconds: from the failure until a connection succeeds again; 0 where none failed, {PATIENCE} where none succeeded so long. One round, and
the load of the machine hardly matters. A range of another size carries in proportion, and towards another address or port the same again,
except with `bpf` without `share_ports`. With `share_ports`, a connection may fail by chance while ports are free. What the assignment `app`
carries is up to the program: as much as `bpf`, or as `host` where it asks for IP_BIND_ADDRESS_NO_PORT."""

_METRICS = (
    ("at_once", "Connections at once", "connections"),
    ("in_turn", "Connections in turn", "connections"),
    ("seconds", "Until a connection succeeds again", "seconds"),
)

_CLIENT = """
import json, resource, socket, struct, sys, time
address, port, most, patience = json.loads(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))

def connected():
    sock = socket.socket()
    sock.settimeout(0.5)
    try:
        sock.connect((address, port))
        return sock
    except OSError:
        sock.close()
        return None

def at_once():
    kept = []
    while len(kept) < most:
        sock = connected()
        if sock is None:
            break
        kept.append(sock)
    for sock in kept:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    return len(kept)

def in_turn():
    for count in range(most):
        sock = connected()
        if sock is None:
            return count, True
        sock.settimeout(10)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(100):
            pass
        sock.close()
    return most, False

held = at_once()
time.sleep(11)  # connection tracking keeps a connection that was reset for ten seconds
count, failed = in_turn()
begin = time.monotonic()
while failed and time.monotonic() - begin < patience:
    time.sleep(0.5)
    sock = connected()
    failed = sock is None
print(json.dumps([held, count, time.monotonic() - begin if count < most else 0]))
"""


def run(place: Field, *, rounds: int, patience: int = PATIENCE) -> Row:
    """Measure, all at the same time.

    :param rounds: there is one.
    """
    labs: Dict[Contender, BpfLab] = {}
    for assignment, how in (("host", {}), ("rewrite", {}), ("bpf", {}), ("bpf", {"share_ports": True})):
        name = f"{assignment}, {' '.join(how)}" if how else assignment
        ports = f"{SERVICE.low} {SERVICE.high}" if assignment == "host" else KERNEL_PORTS
        lab = labs[Contender(name)] = place.lab(BpfLab, ports=ports)
        fence(lab, [{**SERVICE.wanted(assignment), **how}])

    def client(lab: BpfLab) -> List[float]:
        arguments = json.dumps([FIRST, PORT + 1, TIMES * SERVICE.size, patience])
        become = ["setpriv", f"--reuid={SERVICE.uid}", f"--regid={SERVICE.uid}", "--clear-groups", "--"]
        command = [*become, "/usr/bin/python3", "-I", "-c", _CLIENT, arguments]
        answer: List[float] = json.loads(lab.inside(command, timeout=600).out)
        return answer

    with ThreadPoolExecutor(len(labs)) as pool:
        found = dict(zip(labs, pool.map(client, labs.values())))
    measured = [
        Measured(key, title, unit, {contender: [values[index]] for contender, values in found.items()})
        for index, (key, title, unit) in enumerate(_METRICS)
    ]
    return Row(NAME, f"What a range of {SERVICE.size} ports carries", METHOD, measured=measured, facts={"rounds": "1"})
