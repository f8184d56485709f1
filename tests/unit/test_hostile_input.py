# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile and absurd values: an error for people or a harmless literal, never a traceback, never a word for nft."""

from __future__ import annotations

import datetime
import html
import json
import os
import subprocess
import sys
from typing import Any, Callable, Dict, List

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.filter.services import services
from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_record import HEADER, parse_file
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._iptables_listing import parse_listing as parse_rules
from ansible_collections.portfence.egress.plugins.module_utils._lock_file import parse as parse_lock
from ansible_collections.portfence.egress.plugins.module_utils._namespace_files import Folder
from ansible_collections.portfence.egress.plugins.module_utils._nft_listing import parse_listing
from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_list
from ansible_collections.portfence.egress.plugins.module_utils._service import KEYS, LOG_KEYS, NAMESPACE_KEYS
from ansible_collections.portfence.egress.plugins.module_utils._store import FOLDER, Store
from ansible_collections.portfence.egress.plugins.plugin_utils._report import build, to_html
from ansible_collections.portfence.egress.tests.fuzz.source import FakeHost
from ansible_collections.portfence.egress.tests.unit.nft_model import read
from ansible_collections.portfence.egress.tests.unit.pipeline import compile_policy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

INJECTIONS = [
    "a\n\tchain evil { accept; }",
    'x" accept; log prefix "',
    "; flush ruleset",
    "} table inet other {",
    "$(reboot)",
    "`reboot`",
    "{{ lookup('pipe', 'id') }}",
    "../../etc/cron.d/x",
    "-f",
    "#",
    "\\",
    "\x00",
    "\x1b[2J",
    "\x9b2J",
    "\u202e",
    "\ud800",
    "\u00b2",
    "\u0661",
    "0x10",
    "1e3",
    "@",
    "*",
    "nan",
]


def nested(depth: int) -> List[Any]:
    """A list in a list in a list…"""
    value: List[Any] = []
    for _level in range(depth):
        value = [value]
    return value


LEAVES = st.one_of(
    st.sampled_from(INJECTIONS),
    st.text(max_size=20),
    st.text(alphabet=st.characters(codec=None, categories=["Cc", "Cs", "Zs", "Nd", "No"]), max_size=5),
    st.none(),
    st.booleans(),
    st.integers(-2, 70000),
    st.sampled_from([10**40, -(10**40), 2**32 - 1, 2**32, "50000-50999", "tcp", "present", "10/second", "myapp"]),
    st.floats(),
    st.binary(max_size=5),
    st.dates(),
)
KEY = st.one_of(st.sampled_from([*KEYS, *LOG_KEYS, "name"]), LEAVES)
VALUES = st.recursive(
    LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEY, inner, max_size=6)), max_leaves=20
)
SERVICES = st.dictionaries(KEY, st.one_of(VALUES, st.dictionaries(KEY, VALUES, max_size=8)), max_size=4)


def check_message(text: str) -> None:
    """A message for a terminal: lines without control characters, none without end."""
    assert all(line.isprintable() for line in text.split("\n"))
    text.encode("utf-8")
    assert all(len(line) < 800 for line in text.splitlines())


def check_fence(variables: Dict[Any, Any]) -> None:
    """What was accepted compiles, and the text holds nothing but what the compiler writes."""
    compiled = compile_policy(variables)
    for problem in compiled.problems:
        assert "\n" not in str(problem)
    if not compiled.problems:
        tables = read(compiled.fence.body)
        assert set(tables) <= {"inet", "ip", "ip6"}


@given(st.dictionaries(st.one_of(st.just("egress_services"), LEAVES), st.one_of(SERVICES, VALUES), max_size=3))
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_the_filter_reads_or_refuses_anything(variables: Dict[Any, Any]) -> None:
    try:
        result = services(variables)
    except AnsibleFilterError as error:
        check_message(str(error))
    else:
        check_fence({"egress_services": {item.pop("name"): item for item in result}})


@given(st.lists(st.one_of(VALUES, st.dictionaries(KEY, VALUES, max_size=8)), max_size=4))
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_a_list_is_read_or_refused(items: List[Any]) -> None:
    try:
        declared = parse_list(items)
    except InputError as error:
        check_message(str(error))
    else:
        assert len(declared) == len(items)


@pytest.mark.parametrize("text", INJECTIONS)
@pytest.mark.parametrize("place", ["name", "source_ports", "user", "group", "prefix", "rate", "level", "protocols"])
def test_no_text_gets_through_to_nft(place: str, text: str) -> None:
    name = text if place == "name" else "a"
    service: Dict[str, Any] = {"source_ports": 50000, "user": 5}
    if place in ("prefix", "rate", "level"):
        service["log"] = {place: text}
    elif place == "group":
        service = {"source_ports": 50000, "group": text}
    elif place != "name":
        service[place] = text
    variables = {"egress_services": {name: service}}
    try:
        check_fence(variables)
    except InputError as error:
        check_message(str(error))


DEEP = nested(100_000)
# More digits than Python writes.
MANY = 10**5000
ABSURD: Dict[str, Any] = {
    "a list in a list": {"egress_services": {"a": {key: DEEP for key in KEYS if key != "state"}}},
    "deep lists in a log": {"egress_services": {"a": {"log": {key: DEEP for key in LOG_KEYS}}}},
    "a deep list for a service": {"egress_services": {"a": DEEP}, "egress_services__b": DEEP},
    "a deep state": {"egress_services": {"a": {"state": DEEP}}},
    "huge numbers": {"egress_services": {"a": {key: MANY for key in KEYS if key != "state"}}},
    "negative huge numbers": {"egress_services": {"a": {key: [-MANY] for key in KEYS if key != "state"}}},
    "variables with names without end": {f"egress_services__{'x' * 10_000_000}": {"a": 5}},
    "huge numbers for names": {MANY: 5, "egress_services": {MANY: {MANY: 5}, -MANY: MANY}},
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_values_are_told_in_a_line(name: str) -> None:
    with pytest.raises(AnsibleFilterError) as error:
        services(ABSURD[name])
    check_message(str(error.value))


HUGE = "x" * 10_000_000


@pytest.mark.parametrize("place", ["name", "key", *(f"log.{key}" for key in LOG_KEYS), *(f"namespace.{key}" for key in NAMESPACE_KEYS), *KEYS])
def test_ten_megabytes_are_told_in_a_line(place: str) -> None:
    name = HUGE if place == "name" else "a"
    service: Dict[str, Any] = {"source_ports": 50000}
    outer, _dot, inner = place.partition(".")
    if place == "key":
        service[HUGE] = 1
    elif inner:
        service[outer] = {inner: HUGE}
    elif place != "name":
        service[place] = HUGE
    with pytest.raises(AnsibleFilterError) as error:
        services({"egress_services": {name: service}})
    assert all(len(line) < 1000 for line in str(error.value).splitlines())
    assert str(error.value).count("\n") < 5


CONTENTS = {"ten megabytes": HUGE, "NULs": "\x00" * 100, "right to left": "\u202e\u05d0\u05d1", "Jinja": "{{ 7 * 7 }}", "deep": "[" * 100_000, "empty": ""}


@pytest.mark.parametrize("name", CONTENTS)
def test_files_with_anything_in_them_are_told_in_a_line(name: str) -> None:
    content = CONTENTS[name]
    host = FakeHost(files={f"{FOLDER}/a.json": content, "/etc/portfence/namespaces.d/a.json": content, "/etc/portfence/namespaces.json": content})
    reads: List[Callable[[], Any]] = [
        Store(host).read,
        Folder(host).stored,
        Folder(host).record,
        lambda: parse_lock(f"---\nformat: 1\nserial: 1\nranges:\n{content or 'x'}\n", path="p"),
        lambda: parse_file(f"{HEADER}# owner {content}\n"),
        lambda: parse_listing(content),
        lambda: parse_rules(f"*filter\n{content or 'x'}\nCOMMIT\n"),
    ]
    for read_it in reads:
        with pytest.raises(PortFenceError) as error:
            read_it()
        check_message(str(error.value))


@pytest.mark.parametrize("text", ["{{ 7 * 7 }}", "{% for x in y %}", "<b>", '" onload="x', "\u202e", "=1+1"])
def test_a_report_shows_what_hosts_say_as_it_is(text: str) -> None:
    info = {"in_sync": False, "drift": [text], "services": {}, "last_change": {"at": text, "by": text}}
    bare = {"in_sync": True, "drift": [], "services": {}}
    page = to_html(build({text: info, f"{text}!": {"failed": True, "msg": text}, f"{text}?": bare}, when="now"))
    written = text.replace("\u202e", "\\u202e")
    assert page.count(html.escape(written).replace("&quot;", "&#34;")) == 9
    assert "\u202e" not in page


def module(name: str, **parameters: Any) -> Dict[str, Any]:
    """Run a module in check mode, with a network of its own; what it printed must be its one answer."""
    arguments = json.dumps({"ANSIBLE_MODULE_ARGS": {"_ansible_check_mode": True, **parameters}})
    command = [sys.executable, "-m", f"ansible_collections.portfence.egress.plugins.modules.{name}"]
    done = subprocess.run(
        ["unshare", "--net", "--mount", *command], input=arguments, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["fence", "port_probe"])
def test_modules_answer_hostile_lists(name: str) -> None:
    hostile = [
        {"name": text, "source_ports": text, "user": [text], "log": {"prefix": text, text: text}, "uid": text}
        for text in INJECTIONS
    ]
    answer = module(name, services=[*hostile, {"name": "a", "source_ports": HUGE[:1000000]}])
    assert answer["failed"] is True
    assert "exception" not in answer
    assert answer["msg"].startswith("the list of services has ")
    check_message(answer["msg"])


@pytest.mark.parametrize(
    "service",
    [
        {"name": "a", "source_ports": 50000, "user": "\u00b2"},
        {"name": "a", "source_ports": 50000, "user": "\u202e"},
        {"name": "a", "source_ports": 50000, "user": "x" * 256},
        {"name": "a", "source_ports": 50000, "user": "*"},
        {"name": "a", "source_ports": 50000, "group": ";reboot"},
        {"name": "a", "source_ports": 50000, "group": "\u00e4" * 200},
    ],
)
def test_odd_names_are_asked_for_and_not_found(service: Dict[str, Any]) -> None:
    answer = module("fence", services=[service])
    assert answer["failed"] is True
    assert "exception" not in answer
    assert f"there is no {'user' if 'user' in service else 'group'} " in answer["msg"]


def test_a_date_is_not_mistaken_for_a_port() -> None:
    with pytest.raises(InputError, match=r"found datetime.date\(2026, 1, 1\)"):
        parse_list([{"name": "a", "source_ports": datetime.date(2026, 1, 1)}])
