# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel of a lab has, as tests compare it."""

from __future__ import annotations

from ansible_collections.portfence.egress.plugins.module_utils._nft_listing import Listing, parse_listing
from lab import Lab


def rules(lab: Lab) -> Listing:
    """All rules, but for counts and the order in which objects were made."""
    return parse_listing(lab.run(["nft", "-j", "list", "ruleset"]).out)
