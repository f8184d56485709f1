# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parameter C(services), the same for every module that takes it. Its keys are those of the inventory variables."""

from __future__ import annotations


class ModuleDocFragment:
    """A list of services, with every key that a service may have."""

    DOCUMENTATION = r"""
options:
  services:
    description:
      - The services of the host, all in one list.
      - The keys are those of a service in the inventory variable C(egress_services), and O(services[].name).
      - Every mistake in the list is reported at once, each with its path.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description:
          - Name of the service, C(1) to C(32) letters, digits, C(_), C(-) or C(.), not starting with C(-) or C(.).
        type: str
        required: true
      state:
        description:
          - V(present) or V(absent). An absent service needs no other key.
          - Defaults to V(present).
        type: str
      source_ports:
        description:
          - The source ports that the service may use on the wire, bounds included.
          - A port such as V(50000), a range such as V(50000-50999), or a list of them.
          - Two services of a host can't share a port. Required unless the service is absent.
        type: raw
      user:
        description:
          - The account that the service runs as, by name or UID, or a list of them.
          - Defaults to the name of the service, unless another selector is given, which are O(services[].group),
            O(services[].classid), O(services[].unit) and O(services[].addresses). A service has one selector.
          - The owner of a packet is the account that opened its socket.
        type: raw
      group:
        description:
          - The group that the service runs with, by name or GID, or a list of them, instead of O(services[].user).
        type: raw
      classid:
        description:
          - The class of the net_cls cgroup that the service's processes are in, such as V(0x100001), or V(10:1) as tc writes it.
          - See M(portfence.egress.cgroup_classid), which makes the cgroup and puts processes in.
        type: raw
        version_added: 0.2.0
      unit:
        description:
          - The systemd service or slice that the service's processes belong to (cgroup v2), or a list of them. V(worker@.service) stands for
            all instances of a template. A name without a suffix is that of a service.
          - The unit has to exist. It is told to the fence by a drop-in before its first process starts, and does not start without the fence.
          - Needs nftables 0.9.9 and kernel 5.13 or newer.
        type: raw
        version_added: 0.2.0
      addresses:
        description:
          - Addresses or networks of containers or network namespaces whose traffic this host forwards, IPv4 and IPv6, one or a list.
        type: raw
        version_added: 0.2.0
      interface:
        description:
          - The interface where the traffic of O(services[].addresses) comes in. Any interface when not given.
        type: str
        version_added: 0.2.0
      masquerade:
        description:
          - Whether the source address of forwarded traffic becomes that of this host, along with the port, when O(services[].assignment=rewrite).
          - V(false) translates the port alone, for addresses that are routed beyond this host.
          - Defaults to V(true). Only with O(services[].addresses).
        type: raw
        version_added: 0.2.0
      protocols:
        description:
          - A list of the protocols that are fenced, out of V(tcp), V(udp), V(sctp), V(dccp) and V(udplite).
          - Protocols that are not listed are left alone. Defaults to V([tcp, udp]).
        type: raw
      assignment:
        description:
          - How a program that does not bind gets a source port of the service.
          - V(rewrite) lets the host translate the source port, and only the port, when a connection opens.
          - V(app) leaves it to the program to bind; everything else is a violation.
          - V(host) expects the range as the C(net.ipv4.ip_local_port_range) of the host (see
            M(portfence.egress.ephemeral_ports)). Only one service of a host can have it, with one range.
          - V(bpf) lets an eBPF program choose the port when a socket connects, without address translation. It needs Linux 5.8,
            bpftool and cgroup v2, and goes with O(services[].user) and O(services[].unit). A program that binds to a port outside
            gets EPERM at once, whether it wants to connect or to listen there. What eBPF leaves (binding to port 0, UDP sockets
            that do not connect) is translated as with V(rewrite).
          - V(namespace) gives the service a network namespace with an C(ip_local_port_range) of its own (see
            M(portfence.egress.network_namespace)). It needs one range.
          - V(auto) is V(bpf) where the host can do it, else V(rewrite). It lets programs bind to ports outside in either case;
            connections from there are translated.
          - Defaults to V(rewrite).
        type: str
      share_ports:
        description:
          - Whether TCP connections to several destinations may have the same port at once with O(services[].assignment=bpf), once
            no free one is found. The program's sockets get C(SO_REUSEADDR) for that, and a connect can fail with EADDRNOTAVAIL
            where the shared port is in use towards the same destination. It needs Linux 6.1.
          - With V(false), each socket has a port of its own, and keeps it for as long as TCP holds it in TIME_WAIT.
          - Defaults to V(false). Only with O(services[].assignment=bpf) and O(services[].assignment=auto).
        type: raw
        version_added: 0.2.0
      listen_ports:
        description:
          - Ports that the units of the service listen on, such as V(4317), a range or a list, empty for none.
          - Where it is given, systemd keeps the units from binding to any other port than these and O(services[].source_ports)
            (C(SocketBindAllow=), systemd 249 or newer). Only with O(services[].unit) and O(services[].assignment=app).
        type: raw
        version_added: 0.2.0
      namespace:
        description:
          - A mapping of C(ipv4), C(ipv6) (networks of the veth pair, of which the host has the first address and the namespace the second)
            and C(dns) (a list of name servers), with O(services[].assignment=namespace).
          - Without C(ipv4) and C(ipv6), the networks follow from the first port of the service.
        type: raw
        version_added: 0.2.0
      on_violation:
        description:
          - What happens to a packet of the service with another source port.
          - V(drop) drops it. V(reject) answers at once, except after V(rewrite), V(bpf) and V(auto), where the final
            port is known too late to answer, and the packet is dropped.
          - V(log) counts and logs it, and lets it pass. It lets intrusions into the service's ports pass as well.
          - Defaults to V(drop).
        type: str
      exclusive:
        description:
          - Whether the packets of other owners with a port of the service (intrusions) are dropped.
          - Packets without an owner, such as forwarded ones, are not.
          - Defaults to V(true), with O(services[].assignment=host) to V(false), the only value possible there.
        type: raw
      loopback:
        description:
          - Whether traffic that stays on the host is fenced too. Defaults to V(false).
        type: raw
      log:
        description:
          - A mapping of C(prefix) (at most 127 bytes of printable ASCII without quotes, backslash, C($) and the backtick), C(level) (V(emerg),
            V(alert), V(crit), V(err), V(warning), V(notice), V(info) or V(debug)) and C(rate) (such as V(10/second), V(1/minute)).
          - The prefix is that of violations, C(portfence violation NAME) with a colon and a space when not given. Intrusions have
            C(portfence intrusion NAME) in its place.
          - Level and rate default to V(warning) and V(10/second).
          - All services of a host together log at most 5 lines a second and 200 at once, with iptables so many for each of IPv4 and IPv6.
            Every packet is counted.
        type: raw
      uid:
        description:
          - The UID that the account gets if M(portfence.egress.service_account) creates it. Not looked at by this module.
        type: raw
      manage_account:
        description:
          - Whether the role C(accounts) creates the account if it is missing. Not looked at by this module.
        type: raw
      allow_admin:
        description:
          - Required as V(true) to fence UID 0, GID 0 or the account that Ansible connects with, and root where it runs with a
            group of the service. Defaults to V(false).
        type: raw
"""
