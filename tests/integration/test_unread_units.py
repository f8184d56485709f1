# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd knows the units as they are after the next run, wherever a run was killed before that, and if it refused to read them.

What stands for systemd here remembers the units at each daemon-reload. In Molecule it is systemd itself, and nobody kills a run.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional

import pytest
from crash import Subject, converge
from lab import Lab
from module_server import Supervised
from net_cls import NetClsLab
from test_crash import SLICES, SliceLab, fence, namespaces

# The units, by a single process, which is killed as a whole. A file that is being written has no name that systemd reads.
UNITS = "tar -C /etc/systemd/system --exclude='*.portfence-new' --sort=name --mtime=@0 -cf"
SYSTEMCTL = f"""#!/bin/sh
case "$1" in
    daemon-reload) test ! -e /run/refuses && {UNITS} /run/known.new . && mv /run/known.new /run/known ;;
    show) echo LoadState=loaded ;;
esac
"""
BOXED: Dict[str, Any] = {"name": "boxed", "source_ports": "53000-53099", "ipv4": "198.51.100.0/31", "units": ["boxed.service"]}
GATEWAY = {"address": "192.0.2.10", "protocol": "tcp", "source_ports": "50000-50999", "service": "myapp", "hosts": ["web1"]}
NO_FENCE = {"services": [], "state": "absent", "purge": True}
CHANGES: Dict[str, Any] = {
    "units change": ("fence", (SLICES[0], fence({"name": "batch", "unit": "batch.slice", "source_ports": "51000-51099", "assignment": "app"}))),
    "units come and go": ("fence", (SLICES[0], NO_FENCE)),
    "namespaces": ("network_namespace", (namespaces(BOXED), namespaces())),
    "metrics": ("metrics", ({"directory": "/run"}, {"directory": "/run", "state": "absent"})),
    "cgroups": ("cgroup_classid", ({"cgroups": [{"name": "legacy", "classid": "0x100001"}], "purge": True}, {"state": "absent", "purge": True})),
    "edge": ("edge", ({"identities": [GATEWAY]}, {"state": "absent"})),
}


@contextmanager
def systemd_lab(module: str) -> Iterator[Lab]:
    """A host that has what stands for systemd, and what the module needs."""
    with NetClsLab() if module == "cgroup_classid" else SliceLab() as lab:
        lab.run(["mkdir", "-p", "/run/systemd/system", "/etc/systemd/system"])
        lab.run(["sh", "-c", "cat >/usr/local/sbin/systemctl && chmod 755 /usr/local/sbin/systemctl"], data=SYSTEMCTL)
        lab.run(["/usr/local/sbin/systemctl", "daemon-reload"])
        yield lab


def not_read(lab: Lab) -> List[str]:
    """Whether there is something that systemd does not know yet, or has not forgotten; in words."""
    same = lab.run(["sh", "-c", f"{UNITS} - . | cmp -s - /run/known"], check=False).rc == 0
    return [] if same else ["systemd has not read its units"]


@pytest.mark.parametrize("change", CHANGES)
def test_the_next_run_has_them_read(change: str, points: Optional[int]) -> None:
    module, states = CHANGES[change]
    subject = Subject(module, states, lambda lab: None)
    problems, unread = [], 0
    with systemd_lab(module) as lab, Supervised(lab) as modules:
        for state in states:
            assert converge(lab, subject, state) == [] and not_read(lab) == []
        calls = [modules.run(module, state)["calls"] for state in states]
        for number in range(0, max(map(len, calls)), 1 if points is None else max(1, max(map(len, calls)) // points)):
            for state in states:
                modules.run(module, state, kill=number, everybody=bool(number % 2))
                unread += bool(not_read(lab))
                problems += [f"{change}, killed at call {number}: {problem}" for problem in [*converge(lab, subject, state), *not_read(lab)]]
        left = lab.run(["find", "/run", "-maxdepth", "1", "-name", "portfence-unread"]).out
    assert not problems, "\n".join(problems[:10])
    assert unread, "no run was killed where it matters"
    assert left == ""


# That of cgroups takes its files back.
@pytest.mark.parametrize("change", sorted({*CHANGES} - {"cgroups"}))
def test_a_reload_that_is_refused_is_asked_for_again(change: str) -> None:
    module, states = CHANGES[change]
    with systemd_lab(module) as lab:
        for state in states:
            lab.run(["touch", "/run/refuses"])
            failed = lab.module(module, **state)
            assert failed["failed"] and "daemon-reload" in failed["msg"], failed
            lab.run(["rm", "/run/refuses"])
            assert lab.module(module, **state, check_mode=True)["changed"]
            assert not_read(lab) != []
            assert lab.module(module, **state)["changed"]
            assert not_read(lab) == []
            assert not lab.module(module, **state)["changed"]
