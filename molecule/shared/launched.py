# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of portfence-run and of the probe ask a test host."""

from __future__ import annotations

import json
import re

from testinfra.host import Host

# Every program has a port of its own, where nothing listens: it ends at once. What it sent, the kernel of the peer has seen.
PORTS = {"curl": 9101, "wget": 9102, "nc": 9103, "dig": 9104, "ssh": 9105, "git": 9106, "python3": 9107}
COMMANDS = {
    "curl": "curl --silent http://203.0.113.2:9101/",
    "wget": "wget --quiet --tries=1 --output-document=- http://203.0.113.2:9102/",
    "nc": "nc -w 2 203.0.113.2 9103",
    "dig": "dig +tries=1 +time=1 @203.0.113.2 -p 9104 example.org",
    "ssh": "ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o ConnectTimeout=2 -p 9105 203.0.113.2 true",
    "git": "git ls-remote git://203.0.113.2:9106/project",
    "python3": "python3 /usr/local/lib/test-host/connect.py tcp 2001:db8:1::2 9107",
}
# Tests of one host may run at the same time.
_WATCH = """
table inet {table} {{
    set ports {{ type inet_service; flags dynamic; }}
    chain input {{
        type filter hook input priority -10;
        tcp dport {port} tcp flags & (syn | ack) == syn add @ports {{ tcp sport }}
        udp dport {port} add @ports {{ udp sport }}
    }}
}}
"""


def launched(host: Host, service: str, program: str) -> set[int]:
    """Start one of COMMANDS with portfence-run; every source port that the peer saw of it."""
    peer, table = "ip netns exec peer nft", f"watch_{service}_{program}"
    host.check_output(f"echo %s | {peer} -f -", _WATCH.format(table=table, port=PORTS[program]))
    try:
        result = host.run(f"portfence-run {service} -- {COMMANDS[program]} </dev/null")
        assert "portfence-run:" not in result.stderr, result.stderr
        listed = host.check_output(f"{peer} list set inet {table} ports")
    finally:
        host.check_output(f"{peer} delete table inet {table}")
    elements = re.search(r"elements = \{([^}]*)\}", listed)
    assert elements, f"nothing arrived: {result.stdout}{result.stderr}"
    return {int(port) for port in re.findall(r"\d+", elements[1])}


def probed(host: Host, name: str) -> dict:
    """Return the result of a probe that tasks/probe.yml kept."""
    return json.loads(host.file(f"/run/probe-{name}.json").content_string)


def own(result: dict, service: str) -> dict[str, list]:
    """Return the lines of a probe for sockets of a service, by check."""
    checks = ("unmodified", "bind_inside", "bind_outside")
    return {check: [line for line in result["checks"] if (line["service"], line["check"]) == (service, check)] for check in checks}


def results(lines: list[dict]) -> set[bool | None]:
    """Return what became of checks; there are some."""
    assert lines
    return {line["ok"] for line in lines}
