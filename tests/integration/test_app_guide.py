# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every example of docs/app.md, run as it stands."""

from __future__ import annotations

import re
from typing import Dict, List, Tuple

import pytest
import yaml
from lab import PORT, REPOSITORY, Lab

TEXT = (REPOSITORY / "docs" / "app.md").read_text(encoding="utf-8")
BLOCKS: List[Tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PROGRAMS = [(language, code) for language, code in BLOCKS if language != "yaml"]
POLICIES = [code for language, code in BLOCKS if language == "yaml"]


@pytest.fixture(name="host")
def fixture_host(lab: Lab) -> Lab:
    """A host with the first policy of the page."""
    lab.add_user("myapp", 991)
    (service,) = yaml.safe_load(POLICIES[0])["egress_services"].items()
    result = lab.module("fence", services=[{"name": service[0], **service[1]}])
    assert not result.get("failed"), result["msg"]
    return lab


def test_the_page_has_its_examples() -> None:
    assert [language for language, _code in PROGRAMS] == ["python", "python", "sh", "sh", "sh"]
    assert len(POLICIES) == 2


@pytest.mark.parametrize(("language", "code"), PROGRAMS, ids=[code.strip().splitlines()[-1][:30] for _language, code in PROGRAMS])
def test_an_example_leaves_from_a_port_of_the_service(host: Lab, language: str, code: str) -> None:
    program = {"python": ["/usr/bin/python3", "-c"], "sh": ["/bin/sh", "-c"]}[language]
    environment: Dict[str, str] = {"PEER": "192.0.2.1", "PORT": str(PORT)}
    host.peer.packets()
    said = host.run([*program, code], user="myapp", env=environment, check=False)
    seen = {packet.source_port for packet in host.peer.packets() if packet.destination_port == PORT}
    assert seen and seen <= set(range(50000, 50100)), said


@pytest.mark.parametrize("command", ["curl --silent --max-time 5 http://$PEER:$PORT/", "nc -N -p 40042 $PEER $PORT </dev/null"])
def test_the_same_program_without_its_port_is_stopped(host: Lab, command: str) -> None:
    host.peer.packets()
    said = host.run(["/bin/sh", "-c", command], user="myapp", env={"PEER": "192.0.2.1", "PORT": str(PORT)}, check=False)
    assert said.rc != 0
    assert [packet for packet in host.peer.packets() if packet.destination_port == PORT] == []


def test_the_second_policy_is_one() -> None:
    (collector,) = yaml.safe_load(POLICIES[1])["egress_services"].values()
    assert collector["listen_ports"] == [4317, 9464]
