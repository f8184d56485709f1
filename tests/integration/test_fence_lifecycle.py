# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module fence from the first run to the last: check mode, idempotence, drift, boot, removal. Proven by connecting."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any, Dict, List

import pytest
from lab import Lab
from listing import rules

MYAPP = {"name": "myapp", "source_ports": "50000-50999"}
COLLECTOR = {
    "name": "collector",
    "user": "otel",
    "source_ports": ["52000-52999", 53500],
    "assignment": "app",
    "on_violation": "reject",
}
FRESH_PORTS = itertools.count(20000)
FILES = "find /etc/portfence /etc/systemd /run -newer /run/mark -printf '%p %s %T@\\n' | sort"


@pytest.fixture(name="host")
def fixture_host(lab: Lab) -> Lab:
    lab.add_user("myapp", 991)
    lab.add_user("otel", 992)
    lab.run(["touch", "/run/mark"])
    return lab


def apply(lab: Lab, *services: Dict[str, Any], **params: Any) -> Dict[str, Any]:
    result = lab.module("fence", services=list(services), **params)
    assert not result.get("failed"), result["msg"]
    return result


def state(lab: Lab) -> List[str]:
    """Everything that an apply may touch."""
    return [lab.run(["nft", "list", "ruleset"]).out, lab.run(["sh", "-c", FILES]).out]


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
    assert not is_fenced(host)
    done = apply(host, MYAPP, COLLECTOR, diff=True)
    assert done["changes"] == predicted["changes"]
    assert done["diff"] == predicted["diff"]
    assert done["diff"]["before"] == ""
    assert "th sport 50000-50999 accept" in done["diff"]["after"]
    assert is_fenced(host)


def test_second_run_changes_nothing(host: Lab) -> None:
    apply(host, MYAPP, COLLECTOR)
    before = state(host)
    for check_mode in (True, False):
        again = apply(host, MYAPP, COLLECTOR, check_mode=check_mode, diff=True)
        assert (again["changed"], again["changes"]) == (False, [])
        assert again["diff"]["before"] == again["diff"]["after"] != ""
    assert state(host) == before


def test_a_difference_is_shown_whatever_the_order_in_the_kernel(host: Lab) -> None:
    for services in ([COLLECTOR], [MYAPP, COLLECTOR], [{**MYAPP, "exclusive": False}, COLLECTOR], [MYAPP, COLLECTOR]):
        apply(host, *services)
    again = apply(host, MYAPP, COLLECTOR, diff=True)
    assert (again["changed"], again["diff"]["before"]) == (False, again["diff"]["after"])
    host.run(["nft", "add", "chain", "inet", "portfence", "stray"])
    mended = apply(host, MYAPP, COLLECTOR, diff=True)["diff"]
    assert mended["before"].replace("\tchain stray {\n\t}\n\n", "") == mended["after"] != mended["before"]


def test_a_long_list_is_not_repeated(host: Lab) -> None:
    services = [{"name": f"svc{number}", "user": str(20001 + number), "source_ports": 40000 + number} for number in range(21)]
    for number, told in ((20, None), (21, "21 items, which are not repeated here")):
        given = apply(host, *services[:number], check_mode=True)["invocation"]["module_args"]
        assert given["state"] == "present"
        assert [item["name"] for item in given["services"]] == [f"svc{index}" for index in range(20)] if told is None else given["services"] == told


def test_result_names_owners_and_what_was_there_before(host: Lab) -> None:
    first = apply(host, MYAPP)
    assert first["owners"] == {"myapp": {"uids": [991], "gids": []}}
    assert first["services_before"] == []
    second = apply(host, COLLECTOR)
    assert [service["name"] for service in second["services_before"]] == ["myapp"]
    back = apply(host, *second["services_before"], purge=True)
    assert back["fence"] == first["fence"]
    assert "myapp" in back["owners"] and "collector" not in back["owners"]


@pytest.mark.parametrize(
    "harm",
    [
        "delete table inet portfence",
        "delete table ip6 portfence",
        "flush ruleset",
        "flush chain inet portfence postrouting",
        "add rule inet portfence check_myapp accept",
        "insert rule inet portfence postrouting accept",
        "add element inet portfence checked_uids { tcp . 4242 : goto check_myapp }",
        'add element inet portfence checked_uids { tcp . 4242 comment "by hand" : goto check_myapp }',
        "flush map inet portfence checked_uids",
        "add chain inet portfence stray",
        "flush table inet portfence; delete limit inet portfence logged; add limit inet portfence logged { rate 500/second burst 500 packets; }",
    ],
)
def test_change_by_hand_is_noticed_and_mended(host: Lab, harm: str) -> None:
    apply(host, MYAPP)
    clean = rules(host)
    host.nft(harm)
    assert host.module("fence_info")["in_sync"] is False
    assert apply(host, MYAPP)["changes"] == ["load the fence into the kernel"]
    assert rules(host) == clean
    assert host.module("fence_info")["in_sync"] is True
    assert is_fenced(host)


def test_changed_files_are_noticed_and_mended(host: Lab) -> None:
    apply(host, MYAPP)
    for path in ("/etc/portfence/fence.nft", "/etc/systemd/system/portfence.service"):
        clean = host.run(["cat", path]).out
        host.run(["sh", "-c", f"echo '# more' >> {path}"])
        assert apply(host, MYAPP)["changes"] == [f"write {path}"]
        assert host.run(["cat", path]).out == clean
    host.run(["rm", "/etc/systemd/system/sysinit.target.wants/portfence.service"])
    assert apply(host, MYAPP)["changes"] == ["enable portfence.service"]
    assert not apply(host, MYAPP)["changed"]


def test_counters_survive_a_change_of_the_policy(host: Lab) -> None:
    apply(host, MYAPP, {**COLLECTOR, "on_violation": "drop"})
    assert host.connect("udp", uid=992, source_port=40000).port is None
    assert host.connect("tcp", uid=1234, source_port=50001).port is None
    before = host.module("fence_info")["services"]
    assert before["collector"]["violations"]["packets"] >= 1
    assert before["myapp"]["intrusions"]["packets"] >= 1
    apply(host, {**MYAPP, "source_ports": "51000-51099"}, {**COLLECTOR, "on_violation": "reject"})
    after = host.module("fence_info")["services"]
    assert after["collector"]["violations"] == before["collector"]["violations"]
    assert after["myapp"]["intrusions"] == before["myapp"]["intrusions"]


def test_services_are_merged_by_name(host: Lab) -> None:
    apply(host, MYAPP)
    apply(host, COLLECTOR)
    apply(host, {**MYAPP, "source_ports": "51000-51099"})
    assert set(host.module("fence_info")["services"]) == {"collector", "myapp"}
    assert 51000 <= (host.connect(uid=991).port or 0) <= 51099


def told(services: List[Dict[str, Any]], keys: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Of complete services, what the result of the module says of them: it leaves defaults out."""
    assert len(services) == len(keys) > 0
    return [{key: service[key] for key in shown} for service, shown in zip(services, keys)]


def test_what_was_in_force_before_is_kept_for_one_way_back(host: Lab) -> None:
    apply(host, MYAPP)
    info = host.module("fence_info")
    assert info["previous"] == {"backend": None, "services": []}
    assert info["last_change"]["by"] == "root" and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", info["last_change"]["at"])
    kept = apply(host, COLLECTOR)["services_before"]
    for again in ({}, {"remember": False}):
        apply(host, COLLECTOR, **again)
        previous = host.module("fence_info")["previous"]
        assert previous["backend"] == "nftables"
        assert told(previous["services"], kept) == kept
    assert host.module("fence", services=[], purge=True, check_mode=True)["changed"]
    apply(host, {**MYAPP, "source_ports": "51000-51999"}, remember=False)
    assert told(host.module("fence_info")["previous"]["services"], kept) == kept
    host.run(["sh", "-c", "echo '{' >/etc/portfence/previous.json"])
    assert host.module("fence_info")["previous"] is None
    assert host.module("fence", state="absent", purge=True)["changed"]
    assert host.run(["ls", "/etc/portfence"], check=False).rc != 0


def test_purge_makes_the_list_exclusive(host: Lab) -> None:
    apply(host, MYAPP, COLLECTOR)
    result = apply(host, MYAPP, purge=True)
    assert result["changes"] == [
        "load the fence into the kernel",
        "write /etc/portfence/fence.nft",
        "remove /etc/portfence/services.d/collector.json",
        "write /etc/portfence/previous.json",
    ]
    assert "collector" not in host.run(["nft", "list", "ruleset"]).out
    assert host.connect(uid=992, source_port=40000).port == 40000


def test_absent_takes_away_the_named_services_only(host: Lab) -> None:
    apply(host, MYAPP, COLLECTOR)
    assert apply(host, {"name": "collector"}, state="absent")["changed"]
    assert not apply(host, {"name": "collector"}, state="absent")["changed"]
    assert set(host.module("fence_info")["services"]) == {"myapp"}
    assert is_fenced(host)


def test_a_service_can_be_absent_by_itself(host: Lab) -> None:
    apply(host, MYAPP, COLLECTOR)
    apply(host, MYAPP, {"name": "collector", "state": "absent"})
    assert set(host.module("fence_info")["services"]) == {"myapp"}


@pytest.mark.parametrize("services", [[{"name": "myapp"}, {"name": "collector"}], []], ids=["by name", "by purge"])
def test_nothing_is_left_when_the_last_service_goes(host: Lab, services: List[Dict[str, Any]]) -> None:
    before = state(host)
    apply(host, MYAPP, COLLECTOR)
    predicted = apply(host, *services, state="absent", purge=not services, check_mode=True, diff=True)
    assert is_fenced(host)
    result = apply(host, *services, state="absent", purge=not services, diff=True)
    assert predicted["changes"] == result["changes"]
    assert result["changed"] and result["diff"]["after"] == ""
    assert state(host)[0] == before[0]
    left = host.run(["sh", "-c", "find /etc /run /var -xdev -name '*portfence*' -not -path '/var/lib/collections/*'"]).out
    assert left == ""
    assert not apply(host, *services, state="absent", purge=not services)["changed"]
    assert not is_fenced(host)


@pytest.mark.parametrize(
    "path",
    [
        "portfence.service.portfence-new",
        "nftables.service.d/portfence.conf.portfence-new",
        "sysinit.target.wants/portfence.service.portfence-new",
    ],
)
def test_what_a_killed_run_had_begun_goes_with_the_fence(host: Lab, path: str) -> None:
    begun = f"/etc/systemd/system/{path}"
    host.run(["install", "-D", "-m", "644", "/dev/null", begun])
    assert host.module("fence", state="absent", purge=True)["changed"]
    assert host.run(["test", "-e", begun], check=False).rc == 1
    assert not host.module("fence", state="absent", purge=True)["changed"]


def test_fence_stands_after_a_reboot(host: Lab) -> None:
    apply(host, MYAPP)
    host.run(["userdel", "otel"])  # boot needs no name service: only numbers are in the file
    assert host.reboot()
    assert is_fenced(host)
    assert not apply(host, MYAPP)["changed"]


def test_without_persist_only_the_kernel_changes(host: Lab) -> None:
    result = apply(host, MYAPP, persist=False)
    assert result["changes"] == ["load the fence into the kernel"]
    assert is_fenced(host)
    assert host.run(["sh", "-c", "ls -d /etc/portfence /etc/systemd/system/portfence.service"], check=False).out == ""
    assert host.reboot() == []
    assert not is_fenced(host)


def test_the_file_for_boot_loads_over_itself_without_losing_counts(host: Lab) -> None:
    apply(host, MYAPP, COLLECTOR)
    assert host.connect(uid=1234, source_port=50001).port is None
    before = host.run(["nft", "list", "ruleset"]).out
    host.run(["nft", "-f", "/etc/portfence/fence.nft"])
    assert host.run(["nft", "list", "ruleset"]).out == before
    assert "packets 0" not in before[before.index("intrusions_myapp") :].split("}")[0]


def test_files_are_for_root_to_write_and_ids_are_numbers(host: Lab) -> None:
    host.run(["sh", "-c", "umask 000; true"])
    apply(host, MYAPP, COLLECTOR)
    modes = host.run(["sh", "-c", "stat -c '%U %a %n' /etc/portfence /etc/portfence/* /etc/portfence/services.d/*"]).out
    assert {line.split(" ", 2)[0] for line in modes.splitlines()} == {"root"}
    assert {line.split(" ", 2)[1] for line in modes.splitlines()} == {"755", "644"}
    stored = json.loads(host.run(["cat", "/etc/portfence/services.d/collector.json"]).out)
    assert stored["user"] == ["otel"]
    assert "otel" not in host.run(["cat", "/etc/portfence/fence.nft"]).out


def test_tables_of_others_are_left_alone(host: Lab) -> None:
    other = "table ip filter { chain OUTPUT { type filter hook output priority 0; policy accept; counter; }; }"
    host.nft(other)
    before = host.run(["nft", "-s", "list", "table", "ip", "filter"]).out
    apply(host, MYAPP)
    apply(host, state="absent", purge=True)
    assert host.run(["nft", "-s", "list", "ruleset"]).out == before


def test_every_key_of_a_service_reaches_the_kernel(host: Lab) -> None:
    full = {
        "name": "full",
        "user": ["myapp", "otel"],
        "source_ports": ["50000-50099", 50200],
        "protocols": ["tcp", "udp", "sctp", "dccp", "udplite"],
        "assignment": "rewrite",
        "on_violation": "log",
        "exclusive": True,
        "loopback": True,
        "log": {"prefix": "PORT VIOLATION: ", "level": "info", "rate": "3/minute"},
    }
    result = apply(host, full)
    assert result["owners"] == {"full": {"uids": [991, 992], "gids": []}}
    assert 'log prefix "PORT VIOLATION: " level info' in host.run(["nft", "list", "ruleset"]).out
    assert not apply(host, full)["changed"]
    for uid in (991, 992):
        port = host.connect(uid=uid).port or 0
        assert 50000 <= port <= 50099 or port == 50200


def test_a_group_is_fenced_but_root_in_it_is_not(host: Lab) -> None:
    team = {"name": "team", "group": "otel", "source_ports": "54000-54099"}
    apply(host, team)
    for protocol in ("tcp", "udp"):
        for uid, inside in ((1234, True), (0, False)):
            port = next(FRESH_PORTS)
            seen = host.connect(protocol, uid=uid, gid=992, source_port=port, timeout=5.0).port
            assert (seen in range(54000, 54100), seen == port) == (inside, not inside), (protocol, uid, seen)
    apply(host, {**team, "allow_admin": True})
    assert host.connect(uid=0, gid=992, source_port=next(FRESH_PORTS), timeout=5.0).port in range(54000, 54100)
