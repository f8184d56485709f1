#!/usr/bin/python
# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at the open sockets of a host and says who would be hit by a policy."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preview
short_description: Who would be hit by a policy
version_added: 0.2.0
description:
  - Compares the open sockets of a host with a policy that need not be in force yet, and says who would be hit. Reads only.
  - Seen are services with connections from ports outside of theirs, programs of others with connections from exclusive ports, servers that
    listen there, UDP servers of services, and ranges that are too small for the connections which are open.
  - Sockets don't tell a group, a class of net_cls or the address of a container. Services with these selectors are named as not looked at.
author:
  - PortFence contributors (@portfence)
extends_documentation_fragment:
  - portfence.egress.attributes
  - portfence.egress.services
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  sample:
    description: Seconds for which sockets are looked at, at most five times a second. With V(0), once. At most 3600.
    type: int
    default: 0
seealso:
  - module: portfence.egress.fence
"""

EXAMPLES = r"""
- name: Look for a minute
  portfence.egress.preview:
    services:
      - name: myapp
        source_ports: 50000-50999
    sample: 60
"""

RETURN = r"""
findings:
  description: What the fence would change for somebody.
  returned: success
  type: list
  elements: dict
  contains:
    service:
      description: The name of the service.
      returned: success
      type: str
    kind:
      description:
        - V(outside), connections of the service from other ports.
        - V(intruder), connections of others from its exclusive ports.
        - V(listener), servers of others on its ports.
        - V(udp_server), UDP servers of the service on other ports.
        - V(capacity), more than 80 % of the ports would be in use.
        - V(unseen), the service can't be seen from sockets.
      returned: success
      type: str
    protocol:
      description: V(tcp) or V(udp). Null for V(unseen).
      returned: success
      type: str
    ports:
      description: Source ports that were seen, 20 at most.
      returned: success
      type: list
      elements: int
    sockets:
      description: How many were seen.
      returned: success
      type: int
    who:
      description: Programs that hold them, with their UID, 20 at most.
      returned: success
      type: list
      elements: str
    effect:
      description: What would happen, in words.
      returned: success
      type: str
looks:
  description: How often sockets were looked at.
  returned: success
  type: int
sockets:
  description: How many different sockets were seen.
  returned: success
  type: int
"""

import time
from typing import Iterator, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.portfence.egress.plugins.module_utils._argument_spec import services_argument
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, InputError, shown
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._module import leave, run_module
from ansible_collections.portfence.egress.plugins.module_utils._names import lookup_on
from ansible_collections.portfence.egress.plugins.module_utils._policy import conflicts, parse_list
from ansible_collections.portfence.egress.plugins.module_utils._preview import preview
from ansible_collections.portfence.egress.plugins.module_utils._resolve import resolve
from ansible_collections.portfence.egress.plugins.module_utils._store import host_of_root
from ansible_collections.portfence.egress.plugins.module_utils._usage import Socket, parse_sockets

_LONGEST = 3600
_PAUSE = 0.2


def look(host: Host, sample: int) -> Iterator[List[Socket]]:
    """The sockets that there are, again and again for so many seconds."""
    ss = host.program("ss", package="iproute2")
    # Debian 11's iproute2 knows --cgroup since 5.9; without cgroup v2 it prints nothing more.
    end = time.monotonic() + sample
    while True:
        yield parse_sockets(host.run([ss, "-tunaepH", "--cgroup"]).out)
        if time.monotonic() >= end:
            return
        time.sleep(_PAUSE)


def run(module: AnsibleModule) -> None:
    """Look, and leave through exit_json. Raises PortFenceError."""
    host = host_of_root()
    sample = module.params["sample"]
    if not 0 <= sample <= _LONGEST:
        raise HostError(f"sample: found {shown(sample)}; accepted: 0 to {_LONGEST} seconds")
    declared = tuple(item for item in parse_list(module.params["services"]) if item.service.state == "present")
    problems = conflicts(declared)
    if problems:
        raise InputError(what="the policy of this host", problems=problems)
    # Accounts and units that are still missing have no sockets; admins are the fence's concern.
    resolved, _problems = resolve(declared, lookup=lookup_on(host), admin_uids={})
    found = preview(resolved, look(host, sample))
    leave(module, changed=False, findings=[finding.to_dict() for finding in found.findings], looks=found.looks, sockets=found.sockets)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={**services_argument(), "sample": {"type": "int", "default": 0}},
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
