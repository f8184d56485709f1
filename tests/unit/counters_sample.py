# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``nft -a -t list table inet portfence`` prints, for those who test how it is read."""

COUNTERS = (
    "table inet portfence { # handle 7\n"
    "\tcounter violations_a { # handle 2\n"
    "\t\tpackets 0 bytes 0\n"
    "\t}\n"
    "\n"
    "\tcounter violations_b { # handle 9\n"
    '\t\tcomment "counter c { # handle 3"\n'
    "\t\tpackets 4 bytes 160\n"
    "\t}\n"
    "\n"
    "\tchain check_a { # handle 11\n"
    '\t\tcounter name "violations_a" # handle 12\n'
    "\t}\n"
    "}\n"
)
