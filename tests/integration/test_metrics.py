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
        ({"interval": 4}, "interval: found 4; accepted: 5 to 86400 seconds"),
    ],
)
def test_mistakes(lab: Lab, params: Dict[str, object], message: str) -> None:
    nothing = installed(lab)
    result = lab.module("metrics", **params)
    assert result["failed"] and result["msg"].startswith(message)
    assert installed(lab) == nothing


def test_the_example_alerts_are_good_and_ask_for_metrics_that_there_are(host: Lab) -> None:
    rules = REPOSITORY / "roles/metrics/files/portfence.rules.yml"
    promtool("check", "rules", str(rules))
    host.module("metrics", directory=FOLDER)
    names = {sample.split("{")[0] for sample in collect(host)}
    text = yaml.safe_dump(yaml.safe_load(rules.read_text(encoding="utf-8")))
    asked = {word for word in text.replace("[", " ").replace("(", " ").split() if word.startswith("portfence_")}
    assert asked and asked <= names
