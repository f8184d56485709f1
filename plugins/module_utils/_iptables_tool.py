# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs of iptables and ip6tables: what the kernel has, what it would make of rules, and loading."""

from __future__ import annotations

import re
from typing import Dict, List, Optional, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, KilledError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._iptables import FAMILIES, Fence, is_ours
from ansible_collections.portfence.egress.plugins.module_utils._iptables_listing import (
    Part,
    incompatible,
    parse_counters,
    parse_listing,
)
from ansible_collections.portfence.egress.plugins.module_utils._program import Result

VARIANTS = {"nf_tables": "nft", "legacy": "legacy"}
# Seconds that another program may hold the lock of iptables-legacy.
_WAIT = "--wait=60"
_DRY_RUN = '"$1" --noflush && exec "$2"'
_TRANSLATES = re.compile(r" -j (?:SNAT|MASQUERADE|NETMAP)\b")
_LINE = re.compile(r"(?:line: |line )([0-9]+)")


class Iptables:
    """Reads and changes the rules of both families, through the programs of one variant."""

    def __init__(self, host: Host, *, variant: Optional[str] = None) -> None:
        """Raises HostError when a program is missing.

        :param variant: "nft" or "legacy"; without it, what the host calls iptables.
        """
        self._host = host
        self._save: Dict[int, str] = {}
        self._restore: Dict[int, str] = {}
        infix = "" if variant is None else f"-{variant}"
        for family in FAMILIES:
            stem = "iptables" if family == 4 else "ip6tables"
            self._save[family] = host.program(f"{stem}{infix}-save", package="iptables")
            self._restore[family] = host.program(f"{stem}{infix}-restore", package="iptables")
        self.version, self.variant = self._identify()

    def _identify(self) -> Tuple[str, str]:
        found = set()
        for family in FAMILIES:
            # "iptables-restore v1.8.9 (nf_tables)"; before 1.8 there was one variant, and no word for it.
            printed = self._checked([self._restore[family], "--version"]).out
            match = re.search(r"v([0-9]+(?:\.[0-9]+)+)(?: \((nf_tables|legacy)\))?", printed)
            if match is None:
                raise HostError(f"{self._restore[family]} --version printed {printed.strip()!r}, which has no version in it")
            found.add((match[1], VARIANTS[match[2] or "legacy"]))
        if len(found) > 1:
            raise HostError(
                "iptables and ip6tables are not of one version and variant; give both the same one, with update-alternatives"
            )
        return found.pop()

    def live(self) -> Dict[int, Dict[str, Part]]:
        """What is ours in the kernel, by family; families with nothing of ours are left out. Raises HostError."""
        listings = {}
        for family in FAMILIES:
            text = self._checked([self._save[family]]).out
            listing = parse_listing(text)
            if listing:
                listings[family] = listing
        return listings

    def check_tables(self) -> None:
        """Raises HostError when iptables can't see all of a table that the fence needs."""
        for family in FAMILIES:
            for table in incompatible(self._checked([self._save[family]]).out):
                raise HostError(
                    f"{self._save[family]} can't list the table {table}, to which another program than iptables wrote;"
                    " the fence of the backend iptables can't be kept in order there; use the backend nftables, or remove"
                    f" what 'nft list ruleset' shows in table {'ip' if family == 4 else 'ip6'} {table}"
                )

    def check_other_variant(self) -> None:
        """Raises HostError when rules of the other variant translate source addresses or ports.

        Both variants have a chain at the same place, and the one that was registered last translates first. Behind a
        translation of the other one, ours has no effect, and no table of iptables comes later to see that.
        """
        other = "nft" if self.variant == "legacy" else "legacy"
        for family in FAMILIES:
            stem = "iptables" if family == 4 else "ip6tables"
            # To list a table of the legacy variant would make it.
            if other == "legacy" and "nat" not in (self._host.read(f"/proc/net/{stem.replace('tables', '_tables')}_names") or "").split():
                continue
            save = self._host.find(f"{stem}-{other}-save")
            rules = self._checked([save, "-t", "nat"]).out if save else ""
            found = next((line for line in rules.split("\n") if _TRANSLATES.search(line) and not is_ours(line.split()[1])), None)
            if found is not None:
                raise HostError(
                    f"{stem}-{other} has a rule that translates source addresses ({found}); the fence of {stem}-{self.variant} can't be"
                    f" kept behind it: use the backend nftables, or make iptables the variant {other} as well"
                )

    def live_text(self) -> str:
        """Our rules as iptables-save has them, without counts. Raises HostError."""
        return "".join(as_text(family, listing) for family, listing in self.live().items())

    def counters(self) -> Dict[str, Tuple[int, int]]:
        """Counter name to packets and bytes, of both families; empty when there is no fence. Raises HostError."""
        total: Dict[str, Tuple[int, int]] = {}
        for family in FAMILIES:
            found = parse_counters(self._checked([self._save[family], "--counters"]).out)
            for name, (packets, size) in found.items():
                before = total.get(name, (0, 0))
                total[name] = (before[0] + packets, before[1] + size)
        return total

    def canonical(self, fence: Fence) -> Dict[int, Dict[str, Part]]:
        """What the kernel makes of a fence: loaded and listed in throwaway network namespaces. Raises HostError."""
        return {family: parse_listing(self._in_namespace(family, fence.rules(family))) for family in FAMILIES}

    def load(self, family: int, text: str) -> None:
        """Change the tables of a family, each at once. Raises HostError."""
        args = [self._restore[family], "--noflush", _WAIT]
        self._judge(args, self._host.run(args, data=text, check=False, killed=True), text)

    def _in_namespace(self, family: int, text: str) -> str:
        unshare = self._host.program("unshare", package="util-linux")
        args = [unshare, "--net", "/bin/sh", "-c", _DRY_RUN, "sh", self._restore[family], self._save[family]]
        result = self._host.run(args, data=text, check=False, killed=True)
        if result.rc != 0 and result.err.startswith("unshare:"):
            raise HostError(
                "can't make a throwaway network namespace, in which the fence is tried before it is loaded"
                f" ({result.err.strip()}); it needs CAP_SYS_ADMIN and a kernel with network namespaces"
            )
        return self._judge([self._restore[family], "(in a throwaway network namespace)"], result, text).out

    def _checked(self, args: List[str]) -> Result:
        return self._judge(args, self._host.run(args, check=False, killed=True), "")

    @staticmethod
    def _judge(args: List[str], result: Result, text: str) -> Result:
        if result.rc == 0:
            return result
        command = " ".join(args)
        if result.rc > 128:
            raise KilledError(f"{command} crashed (signal {result.rc - 128}); every table is as it was before or as it is to be")
        said = (result.err or result.out).strip()[-2000:]
        number = _LINE.search(said)
        lines = text.split("\n")
        rule = f"; that line is: {lines[int(number[1]) - 1]}" if number and 0 < int(number[1]) <= len(lines) else ""
        raise HostError(f"{command} failed with status {result.rc}: {said}{rule}")


def as_text(family: int, listing: Dict[str, Part]) -> str:
    """A listing for people."""
    lines = []
    for table, part in sorted(listing.items()):
        lines.append(f"{'iptables' if family == 4 else 'ip6tables'} -t {table}")
        lines.extend(f"-A {jump.chain} {jump.rule}  # rule {jump.position}" for jump in part.jumps)
        lines.extend(f"-A {chain} {rule}" for chain, rules in part.chains.items() for rule in rules)
    return "".join(f"{line}\n" for line in lines)
