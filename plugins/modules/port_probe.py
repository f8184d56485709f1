#!/usr/bin/python
# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proves by connecting that a host keeps the source ports of its services."""

from __future__ import annotations

DOCUMENTATION = r"""
module: port_probe
short_description: Prove the source ports of services with real connections
version_added: 0.1.0
description:
  - Connects as the accounts of the services, and as an account of no service, looks at the source ports that the other
    side sees, and fails unless everything is as the policy says.
  - The other side is a temporary network namespace on the same host, joined to it by a veth pair with addresses that are
    reserved for documentation. It is gone when the module ends, also when the module is killed. O(target) names
    another machine instead.
  - A service that the fence recognises by a systemd unit, a class of net_cls or a network namespace is probed with sockets that
    are opened there. A child process joins the cgroup of a unit that runs, as any program of the unit; it ends with the
    probe and leaves nothing behind. The unit does not notice.
  - The units of a service that do not run, and services with C(addresses), whose traffic this host only forwards, can't be
    probed. The checks made as the service are skipped, with the reason, and never count as passed; that others are kept out
    of its ports is still proved. A place that is there and can't be
    entered is a failed check.
  - TCP and UDP are probed, as far as the service lists them, over IPv4 and IPv6. RV(not_probed) names the other protocols.
  - Without O(target), V(blocked) means that nothing arrived at the other side, whatever the client was told.
  - All checks run at the same time, which takes little more than O(timeout) for a few services, and less without O(target).
  - Probes that break the policy on purpose are counted by the fence like any other packet. How many there were is in
    RV(counted), and is added up in C(/run/portfence/probe-counts.json), which M(portfence.egress.fence_info) takes into account.
requirements:
  - ip (iproute2), unless O(target) is given
  - the right to make a network namespace, unless O(target) is given
author:
  - PortFence contributors (@portfence)
extends_documentation_fragment:
  - portfence.egress.attributes
  - portfence.egress.services
attributes:
  check_mode:
    support: partial
    details: Sends nothing in check mode and says so, because it would have to add a network interface for a moment.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  target:
    description:
      - A machine to connect to instead of the temporary namespace.
      - A responder has to run there that answers each TCP connection and each UDP datagram with the source port that it
        sees, in decimal digits. C(roles/probe/files/portfence_responder.py) in this collection is one; it needs only Python.
      - Nothing between the host and the target may change source ports.
      - V(blocked) then means that no answer came, so everything on the way has to let answers through.
    type: dict
    suboptions:
      address4:
        description: IPv4 address of the target. Without it, IPv4 is skipped.
        type: str
      address6:
        description: IPv6 address of the target. Without it, IPv6 is skipped.
        type: str
      ports:
        description:
          - The ports that the responder answers on, TCP and UDP alike; a port, a range or a list of them.
          - So many connections of a protocol are made at a time. Services with very few source ports need several.
        type: raw
        default: 40000-40063
  timeout:
    description:
      - Seconds to wait for each connection, from V(0.1) to V(60).
      - TCP may be given up to 0.25 seconds more, so that the wait does not end in the middle of a retransmission.
      - Without O(target), what the fence should hold is given up sooner, when others have arrived by the same way - after a quarter of a
        second, or five times what the slowest of those has taken.
    type: float
    default: 1.0
notes:
  - The services of the host that are not in O(services) are not probed, but their ports are kept out of.
  - A UDP answer or a TCP handshake that does not come back is an error, even where the source port that arrived was right.
seealso:
  - module: portfence.egress.fence
  - module: portfence.egress.fence_info
"""

EXAMPLES = r"""
- name: Prove that the fence holds
  portfence.egress.port_probe:
    services:
      - name: myapp
        source_ports: 50000-50999
      - name: collector
        user: otel
        source_ports: [52000-52999, 53500]
        assignment: app
        on_violation: reject

- name: Prove it across the network
  portfence.egress.port_probe:
    services:
      - name: myapp
        source_ports: 50000-50999
    target:
      address4: 192.0.2.10
      address6: 2001:db8::10
    timeout: 3
"""

RETURN = r"""
checks:
  description: Every check with its result.
  returned: when the probe was made, also when it failed
  type: list
  elements: dict
  contains:
    service:
      description: Name of the service.
      type: str
      sample: myapp
    check:
      description:
        - V(unmodified), an account of the service connects without binding.
        - V(bind_inside), it binds to a port of the service first.
        - V(bind_outside), it binds to a port of no service first. With O(services[].assignment=bpf) the bind has to be
          refused, and with O(services[].listen_ports) it may be.
        - V(other_inside), an account of no service binds to a port of the service.
        - V(other_elsewhere), an account of no service connects without binding.
      type: str
      sample: bind_outside
    protocol:
      description: V(tcp) or V(udp).
      type: str
      sample: tcp
    family:
      description: V(ipv4) or V(ipv6).
      type: str
      sample: ipv6
    account:
      description: The account that opened the socket, and where, such as V(nobody in the unit myapp.service).
      type: str
      sample: myapp
    local:
      description: The port that the socket had on the host, null where it is not known.
      type: int
      sample: 45000
    expected:
      description: What the policy says the other side should see.
      type: str
      sample: port 50000-50999
    seen:
      description: The source port that the other side saw, null when nothing arrived.
      type: int
      sample: 50123
    error:
      description: What the client met, null when it got its answer.
      type: str
      sample: Connection timed out
    ok:
      description: Whether it is as expected, null when it was skipped.
      type: bool
      sample: true
    skipped:
      description: Why nothing was tried.
      returned: when it was skipped
      type: str
      sample: "IPv6 is disabled on this host: no interface has an IPv6 address"
probed:
  description: Services that there is a check of.
  returned: when the probe was made, also when it failed
  type: list
  elements: str
  sample: [myapp]
summary:
  description: Numbers of checks.
  returned: when the probe was made, also when it failed
  type: dict
  sample: {"checks": 20, "ok": 20, "failed": 0, "skipped": 0}
not_probed:
  description: Protocols of services that are fenced, but not probed, and therefore not verified.
  returned: when the probe was made, also when it failed
  type: dict
  sample: {"myapp": ["sctp"]}
counted:
  description:
    - How many of the violations and intrusions that the fence counted were packets of this probe.
    - That is the number of packets which the probe sent against the policy, but no more than the counter has grown meanwhile.
    - C(namespace_violations) are those that the fence inside the network namespace of a service counted.
  returned: when the probe was made, also when it failed
  type: dict
  sample: {"myapp": {"violations": 0, "intrusions": 4}}
violations:
  description: Those that the fence has counted of all services of the host together, as M(portfence.egress.fence_info) has them.
  returned: when the probe was made, also when it failed
  type: dict
  sample: {"packets": 3, "bytes": 180, "by_probes": 2}
missing_programs:
  description: Programs that have to be installed first.
  returned: when the probe was not made because of them
  type: list
  elements: str
  sample: [ip]
msg:
  description: Every check that is not as the policy says, with what was expected and what was seen.
  returned: failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.portfence.egress.plugins.module_utils._argument_spec import services_argument
from ansible_collections.portfence.egress.plugins.module_utils._module import fail, leave, run_module
from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_list
from ansible_collections.portfence.egress.plugins.module_utils._probe_run import check_timeout, parse_target, run_probe
from ansible_collections.portfence.egress.plugins.module_utils._store import host_of_root


def run(module: AnsibleModule) -> None:
    """Do what the parameters say, and leave through exit_json or fail_json. Raises PortFenceError."""
    host = host_of_root()
    declared = parse_list(module.params["services"])
    target = parse_target(module.params["target"])
    check_timeout(module.params["timeout"])
    if module.check_mode:
        leave(module, changed=False, skipped=True, msg="nothing was probed: a probe sends packets, and this is check mode")
    if target is None and any(item.service.state == "present" for item in declared) and host.find("ip") is None:
        fail(
            module, msg="the program ip was not found; install the package iproute2, or give a target", missing_programs=["ip"]
        )
    report = run_probe(host=host, declared=declared, target=target, timeout=module.params["timeout"])
    for warning in report.warnings:
        module.warn(warning)
    if report.message is not None:
        fail(module, msg=report.message, **report.result)
    leave(module, changed=False, **report.result)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **services_argument(),
            "target": {
                "type": "dict",
                "options": {
                    "address4": {"type": "str"},
                    "address6": {"type": "str"},
                    "ports": {"type": "raw", "default": "40000-40063"},
                },
                "required_one_of": [("address4", "address6")],
            },
            "timeout": {"type": "float", "default": 1.0},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
