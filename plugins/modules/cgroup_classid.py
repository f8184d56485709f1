#!/usr/bin/python
# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Manage cgroups of net_cls, their classid and the processes in them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cgroup_classid
short_description: Cgroups of net_cls with a classid, and the processes and units in them
version_added: 0.2.0
author: PortFence contributors (@portfence)
description:
  - Makes cgroups of the controller net_cls, each with the classid by which nftables (C(meta cgroup)), iptables
    (C(-m cgroup --cgroup)) and tc recognise the packets of the processes in it, whatever account they run as.
  - Mounts the controller at C(/run/portfence/net_cls), beside cgroup v2 or any other mount of it. Where it is mounted
    elsewhere, alone or together with net_prio, both places show the same cgroups.
  - The cgroup of C(NAME) is C(/run/portfence/net_cls/portfence/NAME). The kernel counts the sockets that a process has open
    already when it is put in, and what it starts later is in as well.
  - Mount, cgroups and classids are made again at every boot by C(portfence-classid.service), before ordinary services. Units
    are put in again at every start. Bare PIDs are not remembered.
  - Adds to what other tasks made, and removes none but what O(state=absent) or O(purge) says.
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
  cgroups:
    description:
      - The cgroups, all of them in one list.
      - Every mistake in the list is reported at once, each with its path.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description:
          - Name of the cgroup, usually that of the service. C(1) to C(32) letters, digits, C(_), C(-) or C(.), not starting with
            C(-) or C(.).
        type: str
        required: true
      classid:
        description:
          - The classid, as V("0x100001"), or as V("10:1") (major:minor, both hexadecimal as in tc). Above 0 and up to
            C(0xffffffff). Each cgroup of a host has one of its own. Required unless the cgroup is absent.
          - Keep the quotes. Without them YAML takes V(10:1) for the number 601; numbers below 65536 are refused for this reason.
        type: raw
      units:
        description:
          - All systemd services whose processes belong in the cgroup, such as V(myapp.service), or V(worker@.service) for all
            instances. C(.service) may be left out. Units that are not listed any more are taken out.
          - Processes that run already are moved at once, and the unit gets a drop-in that puts its main process in before
            it runs anything. If that fails the unit does not start.
        type: list
        elements: str
        default: []
      pids:
        description:
          - Processes to put in now, with all their threads. Those that are in stay in.
          - A PID means nothing after the process has ended, and nothing after a reboot.
        type: list
        elements: int
        default: []
      state:
        description:
          - V(absent) moves the processes of the cgroup back to the root of net_cls, and removes it with all that keeps it.
          - Defaults to O(state).
        type: str
        choices: [present, absent]
  state:
    description: The state of cgroups that don't say it themselves.
    type: str
    choices: [present, absent]
    default: present
  purge:
    description:
      - Whether to remove the cgroups of earlier tasks that are not in the list. When none is left, the unit is
        removed and the controller unmounted, unless somebody else has cgroups in it that could not be seen elsewhere.
    type: bool
    default: false
notes:
  - A unit is put in by a PAM session (C(PAMName=) in the drop-in), which systemd opens in the very process that becomes the
    service, with all rights and before any sandbox. Only root can put a process in. systemd keeps a small process C((sd-pam\)) in
    the unit while it runs. A unit without C(User=) gets C(User=root) in the drop-in, because it would have no session.
  - Refused are units with a C(PAMName=) of their own, with C(+) or C(!) in front of the program of C(ExecStart=), and those that read an
    C(EnvironmentFile=) to which others than root can write, or lead its path. Other commands of the unit with such a prefix run outside of the
    cgroup, and the module warns of them.
  - Listening sockets of a socket unit belong to systemd until the service has them.
  - Before Linux 5.15 the first classid switches the matching of cgroup v2 (the selector C(unit)) off on the whole host. The
    module warns of it.
  - A container can't be the first to mount net_cls. Mount it on its host first.
seealso:
  - module: portfence.egress.fence
"""

EXAMPLES = r"""
- name: Two units and a service of another team
  portfence.egress.cgroup_classid:
    cgroups:
      - name: legacy
        classid: "0x100001"
        units: [legacy.service, legacy-worker@.service]
      - name: batch
        classid: "10:2"

- name: Put running processes into a cgroup
  portfence.egress.cgroup_classid:
    cgroups:
      - name: batch
        classid: "10:2"
        pids: [4711, 4712]

- name: Remove one cgroup
  portfence.egress.cgroup_classid:
    cgroups:
      - name: batch
        state: absent

- name: Remove all that this module made on the host
  portfence.egress.cgroup_classid:
    purge: true
"""

RETURN = r"""
cgroups:
  description: All cgroups that the host has of this module afterwards, by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
      sample: legacy
    classid:
      description: Its classid.
      type: str
      sample: "0x100001"
    units:
      description: The units that are put in whenever they start.
      type: list
      elements: str
      sample: [legacy.service]
    path:
      description: Its directory.
      type: str
      sample: /run/portfence/net_cls/portfence/legacy
mount:
  description: Where net_cls is mounted, null when there is no cgroup any more.
  returned: success
  type: str
  sample: /run/portfence/net_cls
previous:
  description: What was there before. Its C(cgroups), given as O(cgroups) with O(purge=true), puts it back.
  returned: success, and when it failed after a change
  type: dict
  contains:
    cgroups:
      description: The cgroups, each with C(name), C(classid) and C(units).
      type: list
      elements: dict
      sample: []
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.portfence.egress.plugins.module_utils._classid_host import HalfDone, converge
from ansible_collections.portfence.egress.plugins.module_utils._module import fail, leave, run_module
from ansible_collections.portfence.egress.plugins.module_utils._store import host_of_root


def run(module: AnsibleModule) -> None:
    """Do what the parameters say, and leave through exit_json. Raises PortFenceError."""
    host = host_of_root()
    try:
        result, warnings = converge(host, module.params, check_mode=module.check_mode, diff=module._diff)
    except HalfDone as error:
        # Whoever puts things back has to know that something is not as it was, and what was before.
        fail(module, msg=str(error), changed=True, previous=error.previous)
    for warning in warnings:
        module.warn(warning)
    leave(module, **result)


def main() -> None:
    """Entry point of the module."""
    state = {"type": "str", "choices": ["present", "absent"]}
    cgroup = {
        "name": {"type": "str", "required": True},
        "classid": {"type": "raw"},
        "units": {"type": "list", "elements": "str", "default": []},
        "pids": {"type": "list", "elements": "int", "default": []},
        "state": state,
    }
    module = AnsibleModule(
        argument_spec={
            "cgroups": {"type": "list", "elements": "dict", "options": cgroup, "default": []},
            "state": {**state, "default": "present"},
            "purge": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
