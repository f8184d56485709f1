#!/usr/bin/python
# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compiles the services of a host into its fence, loads it and keeps it for boot."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fence
short_description: Restrict the source ports of services
version_added: 0.1.0
description:
  - Compiles all services of a host into one ruleset of nftables or iptables, loads it and keeps it for boot.
  - With nftables, writes to tables named C(portfence) only, in one transaction. With iptables, writes to chains named
    C(portfence) and C(pf-*) and to the jumps that lead to them from the first place of built-in chains, each table at once.
    Refuses to touch a table or a chain of these names which it did not write.
  - Whether something has to change is decided by the kernel itself. The ruleset is loaded into a throwaway network
    namespace, and its listing is compared with that of the live one. What it gave is remembered in
    C(/run/portfence/tried.json) until the next boot, and the same ruleset is not tried again.
  - TCP is judged when a connection opens, so that no session which is open is cut. Other protocols are judged per packet.
  - Counters of a service survive every change but that of the backend.
requirements:
  - nft 0.9.8 or newer, or iptables 1.8.7 or newer (either variant)
  - unshare (util-linux) and the right to make a network namespace
author:
  - PortFence contributors (@portfence)
extends_documentation_fragment:
  - portfence.egress.attributes
  - portfence.egress.services
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - With V(present) the services are added to those that the host has, or replace the ones of the same name.
      - With V(absent) they are taken away; only their names matter. When no service is left, the fence is removed
        with its tables, files and unit.
    type: str
    choices: [present, absent]
    default: present
  purge:
    description:
      - With O(state=present), remove every service of the host that is not in O(services).
      - With O(state=absent), remove every service of the host, and the fence with them.
    type: bool
    default: false
  persist:
    description:
      - Whether the fence is kept in C(/etc/portfence) and loaded at boot by C(portfence.service).
      - With V(false) only the running kernel is changed, until the next boot or the next run of this module.
    type: bool
    default: true
  backend:
    description:
      - What enforces the fence. A host keeps no two fences. When another backend than before is asked for, the new fence is
        loaded first, then the old one is removed, and counters begin anew.
      - V(auto) is the backend that the host has. On a host without a fence, it is V(nftables) where that can be used, else V(iptables).
      - V(iptables) is for hosts whose firewall is managed with iptables. It takes the variant, C(nft) or C(legacy), that the
        programs C(iptables) and C(ip6tables) of the host are. The cost of a packet that opens a connection grows with the
        number of services there.
      - V(iptables) has no table behind the address translation. It judges services by the port on the wire, because its own
        rule is the first to translate them, which leaves translation rules of others without effect on the connections of
        services. It judges other accounts by the port that their program chose. Nothing holds it against a nat chain of nftables
        with a priority below 100, nor against address translation that the other variant of iptables takes up later; where that
        comes first, services with O(services[].assignment=rewrite) leave with ports outside of theirs. Where there are such rules
        already, V(iptables) is refused.
      - V(iptables) knows neither O(services[].unit) nor O(services[].addresses), gives no ports to C(dccp) and C(udplite), and takes a
        log prefix of at most 29 bytes. Whatever it can't express is an error that names the service and the key.
      - V(iptables) is refused where firewalld is active or enabled. firewalld takes the rules of everybody out of the tables of
        iptables when it starts, reloads or stops, most versions with C(FirewallBackend=nftables) as well.
      - With V(iptables), a program that inserts its rules in the first place, as Docker does with its address translation, moves
        ours to the second one. M(portfence.egress.fence_info) calls that drift, and the next run of this module mends it.
        C(netfilter-persistent save) saves the rules of the fence with everybody else's; after a fence has been removed, save again.
    type: str
    choices: [auto, nftables, iptables]
    default: auto
    version_added: 0.2.0
  remember:
    description:
      - Whether the services that were in force before a change are kept in C(/etc/portfence/previous.json), from where
        M(portfence.egress.fence_info) reads them and the playbook C(portfence.egress.rollback) puts them back.
    type: bool
    default: true
    version_added: 0.2.0
  planned_accounts:
    description:
      - Accounts that an earlier task would have created if this were not check mode. Outside check mode it is not looked at.
    type: list
    elements: str
    default: []
notes:
  - Removing the fence takes its address translation with it, which cuts open connections that got their port by
    O(services[].assignment=rewrite), unless other rules keep the address translation of the kernel in use.
seealso:
  - module: portfence.egress.ephemeral_ports
  - module: portfence.egress.fence_info
  - module: portfence.egress.port_probe
"""

EXAMPLES = r"""
- name: Fence two services
  portfence.egress.fence:
    services:
      - name: myapp
        source_ports: 50000-50999
      - name: collector
        user: otel
        source_ports: [52000-52999, 53500]
        assignment: app
        on_violation: reject

- name: Make these the only services of the host
  portfence.egress.fence:
    services:
      - name: myapp
        source_ports: 50000-50999
    purge: true

- name: Take one service away
  portfence.egress.fence:
    services:
      - name: myapp
    state: absent

- name: Stay with iptables
  portfence.egress.fence:
    services:
      - name: myapp
        source_ports: 50000-50999
    backend: iptables

- name: Remove the whole fence
  portfence.egress.fence:
    state: absent
    purge: true
"""

RETURN = r"""
assignments:
  description: How each service of the host gets its source ports. In the place of V(auto) stands what was chosen.
  returned: success
  type: dict
  sample: {"myapp": "rewrite", "collector": "bpf"}
backend:
  description: What enforces the fence. Null when there is no firewall on the host, and no service to fence.
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
backend_before:
  description: The backend that had the fence before. Null when there was no fence.
  returned: success, and when it failed after the kernel had the new fence
  type: str
  sample: nftables
changes:
  description: What was done, or would be done in check mode, in order.
  returned: success
  type: list
  elements: str
  sample: ["load the fence into the kernel", "write /etc/portfence/fence.nft"]
fallbacks:
  description: Why a service with O(services[].assignment=auto) is rewritten instead of assigned its ports by eBPF.
  returned: success
  type: dict
  sample: {"collector": "the program bpftool is missing (package bpftool)"}
fence:
  description: The content of the file for boot, empty when no service is left. Text for C(nft -f), or a shell script with
    the rules for C(iptables-restore) and C(ip6tables-restore).
  returned: when something was changed, or would be
  type: str
owners:
  description: The numeric owners of each service of the host.
  returned: when something was changed, or would be
  type: dict
  sample: {"myapp": {"uids": [990], "gids": []}}
services_before:
  description: The services of the host before, as this module takes them, so that they can be put back. Keys that have their default are left out.
  returned: when something was changed, or would be, and when it failed after the kernel had the new fence
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.portfence.egress.plugins.module_utils._apply import FenceOfHost, Request, is_untouched
from ansible_collections.portfence.egress.plugins.module_utils._argument_spec import services_argument
from ansible_collections.portfence.egress.plugins.module_utils._backends import CHOICES, NO_BACKEND
from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._module import fail, leave, run_module
from ansible_collections.portfence.egress.plugins.module_utils._names import admin_uids, lookup_on, operator
from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_list
from ansible_collections.portfence.egress.plugins.module_utils._store import host_of_root


def run(module: AnsibleModule) -> None:
    """Do what the parameters say, and leave through exit_json. Raises PortFenceError."""
    host = host_of_root()
    services = module.params["services"]
    if module.params["state"] == "absent":
        services = [{"name": service["name"], "state": "absent"} for service in services]
    request = Request(
        services=parse_list(services),
        state=module.params["state"],
        purge=module.params["purge"],
        persist=module.params["persist"],
        remember=module.params["remember"],
        by=operator(host),
        planned_accounts=module.params["planned_accounts"] if module.check_mode else (),
    )
    wanted = [item for item in request.services if item.service.state == "present"]
    if not wanted and is_untouched(host):
        changes = host.read_units(check_mode=module.check_mode)
        leave(
            module,
            changed=bool(changes),
            **NO_BACKEND,
            backend_before=None,
            assignments={},
            fallbacks={},
            changes=changes,
        )
    fence = FenceOfHost(host=host, lookup=lookup_on(host), admin_uids=admin_uids(host), backend=module.params["backend"])
    try:
        outcome = fence.apply(request, check_mode=module.check_mode, diff=module._diff)
    except PortFenceError as error:
        if fence.loaded is None:
            raise
        # Whoever puts the old fence back has to know that the kernel has another one, and what was before.
        fail(
            module,
            msg=str(error),
            changed=True,
            backend_before=fence.loaded.backend_before,
            services_before=[service.to_dict(defaults=False) for service in fence.loaded.services_before],
        )
    for warning in outcome.warnings:
        module.warn(warning)
    result = {
        "changed": bool(outcome.changes),
        **fence.facts(),
        "backend_before": outcome.backend_before,
        "assignments": outcome.assignments,
        "fallbacks": outcome.fallbacks,
        "changes": outcome.changes,
    }
    if outcome.changes:
        # Long, and of no use where nothing is new or to be put back: Ansible goes through results value by value.
        result["owners"] = {item.service.name: {"uids": item.uids, "gids": item.gids} for item in outcome.services}
        result["fence"] = outcome.fence
        result["services_before"] = [service.to_dict(defaults=False) for service in outcome.services_before]
    if module._diff:
        result["diff"] = {"before": outcome.before, "after": outcome.after}
    leave(module, **result)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **services_argument(),
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "purge": {"type": "bool", "default": False},
            "persist": {"type": "bool", "default": True},
            "backend": {"type": "str", "choices": list(CHOICES), "default": "auto"},
            "remember": {"type": "bool", "default": True},
            "planned_accounts": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
