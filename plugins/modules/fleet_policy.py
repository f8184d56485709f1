#!/usr/bin/python
# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of an action that runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_policy
short_description: Validate the egress policies of the whole inventory at once
version_added: 0.2.0
author:
  - PortFence contributors (@portfence)
description:
  - Reads C(egress_services) and every C(egress_services__ANYTHING) of all hosts of the inventory, whatever the hosts of the play
    are, and the file of allocated ports. It runs on the controller, and connects to no host.
  - Fails with one report of everything that is wrong. These are mistakes in a policy, ports of two services on one host, ports of
    two hosts or services in one NAT domain (C(egress_nat_domain)), a UID or classid with two meanings, two groups of a
    host that say different things about a service, ports that are written by hand inside of
    C(egress_port_pools), and services with C(source_ports) V(auto) without a range.
extends_documentation_fragment:
  - portfence.egress.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: Nothing is changed.
  idempotent:
    support: full
  platform:
    support: full
    platforms: linux
options:
  path:
    description:
      - The file of allocated ports on the controller.
      - Defaults to C(port-allocations.yml) beside the first source of the inventory, a file or a folder.
    type: str
seealso:
  - module: portfence.egress.port_allocations
"""

EXAMPLES = r"""
- name: Validate the whole inventory
  portfence.egress.fleet_policy:
  run_once: true
"""

RETURN = r"""
hosts:
  description: The number of hosts that were looked at.
  type: int
  returned: success
  sample: 1200
services:
  description: The number of their services.
  type: int
  returned: success
  sample: 9600
"""
