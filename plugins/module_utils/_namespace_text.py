# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that make a network namespace: scripts of shell commands, nftables rules, systemd units. Pure.

The module applies exactly what a boot applies: it writes these files, and runs the scripts. Each can be run at any
time, on a host that has everything or nothing of it.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._boot_lock import locked
from ansible_collections.portfence.egress.plugins.module_utils._namespace import FAMILIES, INNER
from ansible_collections.portfence.egress.plugins.module_utils._namespace_spec import Namespace
from ansible_collections.portfence.egress.plugins.module_utils._nft_listing import MARKER
from ansible_collections.portfence.egress.plugins.module_utils._nft_names import CHECK_PRIORITY, NAT_PRIORITY, REFUSE_PRIORITY

HOST_TABLE = "portfence_namespaces"
HOST_UNIT = "portfence-namespaces.service"
DROP_IN = "50-portfence-namespace.conf"
# Below a folder of units: what brings the rules of the host's side back.
NFTABLES_DROP_IN = "nftables.service.d/portfence-namespaces.conf"
HEADER = "# Written by the Ansible module portfence.egress.network_namespace. Changes are overwritten.\n"

# Before the copy of the record in the script of the host's side.
RECORD = "# Before the first namespace, as in namespaces.json: "

_NFT_FAMILIES = {"ipv4": "ip", "ipv6": "ip6"}
_END = "END_OF_RULES"
_SHELL = f"""#!/bin/sh
{HEADER}"""
_SETTINGS = """set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""


@dataclass(frozen=True)
class Forwarding:
    """What has to be known about the host's own forwarding.

    :ivar opened: families whose forwarding was off, and is on for the namespaces alone.
    :ivar kept: where IPv4 is one of them, interfaces (or ``default``) that forwarded nevertheless, each by itself.
    """

    opened: Tuple[str, ...] = ()
    kept: Tuple[str, ...] = ()

    def to_dict(self) -> Dict[str, List[str]]:
        """The record of it."""
        return {"opened": list(self.opened), "kept": list(self.kept)}


def inner_rules(namespace: Namespace) -> Dict[str, str]:
    """The fence inside, by family of nft, each the text between the braces of its table.

    Judged as the fence of the host does: TCP when a connection opens, other protocols by the direction of the flow.
    """
    counter = f"violations_{namespace.name}"
    verdict = "accept" if namespace.on_violation == "log" else "drop"
    outside = [f"{protocol} sport != {namespace.ports}" for protocol in namespace.protocols]
    passing = [
        "tcp flags & (fin | syn | rst | ack) != syn accept",
        "meta l4proto != tcp ct direction reply accept",
        'oif "lo" accept',
    ]
    lines = [
        f"\tcounter {counter} {{ packets 0 bytes 0 }}\n",
        _chain(MARKER, []),
        _chain(
            "postrouting",
            [
                f"type filter hook postrouting priority {CHECK_PRIORITY}; policy accept;",
                *passing,
                *(f'{rule} counter name "{counter}" {verdict}' for rule in outside),
            ],
        ),
    ]
    if namespace.on_violation == "reject":
        refusals = [
            f'{rule} counter name "{counter}" reject with '
            + ("tcp reset" if rule.startswith("tcp ") else "icmpx type port-unreachable")
            for rule in outside
        ]
        hook = f"type filter hook output priority {REFUSE_PRIORITY}; policy accept;"
        lines.append(_chain("output", [hook, *passing, *refusals]))
    return {"inet": "".join(lines)}


def host_rules(namespaces: Sequence[Namespace], *, families: Iterable[str], forwarding: Forwarding) -> Dict[str, str]:
    """Forwarding and address translation of all namespaces, by family of nft.

    Out of a namespace only its own addresses come, and into it only replies. Where forwarding was off before, nothing
    else is forwarded.
    """
    lines = [_chain(MARKER, [])]
    forward = ["type filter hook forward priority 0; policy accept;"]
    counters = []
    for item in namespaces:
        counters.append(f"\tcounter spoofed_{item.name} {{ packets 0 bytes 0 }}\n")
        own = [f"{_NFT_FAMILIES[family]} saddr {item.pairs[family].inner} return" for family in FAMILIES]
        lines.append(_chain(f"from_{item.name}", [*own, f'counter name "spoofed_{item.name}" drop']))
        lines.append(_chain(f"to_{item.name}", ["ct state established,related accept", "drop"]))
    if namespaces:
        forward.append(_lookup("iifname", [f'"{item.interface}" : jump from_{item.name}' for item in namespaces]))
        forward.append(_lookup("oifname", [f'"{item.interface}" : goto to_{item.name}' for item in namespaces]))
        forward.append(_lookup("iifname", [f'"{item.interface}" : accept' for item in namespaces]))
    if forwarding.opened:
        counters.append("\tcounter refused { packets 0 bytes 0 }\n")
    if "ipv4" in forwarding.opened:
        forward.extend(f'meta nfproto ipv4 iifname "{name}" accept' for name in forwarding.kept if name != "default")
    forward.extend(f'meta nfproto {family} counter name "refused" drop' for family in FAMILIES if family in forwarding.opened)
    tables = {"inet": "".join([*counters, *lines, _chain("forward", forward)])}
    for family in families:
        tables[_NFT_FAMILIES[family]] = _translation(namespaces, family)
    return tables


def forwarding_of(listing: Iterable[Mapping[str, Any]]) -> Forwarding:
    """What the rules of :func:`host_rules` say of the host's own forwarding, but for ``default``: interfaces to come have no rule.

    :param listing: the objects of the table of family inet.
    """
    opened: List[str] = []
    kept: List[str] = []
    for rule in (item["rule"] for item in listing if "rule" in item):
        matches = [part["match"] for part in rule["expr"] if "match" in part]
        found = {json.dumps(match["left"]): match["right"] for match in matches}
        family, interface = (found.get(json.dumps({"meta": {"key": key}})) for key in ("nfproto", "iifname"))
        if rule["chain"] != "forward" or family not in FAMILIES:
            continue
        if isinstance(interface, str) and {"accept": None} in rule["expr"]:
            kept.append(interface)
        elif interface is None and {"drop": None} in rule["expr"]:
            opened.append(family)
    return Forwarding(tuple(opened), tuple(kept))


def _translation(namespaces: Sequence[Namespace], family: str) -> str:
    chains = [_chain(MARKER, [])]
    for item in namespaces:
        ranges = [f"meta l4proto {protocol} masquerade to :{item.ports}" for protocol in item.protocols]
        chains.append(_chain(f"assign_{item.name}", [*ranges, "masquerade"]))
    elements = [f"{item.pairs[family].inner} : goto assign_{item.name}" for item in namespaces]
    hook = f"type nat hook postrouting priority {NAT_PRIORITY}; policy accept;"
    look_up = [_lookup(f"{_NFT_FAMILIES[family]} saddr", elements)] if elements else []
    return "".join([*chains, _chain("postrouting", [hook, *look_up])])


def _lookup(key: str, elements: Sequence[str]) -> str:
    return f"{key} vmap {{ {', '.join(elements)} }}"


def _chain(name: str, lines: Iterable[str]) -> str:
    return "".join([f"\tchain {name} {{\n", *(f"\t\t{line}\n" for line in lines), "\t}\n"])


def bodies(table: str, tables: Dict[str, str]) -> str:
    """Tables with everything in them, as text for nft."""
    return "\n".join(f"table {family} {table} {{\n{content}}}\n" for family, content in tables.items())


def rules_text(table: str, tables: Dict[str, str]) -> str:
    """What gives ``nft -f`` these tables, where there are none or these already. Counters live on."""
    emptied = "".join(f"add table {family} {table}\nflush table {family} {table}\n" for family in tables)
    return f"{emptied}\n{bodies(table, tables)}"


def _load(rules: str) -> str:
    """The end of a command of the shell that loads rules. They are a part of the script, so that a boot has all of it old or all of it new."""
    return f"nft -f - <<'{_END}'\n{rules}{_END}\n"


def host_script(*, rules: str, forwarding: Forwarding) -> str:
    """The script of the host's side.

    :param rules: for nft. They go first: no packet is forwarded without them.
    """
    parts = [_SHELL, "# What the network namespaces of services need of their host.\n", _SETTINGS]
    parts.insert(2, f"{RECORD}{json.dumps(forwarding.to_dict(), sort_keys=True)}\n")
    parts.append(f"\n{_load(rules)}")
    if "ipv4" in forwarding.opened:
        parts.append("""
# net.ipv4.ip_forward stays off, and with it what else it would change: the setting of each interface is what counts.
for file in /proc/sys/net/ipv4/conf/*/forwarding; do
    case $file in */conf/all/*) continue ;; esac
    test "$(cat "$file")" = 1 || echo 1 >"$file" || test ! -e "$file"
done
""")
    if "ipv6" in forwarding.opened:
        parts.append("""
# The kernel forwards IPv6 only where this is on for all interfaces. It would turn every interface into one of a router,
# which listens to no router advertisement any more, and forget the routes that it learned from them (unless accept_ra is
# 2): so each interface keeps what it had.
conf=/proc/sys/net/ipv6/conf
if test "$(cat $conf/all/forwarding)" = 0; then
    before=$(
        for folder in "$conf"/*; do
            test "$folder" = $conf/all || echo "$folder $(cat "$folder/forwarding") $(cat "$folder/accept_ra")"
        done
    )
    put() { test "$(cat "$2" 2>/dev/null)" = "$1" || echo "$1" >"$2" || test ! -e "$2"; }
    echo "$before" | while read -r folder forwarding accept_ra; do
        test "$accept_ra" = 0 || put 2 "$folder/accept_ra"
    done
    echo 1 >$conf/all/forwarding
    echo "$before" | while read -r folder forwarding accept_ra; do
        put "$forwarding" "$folder/forwarding"
        put "$accept_ra" "$folder/accept_ra"
    done
fi
""")
    return "".join(parts)


def namespace_script(namespace: Namespace, *, rules: str, families: Iterable[str]) -> str:
    """The script of one namespace. Its fence is in force before there is any way out.

    :param rules: the rules inside, for nft.
    :param families: those that the host speaks.
    """
    name, near = shlex.quote(namespace.name), shlex.quote(namespace.interface)
    low, high = namespace.ports
    parts = [_SHELL, f"# The network namespace of the service {namespace.name}.\n", _SETTINGS]
    parts.append(f"""
name={name}
near={near}
inside() {{ nsenter --net="/run/netns/$name" -- "$@"; }}
set_inside() {{ inside sh -c 'echo "$2" >"/proc/sys/net/$1"' sh "$1" "$2"; }}

if ! inside true 2>/dev/null; then
    rm -f "/run/netns/$name"
    ip netns add "$name"
fi
inside {_load(rules)}set_inside ipv4/ip_local_port_range '{low} {high}'
inside ip link set lo up
if ! inside ip link show {INNER} >/dev/null 2>&1 || ! ip link show "$near" >/dev/null 2>&1; then
    ip link delete "$near" 2>/dev/null || true
    inside ip link delete {INNER} 2>/dev/null || true
    ip link add "$near" type veth peer name {INNER} netns "$name"
fi
""")
    families = tuple(families)
    if "ipv6" in families:
        parts.append(f"""# Nobody else is on this cable, so no address is looked for twice.
echo 0 >"/proc/sys/net/ipv6/conf/$near/accept_dad"
set_inside ipv6/conf/{INNER}/accept_dad 0
echo 0 >"/proc/sys/net/ipv6/conf/$near/disable_ipv6"
echo 0 >"/proc/sys/net/ipv6/conf/$near/accept_ra"
set_inside ipv6/conf/lo/disable_ipv6 0
set_inside ipv6/conf/{INNER}/disable_ipv6 0
set_inside ipv6/conf/{INNER}/accept_ra 0
""")
    for family in families:
        ends = namespace.pairs[family]
        nodad = " nodad" if family == "ipv6" else ""
        parts.append(f"""ip address replace {ends.host}/{ends.length} dev "$near"{nodad}
inside ip address replace {ends.inner}/{ends.length} dev {INNER}{nodad}
""")
    parts.append(f"""ip link set "$near" up
inside ip link set {INNER} up
""")
    for family in families:
        parts.append(f"inside ip -{family[-1]} route replace default via {namespace.pairs[family].host} dev {INNER}\n")
        parts.append(f'echo 1 >"/proc/sys/net/{family}/conf/$near/forwarding"\n')
    parts.append(_wait(namespace, families))
    return "".join(parts)


def _wait(namespace: Namespace, families: Sequence[str]) -> str:
    """Both ends are in use only when the kernel says so: of an IPv6 address it notes in the background that it is its own."""
    tests = ['ip link show "$near" | grep -q "state UP"', f'inside ip link show {INNER} | grep -q "state UP"']
    for family in families:
        ends = namespace.pairs[family]
        tests.append(f"ip -{family[-1]} route get {ends.host} | grep -q ^local")
        tests.append(f"inside ip -{family[-1]} route get {ends.inner} | grep -q ^local")
    joined = " && ".join(f"\n        {test}" for test in tests)
    return f"""
ready() {{
    {{{joined}
    }} 2>/dev/null
}}
tries=0
until ready; do
    tries=$((tries + 1))
    if test $tries -gt 400; then
        echo "the interfaces of the network namespace $name do not come up" >&2
        exit 1
    fi
    sleep 0.05
done
"""


def _unit(*, title: str, script: str, after: str, more: str, folder: str) -> str:
    return f"""{HEADER}
[Unit]
Description={title}
Documentation=https://github.com/portfence/portfence.egress
DefaultDependencies=no
RequiresMountsFor={folder}
After=local-fs.target systemd-modules-load.service systemd-sysctl.service {after}
Before=network-pre.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target
{more}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={locked(f"exec /bin/sh {script}")}
ExecReload={locked(f"exec /bin/sh {script}")}

[Install]
WantedBy=sysinit.target
"""


def host_unit(*, script: str, folder: str) -> str:
    """The unit of the host's side."""
    title = "Forwarding for the network namespaces of services"
    return _unit(title=title, script=script, after="nftables.service portfence.service", more="", folder=folder)


def nftables_drop_in(script: str) -> str:
    """The drop-in of nftables.service, which flushes every table when it stops, and usually when it starts or reloads: see _unit.py.

    What was opened to forwarding for the namespaces is open to everybody without these rules. A failure of ours does not become one of theirs.
    """
    command = locked(f"exec /bin/sh {script}")
    return f"""{HEADER}
[Service]
ExecStartPost=-{command}
ExecReload=-{command}
ExecStopPost=-{command}
"""


def unit_of(name: str) -> str:
    """The name of the unit of one namespace."""
    return f"portfence-namespace@{name}.service"


def namespace_unit(namespace: Namespace, *, script: str, folder: str) -> str:
    """The unit of one namespace."""
    title = f"Network namespace of the service {namespace.name}"
    return _unit(title=title, script=script, after=HOST_UNIT, more=f"Wants={HOST_UNIT}\n", folder=folder)


def drop_in(namespace: Namespace, unit: str) -> str:
    """What makes a unit join. The unit does not start where the namespace can't be made."""
    needed = unit_of(namespace.name)
    resolver = f"BindReadOnlyPaths={resolver_path(namespace.name)}:/etc/resolv.conf\n" if namespace.dns else ""
    return f"""{HEADER}
[Unit]
Requires={needed}
After={needed}

[{"Socket" if unit.endswith(".socket") else "Service"}]
NetworkNamespacePath={namespace.path}
{resolver}"""


def resolver_path(name: str) -> str:
    """The file that ip-netns(8) shows as /etc/resolv.conf inside a namespace."""
    return f"/etc/netns/{name}/resolv.conf"


def resolver_text(namespace: Namespace) -> str:
    """The content of that file."""
    return HEADER + "".join(f"nameserver {address}\n" for address in namespace.dns)
