# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What engines say of a network, and the port range of a container."""

from __future__ import annotations

import json
from typing import Any, Dict

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.filter.container_network import container_network
from ansible_collections.portfence.egress.plugins.filter.local_port_range import local_port_range

PODMAN_4 = {"name": "shop", "network_interface": "podman1", "subnets": [{"subnet": "10.89.0.0/24"}, {"subnet": "fd00:89::/64"}]}
PODMAN_3 = {
    "name": "shop",
    "plugins": [
        {"type": "bridge", "bridge": "cni-podman1", "ipam": {"ranges": [[{"subnet": "10.89.0.0/24"}], [{"subnet": "fd00:89::/64"}]]}},
        {"type": "portmap"},
    ],
}
DOCKER = {
    "Name": "shop",
    "Id": "7d86d31b1478e7cca9ebed7e73aa0fdeec46c5ca29497431d3007d2d9e15ed99",
    "IPAM": {"Config": [{"Subnet": "10.89.0.0/24"}, {"Subnet": "fd00:89::/64"}]},
    "Options": {},
}


@pytest.mark.parametrize(
    ("engine", "network", "interface"),
    [
        ("podman", PODMAN_4, "podman1"),
        ("podman", PODMAN_3, "cni-podman1"),
        ("docker", DOCKER, "br-7d86d31b1478"),
        ("docker", {**DOCKER, "Options": {"com.docker.network.bridge.name": "docker0"}}, "docker0"),
    ],
)
def test_a_network_says_where_its_traffic_comes_from(engine: str, network: Dict[str, Any], interface: str) -> None:
    found = container_network(json.dumps([network]), engine)
    assert found == {"addresses": ["10.89.0.0/24", "fd00:89::/64"], "interface": interface}


@pytest.mark.parametrize(
    ("printed", "engine", "message"),
    [
        ("[]", "podman", "accepted: what 'podman network inspect NAME' prints of one network"),
        ("no such network", "docker", "accepted: what 'docker network inspect NAME' prints of one network"),
        (json.dumps([{**DOCKER, "IPAM": {"Config": []}}]), "docker", "the network has no addresses of its own"),
        (json.dumps([{"name": "host", "subnets": None}]), "podman", "the network has no addresses of its own"),
        ("[]", "lxc", "engine: found 'lxc'; accepted: podman, docker"),
        (None, "podman", "takes text, found nothing"),
    ],
)
def test_what_is_no_network(printed: Any, engine: str, message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        container_network(printed, engine)


@pytest.mark.parametrize(("ports", "wanted"), [("50000-50999", "50000 50999"), (["50000-50009", "51000-51099", 6], "51000 51099"), (7, "7 7")])
def test_a_container_chooses_from_the_largest_range(ports: Any, wanted: str) -> None:
    assert local_port_range(ports) == wanted


def test_ports_that_can_not_be_read() -> None:
    with pytest.raises(AnsibleFilterError, match="which is reversed; write 50000-51000"):
        local_port_range("51000-50000")
