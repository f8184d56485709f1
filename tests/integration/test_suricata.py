# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The exported files in a real Suricata, set up as the guide says, and its alerts about packets of a capture."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import pytest
from ansible_collections.portfence.egress.plugins.filter.identity_files import identity_files
from pcap import connection, write

GUIDE = (Path(__file__).parents[2] / "docs" / "suricata.md").read_text(encoding="utf-8")
FOLDER = "/etc/suricata/portfence"
PEER = {4: "192.0.2.200", 6: "2001:db8:ffff::1"}
Flow = Tuple[str, str, int]


def entry(address: str, protocol: str, ports: str, service: str) -> Dict[str, Any]:
    """One identity."""
    return {"address": address, "protocol": protocol, "source_ports": ports, "service": service, "hosts": ["a"]}


def both(address: str, ports: str, service: str) -> List[Dict[str, Any]]:
    """For TCP and UDP."""
    return [entry(address, protocol, ports, service) for protocol in ("tcp", "udp")]


# web has other ports in the second NAT domain, some of which are those of mail in the first one.
FLEET = [
    *both("198.51.100.1/32", "20000-20999", "web"),
    *both("198.51.100.1/32", "30000-30499", "mail"),
    *both("198.51.100.2/32", "30000-30999", "web"),
    *both("198.51.100.3/32", "30000-30999", "web"),
    entry("198.51.100.3/32", "sctp", "31000", "web"),
    # Names that look alike in capitals.
    entry("198.51.100.3/32", "tcp", "31001", "b-x"),
    entry("198.51.100.3/32", "udp", "31002", "b.x"),
    *both("2001:db8:1::1/128", "20000-20999", "web"),
    *both("2001:db8:1::2/128", "30000-30999", "web"),
    # Networks that lie in each other.
    *both("10.0.0.0/8", "40000-40099", "wide"),
    *both("10.1.0.0/16", "41000", "mid"),
    *both("10.1.0.5/32", "42000", "web"),
    *both("2001:db8:2::/48", "40000-40099", "wide"),
    *both("2001:db8:2::5/128", "42000", "web"),
]
# Source, port, and the service; None where the port is nobody's there.
SEEN: Sequence[Tuple[str, int, Optional[str]]] = [
    ("198.51.100.1", 20000, "web"),
    ("198.51.100.1", 20999, "web"),
    ("198.51.100.1", 30200, "mail"),
    # Of web, but at another address.
    ("198.51.100.1", 30500, None),
    ("198.51.100.2", 20500, None),
    ("198.51.100.2", 30200, "web"),
    ("198.51.100.3", 30999, "web"),
    ("198.51.100.3", 31000, None),
    ("2001:db8:1::1", 20500, "web"),
    ("2001:db8:1::1", 30500, None),
    ("2001:db8:1::2", 30500, "web"),
    ("10.2.0.1", 40000, "wide"),
    ("10.2.0.1", 41000, None),
    ("10.1.0.6", 40000, "wide"),
    ("10.1.0.6", 41000, "mid"),
    ("10.1.0.6", 42000, None),
    ("10.1.0.5", 40000, "wide"),
    ("10.1.0.5", 41000, "mid"),
    ("10.1.0.5", 42000, "web"),
    ("10.1.0.5", 43000, None),
    ("2001:db8:2::5", 40000, "wide"),
    ("2001:db8:2::5", 42000, "web"),
    ("2001:db8:2::5", 43000, None),
    ("2001:db8:2::6", 42000, None),
]
EXPECTED: List[Tuple[str, str, int, Optional[str]]] = [
    *((protocol, source, port, service) for protocol in ("tcp", "udp") for source, port, service in SEEN),
    ("sctp", "198.51.100.3", 31000, "web"),
    ("sctp", "198.51.100.3", 30000, None),
    ("tcp", "198.51.100.3", 31001, "b-x"),
    ("udp", "198.51.100.3", 31001, None),
    ("tcp", "198.51.100.3", 31002, None),
    ("udp", "198.51.100.3", 31002, "b.x"),
]


class Suricata:
    """Debian's configuration with what the guide adds to it."""

    def __init__(self, folder: Path, entries: Sequence[Dict[str, Any]]) -> None:
        program = shutil.which("suricata")
        assert program is not None, "scripts/setup test brings suricata"
        self._program, self._folder = program, folder
        for name, text in identity_files(list(entries)).items():
            (folder / name).write_text(text, encoding="utf-8")
        services = sorted({item["service"] for item in entries})
        local = (local_rule(name, number) for number, name in enumerate(services, 1))
        (folder / "local.rules").write_text("".join(local), encoding="utf-8")
        defaults = Path(program).with_name("suricata.d") / "etc" / "suricata"
        text = (defaults / "suricata.yaml").read_text(encoding="utf-8").replace("/etc/suricata/", f"{defaults}/")
        for above, line in added():
            assert text.count(f"\n{above}\n") == 1
            text = text.replace(f"\n{above}\n", f"\n{above}\n{line.replace(FOLDER, str(folder))}\n")
        text = text.replace("\n  - suricata.rules\n", f"\n  - {folder}/local.rules\n")
        (folder / "suricata.yaml").write_text(text, encoding="utf-8")

    def run(self, *args: str) -> str:
        """The program succeeds, and complains about nothing."""
        command = [self._program, "-c", str(self._folder / "suricata.yaml"), "-l", str(self._folder), *args]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert not re.search(r"^E(rror)?: |redefined|rules? failed", said, re.MULTILINE), said
        return said

    def alerts(self, packets: Sequence[bytes]) -> Dict[str, Counter[Flow]]:
        """Message to flows, with how often it was told."""
        write(self._folder / "capture.pcap", packets)
        self.run("-k", "none", "-r", str(self._folder / "capture.pcap"))
        found: Dict[str, Counter[Flow]] = {}
        for line in (self._folder / "eve.json").read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            if event["event_type"] == "alert" and not event["alert"]["signature"].startswith("SURICATA "):
                flow = (event["proto"].lower(), str(ip_address(event["src_ip"])), event["src_port"])
                found.setdefault(event["alert"]["signature"], Counter())[flow] += 1
        return found


def added() -> List[Tuple[str, str]]:
    """The lines of the guide that name a file, each with the one above it."""
    block = re.search(r"^```yaml\n# /etc/suricata/suricata.yaml\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    assert block is not None
    lines = block[1].splitlines()
    return [(above, line) for above, line in zip(lines, lines[1:]) if FOLDER in line]


def local_rule(service: str, number: int) -> str:
    """The rule of the guide, for another service and towards anybody, told once for each flow."""
    found = re.search(r"^alert ip .*flowbits:isset,portfence\.myapp; .*\)$", GUIDE, re.MULTILINE)
    assert found is not None
    rule = found[0].replace("portfence.myapp", f"portfence.{service}").replace("$EXTERNAL_NET", "any")
    return re.sub(r'msg:"[^"]*";(.*)sid:\d+;', rf'msg:"{service}";\1flowbits:isnotset,told; flowbits:set,told; sid:{number};', rule) + "\n"


def flows(expected: Sequence[Tuple[str, str, int, Optional[str]]]) -> List[bytes]:
    """Packets of these connections."""
    return [
        data
        for protocol, source, port, _service in expected
        for data in connection(protocol, source, port, PEER[6 if ":" in source else 4])
    ]


def test_the_guide_adds_each_file_once(tmp_path: Path) -> None:
    assert len(added()) == 3
    assert "Configuration provided was successfully loaded" in Suricata(tmp_path, FLEET).run("-T")


def test_the_guide_names_variables_as_they_are() -> None:
    apart = [entry("198.51.100.7/32", "tcp", "50000", "myapp"), entry("198.51.100.8/32", "tcp", "50001", "myapp")]
    files = identity_files([*apart, entry("2001:db8::1/128", "tcp", "50001", "my-app")])
    defined = re.findall(r"^(\w+): ", files["suricata-addresses.yaml"] + files["suricata-ports.yaml"], re.MULTILINE)
    named = re.findall(r"`(PORTFENCE_\w+)`", GUIDE)
    assert len(named) == 7 and set(named) <= set(defined)


def test_flows_are_named_and_unknown_ones_told_once(tmp_path: Path) -> None:
    suricata = Suricata(tmp_path, FLEET)
    others = [
        # Nobody's address, a client of a fenced host, a protocol that no service there has.
        *connection("tcp", "192.0.2.9", 1234, PEER[4]),
        *connection("udp", "192.0.2.9", 1235, PEER[4]),
        *connection("tcp", "192.0.2.9", 1236, "198.51.100.1", to=443),
        *connection("sctp", "2001:db8:1::1", 1237, PEER[6]),
        # A server's answer is the first packet that is seen; then a client's.
        *connection("tcp", "192.0.2.9", 1238, "198.51.100.1", to=443, opening=False),
        *connection("tcp", "198.51.100.1", 1239, PEER[4], opening=False),
    ]
    opening = connection("tcp", "198.51.100.1", 1240, PEER[4])[0]
    found = suricata.alerts([*others, opening, opening, *flows(EXPECTED)])
    want: Dict[str, Counter[Flow]] = {"portfence unknown source port": Counter({("tcp", "198.51.100.1", 1240): 1})}
    for protocol, source, port, service in EXPECTED:
        want.setdefault(service or "portfence unknown source port", Counter())[protocol, source, port] += 1
    assert found == want


def test_a_large_fleet(tmp_path: Path) -> None:
    """2,000 hosts with an address each, and 1,500 behind one."""
    hosts = [f"10.{number // 200}.{number % 200}.1" for number in range(2000)]
    fleet = [
        *(entry(f"{host}/32", "tcp", "50000-50999", "web") for host in hosts),
        *(entry(f"2001:db8:1:{number:x}::1/128", "tcp", "50000-50999", "web") for number in range(2000)),
        *(entry("198.51.100.1/32", "tcp", f"{port}-{port + 5}", "mail") for port in range(10000, 25000, 10)),
    ]
    seen = [
        *(("tcp", hosts[number], port, service) for number in (0, 999, 1999) for port, service in ((50999, "web"), (51000, None))),
        *(("tcp", "2001:db8:1:7cf::1", port, service) for port, service in ((50000, "web"), (49999, None))),
        *(("tcp", "198.51.100.1", port, "mail" if port % 10 < 6 else None) for port in (10000, 10006, 17505, 17506, 24995, 24996)),
    ]
    found = Suricata(tmp_path, fleet).alerts(flows(seen))
    assert {flow for told in found.values() for flow in told} == {flow[:3] for flow in seen}
    for name in ("web", "mail", None):
        assert found[name or "portfence unknown source port"] == Counter(flow[:3] for flow in seen if flow[3] == name)


@pytest.mark.parametrize("entries", [[], [entry("10.0.0.1/32", "dccp", "50000", "web")]])
def test_a_fleet_that_suricata_knows_nothing_of(tmp_path: Path, entries: List[Dict[str, Any]]) -> None:
    Suricata(tmp_path, entries).run("-T")
