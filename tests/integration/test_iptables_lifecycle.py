# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module fence with the backend iptables, both variants: check mode, idempotence, drift, boot, removal, refusals."""

from __future__ import annotations

import itertools
from typing import Any, Dict, List

import pytest
from lab import Lab

MYAPP = {"name": "myapp", "source_ports": "50000-50999"}
COLLECTOR = {
    "name": "collector",
    "user": "otel",
    "source_ports": ["52000-52999", 53500],
    "assignment": "app",
    "on_violation": "reject",
}
FRESH_PORTS = itertools.count(20000)
FILES = "find /etc/portfence /etc/systemd /run -newer /run/mark -printf '%p %s %T@\\n' | grep -v xtables.lock | sort"
SAVE = "(iptables-save; ip6tables-save) | grep -v '^#' | sed 's/ \\[[0-9:]*\\]$//'"


@pytest.fixture(name="host", params=["nft", "legacy"])
def fixture_host(request: pytest.FixtureRequest, lab: Lab) -> Lab:
    lab.use_iptables(request.param)
    lab.add_user("myapp", 991)
    lab.add_user("otel", 992)
    # What an admin has: rules of his own, in the tables that we use.
    for program, icmp in (("iptables", "icmp"), ("ip6tables", "icmpv6")):
        for table, chain in (("filter", "OUTPUT"), ("mangle", "POSTROUTING"), ("nat", "POSTROUTING"), ("raw", "OUTPUT")):
            lab.run([program, "-t", table, "-A", chain, "-p", icmp, "-j", "ACCEPT"])
        lab.run([program, "-t", "filter", "-N", "admin"])
    lab.run(["touch", "/run/mark"])
    return lab


def apply(lab: Lab, *services: Dict[str, Any], **params: Any) -> Dict[str, Any]:
    result = lab.module("fence", **{"services": list(services), "backend": "iptables", **params})
    assert not result.get("failed"), result["msg"]
    return result


def rules(lab: Lab) -> str:
    """Everybody's rules, without counts."""
    return lab.run(["sh", "-c", SAVE]).out


def theirs(lab: Lab) -> List[str]:
    """The rules of others."""
    return sorted(line for line in rules(lab).splitlines() if line.startswith("-A") and "portfence" not in line and "pf-" not in line)


def state(lab: Lab) -> List[str]:
    """Everything that an apply may touch."""
    return [rules(lab), lab.run(["nft", "list", "tables"]).out, lab.run(["sh", "-c", FILES]).out]


def is_fenced(lab: Lab) -> bool:
    """Whether ports that the client chose are rewritten. They are fresh, so that no earlier connection is in the way."""
    inside = set()
    for protocol in ("tcp", "udp"):
        for family in (4, 6):
            port = next(FRESH_PORTS)
            seen = lab.connect(protocol, family=family, uid=991, source_port=port, timeout=5.0).port
            assert seen == port or seen in range(50000, 51000), (protocol, family, seen)
            inside.add(seen != port)
    assert len(inside) == 1, "fenced over some protocols and families only"
    return inside.pop()


def test_check_mode_predicts_and_changes_nothing(host: Lab) -> None:
    before = state(host)
    predicted = apply(host, MYAPP, COLLECTOR, check_mode=True, diff=True)
    assert predicted["changed"]
    assert state(host) == before
    done = apply(host, MYAPP, COLLECTOR, diff=True)
    assert (done["changes"], done["diff"]) == (predicted["changes"], predicted["diff"])
    assert done["diff"]["before"] == "" and "--to-source :50000-50999" in done["diff"]["after"]
    assert (done["backend"], done["nft_version"], done["backend_before"]) == ("iptables", None, None)
    assert is_fenced(host)


def test_second_run_changes_nothing(host: Lab) -> None:
    apply(host, MYAPP, COLLECTOR)
    before = state(host)
    for check_mode, backend in ((True, "iptables"), (False, "iptables"), (False, "auto")):
        again = apply(host, MYAPP, COLLECTOR, check_mode=check_mode, diff=True, backend=backend)
        assert (again["changed"], again["changes"], again["backend"]) == (False, [], "iptables")
        assert again["diff"]["before"] == again["diff"]["after"] != ""
    assert state(host) == before


@pytest.mark.parametrize(
    "harm",
    [
        "iptables -t mangle -I POSTROUTING -p icmp -j ACCEPT",
        "ip6tables -t nat -I POSTROUTING -o eth0 -p tcp -j MASQUERADE",
        "iptables -t raw -I OUTPUT -d 127.0.0.0/8 -j ACCEPT",
        "iptables -t filter -I OUTPUT -j admin",
        "ip6tables -t mangle -F portfence",
        "iptables -t mangle -D portfence 4",
        "iptables -t nat -F",
        "iptables -t mangle -I pf-check-myapp -j ACCEPT",
        "iptables -t mangle -D POSTROUTING -j portfence",
        "iptables -t mangle -A OUTPUT -j portfence",
        "iptables -t nat -I admin-nat -p tcp -g portfence",
        "ip6tables -t mangle -N pf-check-stray",
        "iptables -t mangle -F; iptables -t mangle -X",
        "iptables -t mangle -Z; iptables -t mangle -F pf-violations-myapp",
        "(echo '*filter'; echo COMMIT) | iptables-restore; (echo '*mangle'; echo COMMIT) | ip6tables-restore",
    ],
)
def test_change_by_hand_is_noticed_and_mended(host: Lab, harm: str) -> None:
    apply(host, MYAPP, COLLECTOR)
    host.run(["iptables", "-t", "nat", "-N", "admin-nat"])
    clean = host.module("fence", services=[], diff=True)["diff"]["before"]
    host.run(["sh", "-c", harm])
    kept = theirs(host)
    info = host.module("fence_info")
    assert (info["in_sync"], info["drift"]) == (False, ["load the fence into the kernel"])
    assert apply(host, MYAPP)["changes"] == ["load the fence into the kernel"]
    again = apply(host, MYAPP, diff=True)
    assert again["diff"]["before"] == clean and not again["changed"]
    assert theirs(host) == kept
    assert is_fenced(host)


def test_counters_survive_a_change_of_the_policy(host: Lab) -> None:
    apply(host, MYAPP, COLLECTOR)
    for family in (4, 6):
        assert host.connect("udp", family=family, uid=992, source_port=40000).port is None
        assert host.connect("tcp", family=family, uid=1234, source_port=50001).port is None
    before = host.module("fence_info")["services"]
    assert before["collector"]["violations"]["packets"] >= 2
    assert before["myapp"]["intrusions"]["packets"] >= 2
    apply(host, {**MYAPP, "source_ports": "51000-51099"}, {**COLLECTOR, "on_violation": "drop", "log": {"prefix": "P: "}})
    after = host.module("fence_info")
    assert after["in_sync"]
    assert after["services"]["collector"]["violations"] == before["collector"]["violations"]
    assert after["services"]["myapp"]["intrusions"] == before["myapp"]["intrusions"]


@pytest.mark.parametrize("purge", [False, True])
def test_nothing_is_left_when_the_last_service_goes(host: Lab, purge: bool) -> None:
    before = rules(host)
    apply(host, MYAPP, COLLECTOR)
    services = [] if purge else [{"name": "myapp"}, {"name": "collector"}]
    predicted = apply(host, *services, state="absent", purge=purge, check_mode=True)
    assert is_fenced(host)
    result = apply(host, *services, state="absent", purge=purge, diff=True, backend="auto")
    assert predicted["changes"] == result["changes"]
    assert result["changed"] and result["diff"]["after"] == ""
    assert rules(host) == before
    left = host.run(["sh", "-c", "find /etc /run /var -xdev -name '*portfence*' -not -path '/var/lib/collections/*'"]).out
    assert left == ""
    assert not apply(host, *services, state="absent", purge=purge)["changed"]
    assert not is_fenced(host)


def test_fence_stands_after_a_reboot(host: Lab) -> None:
    apply(host, MYAPP, COLLECTOR)
    host.run(["userdel", "otel"])  # boot needs no name service: only numbers are in the file
    assert host.reboot()
    host.add_user("otel", 992)
    assert is_fenced(host)
    assert not apply(host, MYAPP)["changed"]


def test_the_file_for_boot_mends_what_it_finds_and_keeps_counts(host: Lab) -> None:
    apply(host, {**MYAPP, "source_ports": "40000-40999"}, {"name": "gone", "user": "otel", "source_ports": 53, "on_violation": "reject", "assignment": "app"})
    saved = host.run(["iptables-save"]).out
    apply(host, MYAPP, COLLECTOR, purge=True)
    clean = rules(host)
    assert host.connect(uid=1234, source_port=50001).port is None
    counted = host.module("fence_info")["services"]["myapp"]["intrusions"]["packets"]
    host.run(["/bin/sh", "/etc/portfence/fence.iptables"])
    assert rules(host) == clean
    assert host.module("fence_info")["services"]["myapp"]["intrusions"]["packets"] == counted > 0
    # Somebody else's unit restored what he had saved while another fence was in force, and put his rules above.
    host.run(["iptables-restore"], data=saved)
    host.run(["iptables", "-t", "mangle", "-I", "POSTROUTING", "-p", "icmp", "-j", "ACCEPT"])
    assert not host.module("fence_info")["in_sync"]
    host.run(["/bin/sh", "/etc/portfence/fence.iptables"])
    assert host.module("fence_info")["in_sync"]
    assert "pf-check-gone" not in rules(host)
    assert is_fenced(host)


def test_a_file_for_boot_that_is_refused_says_so(host: Lab) -> None:
    apply(host, MYAPP)
    host.run(["sed", "-i", "s/--to-source :50000-50999/--to-source nonsense/", "/etc/portfence/fence.iptables"])
    assert [result.rc for result in host.reboot(check=False)][-1] != 0


def test_without_persist_only_the_kernel_changes(host: Lab) -> None:
    assert apply(host, MYAPP, persist=False)["changes"] == ["load the fence into the kernel"]
    assert is_fenced(host)
    assert host.module("fence_info")["backend"] == "iptables"
    assert host.run(["sh", "-c", "ls -d /etc/portfence /etc/systemd/system/portfence.service"], check=False).out == ""
    host.reboot()
    assert not is_fenced(host)


def test_a_group_is_fenced_but_root_in_it_is_not(host: Lab) -> None:
    apply(host, {"name": "team", "group": "otel", "source_ports": "54000-54099"})
    for protocol in ("tcp", "udp"):
        for uid, inside in ((1234, True), (0, False)):
            port = next(FRESH_PORTS)
            seen = host.connect(protocol, uid=uid, gid=992, source_port=port, timeout=5.0).port
            assert (seen in range(54000, 54100), seen == port) == (inside, not inside), (protocol, uid, seen)


def test_the_probe_passes(host: Lab) -> None:
    apply(host, MYAPP, COLLECTOR)
    result = host.module("port_probe", services=[MYAPP, COLLECTOR])
    assert not result.get("failed"), result["msg"]
    assert result["summary"]["failed"] == 0 and result["counted"]["collector"]["violations"] > 0
    assert not [text for text in result["warnings"] if "counter" in text]


def test_what_iptables_can_not_express_is_named(host: Lab) -> None:
    before = rules(host)
    services = [
        {**MYAPP, "protocols": ["tcp", "dccp"]},
        {**COLLECTOR, "log": {"prefix": "x" * 30, "rate": "999999999/second"}},
    ]
    result = host.module("fence", services=services, backend="iptables")
    assert result["failed"] and "has 3 mistakes" in result["msg"]
    assert "services[0].protocols: found dccp with assignment rewrite; iptables can't give ports to dccp" in result["msg"]
    assert "services[1].log.prefix: found 30 bytes; accepted: at most 29 with iptables" in result["msg"]
    assert "services[1].log.rate: found 999999999/second; accepted: at most 10000/second with iptables" in result["msg"]
    assert rules(host) == before


@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_chain_of_our_name_that_we_did_not_write(host: Lab, state: str) -> None:
    host.run(["ip6tables", "-t", "mangle", "-N", "portfence"])
    before = rules(host)
    result = host.module("fence", services=[MYAPP], state=state, backend="iptables")
    assert result["failed"] and rules(host) == before
    assert "ip6tables: table mangle has a chain that is named like one of this collection" in result["msg"]


def test_a_load_that_is_refused_in_the_middle_is_taken_back(host: Lab) -> None:
    """The dry run passes, then IPv6 fails: IPv4 has its old fence again."""
    apply(host, MYAPP)
    before, kept = rules(host), host.module("fence_info")["previous"]
    real = host.run(["readlink", "-f", "/usr/sbin/ip6tables-restore"]).out.strip()
    # Only the dry run has another network namespace than PID 1 of the lab.
    script = (
        '#!/bin/sh\ncase " $* " in *--wait=60*) grep -q 51000-51999 && { echo busy >&2; exit 1; };; esac\n'
        f'exec -a ip6tables-restore {real} "$@"\n'
    )
    host.run(["sh", "-c", "cat > /run/fake && chmod 755 /run/fake"], data=script.replace("#!/bin/sh", "#!/bin/bash"))
    host.run(["ln", "-sf", "/run/fake", "/etc/alternatives/ip6tables-restore"])
    result = host.module("fence", services=[{**MYAPP, "source_ports": "51000-51999"}], backend="iptables")
    assert result["failed"] and "busy" in result["msg"]
    assert rules(host) == before
    assert host.run(["ls", "/etc/portfence"]).out.split() == ["fence.iptables", "previous.json", "services.d"]
    assert host.module("fence_info")["previous"] == kept


@pytest.mark.parametrize("program", ["iptables", "ip6tables"])
def test_translation_by_the_other_variant_is_refused(host: Lab, program: str) -> None:
    """It may come first, and nothing of iptables stands behind it."""
    nft = "nf_tables" in host.run(["iptables", "--version"]).out
    other = f"{program}-{'legacy' if nft else 'nft'}"
    host.run([other, "-t", "nat", "-A", "POSTROUTING", "-d", "198.51.100.1" if program == "iptables" else "2001:db8:9::1", "-j", "ACCEPT"])
    apply(host, COLLECTOR)
    host.run([other, "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE"])
    before = state(host)
    refused = host.module("fence", services=[MYAPP], backend="iptables")
    assert refused["failed"] and f"{other} has a rule that translates source addresses (-A POSTROUTING -j MASQUERADE)" in refused["msg"]
    assert state(host) == before
    host.run([other, "-t", "nat", "-D", "POSTROUTING", "-j", "MASQUERADE"])
    apply(host, MYAPP)
    assert is_fenced(host)
