# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo: that it ends well, and that it would not if the fence were wrong."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from types import ModuleType
from typing import Iterator

import pytest
from lab import REPOSITORY, Lab

DEMO = REPOSITORY / "scripts" / "demo"

# How a fence can be wrong, and what the demo then says.
HARMS = {
    "nobody guards the ports": (
        "nft flush map inet portfence guarded_tcp; nft flush map inet portfence guarded_udp",
        "the policy says blocked, but the peer saw port 50456",
    ),
    "nothing is assigned": (
        "nft delete table ip portfence",
        "the policy says inside 50000-50999, but nothing arrived at the peer",
    ),
    "IPv6 is open": (
        "nft insert rule inet portfence postrouting meta nfproto ipv6 accept; nft insert rule inet portfence output meta nfproto ipv6 accept",
        "TCP IPv6: the policy says blocked, but the peer saw port 45000",
    ),
    "others are cut off": (
        "nft add rule inet portfence postrouting meta skuid 65534 drop",
        "the policy says outside every range, but nothing arrived at the peer",
    ),
}


@pytest.fixture(name="demo", scope="module")
def fixture_demo() -> Iterator[ModuleType]:
    loader = SourceFileLoader("demo", str(DEMO))
    spec = spec_from_loader("demo", loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules["demo"] = module  # where dataclasses look for it
    loader.exec_module(module)
    yield module
    del sys.modules["demo"]


@pytest.fixture(name="host")
def fixture_host(lab: Lab) -> Lab:
    """A host with the fence of the example inventory."""
    lab.add_user("myapp", 991)
    lab.add_user("otel", 992)
    services = [
        {"name": "myapp", "source_ports": "50000-50999"},
        {"name": "collector", "user": "otel", "source_ports": ["52000-52999", 53500], "assignment": "app", "on_violation": "reject"},
    ]
    assert not lab.module("ephemeral_ports", reserved_ports=["50000-50999", "52000-52999", "53500"]).get("failed")
    assert not lab.module("fence", services=services).get("failed")
    return lab


def test_the_whole_demo() -> None:
    done = subprocess.run([sys.executable, str(DEMO)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", check=False)
    wrong = [line for line in done.stdout.splitlines() if "WRONG" in line]
    assert done.returncode == 0, "\n".join([*wrong, done.stderr, done.stdout])
    assert "WRONG" not in done.stdout
    assert done.stdout.splitlines()[-1] == "Every line is as the policy says. The throwaway host is gone; nothing of this machine was changed."
    assert max(len(line) for line in done.stdout.splitlines()) <= 100
    assert done.stdout.isascii()


def test_no_line_binds_a_port_that_the_peer_has_seen(demo: ModuleType) -> None:
    service = next(service for service in demo.policy() if service.assignment == "rewrite")
    free = [line.source_port for line in demo.lines_of(service, 45000, [])]
    assert free == [None, service.inside + 123, 45000, service.inside + 456]
    seen = {service.inside + 123}
    lines = demo.lines_of(service, 45000, seen)
    assert [next(lines).source_port for _line in range(3)] == [None, service.inside + 124, 45000]
    seen.update([service.inside + 456, service.inside + 457])  # rewritten to, meanwhile
    assert next(lines).source_port == service.inside + 458


def test_a_right_fence_is_shown_as_right(demo: ModuleType, host: Lab) -> None:
    assert demo.show(host, demo.policy()) == 0


@pytest.mark.parametrize("harm", HARMS)
def test_a_wrong_fence_is_shown_as_wrong(demo: ModuleType, host: Lab, harm: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, said = HARMS[harm]
    host.run(["sh", "-ec", command])
    assert demo.show(host, demo.policy()) > 0
    out = capsys.readouterr().out
    assert "WRONG" in out
    assert said in out
