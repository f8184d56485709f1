#!/usr/bin/python
# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets a host write metrics of its fence for Prometheus."""

from __future__ import annotations

DOCUMENTATION = r"""
module: metrics
short_description: Metrics of the fence for Prometheus
version_added: 0.2.0
description:
  - Installs a program, C(/usr/local/lib/portfence/metrics.pyz), and a timer of systemd that runs it. The program writes the file
    C(portfence.prom) for the textfile collector of node_exporter, with the figures of M(portfence.egress.fence_info). It needs
    Python and the programs of the fence, and no Ansible. How far services that are rewritten use their ports is known only where the kernel has
    C(/proc/net/nf_conntrack), or the program C(conntrack) is installed.
  - Counters begin anew when the host boots, as those of the kernel do.
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
options:
  state:
    description:
      - With V(absent), timer, program and the file of metrics are removed, which is looked for in O(directory) and where the timer has it written to.
    type: str
    choices: [present, absent]
    default: present
  directory:
    description:
      - The directory that node_exporter reads, given to it as C(--collector.textfile.directory). It has to exist.
      - At most 1000 printable characters, without white space, quotes, C(\), C(%) and C($), and without C(.) and C(..) as names in it.
      - It may belong to any account, and so may those above it. Where another account than root may write to one of those, a symbolic link in it or
        below it is refused, because the account could lead the file elsewhere. Links that root alone can have made are followed.
    type: path
    default: /var/lib/prometheus/node-exporter
  interval:
    description: Seconds between two collections, 5 to 86400.
    type: int
    default: 60
seealso:
  - module: portfence.egress.fence_info
"""

EXAMPLES = r"""
- name: Metrics twice a minute
  portfence.egress.metrics:
    interval: 30

- name: No more metrics
  portfence.egress.metrics:
    state: absent
"""

RETURN = r"""
changes:
  description: What was done, or would be done in check mode, in order.
  returned: success
  type: list
  elements: str
  sample: ["write /usr/local/lib/portfence/metrics.pyz", "start portfence-metrics.timer"]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, shown
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._metrics_host import LONGEST, MetricsOfHost, Settings, is_harmless
from ansible_collections.portfence.egress.plugins.module_utils._module import run_module

_INTERVALS = range(5, 86401)


def run(module: AnsibleModule) -> None:
    """Do what the parameters say, and leave through exit_json. Raises PortFenceError."""
    host = Host()
    host.require_root()
    settings = Settings(directory=module.params["directory"], interval=module.params["interval"])
    if settings.interval not in _INTERVALS:
        raise HostError(f"interval: found {shown(settings.interval)}; accepted: {_INTERVALS[0]} to {_INTERVALS[-1]} seconds")
    if not is_harmless(settings.directory):
        raise HostError(
            f"directory: found {shown(settings.directory)}; accepted: an absolute path of at most {LONGEST} printable characters,"
            " without white space, quotes, '\\', '%' and '$', and without '.' and '..' as names in it"
        )
    metrics = MetricsOfHost(host)
    change = metrics.install if module.params["state"] == "present" else metrics.remove
    changes = change(settings, check_mode=module.check_mode)
    for warning in metrics.warnings:
        module.warn(warning)
    module.exit_json(changed=bool(changes), changes=changes)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "directory": {"type": "path", "default": "/var/lib/prometheus/node-exporter"},
            "interval": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
