#!/usr/bin/python
# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Manage the kernel's range of automatic source ports, and the reservations in it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ephemeral_ports
short_description: The range of automatic source ports, and the ports that are kept out of it
version_added: 0.1.0
author: PortFence contributors (@portfence)
description:
  - Sets C(net.ipv4.ip_local_port_range), from which the kernel chooses the source port of every program that does not bind,
    and C(net.ipv4.ip_local_reserved_ports), which it never chooses. Both hold for IPv4 and IPv6, TCP and UDP.
  - Sets them in the kernel and in C(/etc/sysctl.d/60-portfence.conf), of the host or of a named network namespace.
  - Adds the ports of an owner to those that others reserved, and takes back none but these. A port stays reserved when
    another owner wants it, another sysctl file declares it, or it was reserved before.
  - A task says all that its owner wants. What it does not say any more is taken back, and the range that was there
    before is restored.
  - Refuses what the kernel would refuse, with every mistake in one message, before anything is changed.
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
extends_documentation_fragment:
  - portfence.egress.attributes
options:
  name:
    description:
      - The owner of what the task asks for. Each owner's reservations are kept apart, so that teams don't need to know of
        each other.
      - 1 to 64 letters, digits, C(_), C(.) and C(-).
    type: str
    default: site
  reserved_ports:
    description:
      - All ports that the owner wants to keep out of automatic choice. Ports and ranges, such as V(50000-50999).
      - An empty list takes the reservations of the owner back, and so does leaving it out beside O(local_port_range).
      - The owner's own automatic choice is kept out, too. Programs that bind to a port, and NAT, are not affected. Never
        reserve the ports of a service whose assignment is V(host).
    type: list
    elements: str
  local_port_range:
    description:
      - The range of automatic choice, such as V(40000-49999). It is the range of every program on the host.
      - Only one owner can set it. When it is not given any more, the range that was there before comes back.
      - Bounds of different parity are better. With two even or two odd ones the kernel complains and the module warns.
      - It must not start below C(net.ipv4.ip_unprivileged_port_start), and some of its ports must be free of reservations.
        The module warns when fewer than 1,000 are.
    type: str
  state:
    description:
      - V(present) makes it so.
      - V(absent) takes back all that the owner has, whatever else the task says.
    type: str
    choices: [present, absent]
    default: present
  purge:
    description: Whether to take back what all other owners have, too.
    type: bool
    default: false
  owners:
    description:
      - The complete list of all owners, in place of O(name), O(reserved_ports), O(local_port_range), O(state) and O(purge).
        Owners that are not in it lose what they have.
      - RV(previous.owners) of an earlier run puts back what was there before it.
    type: list
    elements: dict
    suboptions:
      name:
        description: See O(name).
        type: str
        required: true
      reserved_ports:
        description: See O(reserved_ports).
        type: list
        elements: str
      local_port_range:
        description: See O(local_port_range).
        type: str
      persist:
        description: See O(persist).
        type: bool
  persist:
    description:
      - Whether it holds after a reboot.
      - Defaults to V(true) for the host. With O(netns) it is always V(false), because a named network namespace is made anew
        at every boot, by whoever makes it.
    type: bool
  netns:
    description: The name of a network namespace below C(/run/netns), in place of the host's own.
    type: str
notes:
  - At boot, a file in C(/etc/sysctl.d) that is read after C(60-portfence.conf) and sets the same key replaces the value.
    The module warns of such files.
  - A file that is read before it loses its value to it. So that no reservation gets lost, C(60-portfence.conf) has the ports
    of all other sysctl files in it, as they are at each run of the module.
  - The kernel takes lists of any length, but C(sysctl(8\)) and older systemd write only the first 4,090 bytes. The module
    warns when the list is longer. Ranges that touch are one range in the list.
seealso:
  - module: portfence.egress.fence
"""

EXAMPLES = r"""
- name: Keep the ports of this host's services out of automatic choice
  portfence.egress.ephemeral_ports:
    reserved_ports:
      - 50000-50999
      - 52000-52999
      - 53500

- name: Another team's ports
  portfence.egress.ephemeral_ports:
    name: telemetry
    reserved_ports: [54000-54099]

- name: Give all programs of the host their source ports from one range
  portfence.egress.ephemeral_ports:
    local_port_range: 40000-49999

- name: The range of the network namespace blue
  portfence.egress.ephemeral_ports:
    netns: blue
    local_port_range: 30000-30999

- name: Take everything of this collection back
  portfence.egress.ephemeral_ports:
    state: absent
    purge: true
"""

RETURN = r"""
local_port_range:
  description: The kernel's range of automatic choice afterwards.
  returned: success
  type: str
  sample: 32768-60999
reserved_ports:
  description: All ports that the kernel has reserved afterwards, whoever reserved them.
  returned: success
  type: list
  elements: str
  sample: ["8080", 50000-50999]
own_reserved_ports:
  description: Those that the owner O(name) has reserved.
  returned: success
  type: list
  elements: str
  sample: [50000-50999]
owners:
  description: All owners afterwards, as O(owners) takes them.
  returned: success
  type: list
  elements: dict
  sample:
    - name: site
      reserved_ports: [50000-50999]
      local_port_range: null
      persist: true
previous:
  description: What was there before. Its C(owners), given as O(owners), puts it back.
  returned: success
  type: dict
  contains:
    local_port_range:
      description: The kernel's range.
      type: str
      sample: 32768-60999
    reserved_ports:
      description: All ports that the kernel had reserved.
      type: list
      elements: str
      sample: ["8080"]
    owners:
      description: All owners.
      type: list
      elements: dict
      sample: []
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_host import converge
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._module import leave, run_module


def run(module: AnsibleModule) -> None:
    """Do what the parameters say, and leave through exit_json. Raises PortFenceError."""
    host = Host()
    host.require_root()
    result, warnings = converge(host, module.params, check_mode=module.check_mode, diff=module._diff)
    for warning in warnings:
        module.warn(warning)
    leave(module, **result)


def main() -> None:
    """Entry point of the module."""
    claim = {
        "reserved_ports": {"type": "list", "elements": "str"},
        "local_port_range": {"type": "str"},
        "persist": {"type": "bool"},
    }
    module = AnsibleModule(
        argument_spec={
            **claim,
            "name": {"type": "str", "default": "site"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "purge": {"type": "bool", "default": False},
            "owners": {"type": "list", "elements": "dict", "options": {**claim, "name": {"type": "str", "required": True}}},
            "netns": {"type": "str"},
        },
        mutually_exclusive=[("owners", "reserved_ports"), ("owners", "local_port_range")],
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
