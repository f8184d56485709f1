# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The identity map → rules for others: an edge gateway with nftables or iptables. Pure.

A gateway looks at the packet that opens a connection. One from the address of a fenced host is let pass when its source
port belongs to a service; any other is unknown. Traffic of others is left alone.
"""

from __future__ import annotations

import re
from typing import List, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._addresses import is_ipv6, overlapping
from ansible_collections.portfence.egress.plugins.module_utils._identity import Identity
from ansible_collections.portfence.egress.plugins.module_utils._nft_listing import MARKER

TABLE = "portfence_edge"
UNKNOWN = ("log", "drop")
CHAIN = "PORTFENCE-EDGE"
# Just before the usual filter chains, which decide about what is let pass here.
PRIORITY = -5

# Connection tracking takes a connection for new that was open before it began to look, so TCP is judged by its flags.
_LEFT_ALONE = ("tcp flags & (fin | syn | rst | ack) != syn accept", "meta l4proto != tcp ct state != new accept")
_FAMILIES = (("ip", "ipv4_addr", 4), ("ip6", "ipv6_addr", 6))
# NFTNL_UDATA_COMMENT_MAXLEN and XT_MAX_COMMENT_LEN leave room for these bytes.
_COMMENT_BYTES = 120
HEADER = "# Which service is behind a source port. Written by the Ansible collection portfence.egress. Changes are overwritten.\n"


def nftables(entries: Sequence[Identity], *, unknown: str) -> str:
    """The table of a gateway, with a counter for each service and for what is unknown.

    :param unknown: one of :data:`UNKNOWN`.
    """
    services = sorted({entry.service for entry in entries})
    lines = [f"table inet {TABLE} {{", f"\tchain {MARKER} {{", "\t}"]
    lines.extend(f"\tcounter service_{name} {{ packets 0 bytes 0 }}" for name in services)
    lines.append("\tcounter unknown { packets 0 bytes 0 }")
    for name in services:
        lines.extend([f"\tchain known_{name} {{", f'\t\tcounter name "service_{name}" accept', "\t}"])
    verdict = "drop" if unknown == "drop" else "accept"
    log = 'limit rate 10/second log prefix "portfence unknown: " level warn'
    lines.extend(["\tchain unknown {", f"\t\t{log}", f'\t\tcounter name "unknown" {verdict}', "\t}"])
    rules = []
    for family, kind, version in _FAMILIES:
        own = [entry for entry in entries if is_ipv6(entry.address) == (version == 6)]
        if not own:
            continue
        known = [
            f'{entry.address} . {entry.protocol} . {entry.part} comment "{_comment(entry)}" : goto known_{entry.service}'
            for entry in own
        ]
        lines.extend(_elements("map", f"known{version}", f"type {kind} . inet_proto . inet_service : verdict; flags interval;", known))
        lines.extend(_elements("set", f"fenced{version}", f"type {kind}; flags interval; auto-merge;", _sources(own)))
        rules.append(f"{family} saddr . meta l4proto . th sport vmap @known{version}")
        protocols = ", ".join(sorted({entry.protocol for entry in own}))
        rules.append(f"{family} saddr @fenced{version} meta l4proto {{ {protocols} }} goto unknown")
    lines.extend(["\tchain forward {", f"\t\ttype filter hook forward priority {PRIORITY}; policy accept;"])
    lines.extend(f"\t\t{rule}" for rule in _LEFT_ALONE)
    lines.extend(f"\t\t{rule}" for rule in rules)
    return "\n".join([*lines, "\t}", "}", ""])


def nftables_file(entries: Sequence[Identity], *, unknown: str) -> str:
    """The same as a file for ``nft -f``, whatever was there of it before."""
    return f"{HEADER}add table inet {TABLE}\ndelete table inet {TABLE}\n{nftables(entries, unknown=unknown)}"


def iptables(entries: Sequence[Identity], *, unknown: str, version: int) -> str:
    """The input of ``iptables-restore --noflush`` (4) or ``ip6tables-restore --noflush`` (6): a chain, to be jumped to from FORWARD."""
    own = [entry for entry in entries if is_ipv6(entry.address) == (version == 6)]
    jump = f"{'iptables' if version == 4 else 'ip6tables'} -I FORWARD 1 -j {CHAIN}"
    lines = [f"{HEADER}# Once, unless the jump is there already: {jump}", "*filter", f":{CHAIN} - [0:0]"]
    lines.append(f"-A {CHAIN} -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j RETURN")
    lines.append(f"-A {CHAIN} ! -p tcp -m conntrack ! --ctstate NEW -j RETURN")
    lines.extend(
        f"-A {CHAIN} -s {entry.address} -p {entry.protocol} -m multiport --sports {str(entry.part).replace('-', ':')}"
        f' -m comment --comment "{_comment(entry)}" -j RETURN'
        for entry in own
    )
    for source in _outermost(own):
        for protocol in sorted({entry.protocol for entry in own}):
            match = f"-A {CHAIN} -s {source} -p {protocol}"
            lines.append(f'{match} -m limit --limit 10/second -j LOG --log-prefix "portfence unknown: "')
            if unknown == "drop":
                lines.append(f"{match} -j DROP")
    return "\n".join([*lines, "COMMIT", ""])


def _elements(kind: str, name: str, spec: str, elements: Sequence[str]) -> List[str]:
    body = ",\n\t\t\t".join(elements)
    return [f"\t{kind} {name} {{", f"\t\t{spec}", f"\t\telements = {{\n\t\t\t{body}\n\t\t}}", "\t}"]


def _sources(entries: Sequence[Identity]) -> List[str]:
    """The addresses, each once, in order."""
    return list(dict.fromkeys(entry.address for entry in entries))


def _outermost(entries: Sequence[Identity]) -> List[str]:
    """The addresses without networks that lie in another one: a packet is unknown once."""
    sources = _sources(entries)
    inner = {network for (network, _same), _outer in overlapping([(source, source) for source in sources])}
    return [source for source in sources if source not in inner]


def _comment(entry: Identity) -> str:
    """Service and hosts for people; whatever could end a comment is left out."""
    return re.sub(r"[^A-Za-z0-9_.,:@+-]+", " ", f"{entry.service} {','.join(entry.hosts)}")[:_COMMENT_BYTES].strip()


def formats(entries: Sequence[Identity], *, unknown: str) -> Tuple[Tuple[str, str], ...]:
    """File name and text of every rule set."""
    return (
        ("edge.nft", nftables_file(entries, unknown=unknown)),
        ("edge.rules.v4", iptables(entries, unknown=unknown, version=4)),
        ("edge.rules.v6", iptables(entries, unknown=unknown, version=6)),
    )
