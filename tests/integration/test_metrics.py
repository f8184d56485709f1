# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module metrics, and the program that it installs, on a host of its own; what Prometheus says of the text."""

from __future__ import annotations

import shutil
import subprocess
from typing import Dict, List

import pytest
import yaml
from lab import REPOSITORY, Lab

FOLDER = "/run/node-exporter"
SERVICES = [
    {"name": "myapp", "source_ports": "50000-50009"},
    {"name": "other", "user": 992, "source_ports": 51000, "assignment": "app"},
]
UNIT = "/etc/systemd/system/portfence-metrics.service"
PLACES = f"ls -1 /usr/local/lib/portfence /etc/systemd/system/*metrics* /etc/systemd/system/timers.target.wants {FOLDER} 2>/dev/null"


@pytest.fixture(name="host")
def fixture_host(lab: Lab) -> Lab:
    """A host with a fence, and the directory that node_exporter reads."""
    lab.add_user("myapp", uid=991)
    lab.run(["mkdir", FOLDER])
    assert not lab.module("fence", services=SERVICES).get("failed")
    return lab


def collect(host: Lab) -> Dict[str, float]:
    """What the unit would do: the samples, once promtool has nothing against them."""
    host.run(["sh", "-c", f"$(sed -n s/ExecStart=//p {UNIT})"])
    text = host.run(["cat", f"{FOLDER}/portfence.prom"]).out
    promtool("check", "metrics", data=text)
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


def promtool(*args: str, data: str = "") -> None:
    """Prometheus' own check, without a complaint."""
    program = shutil.which("promtool")
    assert program is not None, "scripts/setup test brings promtool"
    done = subprocess.run([program, *args], input=data, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def installed(host: Lab) -> List[str]:
    return host.run(["sh", "-c", PLACES], check=False).out.split()


def test_figures_follow_what_happens(host: Lab) -> None:
    assert host.module("metrics", directory=FOLDER)["changed"]
    before = collect(host)
    assert before["portfence_in_sync"] == before["portfence_collect_success"] == 1
    assert before['portfence_source_ports{service="myapp"}'] == 10
    session = host.open("tcp", user="myapp")
    assert host.connect("tcp", uid=992, source_port=40000, timeout=0.3).port is None
    assert host.connect("tcp", uid=1234, source_port=51000, timeout=0.3).port is None
    after = collect(host)
    assert after['portfence_source_ports_in_use{service="myapp",protocol="tcp"}'] == 1
    assert after['portfence_use_ratio{service="myapp"}'] == 0.1
    assert after['portfence_violation_packets_total{service="other"}'] >= 1
    assert after['portfence_intrusion_packets_total{service="other"}'] >= 1
    assert after['portfence_violation_packets_total{service="myapp"}'] == 0
    session.close()
    host.run(["nft", "flush", "ruleset"])
    assert collect(host)["portfence_in_sync"] == 0


def test_no_file_stays_where_it_was_written_before(host: Lab) -> None:
    """Who still reads it there would take its old figures for true."""
    other = f"{FOLDER}-2"
    host.run(["mkdir", other])
    host.module("metrics", directory=FOLDER)
    collect(host)
    moved = {"directory": other}
    # Another way to write the same directory is no other directory: its file is there again at the end, as the service is started.
    assert host.module("metrics", directory=f"{FOLDER}/")["changed"] and not host.module("metrics", directory=f"{FOLDER}/")["changed"]
    collect(host)
    assert f"remove {FOLDER}/portfence.prom" in host.module("metrics", check_mode=True, **moved)["changes"]
    assert host.run(["ls", FOLDER]).out == "portfence.prom\n"
    assert f"remove {FOLDER}/portfence.prom" in host.module("metrics", **moved)["changes"]
    assert host.run(["ls", FOLDER]).out == "" and not host.module("metrics", **moved)["changed"]
    host.run(["sh", "-c", f"$(sed -n s/ExecStart=//p {UNIT})"])
    assert host.run(["ls", other]).out == "portfence.prom\n"
    assert f"remove {other}/portfence.prom" in host.module("metrics", state="absent")["changes"]
    assert host.run(["ls", other]).out == ""
    assert not host.module("metrics", state="absent")["changed"]


def test_an_account_that_is_gone_takes_no_other_service_along(host: Lab) -> None:
    assert host.module("metrics", directory=FOLDER)["changed"]
    host.run(["userdel", "myapp"])
    assert host.connect("tcp", uid=992, source_port=40000, timeout=0.3).port is None
    samples = collect(host)
    assert samples["portfence_in_sync"] == 0 and samples['portfence_violation_packets_total{service="other"}'] >= 1


def test_what_cannot_be_read_is_told_to_both(host: Lab) -> None:
    host.module("metrics", directory=FOLDER)
    host.run(["sh", "-c", "nft delete table inet portfence; nft add table inet portfence"])
    done = host.run(["sh", "-c", f"$(sed -n s/ExecStart=//p {UNIT})"], check=False)
    assert done.rc == 1 and done.err.startswith("portfence: ") and "Traceback" not in done.err
    assert "portfence_collect_success 0\n" in host.run(["cat", f"{FOLDER}/portfence.prom"]).out
    host.run(["sh", "-c", "echo '{' >/etc/portfence/services.d/myapp.json"])
    assert collect(host)["portfence_in_sync"] == 0


def test_a_host_without_a_fence(lab: Lab) -> None:
    lab.run(["mkdir", FOLDER])
    lab.module("metrics", directory=FOLDER)
    assert collect(lab)["portfence_in_sync"] == 1


def test_it_comes_and_goes(host: Lab) -> None:
    nothing = installed(host)
    assert host.module("metrics", directory=FOLDER, check_mode=True)["changed"] and installed(host) == nothing
    assert host.module("metrics", directory=FOLDER)["changed"]
    collect(host)
    assert not host.module("metrics", directory=FOLDER)["changed"]
    assert host.module("metrics", directory=FOLDER, interval=30)["changes"] == ["write /etc/systemd/system/portfence-metrics.timer"]
    assert host.module("metrics", directory=FOLDER, state="absent", check_mode=True)["changed"]
    assert host.module("metrics", directory=FOLDER, state="absent")["changed"]
    assert not host.module("metrics", directory=FOLDER, state="absent")["changed"]
    assert installed(host) == nothing


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"directory": "/nowhere"}, "the directory /nowhere does not exist; install node_exporter"),
        ({"directory": "metrics"}, "directory: found 'metrics'; accepted: an absolute path"),
        ({"directory": "/srv/a b"}, "directory: found '/srv/a b'; accepted: an absolute path"),
        ({"directory": "/srv/\r/Environment=A=b"}, r"directory: found '/srv/\r/Environment=A=b'; accepted: an absolute path"),
        ({"directory": "/srv/\x1b[31m"}, r"directory: found '/srv/\x1b[31m'; accepted: an absolute path"),
        ({"directory": "/srv/\0"}, r"directory: found '/srv/\x00'; accepted: an absolute path"),
        ({"directory": "/srv/\u202emorp"}, r"directory: found '/srv/\u202emorp'; accepted: an absolute path"),
        ({"directory": "/srv/\u2028"}, r"directory: found '/srv/\u2028'; accepted: an absolute path"),
        ({"directory": "/srv/../etc"}, "directory: found '/srv/../etc'; accepted: an absolute path"),
        ({"directory": "/" + 1000 * "x"}, "directory: found '/xxx"),
        ({"directory": "/etc/passwd"}, "can't use /etc/passwd: passwd is not a directory"),
        ({"interval": 4}, "interval: found 4; accepted: 5 to 86400 seconds"),
    ],
)
def test_mistakes(lab: Lab, params: Dict[str, object], message: str) -> None:
    nothing = installed(lab)
    result = lab.module("metrics", **params)
    assert result["failed"] and result["msg"].startswith(message)
    assert result["msg"].isprintable() and len(result["msg"]) < 300
    assert installed(lab) == nothing


@pytest.mark.parametrize("directory", ["/srv/métriques", "/srv/a;b:c#d&{e}", "/srv//metrics/", f"/srv/{'x' * 250}/{'y' * 250}"])
def test_directories_that_harm_no_unit(host: Lab, directory: str) -> None:
    host.run(["mkdir", "-p", directory])
    assert not host.module("metrics", directory=directory).get("failed")
    words = host.run(["sed", "-n", "s/ExecStart=//p", UNIT]).out.split()
    assert words[-1] == directory
    host.run(words)
    assert "portfence_in_sync 1\n" in host.run(["cat", f"{directory}/portfence.prom"]).out


# As the package prometheus-node-exporter of Debian leaves it.
PROMETHEUS = "/var/lib/prometheus"
DEBIAN = f"mkdir -p {PROMETHEUS}/node-exporter /etc/elsewhere; chown 991 {PROMETHEUS}; echo precious >/etc/elsewhere/portfence.prom"
ELSEWHERE = "find /etc/elsewhere -printf '%p %s %T@\\n'"


@pytest.fixture(name="debian")
def fixture_debian(host: Lab) -> Lab:
    host.run(["sh", "-ec", DEBIAN])
    return host


def test_the_account_of_the_directory_above_leads_nothing_elsewhere(debian: Lab) -> None:
    assert debian.module("metrics")["changed"]
    words = debian.run(["sed", "-n", "s/ExecStart=//p", UNIT]).out.split()
    debian.run(words)
    assert "portfence_in_sync 1\n" in debian.run(["cat", f"{PROMETHEUS}/node-exporter/portfence.prom"]).out
    before = debian.run(["sh", "-c", ELSEWHERE]).out
    units = installed(debian)
    debian.run(["sh", "-ec", f"cd {PROMETHEUS}; mv node-exporter aside; ln -s /etc/elsewhere node-exporter"], uid=991)
    done = debian.run(words, check=False)
    refused = f"can't use {PROMETHEUS}/node-exporter: node-exporter is a symbolic link that another account than root may have put there"
    assert done.rc == 1 and done.err.startswith(f"portfence: {refused}")
    for params in ({}, {"interval": 30}):
        result = debian.module("metrics", **params)
        assert result["failed"] and result["msg"].startswith(refused), (params, result)
    assert installed(debian) == units
    # It keeps nobody from taking all away.
    for check_mode in (True, False):
        result = debian.module("metrics", state="absent", check_mode=check_mode)
        assert result["changed"] and any(refused in text for text in result["warnings"]), result
    assert UNIT not in installed(debian)
    assert debian.run(["sh", "-c", ELSEWHERE]).out == before
    # A directory of its own, in the place of root's, does no harm.
    debian.run(["sh", "-ec", f"cd {PROMETHEUS}; rm node-exporter; mkdir -p node-exporter/portfence.prom"], uid=991)
    assert not debian.module("metrics", state="absent")["changed"]
    debian.run(["rmdir", f"{PROMETHEUS}/node-exporter/portfence.prom"])
    assert debian.module("metrics")["changed"]
    debian.run(words)
    debian.run(["test", "-f", f"{PROMETHEUS}/node-exporter/portfence.prom"])
    assert debian.module("metrics", state="absent")["changes"][-1] == f"remove {PROMETHEUS}/node-exporter/portfence.prom"
    assert debian.run(["ls", "-A", f"{PROMETHEUS}/node-exporter"]).out == ""


def test_a_link_further_up_is_refused_as_well(debian: Lab) -> None:
    """Below what an account can move, no link is root's for sure."""
    debian.run(["sh", "-ec", f"cd {PROMETHEUS}; mkdir -p node-exporter/inner; ln -s /etc/elsewhere node-exporter/inner/link"])
    result = debian.module("metrics", directory=f"{PROMETHEUS}/node-exporter/inner/link")
    assert result["failed"] and "link is a symbolic link that another account than root may have put there" in result["msg"]


def test_what_is_planted_in_the_directory_leads_nothing_elsewhere(debian: Lab) -> None:
    """Root's file takes the place of a link, and what the link points to is left alone."""
    debian.run(["chown", "991", f"{PROMETHEUS}/node-exporter"])
    debian.module("metrics")
    before = debian.run(["sh", "-c", ELSEWHERE]).out
    plant = "for name in portfence.prom portfence.prom.portfence-new; do ln -sf /etc/elsewhere/portfence.prom $name; done"
    debian.run(["sh", "-ec", f"cd {PROMETHEUS}/node-exporter; {plant}"], uid=991)
    words = debian.run(["sed", "-n", "s/ExecStart=//p", UNIT]).out.split()
    debian.run(words)
    assert debian.run(["stat", "-c", "%F %U %a", f"{PROMETHEUS}/node-exporter/portfence.prom"]).out == "regular file root 644\n"
    debian.run(["sh", "-ec", f"cd {PROMETHEUS}/node-exporter; rm -f portfence.prom; {plant}"], uid=991)
    assert debian.module("metrics", state="absent")["changed"]
    assert debian.run(["ls", "-A", f"{PROMETHEUS}/node-exporter"]).out == ""
    assert debian.run(["sh", "-c", ELSEWHERE]).out == before


@pytest.mark.parametrize("target", [FOLDER, f"../run/../{FOLDER}"])
def test_links_of_root_are_followed(host: Lab, target: str) -> None:
    host.run(["ln", "-s", target, "/etc/textfiles"])
    assert host.module("metrics", directory="/etc/textfiles")["changed"]
    collect(host)
    assert host.module("metrics", directory="/etc/textfiles", state="absent")["changes"][-1] == "remove /etc/textfiles/portfence.prom"
    assert host.run(["ls", "-A", FOLDER]).out == ""


def test_links_that_lead_to_themselves(host: Lab) -> None:
    host.run(["ln", "-s", "/etc/textfiles", "/etc/textfiles"])
    result = host.module("metrics", directory="/etc/textfiles")
    assert result["failed"] and result["msg"] == "can't use /etc/textfiles: more than 40 symbolic links lead to it"


def test_the_example_alerts_are_good_and_ask_for_metrics_that_there_are(host: Lab) -> None:
    rules = REPOSITORY / "roles/metrics/files/portfence.rules.yml"
    promtool("check", "rules", str(rules))
    host.module("metrics", directory=FOLDER)
    names = {sample.split("{")[0] for sample in collect(host)}
    text = yaml.safe_dump(yaml.safe_load(rules.read_text(encoding="utf-8")))
    asked = {word for word in text.replace("[", " ").replace("(", " ").split() if word.startswith("portfence_")}
    assert asked and asked <= names
