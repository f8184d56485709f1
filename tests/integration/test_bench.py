# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows of the benchmark, with as few rounds as there can be: that each is whole, not what it measures."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, Dict

import pytest
from lab import REPOSITORY, LabError

sys.path.insert(0, str(REPOSITORY / "bench"))

import boot
import connect
import controller
import fleet
import memory
import module
import packet_path
import playbook
import report
import reuse
from field import Field, Lab, compile_load, prove, services

ROWS: Dict[str, Any] = {
    "packet_path": partial(packet_path.run, sizes=(1, 2)),
    "connect": connect.run,
    "module": partial(module.run, sizes=(1, 2)),
    "boot": partial(boot.run, sizes=(1, 2)),
    "memory": partial(memory.run, sizes=(500,)),
    "reuse": partial(reuse.run, patience=1),
    "controller": partial(controller.run, sizes=(10, 20)),
}
if os.environ.get("PORTFENCE_LONG") == "1":
    # Those that run Ansible on hosts take longest.
    ROWS["site"] = partial(playbook.run, sizes=(1, 2), builtin_sizes=(1,))
    ROWS["fleet"] = partial(fleet.run, fleets=(2,))


@pytest.mark.parametrize("name", ROWS)
def test_row(name: str, tmp_path: Path) -> None:
    with Field(compile_load(tmp_path)) as place:
        row = ROWS[name](place, rounds=1)
    assert row.name == name
    for measured in row.measured:
        assert len(measured.samples) >= 2
        for contender, values in measured.samples.items():
            assert len(values) == 1, f"{measured.title}: {contender}"
    assert len({claim.text for claim in row.claims}) == len(row.claims)
    page = report.render([row], plots=[])
    for claim in row.claims:
        assert f"| {claim.text} |" in page


def test_a_run_that_changes_nothing_is_no_first_run(tmp_path: Path) -> None:
    """Each first run has to find a fresh host, and each second run has to find its work done."""
    book = tmp_path / "book.yml"
    book.write_text("[{hosts: all, gather_facts: false, tasks: [{ansible.builtin.command: 'true'}]}]", encoding="utf-8")
    (service,) = services(1, low=20000, size=8)
    with playbook.Host([service], str(book), {}) as host:
        with pytest.raises(LabError, match="should get a port of 20000-20007"):
            host.first()
        with pytest.raises(LabError, match="changed=0"):
            host.again()


def test_a_contender_that_does_nothing_is_noticed(tmp_path: Path) -> None:
    (service,) = services(1, low=20000, size=8)
    with Field(compile_load(tmp_path)) as place:
        lab = place.lab(Lab, ports="10000 19998")
        with pytest.raises(LabError, match="should get a port of 20000-20007"):
            prove(lab, service, inside=True, blocks=False)
        with pytest.raises(LabError, match="should be stopped at port 9999"):
            prove(lab, service, inside=False, blocks=True)


def test_a_packet_that_is_dropped_is_noticed(tmp_path: Path) -> None:
    with Field(compile_load(tmp_path)) as place:
        lab = place.lab(Lab, ports="10000 19998")
        lab.nft("table inet block { chain output { type filter hook output priority 0; policy accept; meta skuid 20001 drop; }; }\n")
        assert place.load(lab, "udp", uid=20002, milliseconds=1) > 0
        with pytest.raises(LabError, match="Operation not permitted"):
            place.load(lab, "udp", uid=20001, milliseconds=1)
