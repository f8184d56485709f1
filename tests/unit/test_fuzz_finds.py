# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the fuzzers (tests/fuzz) found, an example for each."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Dict, List

import pytest
from ansible_collections.portfence.egress.plugins.module_utils import (
    _accounts,
    _classid_plan,
    _classid_units,
    _counts,
    _json,
    _launcher,
    _lock_file,
    _nft,
    _nft_listing,
    _nft_tables,
    _usage,
)
from ansible_collections.portfence.egress.plugins.module_utils._classid_files import value_of
from ansible_collections.portfence.egress.plugins.module_utils._containers import network_origin
from ansible_collections.portfence.egress.plugins.module_utils._counters import Counters
from ansible_collections.portfence.egress.plugins.module_utils._csv import to_csv
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, InputError, PortFenceError, Problem
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._identify import read_question
from ansible_collections.portfence.egress.plugins.module_utils._iptables_listing import parse_listing
from ansible_collections.portfence.egress.plugins.module_utils._namespace_files import Folder
from ansible_collections.portfence.egress.plugins.module_utils._namespace_spec import unit_name
from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_list
from ansible_collections.portfence.egress.plugins.module_utils._pools import read_name
from ansible_collections.portfence.egress.plugins.module_utils._store import FOLDER, PROBE_COUNTS_FILE, Store
from ansible_collections.portfence.egress.plugins.module_utils._sysctl import kernel_ports, kernel_range, value_in
from ansible_collections.portfence.egress.plugins.plugin_utils import _report
from ansible_collections.portfence.egress.tests.fuzz.source import FakeHost
from ansible_collections.portfence.egress.tests.unit import nft_model
from ansible_collections.portfence.egress.tests.unit.pipeline import compile_policy

# Everything that Python takes for the end of a line, and Linux does not.
NO_ENDS = ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"]
DEEP = "[" * 100_000


@pytest.mark.parametrize("end", NO_ENDS)
def test_a_file_and_a_program_give_lines_that_end_with_a_line_feed(end: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(f"a{end}b\n".encode())
    assert Host().read(str(path)) == f"a{end}b\n"
    assert Host().run(["cat", str(path)]).out == f"a{end}b\n"


@pytest.mark.parametrize("end", NO_ENDS)
def test_nobody_gets_the_place_of_a_service_by_the_name_of_a_cgroup(end: str) -> None:
    """Users make cgroups below their own, and choose the names."""
    own = f"/user.slice/user-1000.slice/a{end}0::/system.slice/myapp.service"
    host = FakeHost(files={"/proc/7/cgroup": f"2:net_cls:/\n0::{own}\n", "/proc/7/stat": "7 (a) S 1 7 7 0 -1 0 0 0 0\n"})
    processes = _classid_units._processes(host)
    assert processes == {7: ([own], "/")}
    assert _classid_units._below(processes, ["/system.slice/myapp.service"]) == {}


SS = 'tcp ESTAB 0 0 192.0.2.1:50001 192.0.2.2:443 users:(("{}",pid=5,fd=3),("x",pid=6,fd=3)) uid:1000 ino:5 sk:1 cgroup:/user.slice/a <->\n'


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("uid:5", "uid:5"),
        (" uid:0 ", " uid:0 "),
        (" cgroup:/b.slice", " cgroup:/b.slice"),
        ("\nudp L 0 0 123 ", "?udp L 0 0 123 "),
        ("\rudp L 0 0 123 ", "?udp L 0 0 123 "),
        ('a",pid=1,fd=2)', 'a",pid=1,fd=2)'),
        ("\x1b[2J\u202e", "?[2J?"),
    ],
)
def test_a_process_changes_nothing_but_its_name_by_its_name(name: str, shown: str) -> None:
    (found,) = _usage.parse_sockets(SS.format(name[:15]))
    assert (found.port, found.uid, found.cgroup, found.peer, found.program) == (50001, 1000, "user.slice/a", "192.0.2.2", shown[:15])


@pytest.mark.parametrize("group", ["a program:5", "a program:72", "a uid:5", "a users:((x", "a cgroup:/b", "a\x0bb"])
def test_a_cgroup_changes_nothing_but_its_own_name(group: str) -> None:
    """Root's sockets, and those of programs in other namespaces, have no such parts of their own."""
    (found,) = _usage.parse_sockets(f"tcp ESTAB 0 0 1.2.3.4:5 1.2.3.5:6 ino:5 sk:1 cgroup:/user.slice/{group} <->\n")
    assert (found.uid, found.program, found.cgroup) == (0, None, f"user.slice/{group.split(' ')[0]}")


@pytest.mark.parametrize("line", ["tcp ESTAB 0 0 1.2.3.4:\u00b2 1.2.3.4:5", f"tcp ESTAB 0 0 1.2.3.4:{'9' * 5000} 1.2.3.4:5"])
def test_a_port_that_is_none_is_passed_over(line: str) -> None:
    assert _usage.parse_sockets(f"{line}\n") == []


@pytest.mark.parametrize("text", ["1.2\x00.3", "\ud800", "::\x00"])
def test_an_address_that_is_none_stays_as_it_is(text: str) -> None:
    assert _usage.address(text) == text


def test_a_table_with_a_strange_name_is_told_in_a_line() -> None:
    with pytest.raises(PortFenceError) as error:
        parse_listing(f"*a\x02{'b' * 1000}\n")
    assert str(error.value) == f"iptables-save ended in the middle of table 'a\\x02{'b' * 58}'"


def test_a_flow_without_ports_is_passed_over() -> None:
    ends = "src=1.1.1.1 dst=2.2.2.2 sport=1 dport=x"
    assert _usage.parse_flows(f"ipv4 2 tcp 6 5 {ends} {ends}\n") == []


@pytest.mark.parametrize("end", NO_ENDS)
def test_comments_of_others_are_no_lines_of_iptables(end: str) -> None:
    """iptables-save prints what is in a comment as it is."""
    comment = f'-A OUTPUT -m comment --comment "a{end}b {end}*nat" -j ACCEPT'
    listing = parse_listing(f"*filter\n:OUTPUT ACCEPT [0:0]\n:portfence - [0:0]\n:a{end}b - [0:0]\n{comment}\n-A portfence -j RETURN\nCOMMIT\n")
    assert {name: part.chains for name, part in listing.items()} == {"filter": {"portfence": ("-j RETURN",)}}


@pytest.mark.parametrize("end", NO_ENDS)
def test_comments_set_nothing(end: str) -> None:
    assert value_in(f"# see{end}a.b = 1\n", "a.b") is None
    assert value_of([f"[Service]\n# see{end}User=root\n"], "User") == ""


@pytest.mark.parametrize("number", ["\u00b2", "\u0661", "9" * 5000, str(2**32)])
def test_an_id_that_is_none_is_no_account(number: str) -> None:
    assert _accounts.parse_passwd(f"a:x:{number}:5::/:/bin/sh\nb:x:5:{number}::/:/bin/sh\n") == []
    assert _accounts.parse_group(f"a:x:{number}:\n") == []
    assert _accounts.parse_login_defs(f"SYS_UID_MIN {number}\n", kind="UID").low == 101


def test_an_id_may_have_zeros_before_it() -> None:
    (account,) = _accounts.parse_passwd(f"a:x:{'0' * 50}5:{2**32 - 1}::/:/bin/sh\n")
    assert (account.uid, account.gid) == (5, 2**32 - 1)


@pytest.mark.parametrize("key", ["comment", "home"])
def test_an_account_is_described_in_characters(key: str) -> None:
    given: Dict[str, Any] = {"home": "/a", key: "/\ud800"}
    (problem,) = _accounts.check_list([_accounts.Wanted("accounts[0]", "a", **given)])
    assert str(problem) == f"accounts[0].{key}: found '/\\ud800'; accepted: " + {
        "comment": "text without : and control characters",
        "home": "an absolute path without : and control characters",
    }[key]


@pytest.mark.parametrize("text", [DEEP, "NaN", "[-Infinity]", "1e999", '{"a": -1e999}', ""])
def test_what_no_other_program_reads_is_no_json(text: str) -> None:
    with pytest.raises(ValueError):
        _json.load(text)


@pytest.mark.parametrize("content", [DEEP, "{}", '{"name": "a"', "\x00"])
def test_a_damaged_file_of_a_service_is_named(content: str) -> None:
    with pytest.raises(InputError, match="/etc/portfence/services.d/a.json: .*; mend or remove the file"):
        Store(FakeHost(files={f"{FOLDER}/a.json": content})).read()


@pytest.mark.parametrize("content", [DEEP, "[]", "{}", '{"name": "b"}', "\x00"])
def test_the_launcher_names_a_damaged_file(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_launcher, "SERVICES", str(tmp_path))
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(_launcher.Refusal, match=r"/a\.json"):
        _launcher.read_service("a")


@pytest.mark.parametrize(
    "content",
    [DEEP, '{"a": {"violations": {"packets": 1e999, "of": 1, "counter": ""}}}', '{"a": {"violations": "5"}}', '{"a": {"violations": -1}}', "[1]"],
)
def test_damaged_counts_of_probes_are_none(content: str) -> None:
    assert _counts.probe_counts(FakeHost(files={PROBE_COUNTS_FILE: content}), Counters({"violations_a": (9, 540)})) == {}


@pytest.mark.parametrize(
    "known",
    [
        {"opened": ["ipv4"], "kept": ['a" accept', "b"]},
        {"opened": ["ipv4"], "kept": ["a\nEND_OF_RULES\nreboot"]},
        {"opened": ["ipx"], "kept": []},
        {"opened": [[]], "kept": []},
        {"opened": [], "kept": [5]},
    ],
)
def test_a_record_of_forwarding_becomes_no_command(known: Dict[str, Any]) -> None:
    with pytest.raises(HostError, match="/etc/portfence/namespaces.json can't be read"):
        Folder(FakeHost(files={"/etc/portfence/namespaces.json": json.dumps(known)})).record()


PLACE = {"family": "inet", "table": "portfence"}


@pytest.mark.parametrize(
    "listed",
    [
        {"counter": {**PLACE, "name": "a", "packets": 1e999}},
        {"chain": PLACE},
        {"chain": {**PLACE, "name": 5}},
        {"rule": {**PLACE, "chain": None}},
        {"chain": {"name": "a"}},
    ],
)
def test_a_listing_without_names_is_none(listed: Dict[str, Any]) -> None:
    with pytest.raises(PortFenceError, match="nft -j printed something that is no listing"):
        _nft_listing.parse_listing(json.dumps({"nftables": [listed]}))


@pytest.mark.parametrize("element", [5, [1], [1, None], [1, {}], [1, {"goto": 5}], [{"range": [1, 2]}, {"accept": None}], [{"concat": 5}, {"accept": None}]])
def test_elements_that_we_would_not_write(element: Any) -> None:
    listing = _nft_listing.parse_listing(json.dumps({"nftables": [{"map": {**PLACE, "name": "m", "type": "uid", "elem": [element]}}]}))
    assert _nft_listing.kept_maps(listing, listing) == {}
    assert set(_nft_listing.elements_of(listing, "m")) <= {str(element[0] if isinstance(element, list) else "")}


def test_a_family_that_nft_has_not_is_in_no_message() -> None:
    host = FakeHost(printed=json.dumps({"nftables": [{"table": {"family": "a\rb", "name": "portfence", "handle": 1}}]}))
    with pytest.raises(HostError, match="nft -j list tables printed something that is no listing") as raised:
        _nft_tables.Tables(host=host, nft=_nft.Nft(FakeHost(printed="nftables v1.0.6")), name="portfence").live()
    assert "\r" not in str(raised.value)


@pytest.mark.parametrize("plugins", [[], [{"type": "macvlan"}]])
def test_a_network_without_a_bridge(plugins: List[Any]) -> None:
    with pytest.raises(ValueError, match="accepted: what 'podman network inspect NAME' prints of one network"):
        network_origin(json.dumps([{"plugins": plugins}]), engine="podman")


def test_a_port_without_end() -> None:
    problems: List[Problem] = []
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert read_question(address="10.0.0.1:5", port=10**5000, time=None, now=now, problems=problems) is None
    assert [str(problem) for problem in problems] == [
        "port: found a huge number, and 5 in the address; accepted: one of the two",
        "port: found a huge number; accepted: a port from 1 to 65535",
    ]


@pytest.mark.parametrize("end", [*NO_ENDS, "\n", ";", "\t", "|", "; ", ';"'])
@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@a", "\uff1d1", "\u207a1"])
def test_no_part_of_a_cell_is_a_formula(end: str, formula: str) -> None:
    """Where a comma is a part of numbers, spreadsheets split lines elsewhere; some end a row at a carriage return."""
    text = to_csv(["h", "n"], [[f"a{end}{formula}", 5]])
    for delimiter in ",;\t|":
        cells = [cell for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) for cell in row]
        assert not any(cell.strip().startswith(formula[0]) for cell in cells)
    assert [row[1:] for row in csv.reader(io.StringIO(text, newline=""))] == [["n"], ["5"]]


def test_a_cell_that_begins_with_what_ends_one() -> None:
    assert to_csv(["a"], [[";=1"], [" =1"], ["a=1"], ["a;1=1"]]) == "a\n';'=1\n' =1\na=1\na;1=1\n"


@pytest.mark.parametrize("text", ["\n" * 200_000, ";" * 200_000 + "=1", '" ' * 100_000 + "x"])
def test_a_cell_without_end_takes_no_longer_for_each_of_its_characters(text: str) -> None:
    assert len(to_csv(["a"], [[text]])) < 2 * len(text) + 100


INFO: Dict[str, Any] = {
    "in_sync": True,
    "last_change": None,
    "services": {
        "a": {
            "source_ports": ["50000-50009"],
            "assignment": "app",
            "on_violation": "drop",
            "capacity": 10,
            "use": 0.5,
            "violations": {"packets": 5, "by_probes": 1},
            "intrusions": None,
        }
    },
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("source_ports", ["x"]),
        ("source_ports", 5),
        ("use", "x"),
        ("use", float("nan")),
        ("capacity", None),
        ("capacity", "1" * 4000),
        ("violations", {"packets": 5}),
        ("violations", 7),
    ],
)
def test_one_odd_host_does_not_cost_the_report_of_all(key: str, value: Any) -> None:
    odd = {**INFO, "services": {"a": {**INFO["services"]["a"], key: value}}}
    report = _report.build({"good": INFO, "odd": odd, "other": {"services": 5}, "third": {**INFO, "in_sync": False}}, when="now")
    assert [line.host for line in report.lines] == ["good"]
    assert report.silent == tuple((host, "could not be read: what it said is not what fence_info returns") for host in ("odd", "other", "third"))
    assert "good" in _report.to_html(report)


@pytest.mark.parametrize("unit", ["a--b.slice", "a-.slice", "x" * 246 + ".service", "x" * 248 + ".slice", "x" * 10_000_000])
def test_units_that_systemd_can_not_have(unit: str) -> None:
    with pytest.raises(InputError, match=r"services\[0\].unit: found .*; accepted: the name of a systemd service or slice"):
        parse_list([{"name": "a", "source_ports": 50000, "unit": unit}])
    if not unit.endswith(".slice"):
        assert unit_name(unit) is None
        _wanted, problems = _classid_plan.parse_list([{"name": "a", "classid": "1:1", "units": [unit]}], state="present")
        assert [problem.path for problem in problems] == ["cgroups[0].units[0]"]


def test_the_longest_unit() -> None:
    longest = "x" * 245 + ".service"
    (declared,) = parse_list([{"name": "a", "source_ports": 50000, "unit": longest}])
    assert declared.service.units == (longest,)
    assert unit_name(longest) == longest


def test_accounts_with_names_without_end_are_told_in_a_line() -> None:
    name = "\x1b" + "x" * 10_000_000
    given = [_accounts.Wanted(f"accounts[{index}]", name, uid=10**5000, home=name, comment=name) for index in range(2)]
    for problem in _accounts.check_list([*given, _accounts.Wanted("accounts[2]", name[1:], uid=10**5000), _accounts.Wanted("accounts[3]", name, uid=0)]):
        assert str(problem).isprintable()
        assert len(str(problem)) < 400


@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_without_end_is_no_name(sign: int) -> None:
    problems: List[Problem] = []
    assert read_name("egress_nat_domain", sign * 10**5000, problems) == ""
    assert [str(problem) for problem in problems] == [
        "egress_nat_domain: found a huge number; accepted: a name of 1 to 253 printable characters"
    ]


@pytest.mark.parametrize("text", ["x" * 1_000_000, "1" + " " * 1_000_000 + "x"])
def test_a_list_of_ports_without_end_is_told_in_a_line(text: str) -> None:
    """Blanks were looked through once for each of them."""
    for read in (kernel_ports, kernel_range):
        with pytest.raises(ValueError) as error:
            read(text)
        assert len(str(error.value)) < 100


@pytest.mark.parametrize("dash", [":", "\u2013"])
def test_what_is_to_be_written_has_no_control_character(dash: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_list([{"name": "a", "source_ports": f"50000{dash}\x1c50100"}])
    assert "write 50000-50100" in str(raised.value)
    assert all(line.isprintable() for line in str(raised.value).split("\n"))


def test_an_interface_may_be_called_like_a_map() -> None:
    service = {"source_ports": "50000-50100", "addresses": ["10.0.0.1"], "interface": "veth@if5"}
    assert '"veth@if5"' in str(nft_model.read(compile_policy({"egress_services": {"a": service}}).fence.body))


@pytest.mark.parametrize("end", ["\x85", "\u2028", "\x0c", "\v"])
def test_lines_of_the_lock_file_end_in_one_way(end: str) -> None:
    """allocate read such a file, and site refused it."""
    text = f"---\nformat: 1\nserial: 3\nranges:\n  - {{domain: d, host: h, service: a, ports: 16384-16895, since: 2026-01-31}}{end}\n"
    for read in (partial(_lock_file.parse, path="p"), partial(_lock_file.ranges_of, domain="d", host="h", path="p")):
        with pytest.raises(InputError, match="accepted: - {domain: NAME"):
            read(text)
