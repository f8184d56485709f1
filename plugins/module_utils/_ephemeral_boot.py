# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the ephemeral ports are kept for boot, and what a unit does so that no reservation gets lost there. Pure."""

from __future__ import annotations

from ansible_collections.portfence.egress.plugins.module_utils._boot_lock import locked

FILE = "/etc/sysctl.d/60-portfence.conf"
RANGE_KEY = "net.ipv4.ip_local_port_range"
RESERVED_KEY = "net.ipv4.ip_local_reserved_ports"

_SYSCTLD = "/etc/sysctl.d/*.conf /run/sysctl.d/*.conf /usr/local/lib/sysctl.d/*.conf /usr/lib/sysctl.d/*.conf /lib/sysctl.d/*.conf"
_ADD = f'dd of=/proc/sys/{RESERVED_KEY.replace(".", "/")} bs=256k iflag=fullblock seek=1 oflag=seek_bytes conv=notrunc status=none'
# For a unit that runs after systemd-sysctl.service, as they stand there (no character that systemd would expand).
# They put back what a sysctl file read after ours replaced, a list longer than 4,090 bytes (all that systemd 247 hands
# to the kernel), and what ours replaced because it was declared after our last run: the kernel adds a list that is
# written anywhere but at the start of ip_local_reserved_ports to the ports that are reserved
# (proc_do_large_bitmap()), so nothing gets lost. Without our file they do nothing.
BOOT_STEPS = (
    locked(
        f'test ! -e {FILE} || sed -n "s/^{RANGE_KEY} = //p" {FILE}'
        f" | dd of=/proc/sys/{RANGE_KEY.replace('.', '/')} bs=4k conv=notrunc status=none"
    ),
    locked(f'test ! -e {FILE} || sed -n "s/^{RESERVED_KEY} = //p" {FILE} | {_ADD}'),
    locked(
        f"test ! -e {FILE} || sed -nE"
        ' "/=.*[^0-9,[:blank:]-]/d; s,^[[:blank:]]*-?net[./]ipv4[./]ip_local_reserved_ports[[:blank:]]*=[[:blank:]]*,,p"'
        f' {_SYSCTLD} 2>/dev/null | tr -s "[:blank:]" , | {_ADD}'
    ),
)
