# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a container engine says of a network → where its containers' traffic comes from. Pure."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

from ansible_collections.portfence.egress.plugins.module_utils import _json
from ansible_collections.portfence.egress.plugins.module_utils._errors import shown
from ansible_collections.portfence.egress.plugins.module_utils._ports import PortSet

ENGINES = ("podman", "docker")


def network_origin(text: str, *, engine: str) -> Dict[str, Any]:
    """Read ``podman network inspect NAME`` or ``docker network inspect NAME``.

    :returns: ``addresses``, the networks of its containers, and ``interface``, the bridge that they come in by, or None where
        it is not known.
    Raises ValueError with what was found and what is accepted.
    """
    try:
        networks = _json.load(text)
        network = networks[0]
        found = _of_podman(network) if engine == "podman" else _of_docker(network)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, StopIteration):
        raise ValueError(f"found {shown(text)}; accepted: what '{engine} network inspect NAME' prints of one network") from None
    if not found["addresses"]:
        raise ValueError("the network has no addresses of its own; accepted: a bridge network, whose traffic the host forwards")
    return found


def _of_podman(network: Mapping[str, Any]) -> Dict[str, Any]:
    """Podman 4 and newer (podman-network-inspect(1)), or the CNI configuration that podman 3 prints."""
    if "plugins" not in network:
        subnets = [subnet["subnet"] for subnet in network.get("subnets") or ()]
        return {"addresses": subnets, "interface": network.get("network_interface") or None}
    bridge = next(plugin for plugin in network["plugins"] if plugin.get("type") == "bridge")
    ranges = [item["subnet"] for group in bridge["ipam"]["ranges"] for item in group]
    return {"addresses": ranges, "interface": bridge.get("bridge")}


def _of_docker(network: Mapping[str, Any]) -> Dict[str, Any]:
    """The bridge has a name of its own, or one that follows from the network's id (Docker's documentation of the driver)."""
    addresses: List[str] = [item["Subnet"] for item in network["IPAM"]["Config"] or ()]
    named: Optional[str] = (network.get("Options") or {}).get("com.docker.network.bridge.name")
    return {"addresses": addresses, "interface": named or f"br-{network['Id'][:12]}"}


def local_port_range(source_ports: object) -> str:
    """The value of ``net.ipv4.ip_local_port_range`` for a container that may use these ports: their largest range.

    Raises PortSyntaxError.
    """
    low, high = max(PortSet.parse(source_ports), key=lambda part: part.size)
    return f"{low} {high}"
