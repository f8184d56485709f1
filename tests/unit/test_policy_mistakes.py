# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every kind of mistake in a policy: its path, what was found, what is accepted; and all of them at once."""

from __future__ import annotations

import datetime
from typing import Any, Dict, List

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError
from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_list, parse_variables

KEYS = (
    "source_ports, user, group, classid, unit, addresses, interface, masquerade, protocols, assignment, share_ports,"
    " listen_ports, namespace, on_violation, exclusive, loopback, log, state, uid, manage_account, allow_admin,"
    " size, scope"
)
# A list of a module has its ports already.
LIST_KEYS = KEYS.replace(", size, scope", "")
PORTS = "a port 50000, a range 50000-51000, or a list of them"
NAMES = "1 to 32 letters, digits, '_', '-' or '.', not starting with '-' or '.'"
PROTOCOLS = "tcp, udp, sctp, dccp, udplite"
LEVELS = "emerg, alert, crit, err, warning, notice, info, debug"
RATES = "10/second, 1/minute, 5/hour, 100/day"
USERS = "the name or numeric id of a user, or a list of them"
CLASSES = '"0x100001", or the same as "10:1" (major:minor, both hexadecimal), above 0 and up to 0xffffffff'
UNITS = (
    "the name of a systemd service or slice, such as myapp.service, worker@.service for all instances, or batch.slice,"
    " or a list of them"
)
NETWORKS = "an IPv4 or IPv6 address, or a network such as 10.88.0.0/16 or fd00:1::/64, or a list of them"
PREFIX = "1 to 127 bytes of printable ASCII without quotes, '$', '`' and backslash"


def mistakes(variables: Dict[Any, Any]) -> List[str]:
    """Every line that a user reads but the first."""
    with pytest.raises(InputError) as error:
        parse_variables(variables)
    lines = str(error.value).splitlines()
    count = len(lines) - 1
    assert lines[0] == f"the egress policy has {count} mistake{'s' if count > 1 else ''}:"
    assert all(line.startswith("  ") for line in lines[1:])
    return [line[2:] for line in lines[1:]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"source_ports": None}, f".source_ports: missing; accepted: {PORTS}"),
        ({"source_ports": "51000-50000"}, ".source_ports: found '51000-50000', which is reversed; write 50000-51000"),
        ({"source_ports": [50000, 70000]}, ".source_ports[1]: found 70000; ports lie between 1 and 65535"),
        ({"source_ports": []}, f".source_ports: found a list without any port; accepted: {PORTS}"),
        ({"sourceports": 1}, f".sourceports: unknown key; did you mean source_ports? accepted: {KEYS}"),
        ({"protocol": "tcp"}, f".protocol: unknown key; did you mean protocols? accepted: {KEYS}"),
        ({"usr": None}, f".usr: unknown key; did you mean user? accepted: {KEYS}"),
        ({"name": "myapp"}, f".name: unknown key; did you mean namespace? accepted: {KEYS}"),
        ({"zzzz": 1}, f".zzzz: unknown key; accepted: {KEYS}"),
        ({5: 1}, f".5: unknown key; accepted: {KEYS}"),
        ({None: 1}, f".nothing: unknown key; accepted: {KEYS}"),
        ({"a b\n": 1}, f".'a b\\n': unknown key; accepted: {KEYS}"),
        ({"user": "a", "group": "b"}, ": found two selectors, user and group; accepted: one of them"),
        ({"user": "a", "unit": "b"}, ": found two selectors, user and unit; accepted: one of them"),
        (
            {"group": "a", "classid": "10:1", "addresses": ["::1"]},
            ": found three selectors, group, classid and addresses; accepted: one of them",
        ),
        ({"classid": "x"}, f".classid: found 'x'; accepted: {CLASSES}"),
        ({"classid": 0}, f".classid: found 0; accepted: {CLASSES}"),
        ({"classid": "1:10000"}, f".classid: found '1:10000'; accepted: {CLASSES}"),
        ({"classid": True}, f".classid: found True; accepted: {CLASSES}"),
        ({"unit": "a.socket"}, f".unit: found 'a.socket'; accepted: {UNITS}"),
        ({"unit": ["a", "b*.service"]}, f".unit[1]: found 'b*.service'; accepted: {UNITS}"),
        ({"unit": "a/b.service"}, f".unit: found 'a/b.service'; accepted: {UNITS}"),
        ({"unit": "a@.slice"}, f".unit: found 'a@.slice'; accepted: {UNITS}"),
        ({"unit": ".service"}, f".unit: found '.service'; accepted: {UNITS}"),
        ({"unit": 5}, f".unit: found 5; accepted: {UNITS}"),
        ({"addresses": "10.1"}, f".addresses: found '10.1'; accepted: {NETWORKS}"),
        ({"addresses": ["::1", "10.1.1.1/8"]}, ".addresses[1]: found '10.1.1.1/8'; it has host bits set; write 10.0.0.0/8, or the address alone"),
        ({"addresses": "::/0"}, f".addresses: found '::/0'; it is every address; accepted: {NETWORKS}"),
        ({"addresses": 5}, f".addresses: found 5; accepted: {NETWORKS}"),
        (
            {"addresses": "::1", "interface": "a b"},
            ".interface: found 'a b'; accepted: the name of a network interface, 1 to 15 letters, digits, '_', '.', '-' or '@'",
        ),
        ({"interface": "br0"}, ".interface: accepted only with addresses"),
        ({"masquerade": False}, ".masquerade: accepted only with addresses"),
        ({"addresses": "::1", "loopback": True}, ".loopback: found true with addresses; traffic that is forwarded is never on the loopback interface"),
        ({"addresses": "::1", "assignment": "bpf"}, ".assignment: found bpf with the selector addresses; accepted there: rewrite, app, auto"),
        ({"group": "a", "assignment": "bpf"}, ".assignment: found bpf with the selector group; accepted there: rewrite, app, host, namespace, auto"),
        ({"share_ports": True}, ".share_ports: accepted only with assignment bpf or auto"),
        ({"listen_ports": []}, ".listen_ports: accepted only with the selector unit and assignment app"),
        (
            {"unit": "a", "assignment": "app", "listen_ports": [1, "x"]},
            f".listen_ports[1]: found 'x'; accepted: {PORTS}",
        ),
        ({"namespace": {}}, ".namespace: accepted only with assignment namespace"),
        ({"assignment": "namespace", "namespace": []}, ".namespace: found a list; accepted: a mapping with ipv4, ipv6, dns"),
        ({"assignment": "namespace", "namespace": {"ip": 1}}, ".namespace.ip: unknown key; did you mean ipv6? accepted: ipv4, ipv6, dns"),
        (
            {"assignment": "namespace", "namespace": {"ipv4": "10.0.0.1/32"}},
            ".namespace.ipv4: found '10.0.0.1/32', which has no room for two addresses; accepted: at most /31",
        ),
        (
            {"assignment": "namespace", "namespace": {"dns": ["10.0.0.1", "x"]}},
            ".namespace.dns[1]: found 'x'; accepted: an IPv4 or IPv6 address, or a list of them",
        ),
        ({"user": ""}, f".user: found ''; accepted: {USERS}"),
        ({"user": "-r"}, f".user: found '-r'; accepted: {USERS}"),
        ({"user": "a b"}, f".user: found 'a b'; accepted: {USERS}"),
        ({"user": "a:b"}, f".user: found 'a:b'; accepted: {USERS}"),
        ({"user": ["a", "b,c"]}, f".user[1]: found 'b,c'; accepted: {USERS}"),
        ({"user": "a\nb"}, f".user: found 'a\\nb'; accepted: {USERS}"),
        ({"user": "a\x00"}, f".user: found 'a\\x00'; accepted: {USERS}"),
        ({"user": "a\x9b"}, f".user: found 'a\\x9b'; accepted: {USERS}"),
        ({"user": "\ud800"}, f".user: found '\\ud800'; accepted: {USERS}"),
        ({"user": "x" * 257}, f".user: found '{'x' * 56}...; accepted: {USERS}"),
        ({"user": True}, f".user: found True; accepted: {USERS}"),
        ({"user": 1.5}, f".user: found 1.5; accepted: {USERS}"),
        ({"user": -1}, f".user: found -1; accepted: {USERS}"),
        ({"user": {"name": "a"}}, f".user: found a mapping; accepted: {USERS}"),
        ({"user": [["a"]]}, f".user[0]: found a list; accepted: {USERS}"),
        ({"user": 4294967295}, ".user: found 4294967295; ids lie between 0 and 4294967294"),
        ({"user": "0" * 12 + "4294967295"}, f".user: found '{'0' * 12}4294967295'; ids lie between 0 and 4294967294"),
        ({"group": ["a", 9999999999]}, ".group[1]: found 9999999999; ids lie between 0 and 4294967294"),
        ({"group": "a/b"}, ".group: found 'a/b'; accepted: the name or numeric id of a group, or a list of them"),
        ({"protocols": "TCP"}, f".protocols: found 'TCP'; accepted: {PROTOCOLS}"),
        ({"protocols": ["tcp", "icmp"]}, f".protocols[1]: found 'icmp'; accepted: {PROTOCOLS}"),
        ({"protocols": []}, f".protocols: found none; accepted: {PROTOCOLS}"),
        ({"protocols": "tcp,udp"}, f".protocols: found 'tcp,udp'; accepted: {PROTOCOLS}"),
        ({"assignment": "ebpf"}, ".assignment: found 'ebpf'; accepted: rewrite, app, host, bpf, namespace, auto"),
        ({"assignment": ["app"]}, ".assignment: found a list; accepted: rewrite, app, host, bpf, namespace, auto"),
        ({"on_violation": "deny"}, ".on_violation: found 'deny'; accepted: drop, reject, log"),
        ({"state": "gone"}, ".state: found 'gone'; accepted: present, absent"),
        ({"exclusive": "maybe"}, ".exclusive: found 'maybe'; accepted: true, false"),
        ({"loopback": 1}, ".loopback: found 1; accepted: true, false"),
        ({"allow_admin": []}, ".allow_admin: found a list; accepted: true, false"),
        ({"manage_account": ""}, ".manage_account: found ''; accepted: true, false"),
        ({"uid": 0}, ".uid: found 0; accepted: the UID of the account, 1 to 4294967294"),
        ({"uid": 4294967295}, ".uid: found 4294967295; accepted: the UID of the account, 1 to 4294967294"),
        ({"uid": "9e2"}, ".uid: found '9e2'; accepted: the UID of the account, 1 to 4294967294"),
        ({"uid": True}, ".uid: found True; accepted: the UID of the account, 1 to 4294967294"),
        (
            {"uid": 990, "user": ["a", "b"]},
            ".uid: accepted only with one user that is given by name, whose account gets this UID",
        ),
        ({"uid": 990, "user": 990}, ".uid: accepted only with one user that is given by name, whose account gets this UID"),
        ({"uid": 990, "group": "g"}, ".uid: accepted only with one user that is given by name, whose account gets this UID"),
        ({"log": "PREFIX"}, ".log: found 'PREFIX'; accepted: a mapping with prefix, level or rate"),
        ({"log": {"levle": "info"}}, ".log.levle: unknown key; did you mean level? accepted: prefix, level, rate"),
        ({"log": {"level": "warn"}}, f".log.level: found 'warn'; accepted: {LEVELS}"),
        ({"log": {"level": 4}}, f".log.level: found 4; accepted: {LEVELS}"),
        ({"log": {"rate": 10}}, f".log.rate: found 10; accepted: {RATES}"),
        ({"log": {"rate": "0/second"}}, f".log.rate: found '0/second'; accepted: {RATES}"),
        ({"log": {"rate": "10/s"}}, f".log.rate: found '10/s'; accepted: {RATES}"),
        ({"log": {"rate": "1/second\n"}}, f".log.rate: found '1/second\\n'; accepted: {RATES}"),
        ({"log": {"prefix": ""}}, f".log.prefix: found ''; accepted: {PREFIX}"),
        ({"log": {"prefix": 'say "no"'}}, f".log.prefix: found 'say \"no\"'; accepted: {PREFIX}"),
        ({"log": {"prefix": "a\nb"}}, f".log.prefix: found 'a\\nb'; accepted: {PREFIX}"),
        ({"log": {"prefix": "$(id)"}}, f".log.prefix: found '$(id)'; accepted: {PREFIX}"),
        ({"log": {"prefix": "\\"}}, f".log.prefix: found '\\\\'; accepted: {PREFIX}"),
        ({"log": {"prefix": "Stra\u00dfe"}}, f".log.prefix: found 'Stra\\xdfe'; accepted: {PREFIX}"),
        ({"log": {"prefix": "x" * 128}}, ".log.prefix: found 128 bytes; accepted: at most 127 with nftables"),
        ({"log": {"prefix": "\u00df" * 64}}, ".log.prefix: found 128 bytes; accepted: at most 127 with nftables"),
        ({"log": {"prefix": 5}}, ".log.prefix: found 5; accepted: text of at most 127 bytes"),
        (
            {"assignment": "host", "exclusive": True},
            ".exclusive: found true with assignment host; every other program of the host gets its ports from the same"
            " ip_local_port_range, so the range can't be exclusive; leave it out or use rewrite or app",
        ),
        (
            {"assignment": "host", "source_ports": ["50000-50999", 52000]},
            ".source_ports: found 2 ranges with assignment host; ip_local_port_range holds one range; accepted: one range, or"
            " assignment rewrite or app",
        ),
    ],
)
def test_one_mistake(given: Dict[Any, Any], message: str) -> None:
    assert mistakes({"egress_services": {"myapp": {"source_ports": 50000, **given}}}) == [f"egress_services.myapp{message}"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("", "''"),
        ("-x", "'-x'"),
        (".x", "'.x'"),
        ("a b", "'a b'"),
        ("a/b", "'a/b'"),
        ("..", "'..'"),
        ("a\n", "'a\\n'"),
        ("\u00e4", "'\\xe4'"),
        ("a;b", "'a;b'"),
        ('a"b', "'a\"b'"),
        ("a{b}", "'a{b}'"),
        ("a" * 33, f"'{'a' * 33}'"),
        (5, "5"),
        (None, "nothing"),
        (datetime.date(2026, 1, 1), "datetime.date(2026, 1, 1)"),
        (("a",), "a list"),
    ],
)
def test_bad_names(name: object, shown: str) -> None:
    assert mistakes({"egress_services": {name: {"source_ports": 50000, "user": "u"}}}) == [
        f"egress_services.{shown}: found the service name {shown}; accepted: {NAMES}"
    ]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (
            {"egress_services": [{"name": "a"}]},
            ["egress_services: found a list; accepted: a mapping of service names to services"],
        ),
        (
            {"egress_services__x": "50000"},
            ["egress_services__x: found '50000'; accepted: a mapping of service names to services"],
        ),
        ({5: 5, "b": 1}, [f"{key}: found {value}; accepted: a mapping of service names to services" for key, value in ((5, 5), ("b", 1))]),
        (
            {"egress_services": {"a": None, "b": "50000"}},
            [
                "egress_services.a: found nothing; accepted: a mapping with at least source_ports",
                "egress_services.b: found '50000'; accepted: a mapping with at least source_ports",
            ],
        ),
        (
            {"egress_services": {"a": {"source_ports": ["1-9", "20-29"]}, "b": {"source_ports": ["5-22", 29, 40]}}},
            [
                "egress_services.b.source_ports: 5-9, 20-22, 29 also belongs to egress_services.a;"
                " services of one host can't share source ports"
            ],
        ),
        (
            {"egress_services": {"a": {"source_ports": 1, "user": "x"}, "b": {"source_ports": 2, "user": ["y", "x"]}}},
            ["egress_services.b.user: x is already the user of egress_services.a; one user can belong to one service only"],
        ),
        (
            {"egress_services": {"a": {"source_ports": 1, "group": 7}, "b": {"source_ports": 2, "group": "007"}}},
            ["egress_services.b.group: 7 is already the group of egress_services.a; one group can belong to one service only"],
        ),
        (
            {
                "egress_services": {
                    "a": {"source_ports": 1, "assignment": "host"},
                    "b": {"source_ports": 2, "assignment": "host"},
                }
            },
            [
                "egress_services.b.assignment: found host, which egress_services.a has as well; a host has one"
                " ip_local_port_range, so only one service can be assigned its ports that way; use rewrite or app"
            ],
        ),
    ],
)
def test_mistakes_across_services(variables: Dict[Any, Any], expected: List[str]) -> None:
    assert mistakes(variables) == expected


def test_all_mistakes_come_in_one_message() -> None:
    found = mistakes(
        {
            "egress_services": {
                "collector": {
                    "source_ports": ["52000-52999", "53x"],
                    "user": "otel",
                    "group": "otel",
                    "protocol": "tcp",
                    "log": {"prefix": "x" * 200, "level": "loud", "rate": "often"},
                },
                "myapp": {"source_ports": "50000-50999", "exclusive": "perhaps"},
            },
            "egress_services__team": {
                "bad name": {"source_ports": 0},
                "myapp": {"source_ports": 1},
                "other": {"source_ports": "50500-51500", "user": "myapp"},
            },
            "egress_services__wrong": 5,
        }
    )
    assert [line.split(": ")[0] for line in found] == [
        "egress_services.collector.protocol",
        "egress_services.collector",
        "egress_services.collector.source_ports[1]",
        "egress_services.collector.log.level",
        "egress_services.collector.log.rate",
        "egress_services.collector.log.prefix",
        "egress_services.myapp.exclusive",
        "egress_services__team.'bad name'",
        "egress_services__team.'bad name'.source_ports",
        "egress_services__team.myapp",
        "egress_services__wrong",
        "egress_services__team.other.source_ports",
        "egress_services__team.other.user",
    ]


def test_mistakes_of_a_list() -> None:
    with pytest.raises(InputError) as error:
        parse_list(
            [
                "myapp",
                {"source_ports": 1},
                {"name": None},
                {"name": "a", "source_ports": 1},
                {"name": "a", "source_ports": 2},
                {"name": ["x"], "source_ports": 3, "user": "u"},
                {"name": "b", "source_port": 3},
            ]
        )
    assert str(error.value).splitlines() == [
        "the list of services has 7 mistakes:",
        "  services[0]: found 'myapp'; accepted: a mapping with name, source_ports, \u2026",
        "  services[1].name: missing; every service of a list needs a name",
        "  services[2].name: missing; every service of a list needs a name",
        "  services[4].name: a is already services[3].name",
        f"  services[5]: found the service name a list; accepted: {NAMES}",
        f"  services[6].source_port: unknown key; did you mean source_ports? accepted: {LIST_KEYS}",
        f"  services[6].source_ports: missing; accepted: {PORTS}",
    ]


@pytest.mark.parametrize("ports", ["50000-50999", "{low}-{high}"])
def test_thousands_of_overlaps_are_cut_short(ports: str) -> None:
    services = {f"s{i}": {"source_ports": ports.format(low=10000 + i, high=40000 - i)} for i in range(5000)}
    found = mistakes({"egress_services": services})
    assert len(found) < 1100
    assert found[-1].endswith("more services share ports; only the first 1000 pairs are listed")
