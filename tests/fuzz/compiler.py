# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Any policy is refused with its mistakes, or compiles to text that the kernel takes and that holds what was asked for and nothing else."""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import zlib
from functools import lru_cache
from typing import Any, Dict, Set, Tuple

from ansible_collections.portfence.egress.plugins.module_utils import _iptables
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError
from ansible_collections.portfence.egress.plugins.module_utils._iptables_listing import parse_listing
from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_list
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Lookup
from ansible_collections.portfence.egress.plugins.module_utils._service import (
    ASSIGNMENTS,
    KEYS,
    LOG_LEVELS,
    ON_VIOLATION,
    PROTOCOLS,
    STATES,
)
from ansible_collections.portfence.egress.tests.fuzz.source import EVERYTHING, Source, Target, check_message
from ansible_collections.portfence.egress.tests.unit.nft_model import read
from ansible_collections.portfence.egress.tests.unit.pipeline import Compiled, compile_policy

_USERS = ("myapp", "0", 5, "4294967294", "4294967295", "alice.b", "_x", "svc$", "DOMAIN\\user", "\u05d0\u05d1", "m\u00fcller")
_UNITS = ("a", "a.service", "a@.service", "a-b.slice", "a--b.slice", "-.slice", "a:b_c.service", "a@b.service", "x" * 300, "-".join("abcdef") + ".slice")
_ADDRESSES = ("10.0.0.1", "10.0.0.0/8", "fd00::/64", "::1", "0.0.0.0/0", "10.0.0.1/8", "::ffff:1.2.3.4", "fe80::1%eth0", "224.0.0.1", "1", 1)
_PORTS = (
    50000, "50000", "50000-50999", " 50000 - 50100 ", "50000\u201350100", "50000:50100", [50000, "51000-51010"], "50000,50002", [], "auto", 0, 65536,
    "1-65535", "65535", [f"{port}" for port in range(50000, 50080, 2)], "0x10", "\u0661\u0662", "50000-", 1.5, True, "50000\n",
)  # fmt: skip
_PREFIXES = ("PORT VIOLATION: ", "x", " ", "x" * 29, "x" * 30, "x" * 127, "x" * 128, "%s%n", "a#b", "a;b", "{a}", "[a]", "'", "-j ACCEPT", "--log", "!")
_PLAUSIBLE: Dict[str, Tuple[Any, ...]] = {
    "source_ports": _PORTS,
    "user": (*_USERS, ["a", "b"], ["a", "a"]),
    "group": (*_USERS, [7, 8]),
    "classid": ("0x100001", "10:1", 1048577, "0", "0xffffffff", "1:0", "ffff:ffff", "10:1\n"),
    "unit": (*_UNITS, list(_UNITS[:3])),
    "addresses": (*_ADDRESSES, ["10.0.0.0/24", "fd00::/64", "10.0.0.1"]),
    "interface": ("eth0", "eth0.5", "veth@if5", "-x", "x" * 15, "x" * 16, "lo", "*", 'a" accept', "@", "a+"),
    "masquerade": (True, False, "yes"),
    "protocols": (["tcp"], list(PROTOCOLS), "udp", ["sctp"], ["dccp", "udplite"], ["icmp"], []),
    "assignment": ASSIGNMENTS,
    "share_ports": (True, "off"),
    "listen_ports": (*_PORTS[:9], []),
    "namespace": ({"ipv4": "10.9.0.0/30", "ipv6": "fd09::/126", "dns": ["10.0.0.1"]}, {}, {"ipv4": "10.9.0.0/31"}, {"dns": "::1"}),
    "on_violation": ON_VIOLATION,
    "exclusive": (True, False, "no"),
    "loopback": (True, False),
    "state": STATES,
    "uid": (1000, "1000", 0, 4294967295),
    "manage_account": (True, False),
    "allow_admin": (True, "true"),
}
_RATES = ("10/second", "1/minute", "999999999/day", "0/second", "1/week", "1/second\n", "10 /second", "20000/second", "1/hour")
_NAMES = (
    "a", "myapp", "a.b", "a-b", "0", "-a", ".a", "x" * 32, "x" * 33, "accept", "drop", "table", "chain", "lo", "portfence", "managed_by_portfence_egress",
    "A_b.c-d", "null", "elements", "1a", "inet", "map", "counter", "_", "postrouting", "output_lo", "guarded_tcp", "x" * 26 + "abcdef", "x" * 26 + "abcdeg",
)  # fmt: skip
# Any name may be that of an account; those that begin with "no" are not.
_LOOKUP = Lookup(
    uid=lambda name: None if name.startswith("no") else 1000 + zlib.crc32(name.encode("utf-8", "surrogatepass")) % 60000,
    gid=lambda name: None if name.startswith("no") else 1000 + zlib.crc32(name.encode("utf-8", "surrogatepass")) % 60000,
)
_MOST_SHAPES = 20_000


def _coherent(source: Source, number: int) -> Dict[str, Any]:
    """Keys that go together, of a service that shares nothing with those of other numbers."""
    return source.pick(
        (
            {},
            {"user": [10 * number + 5, f"u{number}"], "loopback": source.chance(2), "on_violation": source.pick(ON_VIOLATION)},
            {"group": f"g{number}", "protocols": source.pick((["tcp"], ["udp", "sctp"], list(PROTOCOLS)))},
            {"classid": f"0x{100000 + number}", "exclusive": source.chance(2)},
            {"unit": [f"u{number}.service", f"t{number}@.service"], "assignment": "app", "listen_ports": [80]},
            {"unit": f"s{number}-x.slice", "on_violation": source.pick(ON_VIOLATION), "loopback": source.chance(2)},
            {"addresses": [f"10.{number}.0.0/16", f"fd00:{number}::/64"], "interface": "eth0", "masquerade": source.chance(2)},
            {"addresses": f"10.{number}.0.1", "on_violation": "reject", "protocols": list(PROTOCOLS)},
            {"assignment": "namespace"},
            {"assignment": "bpf", "share_ports": source.chance(2), "on_violation": source.pick(ON_VIOLATION)},
            {"assignment": source.pick(("auto", "app"))},
        )
    )


def _spoiled(source: Source, value: Any) -> Any:
    """A value with something hostile in it, or another in its place."""
    if isinstance(value, str) and not source.chance(4):
        return source.spoiled(value)
    if isinstance(value, list) and value and not source.chance(4):
        return [*value[1:], _spoiled(source, value[0])]
    return source.value(1)


def _service(source: Source, number: int) -> Any:
    if source.chance(40):
        return source.value()
    low = 40000 + 100 * number
    service: Dict[Any, Any] = {"source_ports": f"{low}-{low + source.number(0, 99)}", **_coherent(source, number)}
    if source.chance(3):
        service["log"] = {"prefix": source.pick(_PREFIXES), "level": source.pick(LOG_LEVELS), "rate": source.pick(_RATES)}
        key = source.pick(("prefix", "level", "rate", "none"))
        if key != "none":
            service["log"][key] = _spoiled(source, service["log"][key])
    for key in source.some(KEYS, source.pick((0, 1, 2, 5))):
        if key == "log":
            service[key] = {"prefix": source.text()} if source.chance(2) else source.value()
        else:
            service[key] = _spoiled(source, source.pick(_PLAUSIBLE[key])) if source.chance(4) else source.pick(_PLAUSIBLE[key])
    if source.chance(30):
        service[source.text()] = source.value()
    return service


def _policy(source: Source) -> Dict[Any, Any]:
    names = [source.text() if source.chance(8) else source.pick(_NAMES) for _index in range(source.number(1, 4))]
    services = {name: _service(source, number) for number, name in enumerate(names)}
    if source.chance(50):
        return {"egress_services": services, f"egress_services__{source.text()}": source.value()}
    return {"egress_services": services}


class Nftables:
    """nftables of this network namespace, through the library that the program nft is made of."""

    @staticmethod
    @lru_cache(maxsize=None)
    def shared() -> Nftables:
        """The one of this process, made when it is needed."""
        return Nftables()

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libnftables.so.1")
        self._library.nft_ctx_new.restype = ctypes.c_void_p
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(self._library, name).restype = ctypes.c_char_p
        self._context = ctypes.c_void_p(self._library.nft_ctx_new(0))
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        # NFT_CTX_OUTPUT_JSON, libnftables(3)
        self._library.nft_ctx_output_set_flags(self._context, 1 << 4)

    def run(self, text: str) -> str:
        """What nft prints for this text, which it must take."""
        status = self._library.nft_run_cmd_from_buffer(self._context, text.encode("utf-8"))
        printed = self._library.nft_ctx_get_output_buffer(self._context)
        said = self._library.nft_ctx_get_error_buffer(self._context).decode("utf-8", "replace")
        assert (status, said) == (0, ""), f"nft: {said}\n{text}"
        return str(printed.decode("utf-8"))


class _Loader:
    """Loads each fence that has another shape than those before, and in a long run each fence."""

    def __init__(self) -> None:
        self._nft = Nftables.shared()
        self._shapes: Set[int] = set()

    def is_new(self, text: str) -> bool:
        """Whether a text is to be loaded: has not been seen before, whatever its numbers."""
        if EVERYTHING:
            return True
        shape = zlib.crc32(re.sub(r"[0-9a-f:./]{2,}|[0-9]+", "0", text).encode("utf-8"))
        if shape in self._shapes or len(self._shapes) >= _MOST_SHAPES:
            return False
        self._shapes.add(shape)
        return True

    def nftables(self, compiled: Compiled, prefixes: Set[str]) -> None:
        """What the kernel has afterwards are our tables, with the objects that the text names, and logs with these prefixes."""
        expected = {
            (kind, family, name)
            for family, table in read(compiled.fence.body).items()
            for kind, names in (("chain", table.chains), ("map", table.maps), ("counter", table.counters), ("limit", table.limits))
            for name in names
        }
        listing = json.loads(self._nft.run(f"flush ruleset\n{compiled.fence.text}\nlist ruleset\n"))["nftables"]
        found = [(kind, content) for item in listing for kind, content in item.items() if kind != "metainfo"]
        assert {content["name"] for kind, content in found if kind == "table"} == {"portfence"}
        assert {content["table"] for kind, content in found if kind != "table"} <= {"portfence"}
        assert {(kind, content["family"], content["name"]) for kind, content in found if kind not in ("table", "rule")} == expected
        logged = {
            statement["log"]["prefix"] for kind, content in found if kind == "rule" for statement in content["expr"] if statement.get("log")
        }
        assert logged <= prefixes, (logged, prefixes)

    def iptables(self, rules: _iptables.Fence) -> None:
        """The same for iptables, in both families."""
        for family, stem in ((4, "iptables"), (6, "ip6tables")):
            text = rules.rules(family)
            wanted = rules.families[family]
            count = sum(len(chains) * 1 + sum(map(len, chains.values())) + 3 for chains in wanted.values())
            assert text.count("\n") == count, text
            loaded = subprocess.run([f"{stem}-restore"], input=text, capture_output=True, text=True, check=False)
            assert (loaded.returncode, loaded.stderr) == (0, ""), (loaded.stderr, text)
            saved = subprocess.run([f"{stem}-save"], capture_output=True, text=True, check=True).stdout
            live = parse_listing(saved)
            assert {table: {name: len(found) for name, found in part.chains.items()} for table, part in live.items()} == {
                table: {name: len(found) for name, found in chains.items()} for table, chains in wanted.items()
            }
            assert all([(jump.position, jump.rule) for jump in part.jumps] == [(1, "-j portfence")] for part in live.values())
            ours = sum(len(found) for part in live.values() for found in part.chains.values()) + sum(len(part.jumps) for part in live.values())
            assert sum(line.startswith("-A ") for line in saved.split("\n")) == ours


@lru_cache(maxsize=None)
def _loader() -> _Loader:
    return _Loader()


def _check(variables: Dict[Any, Any]) -> bool:
    """Whether a policy was accepted."""
    try:
        compiled = compile_policy(variables, names=_LOOKUP)
    except InputError as error:
        check_message(str(error))
        return False
    for problem in compiled.problems:
        check_message(str(problem))
    if compiled.problems:
        return False
    # What a host stores is read back as the same.
    assert [item.service for item in parse_list([service.to_dict() for service in compiled.services])] == list(compiled.services)
    loader = _loader()
    if loader.is_new(compiled.fence.text):
        loader.nftables(compiled, _prefixes(compiled))
    refused = _iptables.unsupported(compiled.ruleset)
    for _name, _key, message in refused:
        check_message(message)
    if not refused and loader.is_new("".join(map(compiled.rules.rules, compiled.rules.families))):
        loader.iptables(compiled.rules)
    return True


def _prefixes(compiled: Compiled) -> Set[str]:
    """What the fence may write to the log: what the policy says, or our own words with the name of the service."""
    own = {f"portfence {event} {service.name}: " for event in ("violation", "intrusion") for service in compiled.services}
    return own | {service.log.prefix for service in compiled.services if service.log.prefix}


TARGETS = {"policy": Target(_policy, _check)}
