# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Labs to measure in: what sends and receives there, the rules that contend, and whether they do their work."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Type, TypeVar

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "integration"))

# Behind the path that they are found on.
from bpf_lab import BpfLab
from lab import Lab, LabError

__all__ = [
    "BpfLab",
    "Field",
    "Lab",
    "LabError",
    "Service",
    "bare_conntrack",
    "bare_nat",
    "compile_load",
    "fence",
    "least_rewrite",
    "owner_match",
    "owner_rules",
    "prove",
    "services",
]

PORT = 7100
# The peer answers at all of these addresses. Many destinations share a port of the source.
NETWORK, FIRST, DESTINATIONS = "198.51.100.0/24", "198.51.100.1", 250

_AnyLab = TypeVar("_AnyLab", bound=Lab)


class Service(NamedTuple):
    """A service of the benchmark: numbers only, no account."""

    name: str
    uid: int
    low: int
    size: int

    @property
    def high(self) -> int:
        """The last port."""
        return self.low + self.size - 1

    def wanted(self, assignment: str) -> Dict[str, Any]:
        """As the module takes it."""
        ports = f"{self.low}-{self.high}"
        return {"name": self.name, "user": str(self.uid), "manage_account": False, "source_ports": ports, "assignment": assignment}


def services(number: int, *, low: int, size: int) -> List[Service]:
    """So many services, one behind the other."""
    return [Service(f"svc{index:04d}", 100000 + index, low + index * size, size) for index in range(number)]


class Field:
    """A place for labs and the load in them. Everything is gone when it is left."""

    def __init__(self, program: Path) -> None:
        """:param program: load.c, compiled."""
        self._program = program
        self._stack = ExitStack()

    def __enter__(self) -> Field:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._stack.close()

    def lab(self, make: Callable[..., _AnyLab], *, ports: str) -> _AnyLab:
        """A lab whose peer takes the load at all destinations.

        :param ports: what the kernel chooses from, as ip_local_port_range has it: none that a service has.
        """
        lab = self._stack.enter_context(make(capture=False))
        lab.run(["sysctl", "-qw", f"net.ipv4.ip_local_port_range={ports}"])
        lab.peer.run(["ip", "route", "add", "local", NETWORK, "dev", "lo"])
        lab.peer.run([self._program, "serve", str(PORT)])  # in the background; it ends with the lab
        return lab

    def load(
        self,
        lab: Lab,
        kind: str,
        *,
        uid: int,
        milliseconds: int,
        bind: Optional[Service] = None,
        destinations: int = DESTINATIONS,
    ) -> float:
        """Let an account send for a while; what load.c prints for this kind. Raises LabError when anything is dropped."""
        first, number = (bind.low, bind.size) if bind else (0, 1)
        target = [FIRST, destinations, PORT, first, number]
        return float(lab.run(list(map(str, [self._program, kind, uid, milliseconds, *target]))).out)


def compile_load(folder: Path) -> Path:
    """Compile load.c into a folder."""
    program = folder / "load"
    subprocess.run(["clang-14", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, HERE / "load.c"], check=True)
    return program


def fence(lab: Lab, wanted: Sequence[Dict[str, Any]], **how: Any) -> Dict[str, Any]:
    """Let the module make the fence; its result."""
    result = lab.module("fence", services=list(wanted), backend="nftables", purge=True, **how)
    if result.get("failed"):
        raise LabError(result["msg"])
    return result


def bare_conntrack(lab: Lab) -> None:
    """The floor of everything that looks at connections: a hook, connection tracking, nothing else."""
    lab.nft("table inet bare { chain output { type filter hook output priority 0; policy accept; ct state invalid drop; }; }\n")


def bare_nat(lab: Lab, service: Service) -> None:
    """The floor of everything that translates ports: the same, and one rule of NAT."""
    bare_conntrack(lab)
    rule = f"meta skuid {service.uid} meta l4proto {{ tcp, udp }} snat to :{service.low}-{service.high}"
    lab.nft(f"table ip bare {{ chain postrouting {{ type nat hook postrouting priority 99; policy accept; {rule}; }}; }}\n")


def least_rewrite(lab: Lab, service: Service) -> None:
    """The least that `rewrite` needs of the kernel, with one account in the rules themselves: that rule of NAT, a zone for datagrams, and a
    check of what comes out. No look-up, and neither exclusive ports nor exceptions nor counters.
    """
    bare_nat(lab, service)
    raw = f"meta skuid {service.uid} meta l4proto udp ct original zone set {service.low}"
    check = f"meta skuid {service.uid} meta l4proto udp th sport != {service.low}-{service.high} drop"
    lab.nft(
        f"table inet least {{ chain raw {{ type filter hook output priority -300; policy accept; {raw}; }};"
        f" chain check {{ type filter hook postrouting priority 110; policy accept; {check}; }}; }}\n"
    )


def owner_rules(fenced: Sequence[Service]) -> str:
    """What people paste, for each service and protocol, as iptables-restore takes it."""
    rules = [
        f"-A OUTPUT -p {protocol} -m owner --uid-owner {one.uid} -m {protocol} ! --sport {one.low}:{one.high} -j DROP\n"
        for one in fenced
        for protocol in ("tcp", "udp")
    ]
    return "".join(["*filter\n", *rules, "COMMIT\n"])


def owner_match(lab: Lab, fenced: Sequence[Service]) -> None:
    """Load that for both families, in one go each."""
    for program in ("iptables-restore", "ip6tables-restore"):
        lab.run([program], data=owner_rules(fenced))


def prove(lab: Lab, service: Service, *, inside: bool, blocks: bool) -> None:
    """Raises LabError unless the rules do their work on an account, as its connections show.

    :param inside: whether a port is assigned to a socket that binds nothing.
    :param blocks: whether a socket that is bound to a port outside gets nothing through.
    """
    port = lab.connect("udp", uid=service.uid, timeout=5).port
    if inside and (port is None or not service.low <= port <= service.high):
        raise LabError(f"{service.name} should get a port of {service.low}-{service.high}, and the peer saw {port}")
    seen = lab.connect("udp", uid=service.uid, source_port=9999, timeout=0.2)
    if blocks and seen.port is not None:
        raise LabError(f"{service.name} should be stopped at port 9999, and the peer saw {seen.port}")
