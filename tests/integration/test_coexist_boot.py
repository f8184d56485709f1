# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nftables.service flushes every table when it starts, reloads and stops: its drop-in brings the fence back each time.

There is no systemd here, so its commands are run as they stand in the files. molecule/coexist has the real one.
"""

from __future__ import annotations

import shlex
from typing import Dict, List

import pytest
from field_rules import MYAPP, OUTSIDE, PORTS, fence, passes
from lab import Lab

DROP_IN = "/etc/systemd/system/nftables.service.d/portfence.conf"
# What Debian's unit does, with the usual first line of its configuration.
CONFIGURATION = "flush ruleset\ntable inet filter {\n}\n"
UNIT = {"ExecStartPost": CONFIGURATION, "ExecReload": CONFIGURATION, "ExecStopPost": "flush ruleset"}


def _commands(lab: Lab) -> Dict[str, List[str]]:
    lines = lab.run(["cat", DROP_IN]).out.splitlines()
    settings = dict(line.split("=", 1) for line in lines if line.startswith("Exec"))
    return {key: shlex.split(value.lstrip("-")) for key, value in settings.items()}


@pytest.mark.parametrize("moment", UNIT)
def test_the_fence_is_back_after_nftables_service(lab: Lab, moment: str) -> None:
    fence(lab)
    lab.nft(UNIT[moment])
    assert passes(lab, "udp", uid=MYAPP, source_port=OUTSIDE) == OUTSIDE
    lab.run(_commands(lab)[moment])
    assert passes(lab, "tcp", uid=MYAPP, source_port=OUTSIDE) in PORTS
    assert lab.module("fence_info")["drift"] == []


def test_a_missing_drop_in_is_noticed_and_mended(lab: Lab) -> None:
    fence(lab)
    lab.run(["rm", DROP_IN])
    assert lab.module("fence_info")["drift"] == [f"write {DROP_IN}"]
    assert fence(lab)["changes"] == [f"write {DROP_IN}"]
    assert not fence(lab)["changed"]


def test_the_drop_in_goes_with_the_fence(lab: Lab) -> None:
    fence(lab)
    assert not lab.module("fence", state="absent", purge=True).get("failed")
    assert lab.run(["ls", DROP_IN], check=False).rc != 0
    assert lab.run(["ls", "-d", DROP_IN.rpartition("/")[0]], check=False).rc != 0


def test_a_drop_in_of_somebody_else_stays(lab: Lab) -> None:
    folder = DROP_IN.rpartition("/")[0]
    lab.run(["mkdir", "-p", folder])
    lab.run(["tee", f"{folder}/theirs.conf"], data="[Service]\nNice=1\n")
    fence(lab)
    assert not lab.module("fence", state="absent", purge=True).get("failed")
    assert lab.run(["ls", folder]).out == "theirs.conf\n"


def test_a_unit_that_can_not_reload_does_not_learn_it(lab: Lab) -> None:
    service = {"name": "myapp", "user": str(MYAPP), "source_ports": "50000-50999"}
    assert not lab.module("fence", services=[service], backend="iptables").get("failed")
    for unit, reloads in (("netfilter-persistent", False), ("iptables", True), ("nftables", True)):
        text = lab.run(["cat", f"/etc/systemd/system/{unit}.service.d/portfence.conf"]).out
        assert ("ExecReload=" in text) == reloads
        assert "ExecStartPost=" in text and "ExecStopPost=" in text
