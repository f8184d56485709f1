# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One host went back to its fence of before, one was down, all others block."""

from __future__ import annotations

import json
import re

import pytest
from fleet import FOLDER, HOSTS, get, ports, rules
from testhost import WAYS, connect, recap, said

DONE = [name for name in HOSTS if name not in {"web10", "db07"}]


def test_the_proof_failed_on_one_host() -> None:
    """It is told what was seen, and that the fence of before is there."""
    assert recap("enforce")["db07"]["failed"] == 1 and recap("enforce")["db07"]["rescued"] == 1
    assert "The fence that was in force before this run was put back." in said("enforce")
    assert recap("enforce")["web10"]["unreachable"] == 1
    assert re.search(r"NOT done, because they failed or could not be reached: .*(db07, web10|web10, db07)\.", " ".join(said("enforce").split()))


def test_that_host_has_the_rules_of_before() -> None:
    """The firewall of somebody else as well."""
    # The kernel has objects in the order in which they were made.
    assert sorted(rules("db07").splitlines()) == sorted(get("db07").file("/root/before").content_string.splitlines())


@pytest.mark.parametrize("name", DONE)
def test_every_other_host_is_done(name: str) -> None:
    """Batches after the failure went on: it was one of many."""
    numbers = recap("enforce")[name]
    assert (numbers["failed"], numbers["unreachable"]) == (0, 0) and numbers["changed"] > 0


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}{way[1]}")
def test_violations_are_blocked(way: tuple[str, int]) -> None:
    """What was only counted before."""
    assert connect(get("db01"), user="replica", way=way, bind=40001).seen is None
    own = ports("db01", "replica")[7]
    assert connect(get("db01"), user="replica", way=way, bind=own).seen == own


def test_the_report_has_all_hosts() -> None:
    """The one that is down is in it with the reason, and what was counted in audit has not been lost."""
    report = json.loads((FOLDER / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["hosts"] == len(HOSTS)
    assert set(report["not_read"]) == {"web10"}
    assert {line["host"] for line in report["services"]} == set(HOSTS) - {"web10"}
    assert report["drift"] == {}
    assert [line for line in report["services"] if line["host"] == "db01" and line["service"] == "replica"][0]["violations"] >= 4
