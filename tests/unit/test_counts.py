# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What probes made the fence count, and which counters that belongs to."""

from __future__ import annotations

import json

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._counters import Counters
from ansible_collections.portfence.egress.plugins.module_utils._counts import add_counts, forget_services, probe_counts
from ansible_collections.portfence.egress.plugins.module_utils._nft_listing import parse_tables
from ansible_collections.portfence.egress.plugins.module_utils._store import PROBE_COUNTS_FILE
from ansible_collections.portfence.egress.tests.fuzz.source import FakeHost


def counters(*, table: str = "1", **packets: int) -> Counters:
    """Of a service "a": violations and intrusions."""
    names = {f"{event}_a": number for event, number in packets.items()}
    return Counters({name: (number, 60 * number) for name, number in names.items()}, {name: f"{table}.{name}" for name in names})


IDLE = counters(violations=0, intrusions=0)
PROBED = counters(violations=9, intrusions=4)
COUNTED = {"a": {"violations": 8, "intrusions": 4}}
TEXT = add_counts(None, COUNTED, before=IDLE, after=PROBED)


def test_counts_add_up() -> None:
    later = counters(violations=12, intrusions=5)
    text = add_counts(TEXT, {"a": {"violations": 2}}, before=PROBED, after=later)
    assert probe_counts(_host(TEXT), PROBED) == COUNTED
    assert probe_counts(_host(text), later) == {"a": {"violations": 10, "intrusions": 4}}


@pytest.mark.parametrize("now", [counters(violations=90, intrusions=90, table="2"), counters(violations=8, intrusions=3), Counters()])
def test_counters_that_are_others_count_no_probe_of_before(now: Counters) -> None:
    assert probe_counts(_host(TEXT), now) == {"a": {}}
    more = counters(violations=99, intrusions=99, table="2")
    text = add_counts(TEXT, {"a": {"violations": 1}}, before=now, after=now)
    assert probe_counts(_host(text), now) == {"a": {"violations": 1}}
    assert probe_counts(_host(add_counts(TEXT, COUNTED, before=PROBED, after=more)), more) == {"a": {}}, "made anew during the probe"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": {"violations": 5}}', '{"a": {"violations": {"packets": "x", "of": 1, "counter": ""}}}'])
def test_counts_that_cannot_be_read_start_afresh(text: str) -> None:
    assert add_counts(text, COUNTED, before=IDLE, after=PROBED) == TEXT


def test_counts_of_version_0_1_0_are_taken_over() -> None:
    old = '{"a": {"violations": 8}}'
    assert probe_counts(_host(old), PROBED) == {"a": {"violations": 8}}
    assert probe_counts(_host(old), IDLE) == {"a": {}}
    text = add_counts(old, {}, before=PROBED, after=PROBED)
    assert probe_counts(_host(text), PROBED) == {"a": {"violations": 8}}
    assert probe_counts(_host(text), counters(violations=90, intrusions=90, table="2")) == {"a": {}}


def test_a_service_that_is_gone_leaves_the_counts_of_others() -> None:
    host = _Writable({PROBE_COUNTS_FILE: json.dumps({**json.loads(TEXT), "b": {}})})
    forget_services(host, ["b", "c"])
    assert host.files == {PROBE_COUNTS_FILE: TEXT}
    forget_services(_Writable({}), ["b"])


def test_a_table_that_is_made_anew_has_other_counters() -> None:
    def listed(table: int, counter: int) -> Counters:
        objects = [
            {"table": {"family": "inet", "name": "portfence", "handle": table}},
            {"counter": {"family": "inet", "table": "portfence", "name": "violations_a", "handle": counter, "packets": 3, "bytes": 180}},
        ]
        return parse_tables({"inet": json.dumps({"nftables": objects})}).counters

    first = listed(1, 2)
    assert first.counts == {"violations_a": (3, 180)} and first == listed(1, 2)
    assert len({read.made["violations_a"] for read in (first, listed(2, 2), listed(1, 3), listed(12, 3))}) == 4


def _host(text: str) -> FakeHost:
    return FakeHost(files={PROBE_COUNTS_FILE: text})


class _Writable(FakeHost):
    """Files that can be written as well."""

    def __init__(self, files: dict[str, str]) -> None:
        super().__init__(files=files)

    @property
    def files(self) -> dict[str, str]:
        """All of them."""
        return self._files

    def write(self, path: str, content: object, *, mode: int = 0o644) -> None:
        """Replace a file."""
        self._files[path] = str(content)
