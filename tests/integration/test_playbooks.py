# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks and the role service, run by ansible-playbook in a lab: what they promise beyond the modules."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any, Dict, Sequence

import pytest
from lab import Lab, Result

MYAPP = {"myapp": {"source_ports": "50000-50999"}}
COLLECTOR = {"collector": {"source_ports": ["52000-52999", 53500], "user": "otel", "assignment": "app"}}
INVENTORY = "/var/lib/inventory.json"


class Control:
    """ansible-playbook in the lab, which manages itself."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def play(self, playbook: str, *options: str, hosts: Sequence[str] = ("lab",), **variables: Any) -> Result:
        """Run a playbook with these inventory variables; it ends as it ends.

        :param hosts: names in the inventory, all of this one host; that of a host which is down begins with "down".
        """
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        nowhere = {"ansible_host": "127.0.0.9", "ansible_port": 9}
        inventory = {name: {**(nowhere if name.startswith("down") else here), **variables} for name in hosts}
        self.lab.run(["sh", "-c", f"cat > {INVENTORY}"], data=json.dumps({"all": {"hosts": inventory}}))
        return self.run("ansible-playbook", "-i", INVENTORY, playbook, *options)

    def run(self, program: str, *options: str, **environment: str) -> Result:
        """Run a program of Ansible, from the root directory; it ends as it ends. Its PID in the lab is in /run/playbook.pid.

        :param environment: variables of the environment, besides those that it needs.
        """
        folder = os.path.dirname(sys.executable)
        variables = {
            "ANSIBLE_COLLECTIONS_PATH": self.lab.collections(),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCALHOST_WARNING": "0",
            "PATH": f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin",
            **environment,
        }
        command = ["sh", "-c", 'echo $$ >/run/playbook.pid; cd / && exec "$@"', "sh", os.path.join(folder, program), *options]
        result = self.lab.run(command, check=False, env=variables, timeout=300)
        assert "Traceback" not in result.out + result.err
        return result

    def state(self) -> Dict[str, str]:
        """What the playbooks may touch."""
        commands = {
            "rules": "nft -s list ruleset | sort",
            "ports": "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/net/ipv4/ip_local_reserved_ports",
            "accounts": "cat /etc/passwd",
            "files": "find /etc -newer /run/mark -type f -not -name '*-' -exec md5sum {} + | sort -k2",
        }
        return {name: self.lab.run(["sh", "-c", command]).out for name, command in commands.items()}


@pytest.fixture(name="control")
def fixture_control(lab: Lab) -> Control:
    lab.run(["touch", "/run/mark"])
    return Control(lab)


def test_site_then_verify_then_remove(control: Control) -> None:
    before = control.state()
    done = control.play("portfence.egress.site", egress_services=MYAPP, egress_services__team=COLLECTOR)
    assert done.rc == 0, done.out
    assert "lab: 2 services, changed, probe passed (40 of 40 checks), violations so far: 0" in done.out
    fenced = control.state()
    again = control.play("portfence.egress.site", egress_services=MYAPP, egress_services__team=COLLECTOR)
    assert "lab: 2 services, unchanged, probe passed (40 of 40 checks), violations so far: 0" in again.out
    assert "changed=0" in again.out
    assert control.state() == fenced
    verified = control.play("portfence.egress.verify", egress_services=MYAPP, egress_services__team=COLLECTOR)
    assert verified.rc == 0, verified.out
    assert control.state() == fenced
    removed = control.play("portfence.egress.remove")
    assert removed.rc == 0, removed.out
    after = control.state()
    assert (after["rules"], after["ports"]) == (before["rules"], before["ports"])
    assert "portfence" not in after["files"]
    assert after["accounts"] == fenced["accounts"]
    named = control.play("portfence.egress.remove", "-e", '{"egress_remove_accounts": ["myapp", "otel"]}')
    assert named.rc == 0, named.out
    assert control.state()["accounts"] == before["accounts"]


def test_a_run_that_changes_nothing_proves_a_sample(control: Control) -> None:
    policy = {f"svc{number}": {"source_ports": f"{40000 + 10 * number}-{40009 + 10 * number}"} for number in range(5)}

    def probed(*options: str, **more: Any) -> str:
        done = control.play("portfence.egress.site", *options, egress_services={**policy, **more}, egress_probe_sample=2)
        assert done.rc == 0, done.out
        return re.sub(r"\s+", " ", done.out).partition("probe passed (")[2].partition(")")[0]

    assert probed() == "100 of 100 checks"
    assert probed() == "40 of 40 checks, 2 of 5 services"
    assert probed("--tags", "probe") == "100 of 100 checks"
    assert probed(**MYAPP) == "120 of 120 checks"
    control.lab.run(["nft", "delete", "table", "inet", "portfence"])
    assert probed(**MYAPP) == "120 of 120 checks"


def test_site_in_check_mode_predicts_and_changes_nothing(control: Control) -> None:
    before = control.state()
    predicted = control.play("portfence.egress.site", "--check", "--diff", egress_services=MYAPP)
    assert predicted.rc == 0, predicted.out
    assert "lab: 1 service in the policy, would change" in predicted.out
    assert "th sport 50000-50999 accept" in predicted.out
    assert control.state() == before
    control.play("portfence.egress.site", egress_services=MYAPP)
    predicted = control.play("portfence.egress.site", "--check", egress_services=MYAPP)
    assert "lab: 1 service in the policy, unchanged" in predicted.out
    assert "changed=0" in predicted.out


@pytest.mark.parametrize("options", [(), ("--skip-tags", "cgroups")])
def test_site_installs_what_is_missing(control: Control, options: Sequence[str]) -> None:
    """Here it can't: there is no such package."""
    control.lab.run(["mount", "--bind", "/dev/null", "/usr/sbin/nft"])
    done = control.play("portfence.egress.site", *options, egress_services=MYAPP, fence_packages={"nft": "portfence-missing"})
    assert done.rc == 2 and "portfence-missing" in done.out, done.out


def test_every_mistake_is_told_before_anything_is_changed(control: Control) -> None:
    before = control.state()
    policy = {"a": {"source_ports": "2-1"}, "b": {"source_ports": 7, "usr": "x"}, "c": {"source_ports": 7}}
    done = control.play("portfence.egress.site", egress_services=policy, egress_services__team=MYAPP, egress_services__x=MYAPP)
    assert done.rc != 0
    assert "4 findings in the policies of 1 host:" in done.out + done.err
    for path in ("egress_services.a.source_ports", "egress_services.b.usr", "egress_services.c.source_ports"):
        assert path in done.out + done.err
    assert "egress_services__x.myapp: the service is already defined in egress_services__team" in done.out + done.err
    assert "Create the accounts" not in done.out
    assert control.state() == before


def test_from_audit_to_enforcement(control: Control) -> None:
    """An audit counts what enforcement will stop, and stops nothing; sessions and counts outlive the change."""
    services = {**COLLECTOR, "myapp": {**MYAPP["myapp"], "on_violation": "reject"}}
    done = control.play("portfence.egress.site", egress_services=services, egress_enforcement="audit")
    assert done.rc == 0, done.out
    lab = control.lab
    for protocol in ("tcp", "udp"):
        assert lab.connect(protocol, user="otel", source_port=40000).port == 40000
        assert lab.connect(protocol, uid=1234, source_port=52000).port == 52000
    session = lab.open("tcp", user="otel", source_port=40001)
    before = lab.module("fence_info")["services"]["collector"]
    assert before["on_violation"] == "log"
    assert (before["violations"]["packets"] - before["violations"]["by_probes"]) == 3
    done = control.play("portfence.egress.site", egress_services=services)
    assert done.rc == 0, done.out
    assert session.alive()
    session.close()
    after = lab.module("fence_info")["services"]["collector"]
    assert (after["violations"]["packets"] - after["violations"]["by_probes"]) == 3
    for protocol in ("tcp", "udp"):
        assert lab.connect(protocol, user="otel", source_port=40000).port is None
        assert lab.connect(protocol, uid=1234, source_port=52000).port is None
    refused = control.play("portfence.egress.site", egress_services=services, egress_enforcement="watch")
    assert refused.rc != 0 and "egress_enforcement: found 'watch'; accepted: audit, enforce" in refused.out + refused.err


def break_the_wire(lab: Lab) -> None:
    """Another firewall translates the ports of every TCP connection after us."""
    lab.nft("table ip other { chain c { type nat hook postrouting priority 90; meta l4proto tcp masquerade to :1000-2000; }; }")


def test_failed_proof_puts_the_fence_of_before_back(control: Control) -> None:
    control.play("portfence.egress.site", egress_services=MYAPP)
    break_the_wire(control.lab)
    before = control.state()
    done = control.play("portfence.egress.site", egress_services={**MYAPP, **COLLECTOR})
    assert done.rc != 0
    assert "collector tcp ipv4 bind_inside: expected port" in done.out + done.err
    assert "The fence that was in force before this run was put back." in done.out + done.err
    after = control.state()
    assert (after["rules"], after["ports"]) == (before["rules"], before["ports"])
    assert control.lab.run(["ls", "/etc/portfence/services.d"]).out.split() == ["myapp.json"]


def test_a_fence_that_is_not_kept_on_the_host_is_not_taken_for_none(control: Control) -> None:
    """It can't be put back; the new one is better than no fence."""
    control.play("portfence.egress.site", egress_services=MYAPP, fence_persist=False)
    break_the_wire(control.lab)
    done = control.play("portfence.egress.site", egress_services={**MYAPP, **COLLECTOR}, fence_persist=False)
    assert done.rc != 0
    assert "The new fence stays: of the one that was in force before, the host has no record" in done.out + done.err
    assert control.lab.connect(user="myapp", source_port=40000).port is None


def test_what_an_earlier_playbook_proved_is_not_said_of_this_one(control: Control) -> None:
    control.play("portfence.egress.site", egress_services=MYAPP)
    control.lab.run(["sh", "-c", "cat >/run/two.yml"], data="- import_playbook: portfence.egress.verify\n- import_playbook: portfence.egress.site\n")
    done = control.play("/run/two.yml", "--skip-tags", "probe", egress_services=MYAPP)
    assert done.rc == 0, done.out
    assert done.out.count("probe passed") == 1 and "unchanged, not probed, violations so far: 0" in done.out


def test_failed_proof_of_the_first_fence_leaves_none(control: Control) -> None:
    break_the_wire(control.lab)
    before = control.state()
    done = control.play("portfence.egress.site", egress_services=MYAPP)
    assert done.rc != 0
    assert "The fence that was in force before this run was put back." in done.out + done.err
    after = control.state()
    assert (after["rules"], after["ports"]) == (before["rules"], before["ports"])
    assert "portfence" not in after["files"]


def test_rollback_puts_the_fence_of_before_back(control: Control) -> None:
    nothing = control.play("portfence.egress.rollback")
    assert nothing.rc != 0 and "This host knows of no earlier fence. Nothing was changed." in nothing.out
    control.play("portfence.egress.site", egress_services=MYAPP)
    first = control.state()
    control.play("portfence.egress.site", egress_purge=True, egress_services={**COLLECTOR, "myapp": {"source_ports": 51000}})
    second = control.state()
    predicted = control.play("portfence.egress.rollback", "--check")
    assert "lab: 1 service in the policy, would change" in predicted.out and control.state() == second
    for after in (first, second):
        done = control.play("portfence.egress.rollback")
        assert done.rc == 0, done.out
        assert "changed, probe passed" in done.out
        assert (control.state()["rules"], control.state()["ports"]) == (after["rules"], after["ports"])


def test_a_fence_that_failed_is_not_gone_back_to(control: Control) -> None:
    control.play("portfence.egress.site", egress_services=MYAPP)
    break_the_wire(control.lab)
    control.play("portfence.egress.site", egress_services={**MYAPP, **COLLECTOR})
    before = control.state()
    done = control.play("portfence.egress.rollback", rollout_probe=False)
    assert "unchanged" in done.out, done.out
    assert control.state() == before


def test_failed_proof_without_a_change_says_so(control: Control) -> None:
    control.play("portfence.egress.site", egress_services=MYAPP)
    break_the_wire(control.lab)
    before = control.state()
    done = control.play("portfence.egress.site", egress_services=MYAPP)
    assert done.rc != 0
    assert "This run had not changed the fence." in done.out + done.err
    assert control.state() == before


TWICE = """\
- hosts: all
  gather_facts: false
  tasks:
    - name: This team's service
      ansible.builtin.include_role:
        name: portfence.egress.rollout
      vars:
        rollout_services: [{name: myapp, source_ports: 50000-50999}]
    - name: What fails before the fence
      ansible.builtin.include_role:
        name: portfence.egress.rollout
      vars:
        rollout_services: [{name: collector, user: otel, source_ports: 52000-52999}]
        rollout_classid_units: {nosuch: [nosuch.service]}
"""


def test_a_run_that_fails_does_not_undo_an_earlier_one_of_the_play(control: Control) -> None:
    control.lab.run(["sh", "-c", "cat > /var/lib/twice.yml"], data=TWICE)
    done = control.play("/var/lib/twice.yml")
    assert done.rc != 0
    assert "cgroups_units names nosuch" in done.out and "This run had not changed the fence." in done.out
    assert set(control.lab.module("fence_info")["services"]) == {"myapp"}


def test_verify_finds_a_fence_that_is_not_the_policy(control: Control) -> None:
    control.play("portfence.egress.site", egress_services=MYAPP)
    control.lab.nft("flush chain inet portfence check_myapp")
    before = control.state()
    done = control.play("portfence.egress.verify", egress_services=MYAPP)
    assert done.rc != 0
    assert "The host is not what the policy calls for. portfence.egress.site would: load the fence into the kernel" in done.out + done.err
    assert control.state() == before


def test_verify_finds_that_ports_are_not_reserved(control: Control) -> None:
    control.play("portfence.egress.site", egress_services=MYAPP)
    control.lab.run(["sh", "-c", "rm /etc/sysctl.d/60-portfence.conf; echo > /proc/sys/net/ipv4/ip_local_reserved_ports"])
    before = control.state()
    done = control.play("portfence.egress.verify", egress_services=MYAPP)
    assert done.rc != 0
    assert "portfence.egress.site would: set the ephemeral ports" in done.out + done.err
    assert control.state() == before


def test_accounts_to_delete_are_a_list(control: Control) -> None:
    for name in ("s", "p", "shop"):
        control.lab.run(["useradd", "--system", "--shell", "/usr/sbin/nologin", name])
    before = control.state()
    done = control.play("portfence.egress.remove", "-e", "egress_remove_accounts=shop")
    assert done.rc != 0
    assert "is no list; write it as one" in done.out + done.err
    assert control.state()["accounts"] == before["accounts"]


ROLE = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: portfence.egress.service
"""


def test_the_role_of_another_team_touches_one_service(control: Control) -> None:
    control.play("portfence.egress.site", egress_services=MYAPP)
    before = control.state()
    control.lab.run(["sh", "-c", "cat > /var/lib/team.yml"], data=ROLE)
    policy = {"source_ports": "54000-54099", "user": "team"}
    done = control.play("/var/lib/team.yml", service_name="backup", service_policy=policy)
    assert done.rc == 0, done.out
    assert set(control.lab.module("fence_info")["services"]) == {"backup", "myapp"}
    assert "50000-50999,54000-54099" in control.state()["ports"]
    # The inventory of the host does not know the service; site keeps it all the same.
    assert "changed=0" in control.play("portfence.egress.site", egress_services=MYAPP).out
    done = control.play("/var/lib/team.yml", service_name="backup", service_state="absent")
    assert done.rc == 0, done.out
    after = control.state()
    assert (after["rules"], after["ports"]) == (before["rules"], before["ports"])
    assert control.lab.run(["ls", "/etc/portfence/services.d"]).out.split() == ["myapp.json"]


def test_purge_removes_what_the_inventory_does_not_have(control: Control) -> None:
    control.play("portfence.egress.site", egress_services={**MYAPP, **COLLECTOR})
    done = control.play("portfence.egress.site", egress_services=MYAPP, egress_purge=True)
    assert "lab: 1 service, changed" in done.out
    assert control.lab.run(["ls", "/etc/portfence/services.d"]).out.split() == ["myapp.json"]
    assert control.state()["ports"].split()[-1] == "50000-50999"
    # What verify compares is what site would do.
    control.play("portfence.egress.site", egress_services={**MYAPP, **COLLECTOR})
    kept = control.play("portfence.egress.verify", egress_services=MYAPP, egress_purge=True)
    assert kept.rc != 0 and "remove /etc/portfence/services.d/collector.json" in kept.out + kept.err


def test_target_limits_the_hosts(control: Control) -> None:
    done = control.play("portfence.egress.site", "-e", "target=nobody", egress_services=MYAPP)
    assert done.rc != 0 and "target: found nobody, which no host of the inventory matches" in done.out
    assert "myapp" not in control.state()["accounts"]
    done = control.play("portfence.egress.site", "-e", "target=second", hosts=["first", "second"], egress_services=MYAPP)
    assert done.rc == 0, done.out
    assert "second: 1 service, changed" in done.out and "first: " not in done.out


def test_host_without_services_is_left_alone(control: Control) -> None:
    before = control.state()
    done = control.play("portfence.egress.site")
    assert done.rc == 0, done.out
    assert "lab: 0 services, unchanged, not probed, violations so far: 0" in done.out
    assert control.state() == before


def test_ports_of_the_host_itself(control: Control) -> None:
    service = {"source_ports": "40000-40999", "assignment": "host"}
    done = control.play("portfence.egress.site", egress_services={"myapp": service, **COLLECTOR})
    assert done.rc == 0, done.out
    assert "probe passed (40 of 40 checks)" in done.out
    assert control.state()["ports"].split() == ["40000", "40999", "52000-52999,53500"]
    assert control.play("portfence.egress.remove").rc == 0
    assert control.state()["ports"].split() == ["32768", "60999"]


def test_a_host_that_is_down_is_named_and_the_others_are_done(control: Control) -> None:
    done = control.play("portfence.egress.site", hosts=["lab", "down1", "lab2"], egress_services=MYAPP)
    assert done.rc != 0
    for name in ("lab", "lab2"):
        assert f"{name}: 1 service" in done.out
    assert "NOT done, because they failed or could not be reached: down1. To go on with them: --limit down1" in done.out


def test_a_fence_that_can_not_be_kept_is_taken_back(control: Control) -> None:
    """The kernel has it when its file can't be replaced."""
    assert control.play("portfence.egress.site", egress_services=MYAPP).rc == 0
    lab = control.lab
    own = "cp -a /etc/portfence /run/kept && mount -t tmpfs -o mode=755 none /etc/portfence && cp -a /run/kept/. /etc/portfence && rm -r /run/kept"
    lab.run(["sh", "-c", own])
    before = control.state()
    lab.run(["chattr", "+i", "/etc/portfence/fence.nft"])
    done = control.play("portfence.egress.site", egress_services={"myapp": {"source_ports": "51000-51999"}})
    lab.run(["chattr", "-i", "/etc/portfence/fence.nft"])
    assert done.rc != 0 and "The fence that was in force before this run was put back." in done.out + done.err
    assert "fence.nft: Operation not permitted" in done.out + done.err
    assert control.state() == before
    again = control.play("portfence.egress.site", egress_services=MYAPP)
    assert again.rc == 0 and "lab: 1 service, unchanged" in again.out


def test_nobody_follows_a_first_host_that_fails(control: Control) -> None:
    """The rest is done by a run that is repeated."""
    break_the_wire(control.lab)
    before = control.state()
    done = control.play("portfence.egress.site", hosts=["lab", "lab2"], egress_services=MYAPP)
    assert done.rc != 0 and "fatal: [lab]" in done.out + done.err
    assert control.state()["rules"] == before["rules"]
    assert "NOT touched if this batch is the last: lab2" in done.out
    assert [line.split()[2] for line in done.out.splitlines() if line.startswith("lab2 ")] == ["ok=1"]  # the policy was read
    control.lab.run(["nft", "delete", "table", "ip", "other"])
    done = control.play("portfence.egress.site", hosts=["lab", "lab2"], egress_services=MYAPP)
    assert done.rc == 0 and "lab2: 1 service" in done.out and "NOT done" not in done.out


def test_tags_run_a_part(control: Control) -> None:
    control.lab.add_user("myapp", uid=991)
    done = control.play("portfence.egress.site", "--tags", "fence", egress_services=MYAPP)
    assert done.rc == 0 and "lab: 1 service, changed, not probed" in done.out
    assert "Set the ephemeral ports" not in done.out
    fenced = control.state()
    done = control.play("portfence.egress.site", "--tags", "probe", egress_services=MYAPP)
    assert done.rc == 0 and "probe passed" in done.out and "Load the fence" not in done.out
    break_the_wire(control.lab)
    broken = control.play("portfence.egress.site", "--tags", "probe", egress_services=MYAPP)
    assert broken.rc != 0 and "This run had not changed the fence." in broken.out + broken.err
    control.lab.run(["nft", "delete", "table", "ip", "other"])
    assert control.state() == fenced


def test_preview_names_who_would_be_hit_and_changes_nothing(control: Control) -> None:
    lab = control.lab
    lab.add_user("myapp", uid=991)
    lab.add_user("otel", uid=992)
    sessions = [lab.open("tcp", user="otel", source_port=40000), lab.open("tcp", uid=1234, source_port=50007)]
    lab.serve(52007, uid=993)
    before = control.state()
    policy = {**MYAPP, **COLLECTOR, "new": {"source_ports": 60000}}
    done = control.play("portfence.egress.preview", "--diff", "-e", "egress_preview=/run/preview.json", "--limit", "lab", egress_services=policy)
    assert done.rc == 0, done.out
    assert control.state() == before
    assert "th sport 50000-50999 accept" in done.out
    found = json.loads(lab.run(["cat", "/run/preview.json"]).out)["lab"]
    assert {(item["service"], item["kind"], item["protocol"], *item["ports"]) for item in found} == {
        ("collector", "outside", "tcp", 40000),
        ("collector", "listener", "tcp", 52007),
        ("collector", "listener", "udp", 52007),
        ("myapp", "intruder", "tcp", 50007),
        ("new", "unseen", None),
    }
    text = done.out.replace("\\n", "\n")
    assert "lab: the fence would change (load the fence into the kernel" in text and "5 findings in" in text
    assert any(line.split()[:4] == ["collector", "outside", "tcp", "1"] for line in text.splitlines())
    for session in sessions:
        session.close()
    missing = control.play("portfence.egress.preview", egress_services={**MYAPP, "guest": {"source_ports": 61000, "manage_account": False}})
    text = missing.out.replace("\\n", "\n")
    assert missing.rc != 0 and "there is no user guest on this host" in text and "lab: the fence was not compared; " in text
    assert any(line.split()[:2] == ["guest", "unseen"] for line in text.splitlines())
    refused = control.play("portfence.egress.preview", "-e", "egress_sample=-1", egress_services=MYAPP)
    assert refused.rc != 0 and "sample: found -1; accepted: 0 to 3600 seconds" in refused.out + refused.err


def test_preview_sees_what_comes_and_goes(control: Control) -> None:
    """A connection of a moment, while the sockets are looked at for some seconds."""
    lab = control.lab
    lab.add_user("myapp", uid=991)
    short = "import socket, time; s = socket.create_connection(('192.0.2.1', 7000), source_address=('', 41000)); time.sleep(1)"
    lab.run(["sh", "-c", f"(sleep 2; setpriv --reuid=991 --clear-groups /usr/bin/python3 -c \"{short}\") >/dev/null 2>&1 &"])
    seen = lab.module("preview", services=[{"name": "myapp", "source_ports": "50000-50999"}], sample=6)
    assert [(item["kind"], item["ports"]) for item in seen["findings"]] == [("outside", [41000])] and seen["looks"] > 5
