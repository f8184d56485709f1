# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The networks that join the namespace of a service to its host. Pure.

Each is a veth pair with one address at either end. Where the user names no network, it follows from the first source
port of the service, which no other service of the host has: an IPv4 network of the block that RFC 2544 keeps for tests
of network devices (198.18.0.0/15, which has room for one pair per port), and a unique local IPv6 network (RFC 4193).
"""

from __future__ import annotations

import hashlib
import ipaddress
from typing import List, NamedTuple, Union

from ansible_collections.portfence.egress.plugins.module_utils._errors import shown

FAMILIES = ("ipv4", "ipv6")
IPV4_BLOCK = "198.18.0.0/15"
IPV6_BLOCK = "fd70:6f72:7466::/64"
# The interface of the namespace.
INNER = "eth0"

_LONGEST_INTERFACE = 15  # IFNAMSIZ, <linux/if.h>, less the final NUL
_SHORTEST = {"ipv4": 31, "ipv6": 127}
_EXAMPLES = {"ipv4": "10.9.8.0/31", "ipv6": "fd00:1::/127"}

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


class Pair(NamedTuple):
    """The addresses of the two ends in one family, and the length of their network."""

    host: str
    inner: str
    length: int

    @property
    def network(self) -> Network:
        """The network that both are in."""
        return ipaddress.ip_network(f"{self.host}/{self.length}", strict=False)


def default_ipv4(port: int) -> str:
    """The IPv4 network of a service whose first source port this is."""
    return f"{ipaddress.IPv4Address('198.18.0.0') + 2 * port}/31"


def default_ipv6(port: int) -> str:
    """The IPv6 network of a service whose first source port this is."""
    return f"{ipaddress.IPv6Address('fd70:6f72:7466::') + (port << 16)}/127"


def pair(network: str) -> Pair:
    """The addresses in a network: the host has the first, the namespace the second.

    A network of two addresses has no others (RFC 3021, RFC 6164); of a larger one, the first address is not for hosts.
    Raises ValueError with a message that says what was found and what is accepted.
    """
    try:
        if not isinstance(network, str) or "/" not in network:
            raise ValueError(network)
        found = ipaddress.ip_network(network)
    except ValueError:
        accepted = f"accepted: a network such as {_EXAMPLES['ipv4']} or {_EXAMPLES['ipv6']}, without bits of a host"
        raise ValueError(f"found {shown(network)}; {accepted}") from None
    longest = _SHORTEST[f"ipv{found.version}"]
    if found.prefixlen > longest:
        raise ValueError(f"found {shown(network)}, which has no room for two addresses; accepted: at most /{longest}")
    if found.is_multicast or found.is_loopback or found.is_link_local or found.is_unspecified:
        raise ValueError(f"found {shown(network)}, which no router forwards; accepted: addresses that are not in use")
    first = found.network_address + (0 if found.prefixlen == longest else 1)
    return Pair(str(first), str(first + 1), found.prefixlen)


def pair_of(network: str, family: str) -> Pair:
    """The same for a network that has to be of this family. Raises ValueError."""
    found = pair(network)
    if f"ipv{found.network.version}" != family:
        raise ValueError(f"found {shown(network)}; accepted: an {family.replace('ip', 'IP')} network such as {_EXAMPLES[family]}")
    return found


def interface_of(name: str) -> str:
    """The interface of the host that leads to the namespace with this name, at most 15 bytes."""
    if len(name) + 3 <= _LONGEST_INTERFACE:
        return f"pf-{name}"
    return f"pf-{name[:5]}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"


def overlapping(network: Network, others: List[str]) -> List[str]:
    """Those of these networks and addresses that share an address with a network."""
    parsed = ((other, ipaddress.ip_network(other, strict=False)) for other in others)
    return [text for text, other in parsed if other.version == network.version and other.overlaps(network)]
