# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fence that was tried before is not tried again, and what is in force is looked at all the same."""

from __future__ import annotations

import json

import pytest
from field_rules import fence
from lab import Lab

RECORD = "/run/portfence/tried.json"


@pytest.fixture(name="host")
def fixture_host(lab: Lab) -> Lab:
    """A host with a fence, on which none can be tried any more."""
    assert fence(lab)["changed"]
    lab.run(["mount", "--bind", "/bin/false", "/usr/bin/unshare"])
    return lab


def test_the_same_fence_is_not_tried_again(host: Lab) -> None:
    assert not fence(host)["changed"]


@pytest.mark.parametrize(
    "harm",
    [
        "nft flush map inet portfence guarded_tcp",
        "nft insert rule inet portfence postrouting accept",
        "nft delete table ip6 portfence",
        "nft flush ruleset",
        "nft add chain inet portfence more",
    ],
)
def test_harm_is_noticed(host: Lab, harm: str) -> None:
    host.run(["sh", "-c", harm])
    result = host.module("fence", services=[{"name": "myapp", "user": "20001", "source_ports": "50000-50999"}])
    assert "throwaway network namespace" in result["msg"]  # it has to be tried, and can't be
    host.run(["umount", "/usr/bin/unshare"])
    assert fence(host)["changed"]
    assert not fence(host)["changed"]


@pytest.mark.parametrize("key", ["nft", "text", "tables"])
def test_a_record_of_something_else_does_not_count(host: Lab, key: str) -> None:
    record = json.loads(host.run(["cat", RECORD]).out)
    host.run(["sh", "-c", f"cat >{RECORD}"], data=json.dumps({**record, key: "another"}, indent=2, sort_keys=True) + "\n")
    result = host.module("fence", services=[{"name": "myapp", "user": "20001", "source_ports": "50000-50999"}])
    assert "throwaway network namespace" in result["msg"]
    host.run(["umount", "/usr/bin/unshare"])
    assert not fence(host)["changed"]
    assert json.loads(host.run(["cat", RECORD]).out) == record


def test_another_fence_is_tried(host: Lab) -> None:
    host.run(["umount", "/usr/bin/unshare"])
    before = host.run(["cat", RECORD]).out
    assert fence(host, source_ports="51000-51999")["changed"]
    assert host.run(["cat", RECORD]).out != before


def test_check_mode_leaves_no_record(lab: Lab) -> None:
    service = {"name": "myapp", "user": "20001", "source_ports": "50000-50999"}
    assert lab.module("fence", services=[service], check_mode=True)["changed"]
    assert lab.run(["test", "-e", RECORD], check=False).rc == 1


def test_the_record_goes_with_the_fence(lab: Lab) -> None:
    fence(lab)
    assert lab.run(["test", "-e", RECORD], check=False).rc == 0
    assert lab.module("fence", services=[], state="absent", purge=True)["changed"]
    assert lab.run(["test", "-e", "/run/portfence"], check=False).rc == 1
