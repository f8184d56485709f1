# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's JSON listing of nftables → a form that can be compared. Pure."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Match, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils import _json
from ansible_collections.portfence.egress.plugins.module_utils._counters import Counters
from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError

# An empty chain that tells our tables from one that somebody else named alike (nft 0.9.8 does not list table comments as JSON).
MARKER = "managed_by_portfence_egress"

Listing = List[Dict[str, Any]]

# As nft prints them for people: everything in an object is indented twice.
_TABLE_TEXT = re.compile(r"^(table .* \{\n)((?:.*\n)*?)\}\n", re.MULTILINE)
_OBJECT_TEXT = re.compile(r"^\t[^\t\n}].*\{\n(?:\t\t.*\n)*\t\}\n", re.MULTILINE)
_HANDLE_TEXT = re.compile(r"table \S+ \S+ \{ # handle ([0-9]+)\n")
_COUNTER_TEXT = re.compile(
    r"^\tcounter (\S+) \{ # handle ([0-9]+)\n(?:\t\tcomment .*\n)?\t\tpackets ([0-9]{1,20}) bytes ([0-9]{1,20})\n\t\}$", re.ASCII | re.MULTILINE
)


@dataclass(frozen=True)
class Live:
    """What the kernel has of a fence: tables by family, and what they count. False where there are no tables."""

    tables: Dict[str, Listing] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)

    def __bool__(self) -> bool:
        return bool(self.tables)


def parse_tables(printed: Mapping[str, str]) -> Live:
    """``nft -j list table …`` of each family → what is in them. Raises PortFenceError when it is no listing."""
    live = Live()
    for family, text in printed.items():
        with _refused(text, "listing"):
            objects = _objects(text)
            live.tables[family] = _ordered(objects)
            live.counters.counts.update(_counts(objects))
            live.counters.made.update(_made(objects))
    return live


def parse_listing(text: str) -> Listing:
    """Objects of ``nft -j list …``, without what differs between two equal rulesets.

    Handles go, counters are set to zero, objects are sorted by kind and name, elements by value; rules keep their
    order. Raises PortFenceError when it is no listing.
    """
    with _refused(text, "listing"):
        return _ordered(_objects(text))


def _objects(text: str) -> Listing:
    return [item for item in _json.load(text)["nftables"] if "metainfo" not in item]


def _ordered(objects: Listing) -> Listing:
    return sorted(map(_normal, objects), key=_place)


def _counts(objects: Listing) -> Dict[str, Tuple[int, int]]:
    counters = [item["counter"] for item in objects if "counter" in item]
    return {item["name"]: (int(item["packets"]), int(item["bytes"])) for item in counters}


def _made(objects: Listing) -> Dict[str, str]:
    """Counter name to handles: the kernel gives none of them twice, to tables in a network namespace and to what is in a table."""
    table = next((item["table"].get("handle") for item in objects if "table" in item), None)
    return {item["counter"]["name"]: f"{table}.{item['counter'].get('handle')}" for item in objects if "counter" in item}


@contextmanager
def _refused(text: str, what: str) -> Iterator[None]:
    """Raises PortFenceError where nft printed anything else."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PortFenceError(f"nft -j printed something that is no {what}: {text[:200]!r}") from error


def _normal(item: Mapping[str, Any]) -> Dict[str, Any]:
    ((kind, content),) = item.items()
    kept = {key: value for key, value in content.items() if key != "handle"}
    if kind == "counter":
        kept.update(packets=0, bytes=0)
    if "elem" in kept:
        # As text: elements are of different types. One nft prints the keys of all elements of a map in one order.
        kept["elem"] = sorted(kept["elem"], key=repr)
    return {kind: kept}


def _place(item: Mapping[str, Any]) -> Tuple[str, str, str]:
    # Python's sort is stable: rules of one chain stay in the kernel's order.
    ((kind, content),) = item.items()
    name = content["chain" if kind == "rule" else "name"]
    if not isinstance(name, str):
        raise TypeError(name)
    return (content["family"], kind, name)


def family_of(listing: Listing, family: str) -> Listing:
    """Only the objects of one family."""
    return [item for item in listing for content in item.values() if content.get("family") == family]


def names_of(listing: Listing, kind: str) -> List[str]:
    """Names of all objects of a kind (``chain``, ``map``, ``set``, ``counter``, ``limit``)."""
    return [item[kind]["name"] for item in listing if kind in item]


def is_ours(listing: Listing) -> bool:
    """Whether a listed table was written by this collection."""
    return MARKER in names_of(listing, "chain")


def parse_counters(text: str) -> Counters:
    """``nft -a list table …`` → the counters of the table. Raises PortFenceError."""
    table = _HANDLE_TEXT.match(text)
    found = _COUNTER_TEXT.findall(text)
    if table is None or len(found) != text.count("\n\tcounter "):
        raise PortFenceError(f"nft -a printed something that is no list of counters: {text[:200]!r}")
    return Counters(
        {name: (int(packets), int(size)) for name, _handle, packets, size in found},
        {name: f"{table.group(1)}.{handle}" for name, handle, _packets, _size in found},
    )


def without_elements(listing: Listing, maps: Sequence[str]) -> Listing:
    """The listing with these maps empty."""
    return [
        {kind: {key: value for key, value in content.items() if key != "elem"}}
        if kind == "map" and content["name"] in maps
        else item
        for item in listing
        for kind, content in item.items()
    ]


def in_order(text: str) -> str:
    """``nft list table …`` with the objects of each table by kind and name: the kernel has them in the order in which they were made."""
    return _TABLE_TEXT.sub(_ordered_table, text)


def _ordered_table(table: Match[str]) -> str:
    head, body = table.group(1), table.group(2)
    if _OBJECT_TEXT.sub("", body).strip():
        return table.group(0)
    return head + "\n".join(sorted(_OBJECT_TEXT.findall(body))) + "}\n"


def kept_maps(now: Listing, then: Listing) -> Dict[str, Tuple[Dict[str, str], Dict[str, str]]]:
    """Maps of owners that both listings of a table have, by name: the elements of each as key to verdict, as nft takes them.

    Maps of ranges and addresses are not among them: nft 1.0.6 only loads their elements along with the map. Nor is a map in which
    somebody put an element that we would not, such as one with a comment.
    """
    found = {}
    before = {item["map"]["name"]: item["map"] for item in now if "map" in item}
    for item in then:
        wanted = item.get("map")
        if wanted is None or "flags" in wanted or wanted.get("type") == "cgroupsv2":
            continue
        had = before.get(wanted["name"])
        if had is not None and {**had, "elem": None} == {**wanted, "elem": None}:
            has, wants = _verdicts(had), _verdicts(wanted)
            if has is not None and wants is not None:
                found[wanted["name"]] = (has, wants)
    return found


def _verdicts(content: Mapping[str, Any]) -> Optional[Dict[str, str]]:
    """Key to verdict; None where there is another kind of element."""
    found = {}
    for key, verdict in _pairs(content):
        parts = key.get("concat") if isinstance(key, dict) else [key]
        if verdict is None or not isinstance(parts, list) or not all(isinstance(part, (int, str)) for part in parts):
            return None
        found[" . ".join(map(str, parts))] = verdict
    return found


def _pairs(content: Mapping[str, Any]) -> Iterator[Tuple[Any, Optional[str]]]:
    """Keys of a map with their verdicts as nft takes them; None where there is another kind of element."""
    for element in content.get("elem", ()):
        key, verdict = element if isinstance(element, list) and len(element) == 2 else (None, None)
        kind, target = list(verdict.items())[0] if isinstance(verdict, dict) and len(verdict) == 1 else (None, None)
        if isinstance(target, dict) and isinstance(target.get("target"), str):
            yield key, f"{kind} {target['target']}"
        else:
            yield key, kind if target is None else None


def elements_of(listing: Listing, name: str) -> Dict[str, str]:
    """Key to verdict (``jump NAME``, ``accept``) of a verdict map; none where there is no such map."""
    found: Dict[str, str] = {}
    for item in listing:
        if "map" in item and item["map"]["name"] == name:
            found.update((str(key), verdict) for key, verdict in _pairs(item["map"]) if verdict is not None)
    return found
