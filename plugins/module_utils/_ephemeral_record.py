# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who wants which ports on a host: one owner's claim, and the two places where claims are written down. Pure.

The file in ``/etc/sysctl.d`` is what the next boot goes by. Its comments hold the claims, its settings what follows
from them. The record below ``/run`` lives as long as the values in the kernel, and says which of these are ours; while
it is there it counts, so that a file that was changed or deleted by hand can be mended.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Dict, Iterable, List, Mapping, Optional

from ansible_collections.portfence.egress.plugins.module_utils import _json
from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_boot import FILE, RANGE_KEY, RESERVED_KEY
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortRange, PortSet, PortSyntaxError
from ansible_collections.portfence.egress.plugins.module_utils._sysctl import kernel_ports, key_of

HEADER = "# Written by the Ansible module portfence.egress.ephemeral_ports. Changes by hand are put back.\n"
_OWNER = re.compile(r"^# owner ([A-Za-z0-9_.-]{1,64}):(?: reserved_ports=(\S+))?(?: local_port_range=(\S+))?$")
_BEFORE = re.compile(r"^# before the first owner: local_port_range=(\S+)$")


@dataclass(frozen=True)
class Claim:
    """What one owner wants.

    :ivar ports: the ports that it keeps out of automatic choice.
    :ivar port_range: the range of automatic choice, if it sets it.
    :ivar persist: whether this holds after a reboot.
    """

    ports: PortSet = PortSet()
    port_range: Optional[PortRange] = None
    persist: bool = True

    def __bool__(self) -> bool:
        return bool(self.ports) or self.port_range is not None

    def to_dict(self, name: str) -> Dict[str, object]:
        """The claim as an item of the parameter ``owners``."""
        return {
            "name": name,
            "reserved_ports": [str(part) for part in self.ports],
            "local_port_range": None if self.port_range is None else str(self.port_range),
            "persist": self.persist,
        }


@dataclass(frozen=True)
class Record:
    """The claims on a host or in a network namespace, and what was there before them.

    :ivar reserved_before: those of the claimed ports that somebody else had reserved when they were claimed.
    :ivar range_before: the range of automatic choice before the first claim set it.
    """

    claims: Mapping[str, Claim] = field(default_factory=dict)
    reserved_before: PortSet = PortSet()
    range_before: Optional[PortRange] = None

    @property
    def ports(self) -> PortSet:
        """The reserved ports of all owners."""
        return _union(self.claims.values())

    @property
    def persistent(self) -> Mapping[str, Claim]:
        """The claims that hold after a reboot."""
        return {name: claim for name, claim in self.claims.items() if claim.persist}

    @property
    def persistent_ports(self) -> PortSet:
        """The reserved ports of all owners that hold after a reboot."""
        return _union(self.persistent.values())

    @property
    def port_range(self) -> Optional[PortRange]:
        """The range that an owner set, if any. All that set one agree."""
        return _range(self.claims.values())

    def owners(self) -> List[Dict[str, object]]:
        """The claims as the parameter ``owners``, sorted by name."""
        return [claim.to_dict(name) for name, claim in sorted(self.claims.items())]


def _union(claims: Iterable[Claim]) -> PortSet:
    return PortSet.of(part for claim in claims for part in claim.ports)


def _range(claims: Iterable[Claim]) -> Optional[PortRange]:
    return next((claim.port_range for claim in claims if claim.port_range is not None), None)


def owner_line(name: str, claim: Claim) -> str:
    """The comment that holds a claim."""
    parts = [f"# owner {name}:"]
    if claim.ports:
        parts.append(f"reserved_ports={claim.ports}")
    if claim.port_range is not None:
        parts.append(f"local_port_range={claim.port_range}")
    return " ".join(parts) + "\n"


def file_text(record: Record, *, declared: PortSet) -> Optional[str]:
    """The file for sysctl.d, or None when no claim needs one.

    :param declared: reserved ports of all other sysctl files: ours replaces the value of those that are read before it.
    """
    claims = record.persistent
    if not claims:
        return None
    port_range = _range(claims.values())
    ports = _union(claims.values())
    text = HEADER + "".join(owner_line(name, claim) for name, claim in sorted(claims.items()))
    if port_range is not None and record.range_before is not None:
        text += f"# before the first owner: local_port_range={record.range_before}\n"
    if port_range is not None:
        text += f"{RANGE_KEY} = {port_range.low} {port_range.high}\n"
    if ports:
        text += "# The ports of the owners, and those of the other sysctl files, which this line would replace.\n"
        text += f"{RESERVED_KEY} = {ports | declared}\n"
    return text


def parse_file(text: Optional[str]) -> Record:
    """The claims in the file of :func:`file_text`; none in a file that somebody else wrote.

    Raises HostError when a claim can't be read: the ports of an owner who isn't here now must not get lost.
    """
    if text is None or not text.startswith(HEADER):
        return Record()
    claims: Dict[str, Claim] = {}
    before = None
    for number, line in enumerate(text.split("\n"), 1):
        try:
            owner = _OWNER.match(line)
            start = _BEFORE.match(line)
            if owner is not None:
                claims[owner.group(1)] = Claim(_ports(owner.group(2)), _one_range(owner.group(3)))
            elif start is not None:
                before = PortRange.parse(start.group(1))
            elif line.startswith(("# owner", "# before the first owner")):
                raise ValueError(line)
        except (ValueError, PortSyntaxError):
            raise HostError(
                f"{FILE}: line {number} was changed and can't be read any more: {line[:100]!r}; mend it, or delete the"
                " file and run the playbooks of all owners again"
            ) from None
    return Record(claims, range_before=before)


def foreign_keys(text: Optional[str]) -> List[str]:
    """What a file in our place sets that has nothing to do with us; nothing for a file that we wrote."""
    if text is None or text.startswith(HEADER):
        return []
    keys = (key_of(line) for line in text.split("\n"))
    return [key for key in keys if key is not None and key not in (RANGE_KEY, RESERVED_KEY)]


def record_text(record: Record, *, namespace: str) -> Optional[str]:
    """The record for /run, or None when there is nothing to remember.

    :param namespace: what identifies the network namespace, so that the record does not outlive it.
    """
    if not record.claims:
        return None
    content = {
        "namespace": namespace,
        "owners": record.owners(),
        "reserved_before": str(record.reserved_before),
        "range_before": None if record.range_before is None else str(record.range_before),
    }
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def parse_record(text: Optional[str], *, namespace: str) -> Optional[Record]:
    """The record in the text of :func:`record_text`; None when it is of another namespace, or damaged."""
    try:
        content = _json.load(text or "")
        if content["namespace"] != namespace:
            return None
        claims = {
            item["name"]: Claim(
                _ports(",".join(item["reserved_ports"])), _one_range(item["local_port_range"]), bool(item["persist"])
            )
            for item in content["owners"]
        }
        return Record(claims, _ports(content["reserved_before"], kernel=True), _one_range(content["range_before"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _ports(text: Optional[str], *, kernel: bool = False) -> PortSet:
    if not text:
        return PortSet()
    return kernel_ports(text) if kernel else PortSet.parse(text)


def _one_range(text: Optional[str]) -> Optional[PortRange]:
    return PortRange.parse(text) if text else None
