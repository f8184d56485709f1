# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The namespaces were taken away without the files that declared them."""

from __future__ import annotations

from client import seen
from testhost import said, snapshot
from testinfra.host import Host


def test_client_was_named(host: Host) -> None:
    """The unit that was in a namespace which is gone is known by its drop-in."""
    assert "Restart these units, so that they come out of a network namespace that is gone: client.service" in " ".join(said("orphans").split())
    assert seen(host) > 0


def test_nothing_is_left(host: Host) -> None:
    """Every file, unit, sysctl, interface and table is what it was before the first run."""
    assert set(snapshot(host, "untouched")) ^ set(snapshot(host, "orphans")) == set()
