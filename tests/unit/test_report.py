# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the report makes of what hosts say."""

from __future__ import annotations

from ansible_collections.portfence.egress.plugins.plugin_utils import _report


def test_a_host_without_services_has_no_fence_only_where_all_is_as_it_was_applied() -> None:
    hosts = {
        "bare": {"in_sync": True, "drift": [], "services": {}},
        "broken": {"in_sync": False, "drift": ["there is no user myapp on this host"], "services": {}},
    }
    report = _report.build(hosts, when="now")
    assert report.bare == ("bare",)
    assert report.drifted == (("broken", "there is no user myapp on this host"),)
