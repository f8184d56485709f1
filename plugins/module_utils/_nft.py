# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The nft program: what the kernel has, what it would make of a text, and loading."""

from __future__ import annotations

import re
from typing import Callable, List, Optional, Tuple

from ansible_collections.portfence.egress.plugins.module_utils import _json
from ansible_collections.portfence.egress.plugins.module_utils._counters import Counters
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, KilledError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._nft_listing import (
    Listing,
    Live,
    in_order,
    parse_counters,
    parse_listing,
    parse_tables,
)
from ansible_collections.portfence.egress.plugins.module_utils._nft_names import CHECK_FAMILY, FAMILIES, TABLE
from ansible_collections.portfence.egress.plugins.module_utils._program import Result

# The oldest version that this collection is tested with (Debian 11).
OLDEST = (0, 9, 8)

# For parse_counters(); a name is still to come.
LIST_COUNTERS = ("-a", "-t", "list", "table", CHECK_FAMILY)

# ENOENT in the words of the C library; programs are run with LC_ALL=C.
_ABSENT = "No such file or directory"
# A network namespace of its own is thrown away with the shell in it. "$1" is nft, the rest its arguments for listing.
_DRY_RUN = 'nft=$1; shift; "$nft" -f - && exec "$nft" "$@" list ruleset'


class Nft:
    """Reads and changes nftables through the nft program."""

    def __init__(self, host: Host) -> None:
        """Raises HostError when nft is missing or too old, or fails."""
        self._host = host
        self.path = host.program("nft", package="nftables")
        self.version = self._version()

    def _version(self) -> str:
        printed = self._checked([self.path, "--version"]).out
        found = re.search(r"v([0-9]+)\.([0-9]+)(?:\.([0-9]+))?", printed)
        if found is None:
            raise HostError(f"{self.path} --version printed {printed.strip()!r}, which has no version in it")
        if tuple(int(part or 0) for part in found.groups()) < OLDEST:
            needed = ".".join(str(part) for part in OLDEST)
            raise HostError(f"{self.path} is version {found.group(0)[1:]}; the fence needs nft {needed} or newer")
        return found.group(0)[1:]

    def knows_cgroups(self) -> bool:
        """Whether it has ``socket cgroupv2`` (nftables 0.9.9)."""
        return tuple(map(int, self.version.split("."))) >= (0, 9, 9)

    def begin(self) -> Callable[[], Live]:
        """Let nft read the tables of our name, of all families at once. What this gives is to be called for them, once; that raises HostError.

        Raises HostError.
        """
        commands = {family: [self.path, "-j", "list", "table", family, TABLE] for family in FAMILIES}
        running = {family: self._host.start(command) for family, command in commands.items()}

        def finish() -> Live:
            results = {family: program.result(check=False, killed=True) for family, program in running.items()}
            printed = {family: self._unless_absent(commands[family], result) for family, result in results.items()}
            return parse_tables({family: text for family, text in printed.items() if text is not None})

        return finish

    def live_text(self) -> str:
        """Our tables as nft prints them, without counts; empty when there is none. Raises HostError."""
        return in_order("".join(self._if_there(["-s", "list", "table", family, TABLE]) or "" for family in sorted(FAMILIES)))

    def begin_counters(self) -> Callable[[], Counters]:
        """Let nft read the counters of the fence; none when there is no fence. As :meth:`begin`.

        The table is listed, without what is in maps: a list of counters does not say which table they are in, of those that had its name one
        after the other, and for one, nft 1.0.6 reads the tables of others as well. As text, as JSON takes it half as long again.
        """
        command = [self.path, *LIST_COUNTERS, TABLE]
        running = self._host.start(command)

        def finish() -> Counters:
            printed = self._unless_absent(command, running.result(check=False, killed=True))
            return Counters() if printed is None else parse_counters(printed)

        return finish

    def canonical(self, text: str) -> Listing:
        """What the kernel makes of a text: loaded and listed in a throwaway network namespace. Raises HostError."""
        return parse_listing(self._in_namespace(text, ["-j"]))

    def canonical_text(self, text: str) -> str:
        """The same as nft prints it, for people. Raises HostError."""
        return in_order(self._in_namespace(text, ["-s"]))

    def load(self, text: str) -> None:
        """Change the kernel in one transaction: all of the text or nothing. Raises HostError."""
        self._checked([self.path, "-f", "-"], data=text)

    def tables_if_works(self) -> Optional[List[Tuple[str, str]]]:
        """Family and name of every table that has a chain; None where the kernel can't be asked. Raises KilledError.

        To list tables, nft reads everything that is in them; to list chains, it reads these.
        """
        args = [self.path, "-j", "list", "chains"]
        result = self._host.run(args, check=False, killed=True)
        if result.rc > 128:
            self._judge(args, result)
        if result.rc != 0:
            return None
        printed = result.out
        try:
            chains = [item["chain"] for item in _json.load(printed)["nftables"] if "chain" in item]
            return sorted({(chain["family"], chain["table"]) for chain in chains})
        except (ValueError, KeyError, TypeError) as error:
            raise HostError(f"nft -j list chains printed something that is no listing: {printed[:200]!r}") from error

    def _in_namespace(self, text: str, listing: List[str]) -> str:
        unshare = self._host.program("unshare", package="util-linux")
        args = [unshare, "--net", "/bin/sh", "-c", _DRY_RUN, "sh", self.path, *listing]
        result = self._host.run(args, data=text, check=False, killed=True)
        if result.rc != 0 and result.err.startswith("unshare:"):
            raise HostError(
                "can't make a throwaway network namespace, in which the fence is tried before it is loaded"
                f" ({result.err.strip()}); it needs CAP_SYS_ADMIN and a kernel with network namespaces"
            )
        return self._judge([self.path, "-f", "- (in a throwaway network namespace)"], result).out

    def _if_there(self, args: List[str]) -> Optional[str]:
        """What nft prints of a table, or None where there is no such table. Raises HostError.

        To list all tables first would take as long as one with a large fence: nft reads everything for it.
        """
        command = [self.path, *args]
        return self._unless_absent(command, self._host.run(command, check=False, killed=True))

    def _unless_absent(self, command: List[str], result: Result) -> Optional[str]:
        if result.rc == 1 and _ABSENT in result.err:
            return None
        return self._judge(command, result).out

    def _checked(self, args: List[str], *, data: str = "") -> Result:
        return self._judge(args, self._host.run(args, data=data, check=False, killed=True))

    @staticmethod
    def _judge(args: List[str], result: Result) -> Result:
        if result.rc == 0:
            return result
        command = " ".join(args)
        if result.rc > 128:
            raise KilledError(
                f"{command} crashed (signal {result.rc - 128}); the kernel has the tables of before or the new ones, whole."
                " An nft older than the one that wrote some other table can crash while it reads that table: see"
                " 'nft list ruleset'"
            )
        raise HostError(f"{command} failed with status {result.rc}: {(result.err or result.out).strip()[-2000:]}")
