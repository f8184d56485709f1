# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A class of net_cls as the selector of a service, with the backend iptables: processes in the cgroup, and nobody else."""

from __future__ import annotations

from typing import Iterator

import pytest
from lab import Lab
from net_cls import WAYS, NetClsLab, port, start_program, task, tell

APP = {"name": "labapp", "classid": "10:1"}
SERVICE = {"name": "app", "classid": "0x100001", "source_ports": "50000-50999"}


@pytest.fixture(name="lab", params=["nft", "legacy"])
def fixture_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A throwaway host with a hierarchy of net_cls of its own."""
    with NetClsLab() as lab:
        lab.use_iptables(request.param)
        yield lab


def test_what_is_in_the_class_is_given_ports(lab: Lab) -> None:
    pid = start_program(lab)
    task(lab, cgroups=[APP])
    result = lab.module("fence", services=[SERVICE], backend="iptables")
    assert not result.get("failed"), result["msg"]
    for protocol, family in WAYS:
        assert port(lab, f"{protocol} {family}") not in range(50000, 51000)
    task(lab, cgroups=[{**APP, "pids": [pid]}])
    for protocol, family in WAYS:
        assert port(lab, f"{protocol} {family}") in range(50000, 51000)
        assert port(lab, f"child {protocol} {family}") in range(50000, 51000)
        assert lab.connect(protocol, family=family, source_port=50001, timeout=0.4).port is None
    assert lab.module("fence", services=[SERVICE], backend="iptables")["changed"] is False


def test_what_is_in_the_class_is_refused_elsewhere(lab: Lab) -> None:
    """The class decides before the user: the program runs as root, which is another service here."""
    pid = start_program(lab)
    root = {"name": "root", "user": "0", "allow_admin": True, "source_ports": "52000-52999"}
    services = [{**SERVICE, "assignment": "app", "on_violation": "reject"}, root]
    result = lab.module("fence", services=services, backend="iptables")
    assert not result.get("failed"), result["msg"]
    for protocol, family in WAYS:
        assert port(lab, f"{protocol} {family}") in range(52000, 53000)
    task(lab, cgroups=[{**APP, "pids": [pid]}])
    for protocol, family in WAYS:
        assert "refused" in tell(lab, f"{protocol} {family}") if protocol == "tcp" else "permitted" in tell(lab, f"{protocol} {family}")
    assert lab.module("fence_info")["services"]["app"]["violations"]["packets"] >= 4
