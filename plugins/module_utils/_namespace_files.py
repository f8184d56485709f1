# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that the network namespaces of services are kept in: what is wanted, what is there, who wrote it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils import _json
from ansible_collections.portfence.egress.plugins.module_utils import _namespace_text as text
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, InputError, Problem
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._namespace import FAMILIES
from ansible_collections.portfence.egress.plugins.module_utils._namespace_spec import Namespace, parse
from ansible_collections.portfence.egress.plugins.module_utils._namespace_text import Forwarding
from ansible_collections.portfence.egress.plugins.module_utils._nft_names import INNER_TABLE
from ansible_collections.portfence.egress.plugins.module_utils._staged import TEMPORARY, StagedFiles
from ansible_collections.portfence.egress.plugins.module_utils._store import BASE, RUN

# Where systemd looks for units: what is kept for boot, and what is gone with it.
UNITS = {BASE: "/etc/systemd/system", RUN: "/run/systemd/system"}
RESOLVERS = "/etc/netns"
_WANTS = "sysinit.target.wants"
# What can be written between quotes for nft, of the names that the kernel takes (dev_valid_name()).
_INTERFACE = re.compile(r'[^\s/:"\x00-\x1f\x7f]{1,15}')
_UNIT = re.compile(r"^portfence-namespace@(.+)\.service$")
_JOINED = re.compile(r"^NetworkNamespacePath=/run/netns/(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Kept:
    """A namespace, and whether it is kept for boot (below BASE) or until then (below RUN)."""

    namespace: Namespace
    base: str = BASE

    @property
    def folder(self) -> str:
        """Where its own files are."""
        return f"{self.base}/namespaces.d"

    @property
    def path(self) -> str:
        """The file that declares it."""
        return f"{self.folder}/{self.namespace.name}.json"

    @property
    def script(self) -> str:
        """The script that makes it."""
        return f"{self.folder}/{self.namespace.name}.sh"

    @property
    def rules(self) -> str:
        """The fence inside, as text for nft."""
        return text.rules_text(INNER_TABLE, text.inner_rules(self.namespace))


@dataclass(frozen=True)
class Files:
    """Text of files by path, and symbolic links with their targets."""

    texts: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


def host_base(target: Mapping[str, Kept]) -> str:
    """Where the host's side is kept: for boot, when one of the namespaces is. Pure."""
    return BASE if any(item.base == BASE for item in target.values()) else RUN


def host_rules(target: Mapping[str, Kept], *, families: Sequence[str], forwarding: Forwarding) -> str:
    """The rules of the host for these namespaces, as text for nft. Pure."""
    namespaces = [item.namespace for item in target.values()]
    return text.rules_text(text.HOST_TABLE, text.host_rules(namespaces, families=families, forwarding=forwarding))


def wanted_files(target: Mapping[str, Kept], *, families: Sequence[str], forwarding: Forwarding) -> Files:
    """Every file that these namespaces need. Pure."""
    if not target:
        return Files()
    base = host_base(target)
    units = UNITS[base]
    script = f"{base}/namespaces.sh"
    texts = {
        f"{base}/namespaces.json": _dump(forwarding.to_dict()),
        script: text.host_script(rules=host_rules(target, families=families, forwarding=forwarding), forwarding=forwarding),
        f"{units}/{text.HOST_UNIT}": text.host_unit(script=script, folder=base),
        f"{units}/{text.NFTABLES_DROP_IN}": text.nftables_drop_in(script),
    }
    links = {f"{units}/{_WANTS}/{text.HOST_UNIT}": f"../{text.HOST_UNIT}"} if base == BASE else {}
    for item in target.values():
        namespace, units = item.namespace, UNITS[item.base]
        unit = text.unit_of(namespace.name)
        texts[item.path] = _dump(namespace.to_dict())
        texts[item.script] = text.namespace_script(namespace, rules=item.rules, families=families)
        texts[f"{units}/{unit}"] = text.namespace_unit(namespace, script=item.script, folder=item.folder)
        if item.base == BASE:
            links[f"{units}/{_WANTS}/{unit}"] = f"../{unit}"
        if namespace.dns:
            texts[text.resolver_path(namespace.name)] = text.resolver_text(namespace)
        for joining in namespace.units:
            texts[f"{units}/{joining}.d/{text.DROP_IN}"] = text.drop_in(namespace, joining)
    return Files(texts, links)


def _dump(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def names_in(files: Files) -> List[str]:
    """Names of the namespaces that files declare or make at boot, whether anybody can read these or not. Pure."""
    found = set()
    for folder, entry in map(os.path.split, files.texts):
        if folder.endswith("/namespaces.d") and entry.endswith(".json"):
            found.add(entry[: -len(".json")])
        elif folder in UNITS.values():
            found.update(_UNIT.findall(entry))
    return sorted(found)


def units_in(files: Files) -> Dict[str, List[str]]:
    """The units that drop-ins put into namespaces, by the name of these. Pure."""
    found: Dict[str, List[str]] = {}
    for folder, entry in map(os.path.split, files.texts):
        if entry == text.DROP_IN:
            for name in _JOINED.findall(files.texts[f"{folder}/{entry}"]):
                found.setdefault(name, []).append(os.path.basename(folder)[: -len(".d")])
    return found


def unreadable_record() -> HostError:
    """The error of who can't do without the record of the host's forwarding."""
    return HostError(
        f"{BASE}/namespaces.json can't be read; it says what this host did not forward before it had a namespace:"
        ' write it, such as {"opened": ["ipv4", "ipv6"], "kept": []}, or {"opened": [], "kept": []} on a router'
    )


class Folder:
    """The files on this machine."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def stored(self) -> Dict[str, Kept]:
        """The namespaces that the host was told of, by name. Raises InputError with every file that can't be used."""
        found: Dict[str, Kept] = {}
        problems: List[Problem] = []
        for base in (BASE, RUN):
            folder = f"{base}/namespaces.d"
            for name in [entry[: -len(".json")] for entry in self._host.list(folder) if entry.endswith(".json")]:
                path = f"{folder}/{name}.json"
                try:
                    danger = self._host.danger(path)
                    if danger:
                        raise ValueError(danger)
                    content = _json.load(self._host.read(path) or "")
                    if not isinstance(content, dict) or content.get("name") != name:
                        raise ValueError(f'the key name must be "{name}", like the file')
                    found[name] = Kept(parse(content, path=path, problems=problems), base)
                except (ValueError, TypeError) as error:
                    problems.append(Problem(path, f"{error}; mend or remove the file"))
        if problems:
            raise InputError(what="the network namespaces stored on this host", problems=problems)
        return dict(sorted(found.items()))

    def record(self) -> Optional[Forwarding]:
        """What was known about the host's forwarding at the last run; None where nothing says it. Raises HostError."""
        content = next((found for found in map(self._recorded, (BASE, RUN)) if found is not None), None)
        if content is None:
            return None
        try:
            known = _json.load(content)
            found = Forwarding(tuple(known["opened"]), tuple(known["kept"]))
            # They become a part of rules and of a script.
            if not set(found.opened) <= set(FAMILIES) or not all(_INTERFACE.fullmatch(name) for name in found.kept):
                raise ValueError(content)
            return found
        except (ValueError, KeyError, TypeError):
            raise unreadable_record() from None

    def _recorded(self, base: str) -> Optional[str]:
        """The record, or its copy in the script."""
        copies = (self._host.read(f"{base}/namespaces.sh") or "").split("\n")
        copy = next((line[len(text.RECORD) :] for line in copies if line.startswith(text.RECORD)), None)
        found = self._host.read(f"{base}/namespaces.json")
        return copy if found is None else found

    def present(self) -> Files:
        """All files and links of ours, whether still wanted or not. Raises HostError."""
        paths: List[str] = []
        links: Dict[str, str] = {}
        for base, units in UNITS.items():
            # Rules had files of their own once.
            single = [*(f"{base}/namespaces.{kind}" for kind in ("json", "nft", "sh")), f"{units}/{text.NFTABLES_DROP_IN}"]
            paths += [f"{path}{ending}" for path in single for ending in ("", TEMPORARY)]
            paths += [f"{base}/namespaces.d/{name}" for name in self._host.list(f"{base}/namespaces.d")]
            for name in self._host.list(units):
                if _is_unit(name[: -len(TEMPORARY)] if name.endswith(TEMPORARY) else name):
                    paths.append(f"{units}/{name}")
                elif name.endswith(".d"):
                    paths.append(f"{units}/{name}/{text.DROP_IN}")
            for name in self._host.list(f"{units}/{_WANTS}"):
                path = f"{units}/{_WANTS}/{name}"
                if _is_unit(name) and os.path.islink(path):
                    links[path] = os.readlink(path)
        paths += [f"{RESOLVERS}/{name}/resolv.conf" for name in self._host.list(RESOLVERS)]
        found = {path: self._read(path) for path in paths}
        ours = {path: content for path, content in found.items() if content is not None and _is_ours(path, content)}
        for path in ours:
            self._host.require_own(path)
        return Files(ours, links)

    def _read(self, path: str) -> Optional[str]:
        """The text of a file of ours, or of somebody else in its place. A DNS file of theirs is often a link to what another account writes."""
        return self._host.read_others(path) if path.startswith(f"{RESOLVERS}/") else self._host.read(path)

    def check_owners(self, files: Files) -> None:
        """Raises HostError when a file of somebody else is where one of ours has to be."""
        for path in files.texts:
            found = self._read(path)
            if found is not None and not _is_ours(path, found):
                raise HostError(f"{path} exists and was not written by this collection; rename or remove it")

    def steps(self, wanted: Files, present: Files) -> Tuple[List[str], List[str]]:
        """Paths to write, and paths to remove. Pure."""
        write = [path for path, content in wanted.texts.items() if present.texts.get(path) != content]
        write += [path for path, target in wanted.links.items() if present.links.get(path) != target]
        remove = [path for path in (*present.texts, *present.links) if path not in wanted.texts and path not in wanted.links]
        return write, remove

    def stage(self, wanted: Files, paths: Sequence[str]) -> StagedFiles:
        """Write those of these that are no links beside their places. Raises HostError, with nothing left."""
        for folder in [folder for path in paths for folder in _parents(path)]:
            if os.path.lexists(folder):
                self._host.check_directory(folder)
        texts = {path: wanted.texts[path] for path in paths if path in wanted.texts}
        return self._host.stage_all(texts, mode=lambda path: 0o755 if path.endswith(".sh") else 0o644)

    def write(self, wanted: Files, paths: Sequence[str], staged: StagedFiles) -> None:
        """Have these in their places. Raises HostError.

        :param staged: what :meth:`stage` made of them.
        """
        for path in paths:
            if path in wanted.texts:
                staged.promote([path])
                continue
            self._host.make_directory(os.path.dirname(path))
            self._host.link(path, wanted.links[path])

    def remove(self, paths: Sequence[str]) -> None:
        """Remove these, and the folders that are empty then. Raises HostError.

        The record of the host's forwarding goes last: as long as there is a namespace, the next run can't do without it.
        """
        records = {f"{base}/namespaces.{kind}" for base in UNITS for kind in ("json", "sh")}
        for path in sorted(paths, key=lambda path: path in records):
            self._host.remove(path)
            for folder in reversed(_parents(path)):
                if folder not in UNITS.values() and not folder.endswith(_WANTS):
                    self._host.remove_directory(folder)


def _is_unit(name: str) -> bool:
    """Whether a unit of ours has this name. Pure. What systemd keeps of one beside it has another: its drop-ins, or units that it wants."""
    return name == text.HOST_UNIT or _UNIT.match(name) is not None


def _is_ours(path: str, content: str) -> bool:
    if path.startswith((f"{BASE}/", f"{RUN}/")):
        return True
    return text.HEADER in content[:300]


def _parents(path: str) -> List[str]:
    """The folders on the way to a file that may have to be made, outermost first. Pure."""
    folder = os.path.dirname(path)
    for top in (*UNITS.values(), RESOLVERS, BASE, RUN):
        if folder == top or folder.startswith(f"{top}/"):
            above = [folder] if folder != top else []
            return [top, *above]
    return [folder]
