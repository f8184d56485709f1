# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a probe of one service asks a host that has a thousand: look-ups go to directories over the network, and programs take time."""

from __future__ import annotations

import errno
import grp
import json
import pwd
from collections import Counter
from contextlib import contextmanager
from typing import Any, Callable, Counter as Counts, Dict, Iterator, List, Optional, Sequence, Tuple

import pytest
from ansible_collections.portfence.egress.plugins.module_utils import _probe_run
from ansible_collections.portfence.egress.plugins.module_utils._counters import Counters
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_list
from ansible_collections.portfence.egress.plugins.module_utils._probe import Attempt, Outcome
from ansible_collections.portfence.egress.plugins.module_utils._program import Result
from ansible_collections.portfence.egress.plugins.module_utils._store import FOLDER

HOW_MANY = 1000
CGROUPS = "/sys/fs/cgroup"


def service(number: int) -> Dict[str, Any]:
    """Accounts, groups, units and what has no place of its own, in turn."""
    selectors: List[Dict[str, Any]] = [
        {"user": f"u{number}"},
        {"group": f"g{number}"},
        {"unit": f"u{number}.service"},
        {"addresses": f"10.{number // 250}.{number % 250}.1"},
    ]
    return {"name": f"s{number}", "source_ports": f"{20000 + 10 * number}-{20000 + 10 * number + 9}", **selectors[number % 4]}


class Asked(Host):
    """A host with these services, that counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counts[str] = Counter()
        self._files = {f"{FOLDER}/s{number}.json": json.dumps(item.to_dict()) for number, item in enumerate(_parsed(range(HOW_MANY)))}

    def read(self, path: str) -> Optional[str]:
        """The file of a service, or none."""
        return self._files.get(path)

    def list(self, path: str) -> List[str]:
        """The files of services; cgroups there are none."""
        if path == FOLDER:
            return sorted(name.rpartition("/")[2] for name in self._files)
        self.counts[path] += 1
        return []

    @staticmethod
    def danger(path: str) -> str:
        """All is well."""
        return ""

    def find(self, name: str) -> Optional[str]:
        """There is none."""
        return None

    def run(self, args: Sequence[str], *, data: Optional[str] = None, check: bool = True, killed: bool = False) -> Result:
        """Counted."""
        self.counts["program"] += 1
        return Result(0, "", "")

    @contextmanager
    def lock(self, *, wait: float = 0, path: Optional[str] = None) -> Iterator[None]:
        """Free."""
        yield


def _parsed(numbers: Sequence[int]) -> List[Any]:
    return [item.service for item in parse_list([service(number) for number in numbers])]


@pytest.mark.parametrize(
    ("probed", "asked"),
    [(0, {"getpwuid u0": 1}), (1, {"getgrgid g1": 1}), (2, {f"{CGROUPS}/system.slice": 1}), (3, {})],
    ids=["user", "group", "unit", "addresses"],
)
def test_a_probe_of_one_service_asks_about_its_accounts_alone(monkeypatch: pytest.MonkeyPatch, probed: int, asked: Dict[str, int]) -> None:
    """Names of the others become numbers, once each: whose a port is has to be known."""
    host = Asked()
    by_name: Counts[str] = Counter()

    def numbered(kind: str, name: str) -> Any:
        by_name[f"{kind} {name}"] += 1
        number = 65534 if name == "nobody" else 2000 + int(name[1:])
        return pwd.struct_passwd((name, "x", number, number, "", "", "")) if kind == "user" else grp.struct_group((name, "x", number, []))

    def named(kind: str, number: int) -> Any:
        host.counts[f"{kind} {'u' if kind == 'getpwuid' else 'g'}{number - 2000}"] += 1
        return numbered("user" if kind == "getpwuid" else "group", f"x{number - 2000}")

    def everybody() -> Any:
        raise AssertionError("a probe read all accounts")

    monkeypatch.setattr(pwd, "getpwnam", lambda name: numbered("user", name))
    monkeypatch.setattr(grp, "getgrnam", lambda name: numbered("group", name))
    monkeypatch.setattr(pwd, "getpwuid", lambda number: named("getpwuid", number))
    monkeypatch.setattr(grp, "getgrgid", lambda number: named("getgrgid", number))
    monkeypatch.setattr(pwd, "getpwall", everybody)
    monkeypatch.setattr(grp, "getgrall", everybody)
    attempted: List[Attempt] = []

    def connect(_host: Host, attempts: Sequence[Attempt], *_given: object) -> Tuple[List[Outcome], Callable[[], Counters]]:
        attempted.extend(attempts)
        return [Outcome(error=errno.ETIMEDOUT) for _attempt in attempts], Counters

    monkeypatch.setattr(_probe_run, "_connect", connect)
    monkeypatch.setattr(_probe_run, "counters_reader", lambda _host: lambda: Counters)
    declared = parse_list([service(probed)])
    _probe_run.run_probe(host=host, declared=declared, target=None, timeout=1)
    assert attempted and {attempt.service for attempt in attempted} == {f"s{probed}"}
    assert dict(host.counts) == asked
    names = [name for name in by_name if not name.split()[1].startswith("x")]
    assert len(names) == HOW_MANY // 2 + 1 and {by_name[name] for name in names} == {1}
