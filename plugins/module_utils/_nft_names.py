# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and families of our nftables tables, and the priorities of their chains."""

TABLE = "portfence"
# Inside of the network namespace of a service.
INNER_TABLE = "portfence"
CHECK_FAMILY = "inet"
NAT_FAMILIES = ("ip", "ip6")
FAMILIES = (CHECK_FAMILY, *NAT_FAMILIES)

# One below the usual srcnat (100): of two nat chains the first to translate a connection wins.
NAT_PRIORITY = 99
CHECK_PRIORITY = 110
REFUSE_PRIORITY = 10
# Behind everybody who may set a mark on the way out.
MARK_PRIORITY = 300
# The usual "raw": before connection tracking (-200) looks the packet up.
ZONE_PRIORITY = -300
