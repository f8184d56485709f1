#!/usr/bin/python
# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gives services network namespaces of their own, with their own range of automatic source ports."""

from __future__ import annotations

DOCUMENTATION = r"""
module: network_namespace
short_description: Network namespaces of services, each with its own range of source ports
version_added: 0.2.0
author:
  - PortFence contributors (@portfence)
description:
  - Makes a named network namespace for each service, as C(ip netns) knows it, joined to the host by a veth pair, with
    addresses and a default route through the host.
  - The source ports of the service are the C(net.ipv4.ip_local_port_range) of its namespace, so that any program in it
    gets one of them from the kernel. A program that binds to another port is stopped by a fence inside the namespace.
  - The host forwards what comes out of a namespace, with an address of its own and the source port unchanged. Into a
    namespace it forwards only replies.
  - systemd units join through a drop-in. They do not start without their namespace.
  - Everything is kept in C(/etc/portfence), as shell scripts and nftables rules that can be read. The module runs the
    same scripts that a boot runs.
requirements:
  - ip (iproute2)
  - nsenter, unshare (util-linux)
  - nft 0.9.8 or newer
  - systemd 242 or newer, for O(namespaces[].units)
extends_documentation_fragment:
  - portfence.egress.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  namespaces:
    description: The namespaces. With O(state=absent) only their names matter.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description:
          - Name of the service, and of its network namespace C(/run/netns/NAME).
          - 1 to 32 letters, digits, C(_), C(-) and C(.), not starting with C(-) or C(.).
        type: str
        required: true
      source_ports:
        description:
          - The source ports, one range such as V(50000-50999). It must not begin below 1024.
          - A bound of each parity is better. With two even or two odd ones the kernel complains.
        type: raw
      ipv4:
        description:
          - The network of the veth pair. The host has its first address, the namespace the second.
          - Defaults to V(198.18.0.0/31) for a first source port of 0, and two addresses further for every port. So
            V(50000-50999) gives V(198.19.134.160/31).
        type: str
      ipv6:
        description:
          - The same for IPv6. Left out on hosts that do not speak IPv6.
          - Defaults to C(fd70:6f72:7466::P:0/127) with the first source port as P, in hexadecimal digits.
        type: str
      dns:
        description:
          - Addresses of name servers. They are written to C(/etc/netns/NAME/resolv.conf), which C(ip netns exec) and the
            units of the namespace see as C(/etc/resolv.conf).
          - Without it, C(/etc/resolv.conf) of the host is seen. A name server on a loopback address is out of reach inside.
        type: list
        elements: str
      units:
        description:
          - systemd units that live in the namespace, such as V(myapp.service), V(worker@.service) or V(myapp.socket).
            Without a suffix it is a service.
        type: list
        elements: str
      protocols:
        description: The protocols that the fence inside judges, of V(tcp), V(udp), V(sctp), V(dccp) and V(udplite).
        type: list
        elements: str
        default: [tcp, udp]
      on_violation:
        description:
          - What happens to a packet with a source port outside of the range. It is counted in any case.
          - V(drop) drops it, V(reject) tells the program as well, V(log) lets it pass.
          - Nothing is logged. The kernel keeps quiet about packets in namespaces, unless C(net.netfilter.nf_log_all_netns) is set.
        type: str
        choices: [drop, reject, log]
        default: drop
      state:
        description: V(absent) takes this namespace away.
        type: str
        choices: [present, absent]
        default: present
  state:
    description:
      - With V(present) the namespaces are added to those that the host has, or replace the ones of the same name.
      - With V(absent) they are taken away. With the last one, everything that the host needed for them goes, too.
    type: str
    choices: [present, absent]
    default: present
  purge:
    description:
      - With O(state=present), remove every namespace that is not in O(namespaces).
      - With O(state=absent), remove all.
    type: bool
    default: false
  persist:
    description:
      - Whether these namespaces are made again at boot, before the network is up.
      - With V(false) they are kept in C(/run/portfence) until then.
    type: bool
    default: true
  restart_units:
    description:
      - Whether to restart running units that are in another network namespace than they should be. A process can't be
        moved from outside.
      - With V(false) they are in RV(units_to_restart), and run on where they are.
    type: bool
    default: false
notes:
  - Where the host forwarded nothing before, it forwards for the namespaces alone. A chain of table
    C(inet portfence_namespaces) drops everything else, and C(net.ipv4.ip_forward) stays V(0). When something else on the
    host sets it to V(1) later, such as a container engine, the next run of the module takes notice and drops no more.
  - IPv6 is forwarded only where C(net.ipv6.conf.all.forwarding) is set. Every interface keeps its own C(forwarding) and
    C(accept_ra), so that the host goes on listening to router advertisements.
  - Another firewall that drops forwarded packets has to let those of the interfaces C(pf-*) pass.
  - Programs that ask C(systemd-resolved) or C(nscd) for names are served by these outside of the namespace.
  - TCP connections that are open survive a change of the range, or of anything but the addresses. With the default
    addresses, a change of the first source port changes the addresses.
seealso:
  - module: portfence.egress.ephemeral_ports
  - module: portfence.egress.fence
"""

EXAMPLES = r"""
- name: A namespace for the units of myapp
  portfence.egress.network_namespace:
    namespaces:
      - name: myapp
        source_ports: 50000-50999
        units: [myapp.service]
        dns: [192.0.2.53]
  register: result

- name: Restart what has to be, at a good time
  ansible.builtin.debug:
    msg: "Still outside: {{ result.units_to_restart }}"

- name: With addresses that stay when the ports change
  portfence.egress.network_namespace:
    namespaces:
      - name: myapp
        source_ports: 50000-50999
        ipv4: 10.99.0.0/31
        ipv6: fd00:99::/127
        units: [myapp.service]

- name: Take all namespaces away
  portfence.egress.network_namespace:
    state: absent
    purge: true
"""

RETURN = r"""
changes:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["make the network namespace myapp", "start portfence-namespace@myapp.service"]
namespaces:
  description: All namespaces of services afterwards.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the service. The other parameters are returned alike, with every key.
      type: str
      sample: myapp
    path:
      description: Where the namespace is.
      type: str
      sample: /run/netns/myapp
    interface:
      description: The host's end of the veth pair.
      type: str
      sample: pf-myapp
    addresses:
      description: The addresses inside, by family.
      type: dict
      sample: {"ipv4": "198.19.134.161", "ipv6": "fd70:6f72:7466::c350:1"}
    host_addresses:
      description: The addresses of the host's end.
      type: dict
      sample: {"ipv4": "198.19.134.160", "ipv6": "fd70:6f72:7466::c350:0"}
namespaces_before:
  description: The namespaces before, as O(namespaces) takes them. With O(purge=true) this puts them back.
  returned: success, and when it failed after a change
  type: list
  elements: dict
forwarding_opened:
  description: The families that the host forwards for the namespaces alone, because it forwarded nothing before.
  returned: success
  type: list
  elements: str
  sample: [ipv4, ipv6]
units_to_restart:
  description:
    - Running units that are in another network namespace than they should be, or see another DNS file.
    - Where the module failed, those among them that could not be restarted do not run any more.
  returned: success, and when it failed after a change
  type: list
  elements: str
  sample: [myapp.service]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._module import fail, leave, run_module
from ansible_collections.portfence.egress.plugins.module_utils._namespace_apply import (
    Namespaces,
    Outcome,
    diff_of,
    is_untouched,
    result_of,
    way_back,
)
from ansible_collections.portfence.egress.plugins.module_utils._namespace_spec import parse_request
from ansible_collections.portfence.egress.plugins.module_utils._store import host_of_root


def run(module: AnsibleModule) -> None:
    """Do what the parameters say, and leave through exit_json. Raises PortFenceError."""
    host = host_of_root()
    request = parse_request(module.params)
    if not request.wanted and is_untouched(host):
        leave(module, **result_of(Outcome(changes=host.read_units(check_mode=module.check_mode))))
    namespaces = Namespaces(host)
    try:
        outcome = namespaces.apply(
            request,
            persist=module.params["persist"],
            restart=module.params["restart_units"],
            check_mode=module.check_mode,
        )
    except PortFenceError as error:
        if namespaces.begun is None:
            raise
        # Whoever puts things back has to know that something is not as it was, and what was before.
        fail(module, msg=str(error), changed=True, **way_back(namespaces.begun))
    for warning in outcome.warnings:
        module.warn(warning)
    result = result_of(outcome)
    if module._diff:
        result["diff"] = diff_of(outcome)
    leave(module, **result)


def main() -> None:
    """Entry point of the module."""
    options = {
        "name": {"type": "str", "required": True},
        "source_ports": {"type": "raw"},
        "ipv4": {"type": "str"},
        "ipv6": {"type": "str"},
        "dns": {"type": "list", "elements": "str"},
        "units": {"type": "list", "elements": "str"},
        "protocols": {"type": "list", "elements": "str", "default": ["tcp", "udp"]},
        "on_violation": {"type": "str", "choices": ["drop", "reject", "log"], "default": "drop"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }
    module = AnsibleModule(
        argument_spec={
            "namespaces": {"type": "list", "elements": "dict", "options": options, "default": []},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "purge": {"type": "bool", "default": False},
            "persist": {"type": "bool", "default": True},
            "restart_units": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
