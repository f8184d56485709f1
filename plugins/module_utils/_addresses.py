# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses and networks as a user writes them. Pure.

The library is imported where it is used: most policies have no addresses, and modules start faster without it.
"""

from __future__ import annotations

from typing import Iterable, List, Sequence, Tuple

_NETWORK = "accepted: an IPv4 or IPv6 address, or a network such as 10.88.0.0/16 or fd00:1::/64, or a list of them"

Named = Tuple[str, str]


def read_network(value: object) -> str:
    """An address or a network → CIDR notation as short as it gets. Raises ValueError with what is accepted."""
    import ipaddress

    # A zone (fe80::1%eth0) means something on one host only.
    if not isinstance(value, str) or "%" in value:
        raise ValueError(_NETWORK)
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(_NETWORK) from None
    text = str(network)
    if "/" in value and ipaddress.ip_interface(value).ip != network.network_address:
        raise ValueError(f"it has host bits set; write {text}, or the address alone")
    if network.prefixlen == 0:
        raise ValueError(f"it is every address; {_NETWORK}")
    return text


def holds(networks: Iterable[str], address: object) -> bool:
    """Whether an address, or what somebody wrote for one, is in one of these networks."""
    import ipaddress

    try:
        found = ipaddress.ip_address(str(address))
    except ValueError:
        return False
    return any(found in ipaddress.ip_network(network) for network in networks)


def read_address(value: object) -> str:
    """One address. Raises ValueError with what is accepted."""
    import ipaddress

    try:
        return str(ipaddress.ip_address(value if isinstance(value, str) else ""))
    except ValueError:
        raise ValueError("accepted: an IPv4 or IPv6 address, or a list of them") from None


def is_ipv6(network: str) -> bool:
    """The family of a network that was read."""
    return ":" in network


def overlapping(networks: Sequence[Named]) -> List[Tuple[Named, Named]]:
    """Pairs of networks of different owners that share an address, each with one that starts before it.

    :param networks: (network, owner) pairs.
    """
    if not networks:
        return []
    import ipaddress

    def bounds(item: Named) -> Tuple[int, int, int]:
        network = ipaddress.ip_network(item[0])
        return network.version, int(network.network_address), -int(network.broadcast_address)

    found: List[Tuple[Named, Named]] = []
    # Networks are nested or apart: the ones that may hold the next one form a stack.
    around: List[Tuple[Tuple[int, int, int], Named]] = []
    for (version, low, negative_high), item in sorted((bounds(item), item) for item in networks):
        while around and (around[-1][0][0] != version or -around[-1][0][2] < low):
            around.pop()
        found.extend((item, other) for _bounds, other in around[-1:] if other[1] != item[1])
        around.append(((version, low, negative_high), item))
    return found
