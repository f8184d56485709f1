# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Three rollouts failed, the second one after it had restarted the client into its namespace, the last one because that did not start there."""

from __future__ import annotations

from client import network, seen
from testhost import said, snapshot
from testinfra.host import Host


def test_client_is_back_on_the_host(host: Host) -> None:
    """The unit was restarted into the namespace, and out of it again, and reaches its peer."""
    assert network(host) == host.check_output("readlink /proc/self/ns/net")
    assert seen(host) > 0
    for run in ("failed", "failed_restart"):
        assert "table inet portfence exists and was not written by this collection" in " ".join(said(run).split())
    assert host.check_output("pgrep --oldest --full session.py") != host.check_output("cat /run/client-before")
    assert "that they come into their network namespace of before" not in " ".join(said("failed_restart").split())


def test_client_that_did_not_start_in_the_namespace_runs(host: Host) -> None:
    """It was stopped for that, and is started where it was before."""
    assert "client.service" in " ".join(said("failed_start").split())
    assert host.service("client.service").is_running
    assert host.check_output("pgrep --oldest --full session.py") != host.check_output("cat /run/client-before-start")


def test_nothing_is_left(host: Host) -> None:
    """Every file, unit, sysctl, interface and table is what it was before the first run."""
    assert set(snapshot(host, "untouched")) ^ set(snapshot(host, "failed")) == set()
