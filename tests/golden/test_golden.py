# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The specification of the compiler: a policy in, the ruleset out.

Each directory NN-name holds ``policy.yml`` (variables as in an inventory), where names are used ``ids.yml`` (what the
name service of the host knows), and what becomes of them: ``nftables.nft`` and ``iptables.rules``, or ``errors.txt`` for a
policy with mistakes. ``iptables-errors.txt`` stands for rules where iptables can't express the policy.
``scripts/run pytest tests/golden --update-golden`` writes the results anew; look at them with ``git diff``.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import pytest
import yaml
from ansible_collections.portfence.egress.plugins.module_utils import _plan
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError
from ansible_collections.portfence.egress.plugins.module_utils._iptables import unsupported
from ansible_collections.portfence.egress.plugins.module_utils._nft_listing import Listing, parse_listing
from ansible_collections.portfence.egress.tests.unit.nft_model import read
from ansible_collections.portfence.egress.tests.unit.pipeline import Compiled, compile_policy, lookup

CASES = sorted(path.parent for path in Path(__file__).parent.glob("*/policy.yml"))
FENCES = [case for case in CASES if not (case / "errors.txt").exists()]


def compiled(case: Path) -> Compiled:
    """What becomes of the policy of a case. Raises InputError."""
    policy = yaml.safe_load((case / "policy.yml").read_text(encoding="utf-8"))
    ids = yaml.safe_load((case / "ids.yml").read_text(encoding="utf-8")) if (case / "ids.yml").exists() else {}
    result = compile_policy(policy, names=lookup(users=ids.get("users"), groups=ids.get("groups")))
    if result.problems:
        raise InputError(what="the policy of this host", problems=result.problems)
    return result


def results(case: Path) -> Dict[str, str]:
    """The files that a case has beside its policy."""
    try:
        result = compiled(case)
    except InputError as error:
        return {"errors.txt": f"{error}\n"}
    refused = unsupported(result.ruleset)
    if refused:
        rules = {"iptables-errors.txt": "".join(f"{name}.{key}: {message}\n" for name, key, message in refused)}
    else:
        texts = [f"# {title}\n{result.rules.rules(family)}" for title, family in (("IPv4", 4), ("IPv6", 6))]
        rules = {"iptables.rules": "\n".join(texts)}
    return {"nftables.nft": result.fence.text, **rules}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_policy_in_ruleset_out(case: Path, pytestconfig: pytest.Config) -> None:
    files = results(case)
    if pytestconfig.getoption("--update-golden"):
        for path in case.iterdir():
            if path.name not in ("policy.yml", "ids.yml"):
                path.unlink()
        for name, text in files.items():
            (case / name).write_text(text, encoding="utf-8")
    assert {path.name for path in case.iterdir()} - {"policy.yml", "ids.yml"} == set(files)
    for name, text in files.items():
        assert text == (case / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("case", FENCES, ids=lambda case: case.name)
def test_no_packet_makes_anything_grow(case: Path) -> None:
    """Whatever logs has its own limit and that of the host in front of it, and no rule keeps a list of what it saw."""
    # Without a mode, hashlimit has one entry.
    bucket = "-m hashlimit --hashlimit-upto 5/second --hashlimit-burst 200 --hashlimit-name portfence-5-200 --hashlimit-htable-expire 80000"
    limited_nft = r'\tlimit rate \d+/\w+ limit name "logged" log prefix '
    limited_iptables = rf"-m limit --limit \d+/\w+ --limit-burst [1-5] {bucket} -j LOG "
    for name, text in results(case).items():
        limited = limited_nft if name.endswith(".nft") else limited_iptables
        logs = re.findall(r".*\blog prefix\b.*|.*-j LOG\b.*", text)
        assert all(re.search(limited, line) for line in logs)
        assert not re.search(r"\b(?:add|update) @|\bdynamic\b|\btimeout\b|-m (?:recent|hashlimit|connlimit)|-j SET\b", text.replace(bucket, ""))


class Kernel:
    """nftables of a network namespace of its own."""

    def __init__(self, pid: int) -> None:
        self._enter = ["nsenter", f"--net=/proc/{pid}/ns/net", "--"]

    def nft(self, *args: str, data: str = "") -> str:
        """Run nft, which must succeed and have nothing to complain about."""
        done = subprocess.run([*self._enter, "nft", *args], input=data, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), f"nft {' '.join(args)}: {done.returncode} {done.stderr}"
        return done.stdout

    def load(self, text: str) -> None:
        """Load a text as the module and the boot unit do."""
        self.nft("-f", "-", data=text)

    def tables(self) -> Dict[str, Listing]:
        """Our tables by family, as the module lists them."""
        found = json.loads(self.nft("-j", "list", "tables"))["nftables"]
        families = [item["table"]["family"] for item in found if "table" in item]
        return {family: parse_listing(self.nft("-j", "list", "table", family, "portfence")) for family in families}

    def packets(self) -> Dict[str, int]:
        """What the counters of the fence stand at."""
        found = json.loads(self.nft("-j", "list", "counters", "table", "inet", "portfence"))["nftables"]
        return {item["counter"]["name"]: item["counter"]["packets"] for item in found if "counter" in item}


@pytest.fixture(name="kernel")
def fixture_kernel() -> Iterator[Kernel]:
    """An empty network namespace, which goes with the process that holds it."""
    # The shell says so once it is in there; cat then waits until its input is closed.
    holding = ["unshare", "--net", "sh", "-c", "echo ready; exec cat"]
    with subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
        yield Kernel(holder.pid)


@pytest.mark.parametrize("case", FENCES, ids=lambda case: case.name)
def test_the_kernel_takes_it_again_and_again(case: Path, kernel: Kernel) -> None:
    """A file that is loaded twice, as by a reload of the boot unit, changes nothing."""
    text = (case / "nftables.nft").read_text(encoding="utf-8")
    kernel.load(text)
    first = kernel.tables()
    kernel.load(text)
    assert kernel.tables() == first
    assert set(kernel.packets()) == set(read(compiled(case).fence.body)["inet"].counters)


def transitions() -> List[Tuple[Path, Path]]:
    """Every fence before and behind two others: a neighbour and a distant one."""
    count = len(FENCES)
    return [(FENCES[index], FENCES[(index + step) % count]) for step in (1, count // 2) for index in range(count)]


@pytest.mark.parametrize(("before", "after"), transitions(), ids=lambda case: case.name)
def test_one_fence_becomes_another_in_one_transaction(before: Path, after: Path, kernel: Kernel) -> None:
    """The result is the new fence as if it had been loaded alone, and what stays keeps its count."""
    old, new = compiled(before).fence, compiled(after).fence
    kernel.load(new.text)
    wanted = kernel.tables()
    kernel.nft("flush", "ruleset")

    counts = {name: index + 1 for index, name in enumerate(read(old.body)["inet"].counters)}
    counters = "".join(f"\tcounter {name} {{ packets {count} bytes {40 * count} }}\n" for name, count in counts.items())
    kernel.load(f"table inet portfence {{\n{counters}}}\n")
    kernel.load(old.text)
    assert kernel.packets() == counts, "a file that is loaded again keeps counts"
    listing = [item for table in wanted.values() for item in table]
    kernel.load(_plan.transaction(live=kernel.tables(), wanted=listing, fence=new, cgroups={}))

    now = kernel.tables()
    assert {family: now[family] for family in new.tables} == wanted
    assert kernel.packets() == {name: counts.get(name, 0) for name in read(new.body)["inet"].counters}
