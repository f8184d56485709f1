# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ten hosts whose policy is applied, proved and reported again and again: nothing grows.

PORTFENCE_SOAK_MINUTES says for how long (30). What is measured, is measured in the state after the same policy each time.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))

from ansible_collections.portfence.egress.plugins.filter.report import report
from lab import Lab

HOSTS = 10
MINUTES = float(os.environ.get("PORTFENCE_SOAK_MINUTES", "30"))
UID = 991
# KiB of the kernel's own objects on the whole machine, which other programs change as well.
KERNEL_GROWTH = 64 * 1024
# KiB of this process, in which the report is made: what Python keeps for later.
OWN_GROWTH = 4 * 1024
BOXED = {"name": "boxed", "source_ports": "53000-53099", "ipv4": "198.51.100.0/31", "ipv6": "fd00:1::/127"}


def policies() -> List[List[Dict[str, Any]]]:
    """The last one is the one that is measured."""
    more = [{"name": f"s{number}", "user": str(21000 + number), "source_ports": f"{60000 + number}"} for number in range(30)]
    mine = {"name": "myapp", "source_ports": "50000-50999"}
    return [
        [{**mine, "on_violation": "reject"}, *more],
        [{**mine, "source_ports": ["51000-51499", "52000"]}, *more[:10]],
        [{**mine, "assignment": "app", "exclusive": False}],
        [mine, *more[:20]],
    ]


def others(turned: int) -> List[Tuple[str, Dict[str, Any]]]:
    """What the other modules are asked for beside policy number ``turned``: it comes, changes, stays and goes."""
    boxed = [[BOXED], [{**BOXED, "source_ports": "53100-53199"}], [{**BOXED, "source_ports": "53100-53199"}], []][turned]
    account = {"name": "second", "uid": 982}
    gateway = [{"hosts": ["web1"], "service": "myapp", "address": "192.0.2.10", "protocol": "tcp", "source_ports": f"50000-{50099 + turned}"}]
    return [
        ("network_namespace", {"namespaces": boxed, "purge": True}),
        ("service_account", {"accounts": [account], "state": "present" if turned < len(policies()) - 1 else "absent"}),
        ("edge", {"identities": gateway}),
    ]


def turn(host: Lab) -> Dict[str, Any]:
    """Apply, prove and read each policy, once; what fence_info says in the end."""
    info: Dict[str, Any] = {}
    for number, services in enumerate(policies()):
        for module, params in [
            ("fence", {"services": services, "purge": True}),
            ("ephemeral_ports", {"name": "site", "reserved_ports": [f"50000-{50000 + 100 * len(services)}"]}),
            ("port_probe", {"services": services[:1]}),
            *others(number),
        ]:
            result = host.module(module, **params)
            assert not result.get("failed"), (module, result["msg"])
        info = host.module("fence_info")
        assert info["in_sync"]
    return info


def measured(host: Lab) -> Dict[str, int]:
    """What must not grow on a host: rules (bytes of their listing without counts), files, processes, network namespaces, mounts,
    interfaces."""
    counted = {
        "rules": "nft -s list ruleset | sed 's/packets [0-9]* bytes [0-9]*//' | wc -c",
        "files": "find /etc /run /usr/local 2>/dev/null | wc -l",
        "processes": "set -- /proc/[0-9]*; echo $#",
        "namespaces": "ip netns list | wc -l; ls /run/netns 2>/dev/null | wc -l",
        "mounts": "wc -l < /proc/self/mountinfo",
        "interfaces": "ip -o link | wc -l",
    }
    return {name: sum(map(int, host.run(["sh", "-c", script]).out.split())) for name, script in counted.items()}


def own_memory() -> int:
    """KiB that this process has in memory."""
    gc.collect()
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return int(fields["VmRSS"].split()[0])


def kernel_memory() -> int:
    """KiB that the kernel uses for its objects and can't give back."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return sum(int(fields[name].split()[0]) for name in ("SUnreclaim", "VmallocUsed", "Percpu"))


def page(infos: Sequence[Dict[str, Any]]) -> None:
    """The report of all hosts."""
    pages = report({f"host{number}": info for number, info in enumerate(infos)}, when="2026-01-31 00:00:00 UTC")
    assert f"host{HOSTS - 1}" in pages["report.html"]


def test_nothing_grows() -> None:
    with ExitStack() as stack, ThreadPoolExecutor(os.cpu_count()) as pool:
        hosts = [stack.enter_context(Lab(capture=False)) for _number in range(HOSTS)]
        for host in hosts:
            host.add_user("myapp", UID)
        # The first turns fill caches and make what lasts.
        for _warm_up in range(2):
            page(list(pool.map(turn, hosts)))
        before, kernel, own, files = list(pool.map(measured, hosts)), kernel_memory(), own_memory(), len(os.listdir("/proc/self/fd"))
        end = time.monotonic() + 60 * MINUTES
        turns = 0
        while time.monotonic() < end or turns == 0:
            page(list(pool.map(turn, hosts)))
            turns += 1
        grown, own_grown, after = kernel_memory() - kernel, own_memory() - own, list(pool.map(measured, hosts))
        print(f"{turns} turns of {len(policies())} policies on {HOSTS} hosts in {MINUTES:g} minutes; kernel objects {grown:+d} KiB, report {own_grown:+d} KiB")
        assert after == before
        assert len(os.listdir("/proc/self/fd")) == files
        assert grown < KERNEL_GROWTH
        assert own_grown < OWN_GROWTH
