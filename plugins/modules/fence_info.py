#!/usr/bin/python
# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports the fence of a host: counters, ports in use, drift."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fence_info
short_description: Report violations, intrusions, ports in use and drift of the fence
version_added: 0.1.0
description:
  - Returns for each service of the host the packets and bytes of violations and intrusions, its open sockets, and how many
    of its source ports are in use.
  - Says whether the kernel and the files for boot are what the stored services call for. If not, O(portfence.egress.fence#module:state=present)
    with an empty list of services mends it.
  - Changes nothing.
  - Reads the fence of the backend that the host has, nftables or iptables.
requirements:
  - nft 0.9.8 or newer, or iptables 1.8.7 or newer
  - ss and ip (iproute2)
author:
  - PortFence contributors (@portfence)
extends_documentation_fragment:
  - portfence.egress.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options: {}
notes:
  - Connections that got their port by V(rewrite) are read from C(/proc/net/nf_conntrack) or, where the kernel has no such
    file, with the program C(conntrack). Where there is neither, RV(services) has no figure for them.
seealso:
  - module: portfence.egress.fence
"""

EXAMPLES = r"""
- name: Read the fence
  portfence.egress.fence_info:
  register: fence_info

- name: Say which services came near their capacity
  ansible.builtin.debug:
    msg: "{{ item.key }} uses {{ (item.value.use * 100) | round(1) }} % of {{ item.value.capacity }} ports"
  loop: "{{ fence_info.services | dict2items }}"
  loop_control:
    label: "{{ item.key }}"
  when: (item.value.use or 0) > 0.8
"""

RETURN = r"""
backend:
  description: What enforces the fence. Null when there is no firewall on the host.
  returned: success
  type: str
  sample: nftables
nft_version:
  description: Version of the nft program on the host. Null unless the backend is nftables.
  returned: success
  type: str
  sample: 1.0.6
iptables_version:
  description: Version of the iptables programs on the host. Null unless the backend is iptables.
  returned: success
  type: str
  sample: 1.8.9
iptables_variant:
  description: Which iptables the host uses, V(nft) or V(legacy). Null unless the backend is iptables.
  returned: success
  type: str
  sample: nft
in_sync:
  description: Whether the kernel, the files for boot and the unit are what the stored services call for.
  returned: success
  type: bool
drift:
  description: What would have to be done to be in sync again.
  returned: success
  type: list
  elements: str
  sample: ["load the fence into the kernel"]
assignments:
  description: How each service gets its source ports. In the place of V(auto) stands what was chosen.
  returned: success
  type: dict
  sample: {"myapp": "rewrite", "collector": "bpf"}
fallbacks:
  description: Why a service with the assignment V(auto) is rewritten instead of assigned its ports by eBPF.
  returned: success
  type: dict
  sample: {"collector": "the program bpftool is missing (package bpftool)"}
previous:
  description:
    - What was in force before the last change of the services, C(backend) and C(services), as the module
      M(portfence.egress.fence) takes them. C(backend) is null when there was no fence.
    - Null when nothing is known of it.
  returned: success
  type: dict
  sample: {"backend": "nftables", "services": [{"name": "myapp", "source_ports": ["50000-50999"]}]}
last_change:
  description: When the services were changed last (C(at), UTC) and by which account (C(by)). Null when nothing is known of it.
  returned: success
  type: dict
  sample: {"at": "2026-01-31T09:00:00Z", "by": "admin"}
local_port_range:
  description: The ports that the kernel chooses from when a program does not bind (C(net.ipv4.ip_local_port_range)).
  returned: success
  type: str
  sample: 32768-60999
reserved_ports:
  description: The ports that the kernel does not choose by itself (C(net.ipv4.ip_local_reserved_ports)).
  returned: success
  type: str
  sample: 50000-50999,52000-52999,53500
violations:
  description: Those of all services that the fence in force counts together, see RV(services).
  returned: success
  type: dict
  sample: {"packets": 3, "bytes": 180, "by_probes": 2}
services:
  description: Each service of the host by name, without one whose owner is gone or whose file is damaged, which RV(drift) names.
  returned: success
  type: dict
  contains:
    source_ports:
      description: The ports, bounds included.
      returned: success
      type: list
      elements: str
      sample: ["50000-50999"]
    protocols:
      description: The protocols that are fenced.
      returned: success
      type: list
      elements: str
    assignment:
      description: How a program that does not bind gets its port.
      returned: success
      type: str
    on_violation:
      description: What happens to a violation.
      returned: success
      type: str
    exclusive:
      description: Whether others are kept out of the ports.
      returned: success
      type: bool
    uids:
      description: Numeric owners.
      returned: success
      type: list
      elements: int
    gids:
      description: Numeric group owners.
      returned: success
      type: list
      elements: int
    violations:
      description:
        - C(packets) and C(bytes) of the service with another source port, since the fence was loaded first after boot.
        - C(by_probes) of these packets were sent by M(portfence.egress.port_probe), which tries what is forbidden.
        - Null when the fence is not loaded.
      returned: success
      type: dict
      sample: {"packets": 3, "bytes": 180, "by_probes": 2}
    intrusions:
      description:
        - The same for packets of others with a port of the service. Null as well when the ports are not exclusive.
      returned: success
      type: dict
      sample: {"packets": 4, "bytes": 240, "by_probes": 4}
    capacity:
      description: Number of source ports, for each protocol. With V(rewrite) that many connections can be open to each
        destination; otherwise the program decides whether it uses a port for several destinations.
      returned: success
      type: int
      sample: 1000
    sockets:
      description: Open sockets of the service by protocol, listening ones left out. Null for services with another selector than V(user), or with a
        network namespace.
      returned: success
      type: dict
      sample: {"tcp": 12, "udp": 1}
    ports_in_use:
      description: Source ports in use by protocol, or null when that can't be read.
      returned: success
      type: dict
      sample: {"tcp": 12, "udp": 1}
    busiest_destination:
      description: With V(rewrite), the destination with most connections (C(protocol), C(address), C(port), C(connections)).
      returned: success
      type: dict
      sample: {"protocol": "tcp", "address": "192.0.2.1", "port": 443, "connections": 11}
    use:
      description: Share of the capacity that is in use, between 0 and 1, or null when that can't be read.
      returned: success
      type: float
      sample: 0.011
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.portfence.egress.plugins.module_utils._apply import FenceOfHost, is_untouched
from ansible_collections.portfence.egress.plugins.module_utils._backends import NO_BACKEND
from ansible_collections.portfence.egress.plugins.module_utils._counts import total
from ansible_collections.portfence.egress.plugins.module_utils._info import gather, port_settings
from ansible_collections.portfence.egress.plugins.module_utils._module import run_module
from ansible_collections.portfence.egress.plugins.module_utils._names import lookup_on
from ansible_collections.portfence.egress.plugins.module_utils._store import host_of_root


def run(module: AnsibleModule) -> None:
    """Gather and leave through exit_json. Raises PortFenceError."""
    host = host_of_root()
    if is_untouched(host):
        nothing = {"in_sync": True, "drift": [], "assignments": {}, "fallbacks": {}, "previous": None, "last_change": None, "services": {}}
        module.exit_json(changed=False, **NO_BACKEND, **nothing, **port_settings(host), violations=total(()))
    # Whoever is fenced already was let through when the fence was applied.
    fence = FenceOfHost(host=host, lookup=lookup_on(host), admin_uids={})
    module.exit_json(changed=False, **gather(host=host, fence=fence))


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    run_module(module, run)


if __name__ == "__main__":
    main()
