# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written for people and for the host: a value never becomes an element of a page, a formula, a directive or a command."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any, Dict, List, Mapping, Set, Tuple

from ansible_collections.portfence.egress.plugins.module_utils import _classid_files, _classid_plan, _ephemeral, _ephemeral_record, _metrics
from ansible_collections.portfence.egress.plugins.module_utils._accounts import NO_HOME, Account, check_list
from ansible_collections.portfence.egress.plugins.module_utils._accounts import Wanted as WantedAccount
from ansible_collections.portfence.egress.plugins.module_utils._accounts_batch import sysusers_text
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, Problem
from ansible_collections.portfence.egress.plugins.module_utils._namespace_files import Kept, wanted_files
from ansible_collections.portfence.egress.plugins.module_utils._namespace_spec import Namespace, parse
from ansible_collections.portfence.egress.plugins.module_utils._namespace_text import Forwarding
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet
from ansible_collections.portfence.egress.plugins.module_utils._service import Service
from ansible_collections.portfence.egress.plugins.module_utils._store import BASE
from ansible_collections.portfence.egress.plugins.module_utils._unit_members import drop_ins, list_text, socket_bind
from ansible_collections.portfence.egress.plugins.plugin_utils import _report
from ansible_collections.portfence.egress.tests.fuzz.compiler import Nftables
from ansible_collections.portfence.egress.tests.fuzz.questions import check_table
from ansible_collections.portfence.egress.tests.fuzz.source import EVERYTHING, Source, Target, check_message
from ansible_collections.portfence.egress.tests.unit.info_sample import SERVICE
from ansible_collections.portfence.egress.tests.unit.pipeline import compile_policy

# Near its capacity, which a report says.
_SERVICE: Dict[str, Any] = {**SERVICE, "use": 0.9}
_INFO: Dict[str, Any] = {
    "in_sync": False,
    "drift": ["load the fence"],
    "last_change": {"at": "2026-01-31T10:00:00Z", "by": "alice"},
    "services": {"a": _SERVICE, "b": {**_SERVICE, "use": None, "source_ports": ["51000"]}},
}
_MOST_SHAPES = 200


class _Tags(HTMLParser):
    """The elements of a page with the names of their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: List[Tuple[str, ...]] = []

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Any]]) -> None:
        """Note an element."""
        self.found.append((tag, *(name for name, _value in attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Note the end of one."""
        self.found.append((f"/{tag}",))

    def handle_comment(self, data: str) -> None:
        """Note a comment, of which the page has none."""
        self.found.append(("comment",))


def _tags(page: str) -> List[Tuple[str, ...]]:
    parser = _Tags()
    parser.feed(page)
    parser.close()
    return parser.found


def _hosts(source: Source) -> Dict[str, Any]:
    """Hosts with hostile words in all places for words, one that says anything, and one that says what it should."""
    named: Dict[str, Any] = {"good": _INFO, "odd": source.reshaped(_INFO, 20)}
    for number in range(source.number(1, 3)):
        info = json.loads(json.dumps(_INFO))
        info["drift"] = [source.text()]
        info["last_change"] = {"at": source.text(), "by": source.text()}
        info["services"] = {source.text(): {**_SERVICE, "assignment": source.text(), "on_violation": source.text()} for _index in range(2)}
        named[f"{number}{source.text()}"] = info
    named[f"x{source.text()}"] = {"unreachable": source.chance(2), "failed": True, "msg": source.text()}
    return named


def _check_page(hosts: Dict[str, Any]) -> bool:
    """The page has the elements of one with harmless words; the table has its cells; one odd host does not cost the others."""
    if not isinstance(hosts["odd"], dict):  # no result of a module
        hosts = {**hosts, "odd": {}}
    report = _report.build(hosts, when="2026")
    plain = _report.build(_harmless(hosts), when="2026")
    assert len(report.lines) == len(plain.lines)
    assert _tags(_report.to_html(report)) == _tags(_report.to_html(plain))
    check_table(_report.to_csv(report), rows=len(report.lines) + 1, columns=9)
    json.loads(_report.to_json(report))
    assert sum(line.host == "good" for line in report.lines) == 2
    for name, info in hosts.items():
        if name != "odd" and "services" in info:
            _check_metrics(info)
    return any(line.host == "odd" for line in report.lines)


def _harmless(hosts: Mapping[str, Any]) -> Dict[str, Any]:
    """The same hosts, in the same order, with other words."""
    found = {}
    for index, name in enumerate(sorted(hosts)):
        info = hosts[name]
        if name not in ("good", "odd"):
            if "services" in info:
                services = {f"s{position}": {**service, "assignment": "app"} for position, (_key, service) in enumerate(sorted(info["services"].items()))}
                info = {**info, "drift": ["x"], "last_change": {"at": "x", "by": "x"}, "services": services}
            else:
                info = {**info, "msg": "x"}
        found[f"h{index}"] = info
    return found


def _check_metrics(info: Mapping[str, Any]) -> None:
    text = _metrics.to_text(info, now=1.0)
    sample = re.compile(r'(?:# (?:HELP|TYPE) .*|[a-z_]+(?:\{[a-z_]+="(?:[^"\\\n]|\\[\\n"])*"(?:,[a-z_]+="(?:[^"\\\n]|\\[\\n"])*")*\})? [0-9.e+-]+)')
    assert all(sample.fullmatch(line) for line in text.split("\n")[:-1])


def _items(source: Source) -> Dict[str, Any]:
    """Namespaces, cgroups, claims, accounts and units with hostile words."""
    return {
        "namespace": source.reshaped(
            {
                "name": source.pick(("a", "b", source.text(), "x" * 32, "a.b")),
                "source_ports": "50000-50999",
                "dns": ["::1", source.pick(("10.0.0.1", "fd00::1", source.text()))],
                "units": ["a.service", source.pick(("b@.service", "c.socket", "a\\x2db.service", source.text(), source.text()))],
                "protocols": ["tcp", "udp"],
                "on_violation": source.pick(("drop", "reject", "log")),
            },
            60,
        ),
        "cgroup": {
            "name": source.pick(("a", "a.b", source.text())),
            "classid": source.pick(("0x100001", source.text())),
            "units": source.some(("a.service", "b@.service", "a\\x2db.service", source.text()), 2),
        },
        "owner": {
            "name": source.pick(("a", "role.b", source.text())),
            "reserved_ports": source.pick((["50000-50999"], [source.text()], source.text())),
            "local_port_range": source.pick((None, "1024-2000", source.text())),
            "persist": True,
        },
        "account": (source.pick(("a", "b", source.text())), source.text(), source.pick(("/nonexistent", f"/{source.text()}"))),
        "unit": source.pick(("a", "a@", "a-b.slice", source.text())),
        "kept": ["eth0", source.text()[:15]],
    }


def _check_files(items: Dict[str, Any]) -> bool:
    """Each is refused, or the lines of its files are those of a harmless one."""
    accepted = [
        _check_namespace(items["namespace"]),
        _check_cgroup(items["cgroup"]),
        _check_owner(items["owner"]),
        _check_account(*items["account"]),
        _check_unit(items["unit"]),
    ]
    return sum(accepted) >= 3


def _check_namespace(item: Any) -> bool:
    problems: List[Problem] = []
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):  # the argument spec sees to it
        return False
    try:
        namespace = parse(item, path="namespaces[0]", problems=problems)
    except TypeError:  # likewise: lists are lists
        assert any(not isinstance(item.get(key), list) for key in ("dns", "units", "protocols"))
        return False
    for problem in problems:
        check_message(str(problem))
    if problems:
        return False
    units = tuple(f"u{number}.{unit.rpartition('.')[2]}" for number, unit in enumerate(namespace.units))
    texts, plain_texts = _namespace_texts(namespace), _namespace_texts(replace(namespace, name="a", units=units))
    assert len(texts) == len(plain_texts)
    for (path, text), (plain_path, other) in zip(texts.items(), plain_texts.items()):
        assert path.isprintable() and path.split("/")[:3] == plain_path.split("/")[:3] and path.count("/") == plain_path.count("/")
        if path.endswith(".json"):
            assert json.loads(text)
            continue
        assert _beginnings(text) == _beginnings(other), (text, other)
        if path.endswith(".sh") and _is_new(text):
            _check_shell(text)
    return True


def _beginnings(text: str) -> List[str]:
    return [re.split("[ =]", line)[0] for line in text.split("\n")]


def _namespace_texts(namespace: Namespace) -> Dict[str, str]:
    kept = {namespace.name: Kept(namespace, BASE)}
    return dict(wanted_files(kept, families=("ipv4", "ipv6"), forwarding=Forwarding(("ipv4", "ipv6"), ("eth0",))).texts)


def _check_shell(text: str) -> None:
    """A shell reads it to its end, and nft takes the rules in it."""
    read = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, check=False)
    assert (read.returncode, read.stderr) == (0, ""), (read.stderr, text)
    rules = text.split("<<'END_OF_RULES'\n")[1].split("END_OF_RULES\n")[0]
    Nftables.shared().run(f"flush ruleset\n{rules}")


def _check_cgroup(item: Dict[str, Any]) -> bool:
    wanted, problems = _classid_plan.parse_list([item], state="present")
    for problem in problems:
        check_message(str(problem))
    if problems:
        return False
    (found,) = wanted
    drops = {unit: _classid_files.drop_in_text(found.cgroup, as_root=True) for unit in found.cgroup.units}
    files = _classid_files.files_of({found.cgroup.name: found.cgroup}, drops)
    assert _classid_files.parse_record(files[_classid_files.RECORD]) == {found.cgroup.name: found.cgroup}
    plain = _classid_files.Cgroup("a", 1)
    assert _directives(_classid_files.drop_in_text(found.cgroup, as_root=True)) == _directives(_classid_files.drop_in_text(plain, as_root=True))
    session = next(text for path, text in files.items() if path.startswith(f"{_classid_files.PAM}/"))
    words = shlex.split(session.split("\n")[-2], comments=True)
    assert words[-3:] == ["join", found.cgroup.name, f"0x{found.cgroup.classid:x}"] and session.count("\n") == 6, session
    assert all(not path.startswith("/..") and "/../" not in path and "\n" not in path for path in files)
    return True


def _directives(text: str) -> List[str]:
    return [line.partition("=")[0] for line in text.split("\n") if not line.startswith("#")]


def _check_owner(item: Dict[str, Any]) -> bool:
    params = {"owners": [item], "netns": None, "persist": None, "state": "present", "purge": False}
    request, problems = _ephemeral.parse_request(params)
    for problem in problems:
        check_message(str(problem))
    if problems:
        return False
    record = _ephemeral_record.Record(request.claims)
    text = _ephemeral_record.file_text(record, declared=PortSet())
    if text is not None:
        assert _ephemeral_record.parse_file(text).claims == request.claims
        settings = [line for line in text.split("\n") if line and not line.startswith("#")]
        assert all(re.fullmatch(r"net\.ipv4\.ip_local_(port_range = [0-9]+ [0-9]+|reserved_ports = [0-9,-]+)", line) for line in settings), text
    return True


def _check_account(name: str, comment: str, home: str) -> bool:
    problems = check_list([WantedAccount("accounts[0]", name, comment=comment, home=home)])
    for problem in problems:
        check_message(str(problem))
    if problems:
        return False
    text = sysusers_text([Account(name, 5, 5, comment, home, "/usr/sbin/nologin"), Account("b", 6, 6, "x", NO_HOME, "/usr/sbin/nologin")])
    lines = text.split("\n")
    assert len(lines) == 3 and lines[1].startswith("u b 6 ")
    assert re.fullmatch(r'u \S+ 5(?: "(?:[^"\\]|\\["\\])*"){3}', lines[0]), text
    assert "%" not in re.sub("%%", "", lines[0])
    text.encode("utf-8")
    return True


def _check_unit(unit: str) -> bool:
    try:
        compiled = compile_policy({"egress_services": {"a": {"unit": unit, "source_ports": 50000, "assignment": "app", "listen_ports": [80]}}})
    except InputError as error:
        check_message(str(error))
        return False
    (service,) = compiled.services
    members = compiled.fence.members
    texts = drop_ins(members, {name: socket_bind(service) for name in service.units})
    plain = compile_policy({"egress_services": {"a": {"unit": "x.slice" if unit.endswith(".slice") else "x", "source_ports": 50000}}}).fence.members
    wall = socket_bind(Service("a", source_ports=service.source_ports, listen_ports=service.listen_ports))
    expected = drop_ins(plain, {"x.service": wall, "x.slice": wall})
    assert sorted(map(_directives, texts.values())) == sorted(map(_directives, expected.values()))
    assert all(len(path.split("/")) == 6 and len(path.split("/")[4].encode()) <= 255 for path in texts)
    assert all(len(line.split(" ")) == 4 for line in list_text(members).split("\n")[:-1])
    return True


_SHAPES: Set[int] = set()


def _is_new(text: str) -> bool:
    if EVERYTHING:
        return True
    shape = zlib.crc32(re.sub(r"[0-9a-z:.]+", "0", text).encode())
    if shape in _SHAPES or len(_SHAPES) >= _MOST_SHAPES:
        return False
    _SHAPES.add(shape)
    return True


TARGETS = {"page": Target(_hosts, _check_page), "files": Target(_items, _check_files)}
