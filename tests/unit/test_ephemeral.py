# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ephemeral ports: spellings, files, and the plan, without a machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Optional

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._ephemeral import Facts, Plan, make_plan, parse_request
from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_boot import FILE, RANGE_KEY, RESERVED_KEY
from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_record import (
    HEADER,
    Claim,
    Record,
    file_text,
    parse_file,
    parse_record,
    record_text,
)
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, InputError
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange, PortSet
from ansible_collections.portfence.egress.plugins.module_utils._sysctl import (
    FOLDERS,
    PIECE,
    Setting,
    kernel_ports,
    kernel_range,
    key_of,
    pieces,
    reading_order,
    value_in,
)
from hypothesis import given
from hypothesis import strategies as st

DEFAULT = PortRange(32768, 60999)

RANGES = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda two: PortRange(min(two), max(two)))
PORTS = st.lists(RANGES, max_size=8).map(PortSet.of)
CLAIMS = st.builds(Claim, PORTS, st.none() | RANGES, st.booleans()).filter(bool)
OWNERS = st.dictionaries(st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True), CLAIMS, max_size=5)


def facts(live: str = "", **changes: Any) -> Facts:
    """A host with these reserved ports."""
    base = Facts(
        port_range=DEFAULT,
        reserved=kernel_ports(live),
        unprivileged=1024,
        namespace="here",
        record=None,
        file=None,
        others=[],
    )
    return replace(base, **changes)


def plan(given_facts: Facts, **params: Any) -> Plan:
    """The plan of a task."""
    request, problems = parse_request(task(**params))
    return make_plan(request, given_facts, problems=problems)


def task(**params: Any) -> Dict[str, Any]:
    """All parameters of a task, as the module gets them."""
    base = dict.fromkeys(("reserved_ports", "local_port_range", "owners", "persist", "netns"))
    items = [{**base, **item} for item in params.get("owners") or []]
    return {**base, "name": "site", "state": "present", "purge": False, **params, "owners": items if "owners" in params else None}


def done(given_facts: Facts, made: Plan) -> Facts:
    """The host after the plan was carried out."""
    return replace(given_facts, port_range=made.port_range, reserved=made.reserved, record=made.record, file=made.file)


def rebooted(given_facts: Facts, *, live: str = "", port_range: Optional[str] = None) -> Facts:
    """The host after a reboot; live and port_range are what its boot set in place of our file's values."""
    text = given_facts.file or ""
    values = {key: value_in(text, key) for key in (RANGE_KEY, RESERVED_KEY)}
    return replace(
        given_facts,
        record=None,
        reserved=kernel_ports(live or values[RESERVED_KEY] or ""),
        port_range=kernel_range(port_range or values[RANGE_KEY] or str(DEFAULT)),
    )


def mistakes(given_facts: Facts, **params: Any) -> List[str]:
    """The mistakes that a task is refused for."""
    with pytest.raises(InputError) as caught:
        plan(given_facts, **params)
    return [str(problem) for problem in caught.value.problems]


# ---- spellings ----


@pytest.mark.parametrize(
    "text, ports",
    [
        ("", ""),
        ("\n", ""),
        ("1000,1005-1010", "1000,1005-1010"),
        (" 1005 - 1010 , 1000 ", "1000,1005-1010"),
        ("1010\t1000-1009,1005", "1000-1010"),
        ("80,90,", "80,90"),
        ("0-5", "0-5"),
        ("007", "7"),
    ],
)
def test_lists_of_others(text: str, ports: str) -> None:
    assert str(kernel_ports(text)) == ports


@pytest.mark.parametrize("text", ["abc", "80-", "-80", "90-80", "65536", "80;90", "1-2-3", "٣"])
def test_lists_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        kernel_ports(text)


@pytest.mark.parametrize("text", ["32768\t60999\n", "32768 60999", "32768-60999", " 32768 - 60999 "])
def test_range_of_the_kernel(text: str) -> None:
    assert kernel_range(text) == DEFAULT


@pytest.mark.parametrize("text", ["", "1", "5 4", "1 2 3", "1 65536"])
def test_ranges_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a range"):
        kernel_range(text)


@pytest.mark.parametrize(
    "line, key",
    [
        ("net.ipv4.ip_local_reserved_ports = 80", RESERVED_KEY),
        ("net.ipv4.ip_local_reserved_ports=80", RESERVED_KEY),
        ("\t-net.ipv4.ip_local_reserved_ports = 80", RESERVED_KEY),
        ("net/ipv4/ip_local_reserved_ports = 80", RESERVED_KEY),
        ("net.ipv4.ip_local_reserved_ports", None),
        ("# net.ipv4.ip_local_reserved_ports = 80", None),
        ("; net.ipv4.ip_local_reserved_ports = 80", None),
        ("", None),
        ("net/ipv4/conf/eth0.7/forwarding = 1", "net.ipv4.conf.eth0/7.forwarding"),
        ("net.ipv4.conf.eth0/7.forwarding = 1", "net.ipv4.conf.eth0/7.forwarding"),
    ],
)
def test_keys(line: str, key: Optional[str]) -> None:
    assert key_of(line) == key


def test_the_last_line_of_a_file_wins() -> None:
    assert value_in("a.b = 1\nother = 3\n-a/b=2\n", "a.b") == "2"


def test_order_of_sysctl_files() -> None:
    names = {folder: [f"50-{index}.conf", "60-x.conf", "notes.txt"] for index, folder in enumerate(FOLDERS)}
    found = reading_order(names)
    assert found == [
        *((folder, f"50-{index}.conf") for index, folder in enumerate(FOLDERS)),
        ("/etc/sysctl.d", "60-x.conf"),
    ]


@given(PORTS)
def test_pieces_add_up(ports: PortSet) -> None:
    assert kernel_ports(",".join(pieces(ports))) == ports


def test_pieces_fit() -> None:
    ports = PortSet.of(PortRange(port, port) for port in range(1, 65536, 2))
    found = pieces(ports)
    assert max(map(len, found)) <= PIECE + 1
    assert kernel_ports(",".join(found)) == ports
    assert pieces(PortSet()) == ["\n"]


# ---- files ----


@given(OWNERS, PORTS, RANGES)
def test_file_is_read_as_written(claims: Dict[str, Claim], declared: PortSet, before: PortRange) -> None:
    record = Record(claims, range_before=before)
    found = parse_file(file_text(record, declared=declared))
    assert found.claims == record.persistent
    assert found.range_before == (before if any(claim.port_range for claim in record.persistent.values()) else None)


@given(OWNERS, PORTS, st.none() | RANGES)
def test_record_is_read_as_written(claims: Dict[str, Claim], before: PortSet, port_range: Optional[PortRange]) -> None:
    record = Record(claims, before, port_range)
    text = record_text(record, namespace="here")
    assert parse_record(text, namespace="here") == (record if claims else None)
    assert parse_record(text, namespace="there") is None


@pytest.mark.parametrize("text", [None, "", "{", "[]", "3", '{"namespace": "here"}', '{"namespace": "here", "owners": [3]}'])
def test_damaged_record_counts_for_nothing(text: Optional[str]) -> None:
    assert parse_record(text, namespace="here") is None


def test_file() -> None:
    made = plan(
        facts(others=[Setting("/etc/sysctl.d/10-a.conf", RESERVED_KEY, "8080, 9090", late=False)]),
        owners=[
            {"name": "telemetry", "reserved_ports": ["54000-54099"]},
            {"name": "site", "reserved_ports": ["50000-50999"], "local_port_range": "40000-49999"},
        ],
    )
    assert made.file == (
        f"{HEADER}"
        "# owner site: reserved_ports=50000-50999 local_port_range=40000-49999\n"
        "# owner telemetry: reserved_ports=54000-54099\n"
        "# before the first owner: local_port_range=32768-60999\n"
        "net.ipv4.ip_local_port_range = 40000 49999\n"
        "# The ports of the owners, and those of the other sysctl files, which this line would replace.\n"
        "net.ipv4.ip_local_reserved_ports = 8080,9090,50000-50999,54000-54099\n"
    )


@pytest.mark.parametrize(
    "line",
    ["# owner site: reserved_ports=abc", "# owner site reserved_ports=80", "# before the first owner: local_port_range=9-1"],
)
def test_claims_that_cant_be_read_are_not_forgotten(line: str) -> None:
    with pytest.raises(HostError, match="60-portfence.conf: line 2 "):
        plan(facts(file=f"{HEADER}{line}\n"), reserved_ports=["80"])


def test_somebody_elses_file_in_our_place() -> None:
    found = facts(file="vm.swappiness = 10\nnet.ipv4.ip_local_reserved_ports = 80\n")
    with pytest.raises(HostError, match="sets vm.swappiness;"):
        plan(found, reserved_ports=["50000"])
    assert not plan(found, state="absent").changed


# ---- reservations ----


def test_ports_of_others_stay() -> None:
    start = facts("80,1005-1010")
    first = plan(start, reserved_ports=["50000-50999", "1008-1012"])
    assert str(first.reserved) == "80,1005-1012,50000-50999"
    second = plan(done(start, first), reserved_ports=["52000"])
    assert str(second.reserved) == "80,1005-1010,52000"
    last = plan(done(start, second), state="absent")
    assert (str(last.reserved), last.file, last.record) == ("80,1005-1010", None, None)


def test_second_run_changes_nothing() -> None:
    start = facts("80")
    params: Dict[str, Any] = {"reserved_ports": ["80-90"], "local_port_range": "40000-49999"}
    first = plan(start, **params)
    second = plan(done(start, first), **params)
    assert first.changed
    assert not second.changed
    assert (second.file, second.record) == (first.file, first.record)


def test_owners_are_kept_apart() -> None:
    host = facts()
    for name, ports in (("a", ["50000-50010"]), ("b", ["50005-50020"])):
        host = done(host, plan(host, name=name, reserved_ports=ports))
    host = done(host, plan(host, name="a", state="absent"))
    assert str(host.reserved) == "50005-50020"
    host = done(host, plan(host, name="c", reserved_ports=["1"], purge=True))
    assert str(host.reserved) == "1"


def test_ports_of_other_files_stay() -> None:
    start = facts("7,80", others=[Setting("/etc/sysctl.d/10-a.conf", RESERVED_KEY, "80", late=False)])
    first = plan(start, reserved_ports=["80-90"])
    after_boot = rebooted(done(start, first))
    assert str(after_boot.reserved) == "80-90"  # 7 was nobody's but the running kernel's
    assert not plan(after_boot, reserved_ports=["80-90"]).changed
    assert str(plan(after_boot, state="absent").reserved) == "80"


def test_ports_that_another_file_declares_later_come_into_the_file() -> None:
    start = facts()
    host = done(start, plan(start, reserved_ports=["50000"]))
    host = rebooted(replace(host, others=[Setting("/usr/lib/sysctl.d/50-b.conf", RESERVED_KEY, "9090", late=False)]))
    assert str(host.reserved) == "50000"
    made = plan(host, reserved_ports=["50000"])
    assert made.changed
    assert str(made.reserved) == "9090,50000"
    assert f"{RESERVED_KEY} = 9090,50000\n" in str(made.file)


def test_ports_that_another_file_declares_later_stay() -> None:
    start = facts()
    host = done(start, plan(start, reserved_ports=["80-90"], persist=False))
    host = replace(host, others=[Setting("/etc/sysctl.d/10-a.conf", RESERVED_KEY, "80", late=False)])
    assert str(plan(host, state="absent").reserved) == "80"


def test_unreadable_value_of_another_file() -> None:
    others = [Setting("/etc/sysctl.d/10-a.conf", RESERVED_KEY, "all", late=False)]
    made = plan(facts(others=others), reserved_ports=["50000"])
    assert str(made.reserved) == "50000"
    assert made.warnings == [f"/etc/sysctl.d/10-a.conf: {RESERVED_KEY} = all: not a list of ports, and left out of {FILE}"]


def test_absent_is_all_there_is_to_do_when_nothing_was_done() -> None:
    found = facts("80", others=[Setting("/etc/sysctl.d/10-a.conf", RESERVED_KEY, "90", late=False)])
    for purge in (False, True):
        made = plan(found, state="absent", purge=purge)
        assert not made.changed
        assert (made.reserved, made.file, made.record) == (found.reserved, None, None)


# ---- range ----


def test_range_comes_back() -> None:
    start = facts(port_range=PortRange(20000, 39999))
    host = done(start, plan(start, local_port_range="40000-49999"))
    host = done(host, plan(host, local_port_range="41000-49999"))
    assert plan(host, reserved_ports=[]).port_range == start.port_range
    assert plan(rebooted(host), state="absent").port_range == start.port_range


def test_one_range_for_a_host() -> None:
    start = facts()
    host = done(start, plan(start, name="a", local_port_range="40000-49999"))
    assert mistakes(host, name="b", local_port_range="41000-49999") == [
        "local_port_range: found 41000-49999, but a has set 40000-49999; a host has one range"
    ]
    assert not plan(done(host, plan(host, name="b", local_port_range="40000-49999")), name="a", state="absent").port_range == DEFAULT
    two = [{"name": "a", "local_port_range": "1024-9999"}, {"name": "b", "local_port_range": "1025-9999"}]
    assert mistakes(start, owners=two) == [
        "owners[1].local_port_range: found 1025-9999, but a has set 1024-9999; a host has one range"
    ]


# ---- record and file ----


def test_deleted_file_is_mended_without_forgetting_anything() -> None:
    start = facts("80")
    host = done(start, plan(start, name="a", reserved_ports=["80-90"]))
    host = done(host, plan(host, name="b", local_port_range="40000-49999"))
    for text in (None, "", HEADER, str(host.file).replace("80-90", "70"), "net.ipv4.ip_local_reserved_ports = 1\n"):
        made = plan(replace(host, file=text), name="b", local_port_range="40000-49999")
        assert made.changed
        assert made.file == host.file
    gone = plan(replace(host, file=None), state="absent", purge=True)
    assert (str(gone.reserved), gone.port_range) == ("80", DEFAULT)


def test_until_reboot() -> None:
    start = facts()
    host = done(start, plan(start, name="a", reserved_ports=["1000"]))
    host = done(host, plan(host, name="b", reserved_ports=["2000"], persist=False))
    assert str(host.reserved) == "1000,2000"
    assert str(value_in(str(host.file), RESERVED_KEY)) == "1000"
    assert str(plan(host, name="b", state="absent").reserved) == "1000"
    lasting = plan(host, name="b", reserved_ports=["2000"])
    assert lasting.changed
    assert str(value_in(str(lasting.file), RESERVED_KEY)) == "1000,2000"
    back = plan(done(host, lasting), name="b", reserved_ports=["2000"], persist=False)
    assert back.file == host.file


def test_a_run_that_was_cut_short() -> None:
    start = facts("80", others=[Setting("/etc/sysctl.d/10-a.conf", RESERVED_KEY, "90", late=False)])
    host = done(start, plan(start, reserved_ports=["80-89", "95"], local_port_range="40000-49999"))
    made = plan(host, reserved_ports=["81", "50000"])
    end = done(host, made)
    begun = replace(host, record=made.journal)
    live = replace(begun, reserved=made.reserved, port_range=made.port_range)
    for half in (host, begun, live, replace(live, reserved=host.reserved), replace(live, file=made.file)):
        again = plan(half, reserved_ports=["81", "50000"])
        assert done(half, again) == end
        assert str(plan(half, state="absent").reserved) == "80,90"
        assert plan(half, state="absent").port_range == DEFAULT


def test_previous_owners_put_everything_back() -> None:
    start = facts("80")
    first = plan(start, name="a", reserved_ports=["80-90"], persist=False)
    host = done(start, first)
    made = plan(host, reserved_ports=["50000"], local_port_range="40000-49999", purge=True)
    back = plan(done(host, made), owners=made.before.owners())
    assert done(host, back) == host
    assert done(host, plan(done(host, back), owners=first.before.owners())) == start


@given(OWNERS, OWNERS, PORTS, PORTS)
def test_whatever_comes_and_goes_leaves_what_was_there(
    first: Dict[str, Claim], second: Dict[str, Claim], live: PortSet, declared: PortSet
) -> None:
    start = facts(str(live), others=[Setting("a", RESERVED_KEY, str(declared), late=False)], port_range=PortRange(1024, 65535))
    host = start
    for claims in (first, second):
        items = [replace(claim, port_range=None).to_dict(name) for name, claim in claims.items()]
        request, _problems = parse_request(task(owners=items))
        try:
            host = done(host, make_plan(request, host))
        except InputError:
            continue  # nothing left
        assert not (Record(request.claims).ports - host.reserved)
        assert not (live - host.reserved)
    end = done(host, plan(host, owners=[]))
    assert not (live - end.reserved)
    assert not (end.reserved - live - declared)
    assert (end.file, end.record) == (None, None)


# ---- mistakes and warnings ----


def test_all_mistakes_at_once() -> None:
    found = mistakes(
        facts(),
        name="a b",
        reserved_ports=["50000", "51000-50000", "0", "50000–51000"],
        local_port_range="1000-2000",
    )
    assert [line.split(":")[0] for line in found] == [
        "name",
        "reserved_ports[1]",
        "reserved_ports[2]",
        "reserved_ports[3]",
        "local_port_range",
    ]
    assert found[-1].endswith("net.ipv4.ip_unprivileged_port_start, which is 1024 here")


@pytest.mark.parametrize(
    "params, path",
    [
        ({}, "reserved_ports"),
        ({"name": "a\n", "state": "absent"}, "name"),
        ({"name": "x" * 65, "state": "absent"}, "name"),
        ({"name": "", "state": "absent"}, "name"),
        ({"local_port_range": ""}, "local_port_range"),
        ({"local_port_range": "60000-50000"}, "local_port_range"),
        ({"local_port_range": "1024-2000,3000"}, "local_port_range"),
        ({"local_port_range": "50000-65536"}, "local_port_range"),
        ({"local_port_range": "1023-2000"}, "local_port_range"),
        ({"reserved_ports": ["x"]}, "reserved_ports[0]"),
        ({"reserved_ports": ["32768-60999"]}, "reserved_ports"),
        ({"reserved_ports": ["1-65535"]}, "reserved_ports"),
        ({"local_port_range": "80-80"}, "local_port_range"),
        ({"reserved_ports": ["80"], "persist": True, "netns": "blue"}, "persist"),
        ({"owners": [{"name": "a"}, {"name": "a"}]}, "owners[1].name"),
        ({"owners": [{"name": "a/b"}]}, "owners[0].name"),
        ({"owners": [{"name": "a", "reserved_ports": ["9-8"]}]}, "owners[0].reserved_ports[0]"),
        ({"owners": [{"name": "a", "reserved_ports": ["1-65535"]}]}, "owners[0].reserved_ports"),
        ({"owners": [{"name": "a", "reserved_ports": ["1"], "persist": True}], "netns": "blue"}, "owners[0].persist"),
    ],
)
def test_mistake(params: Dict[str, Any], path: str) -> None:
    assert [line.split(": ")[0] for line in mistakes(facts(), **params)] == [path]


def test_a_range_that_others_reserved_as_a_whole() -> None:
    assert mistakes(facts("40000-49999"), local_port_range="40000-49999")[0].startswith("local_port_range: all ports of 40000-49999 ")
    assert plan(facts("40000-49998"), local_port_range="40000-49999").port_range == PortRange(40000, 49999)


def test_taking_back_is_never_refused() -> None:
    start = facts()
    host = done(start, plan(start, reserved_ports=["32768-60998"]))
    host = replace(host, reserved=kernel_ports("1-65535"))
    assert str(plan(host, state="absent").reserved) == "1-32767,60999-65535"


@pytest.mark.parametrize(
    "params, warnings",
    [
        ({"local_port_range": "50000-50999"}, []),
        ({"local_port_range": "50000-51000"}, ["both bounds are even"]),
        ({"local_port_range": "50001-51001"}, ["both bounds are odd"]),
        ({"local_port_range": "50000-50998"}, ["both bounds are even", "only 999 ports of 50000-50998 "]),
        ({"reserved_ports": ["32768-59999"]}, []),
        ({"reserved_ports": ["32768-60000"]}, ["only 999 ports of 32768-60999 "]),
        ({"reserved_ports": [str(port) for port in range(1, 2000, 2)]}, ["is longer than the 4090 bytes"]),
    ],
)
def test_warnings(params: Dict[str, Any], warnings: List[str]) -> None:
    found = plan(facts(), **params).warnings
    assert len(found) == len(warnings), found
    for text, part in zip(found, warnings):
        assert part in text


def test_a_file_that_is_read_later() -> None:
    link = "/etc/sysctl.d/99-sysctl.conf -> /etc/sysctl.conf"
    others = [Setting(link, RESERVED_KEY, "80", late=True), Setting(link, RANGE_KEY, "1 2", late=True)]
    (warning,) = plan(facts(others=others), reserved_ports=["50000"]).warnings
    assert warning.startswith(f"{link} sets {RESERVED_KEY} = 80 and is read after {FILE},")
    (warning,) = plan(facts(others=others), local_port_range="40000-49999").warnings
    assert f"sets {RANGE_KEY} = 1 2" in warning
    assert not plan(facts(others=others), reserved_ports=["50000"], persist=False).warnings
    assert not plan(facts(others=[replace(one, late=False) for one in others]), reserved_ports=["50000"]).warnings
