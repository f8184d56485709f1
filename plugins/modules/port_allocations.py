#!/usr/bin/python
# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of an action that runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: port_allocations
short_description: Hand out ranges of source ports to the services of the whole inventory
version_added: 0.2.0
author:
  - PortFence contributors (@portfence)
description:
  - Gives a range out of C(egress_port_pools) to every service with C(source_ports) V(auto), and writes into a file on the controller which
    range belongs to whom, since when. A range that was handed out stays where it is.
  - Looks at all hosts of the inventory, whatever the hosts of the play are. It runs on the controller, and connects to no host.
  - Validates the inventory first, as M(portfence.egress.fleet_policy) does, and fails with everything that is wrong.
  - A file that changed while this ran is left alone, and the action fails.
extends_documentation_fragment:
  - portfence.egress.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
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
  quarantine:
    description: Days that have to pass before a range that was given back goes to another owner.
    type: int
    default: 30
  renamed_hosts:
    description:
      - Old names of hosts (of their C(egress_host_id), where they have one) and their new ones. The ranges go on under the new name.
      - A name is either old or new. Two hosts swap their names in three runs, with a third name in between.
      - A rename that was done before changes nothing.
    type: dict
    default: {}
  date:
    description: The day on which ranges are handed out and given back. Defaults to today, in UTC. No day in the file may be after it.
    type: str
  missing_hosts:
    description:
      - Whether a large part of the hosts may have left at once.
      - Otherwise the action fails when two hosts or more, and a quarter or more of those that hold ranges, are not in the inventory. A part of an
        inventory looks like that.
    type: bool
    default: false
seealso:
  - module: portfence.egress.fleet_policy
"""

EXAMPLES = r"""
- name: Hand out what is missing
  portfence.egress.port_allocations:
  run_once: true

- name: Go on under a new name
  portfence.egress.port_allocations:
    renamed_hosts:
      web1.example.com: www1.example.com
  run_once: true
"""

RETURN = r"""
path:
  description: The file.
  type: str
  returned: success
  sample: /srv/port-allocations.yml
handed_out:
  description: The number of ranges that have a new owner, renamed ones included.
  type: int
  returned: success
  sample: 12
given_back:
  description: The number of ranges that their owner gave back, renamed ones included.
  type: int
  returned: success
  sample: 0
held:
  description: The number of ranges that have an owner.
  type: int
  returned: success
  sample: 480
"""
