#!/usr/bin/python
# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets a gateway recognise the services of the fleet by their source ports."""

from __future__ import annotations

DOCUMENTATION = r"""
module: edge
short_description: Recognise services by their source ports at a gateway
version_added: 0.2.0
description:
  - Loads a table of nftables, C(inet portfence_edge), into a gateway that forwards for fenced hosts, and keeps it for boot. A packet that opens a
    connection from the address of a fenced host is let pass when its source port belongs to a service of that host, and counted
    for the service. Any other is unknown, logged (at most 10 times a second), and dropped if wanted.
  - Traffic of other addresses, and connections that are open already, are left alone. What is let pass goes on to the gateway's other rules.
  - Counters of a service survive every change.
requirements:
  - nft 0.9.8 or newer
  - unshare (util-linux) and the right to make a network namespace
author:
  - PortFence contributors (@portfence)
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
  state:
    description: With V(absent), table, file and unit are removed.
    type: str
    choices: [present, absent]
    default: present
  identities:
    description:
      - The identity map, as the filter P(portfence.egress.identities#filter) gives it. With O(state=present) all of it, every time.
    type: list
    elements: dict
    default: []
  unknown:
    description: What happens to a connection of a fenced host with any other source port. V(log) lets it pass.
    type: str
    choices: [log, drop]
    default: log
seealso:
  - module: portfence.egress.fence
"""

EXAMPLES = r"""
- name: Let only services out
  portfence.egress.edge:
    identities: "{{ identities }}"
    unknown: drop

- name: Know nobody any more
  portfence.egress.edge:
    state: absent
"""

RETURN = r"""
changes:
  description: What was done, or would be done in check mode, in order.
  returned: success
  type: list
  elements: str
  sample: ["load the rules into the kernel", "write /etc/portfence/edge.nft"]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.portfence.egress.plugins.module_utils._edge import UNKNOWN
from ansible_collections.portfence.egress.plugins.module_utils._edge_host import EdgeOfHost
from ansible_collections.portfence.egress.plugins.module_utils._identity import parse
from ansible_collections.portfence.egress.plugins.module_utils._module import run_module
from ansible_collections.portfence.egress.plugins.module_utils._store import host_of_root


def run(module: AnsibleModule) -> None:
    """Do what the parameters say, and leave through exit_json. Raises PortFenceError."""
    host = host_of_root()
    if module.params["state"] == "absent":
        outcome = EdgeOfHost(host).remove(check_mode=module.check_mode)
    else:
        entries = parse(module.params["identities"])
        outcome = EdgeOfHost(host).apply(entries, unknown=module.params["unknown"], check_mode=module.check_mode)
    result = {"changed": bool(outcome.changes), "changes": outcome.changes}
    if module._diff:
        result["diff"] = {"before": outcome.before, "after": outcome.after}
    module.exit_json(**result)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "identities": {"type": "list", "elements": "dict", "default": []},
            "unknown": {"type": "str", "choices": list(UNKNOWN), "default": "log"},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
