# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of the report in a real browser: for eyes, phones, keyboards and screen readers, and against names that are markup."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest
from ansible_collections.portfence.egress.plugins.filter.report import report
from browser import Browser
from lab import Lab
from test_playbooks import COLLECTOR, MYAPP, Control

SERVICE: Dict[str, Any] = {
    "source_ports": ["50000-50999"],
    "capacity": 1000,
    "use": 0.25,
    "violations": {"packets": 5, "bytes": 300, "by_probes": 2},
    "intrusions": None,
    "assignment": "rewrite",
    "on_violation": "drop",
}
FULL = {**SERVICE, "source_ports": ["60000-60999"], "use": 0.9, "violations": None}
MARKUP = ["<script>document.title = 'owned'</script>", "\"><img src=x onerror=\"document.title='owned'\">", "{{ 7 * 7 }}", "&amp;</style>"]


@pytest.fixture(name="browser", scope="module")
def fixture_browser() -> Iterator[Browser]:
    """One browser for all tests."""
    with Browser() as browser:
        yield browser


def show(browser: Browser, folder: Path, hosts: Dict[str, Any]) -> None:
    """Let the browser show the page of these hosts."""
    path = folder / "report.html"
    path.write_text(report(hosts, "2026-11-24 10:00 UTC")["report.html"], encoding="utf-8")
    browser.open(path)


def fleet(**more: Any) -> Dict[str, Any]:
    """Two hosts, one that is down and one that was changed by hand."""
    return {
        "web1": {"in_sync": True, "drift": [], "last_change": {"at": "2026-11-24T09:00:00Z", "by": "admin"}, "services": {"myapp": SERVICE, "crawler": FULL}},
        "web2": {"in_sync": False, "drift": ["load the fence into the kernel"], "services": {"myapp": SERVICE}},
        "db1": {"unreachable": True, "msg": "Connection timed out"},
        **more,
    }


def test_names_are_never_markup(browser: Browser, tmp_path: Path) -> None:
    hosts = {
        name: {
            "in_sync": False,
            "drift": [name],
            "last_change": {"at": name, "by": name},
            "services": {name: {**SERVICE, "assignment": name, "on_violation": name}},
        }
        for name in MARKUP
    }
    show(browser, tmp_path, {**hosts, "down": {"unreachable": True, "msg": MARKUP[1]}})
    assert browser.ask("document.title") == "Source ports of 5 hosts"
    assert browser.ask("document.querySelectorAll('img').length") == 0
    assert browser.ask("document.scripts.length") == 1
    names = browser.ask("[...document.querySelectorAll('#rows > .row > strong')].map(item => item.textContent)")
    assert sorted(names) == sorted(MARKUP)
    assert browser.ask("[...document.querySelectorAll('#rows > .row')].map(item => item.dataset.host)") == names


@pytest.mark.parametrize("host", ["\u202eabc", "\u2069\u202eabc", "\u05d0\u05d1"], ids=["override", "isolate that ends", "Hebrew"])
def test_names_do_not_turn_other_text(browser: Browser, tmp_path: Path, host: str) -> None:
    """What stands behind a name in the page is seen behind it: how full its services are."""
    show(browser, tmp_path, {host: {**fleet()["web1"], "services": {"crawler": FULL}}})
    item = "[...document.querySelectorAll('li')].find(item => item.querySelectorAll('bdi').length == 2)"
    name = browser.ask(f"(() => {{ const at = {item}.querySelectorAll('bdi')[1].getBoundingClientRect(); return [at.left, at.right]; }})()")
    behind = browser.ask(
        f"(() => {{ const range = document.createRange(); range.selectNode({item}.lastChild);"
        " const at = range.getBoundingClientRect(); return [range.toString(), at.left]; })()"
    )
    assert behind[0] == ": 90.0 % of 1000 ports"
    assert name[0] < name[1] <= behind[1] + 1


def test_nothing_is_asked_for_from_outside(browser: Browser, tmp_path: Path) -> None:
    browser.requests.clear()
    show(browser, tmp_path, fleet())
    browser.ask("document.fonts.ready.then(() => 1)")
    assert browser.requests == [(tmp_path / "report.html").as_uri()]


def test_what_the_page_says(browser: Browser, tmp_path: Path) -> None:
    show(browser, tmp_path, fleet())
    text = browser.ask("document.body.innerText")
    assert "db1: not reached: Connection timed out" in text
    assert "web2 would: load the fence into the kernel" in text
    assert "crawler on web1: 90.0 % of 1000 ports" in text
    assert "web1\t2026-11-24T09:00:00Z\tadmin" in text
    rows = browser.ask("[...document.querySelectorAll('table')][0].innerText").split("\n")
    assert [row.split("\t") for row in rows[1:]] == [["web1", "myapp", "3", "–", "stopped"], ["web2", "myapp", "3", "–", "stopped"]]
    width = "getBoundingClientRect().width"
    share = f"(bar => [bar.{width} / bar.parentElement.clientWidth, bar.firstElementChild.{width} / bar.{width}])"
    shown = browser.ask(f"{share}(document.querySelector('.bar'))")
    assert shown == pytest.approx([1000 / 11000, 0.9], abs=0.01), "sorted by name: crawler is the first"


def test_hosts_without_a_service_are_named(browser: Browser, tmp_path: Path) -> None:
    """They are not fenced, and nothing else of the page would say so."""
    hosts = fleet(web3={"in_sync": True, "drift": [], "services": {}})
    show(browser, tmp_path, hosts)
    heading = "[...document.querySelectorAll('h2')].find(item => item.textContent == 'Hosts without a service')"
    assert browser.ask(f"{heading}.nextElementSibling.nextElementSibling.innerText") == "web3"
    assert json.loads(report(hosts, "now")["report.json"])["without_services"] == ["web3"]


def test_hosts_are_found_by_a_part_of_their_name(browser: Browser, tmp_path: Path) -> None:
    show(browser, tmp_path, fleet())
    shown = "[...document.querySelectorAll('[data-host]')].filter(item => item.checkVisibility()).map(item => item.dataset.host)"
    assert browser.ask(shown) == ["web1", "web2", "web1", "web1", "web1", "web2"]
    browser.ask("document.getElementById('filter').focus()")
    browser.write("EB2")
    assert browser.ask(shown) == ["web2", "web2"]


def test_without_a_mouse(browser: Browser, tmp_path: Path) -> None:
    show(browser, tmp_path, fleet())
    reached = []
    for _press in range(12):
        browser.press("Tab")
        reached.append(browser.ask("document.activeElement.getAttribute('aria-label') || document.activeElement.id"))
    assert reached[:6] == [
        "Violations and intrusions",
        "filter",
        "crawler, ports 60000-60999, 90.0 % in use",
        "myapp, ports 50000-50999, 25.0 % in use",
        "myapp, ports 50000-50999, 25.0 % in use",
        "Last changes",
    ]


def test_for_a_screen_reader(browser: Browser, tmp_path: Path) -> None:
    show(browser, tmp_path, fleet())
    spoken = browser.spoken()
    wanted_bar = "listitem: crawler, ports 60000-60999, 90.0 % in use"
    for wanted in ("main: ", "heading: Port map", "list: web1", wanted_bar, "columnheader: Violations", "rowheader: web2"):
        assert wanted in spoken
    assert browser.ask("document.documentElement.lang") == "en"
    levels = browser.ask("[...document.querySelectorAll('h1,h2,h3')].map(item => Number(item.tagName[1]))")
    assert levels[0] == 1 and set(levels[1:]) == {2}


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_nothing_sticks_out_on_a_phone(browser: Browser, tmp_path: Path, width: int) -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=700, deviceScaleFactor=1, mobile=width < 1000)
    long_name = "a-name-of-a-host-that-is-much-too-long-for-any-phone.example.com"
    show(browser, tmp_path, fleet(**{long_name: {"in_sync": True, "drift": [], "services": {"myapp": SERVICE}}}))
    assert browser.ask("document.documentElement.scrollWidth") <= width
    browser.call("Emulation.clearDeviceMetricsOverride")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser: Browser, tmp_path: Path, scheme: str) -> None:
    """WCAG 2.1: 4.5 to 1 for text, 3 to 1 for what is drawn."""
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    show(browser, tmp_path, fleet())

    def colour(selector: str, what: str) -> float:
        text = browser.ask(f"getComputedStyle(document.querySelector('{selector}')).{what}")
        parts = [int(part) / 255 for part in re.findall(r"\d+", text)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: float, two: float) -> float:
        return (max(one, two) + 0.05) / (min(one, two) + 0.05)

    back = colour("body", "backgroundColor")
    assert (back > 0.5) == (scheme == "light")
    assert contrast(colour("body", "color"), back) >= 7
    assert contrast(colour("strong.bad", "color"), colour(".sums li", "backgroundColor")) >= 4.5
    assert contrast(colour(".bar > span", "backgroundColor"), colour(".bar", "backgroundColor")) >= 3
    assert contrast(colour(".bar > span", "backgroundColor"), colour(".track", "backgroundColor")) >= 3
    browser.call("Emulation.setEmulatedMedia", features=[])


def test_no_hosts_at_all(browser: Browser, tmp_path: Path) -> None:
    show(browser, tmp_path, {})
    assert "No host has a service." in browser.ask("document.body.innerText")


def test_the_playbook(lab: Lab) -> None:
    control = Control(lab)
    control.play("portfence.egress.site", egress_services={**MYAPP, **COLLECTOR})
    assert lab.connect("tcp", user="otel", source_port=40000, timeout=0.3).port is None
    done = control.play("portfence.egress.report", "-e", "egress_report=/run/report", hosts=["lab", "down1"])
    assert done.rc == 0, done.out
    table = lab.run(["cat", "/run/report/report.csv"]).out.splitlines()
    assert table[0] == "host,service,source_ports,assignment,on_violation,capacity,use,violations,intrusions"
    assert re.fullmatch(r'lab,collector,"52000-52999, 53500",app,drop,1001,0\.0,[1-9],0', table[1])
    assert "down1" in lab.run(["cat", "/run/report/report.json"]).out
    assert "not reached: " in lab.run(["cat", "/run/report/report.html"]).out
    lab.run(["sh", "-c", "nft delete table inet portfence; nft add table inet portfence"])
    done = control.play("portfence.egress.report", "-e", "egress_report=/run/report")
    assert done.rc == 0 and "could not be read: " in lab.run(["cat", "/run/report/report.html"]).out
    done = control.play("portfence.egress.report", "-e", "egress_report=/run/part", "--limit", "lab", hosts=["lab", "down1"])
    assert done.rc == 0, done.out
    assert json.loads(lab.run(["cat", "/run/part/report.json"]).out)["hosts"] == 1
