# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of one name in a network namespace, this process's own or another: compared, and changed in one transaction."""

from __future__ import annotations

from typing import Dict, List, Mapping, Sequence

from ansible_collections.portfence.egress.plugins.module_utils import _json
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._nft import Nft
from ansible_collections.portfence.egress.plugins.module_utils._nft_listing import Listing, family_of, is_ours, names_of, parse_listing

# nft(8), ADDRESS FAMILIES.
_FAMILIES = frozenset(("ip", "ip6", "inet", "arp", "bridge", "netdev"))
# They live on unless they differ; rules go with the flush of their table.
_KEPT = ("table", "rule")
# Objects that others hold references to go last.
_ORDER = {"map": 0, "set": 1, "chain": 2}


class Tables:
    """The tables of one name."""

    def __init__(self, *, host: Host, nft: Nft, name: str, enter: Sequence[str] = ()) -> None:
        """:param enter: a command that runs the one behind it in another network namespace."""
        self._host = host
        self._nft = nft
        self.name = name
        self._command = [*enter, nft.path]

    def live(self) -> Dict[str, Listing]:
        """By family. Raises HostError, also when somebody else made one of them."""
        printed = self._host.run([*self._command, "-j", "list", "tables"]).out
        try:
            tables = [item["table"] for item in _json.load(printed)["nftables"] if "table" in item]
            families = [table["family"] for table in tables if table["name"] == self.name]
            if not _FAMILIES.issuperset(families):
                raise ValueError(families)
        except (ValueError, KeyError, TypeError) as error:
            raise HostError(f"nft -j list tables printed something that is no listing: {printed[:200]!r}") from error
        found = {
            family: parse_listing(self._host.run([*self._command, "-j", "list", "table", family, self.name]).out)
            for family in families
        }
        for family, listing in found.items():
            if not is_ours(listing):
                raise HostError(
                    f"table {family} {self.name} exists and was not written by this collection; look at it with"
                    f" '{' '.join(self._command)} list table {family} {self.name}', then rename or delete it"
                )
        return found

    def wanted(self, text: str) -> Dict[str, Listing]:
        """What the kernel makes of a text, by family. Raises HostError."""
        listing = self._nft.canonical(text)
        families = [item["table"]["family"] for item in listing if "table" in item]
        return {family: family_of(listing, family) for family in families}

    def load(self, text: str) -> None:
        """Change the kernel in one transaction. Raises HostError."""
        self._host.run([*self._command, "-f", "-"], data=text)


def transaction(*, name: str, live: Mapping[str, Listing], wanted: Mapping[str, Listing], bodies: str) -> str:
    """The one ``nft -f`` input that turns the live tables into the wanted ones. Pure.

    Counters and base chains that stay are never deleted, so no count is lost and no packet passes in between.

    :param bodies: the wanted tables as text.
    """
    lines: List[str] = []
    for family, now in live.items():
        table = f"{family} {name}"
        if family not in wanted:
            lines.append(f"delete table {table}")
            continue
        lines.append(f"flush table {table}")
        declared = wanted[family]
        kinds = sorted({kind for item in now for kind in item} - set(_KEPT), key=lambda kind: (_ORDER.get(kind, 3), kind))
        for kind in kinds:
            keeps = [item for item in declared if kind in item]
            stale = [item for item in now if kind in item and item not in keeps]
            lines.extend(f"delete {kind} {table} {gone}" for gone in names_of(stale, kind))
    return "\n".join([*lines, bodies])


def removal(*, name: str, live: Mapping[str, Listing]) -> str:
    """The ``nft -f`` input that takes the tables away. Pure."""
    return "".join(f"delete table {family} {name}\n" for family in live)
