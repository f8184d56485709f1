# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What puts a unit in does not work any more. Each test mends it again; nothing else looks at the host meanwhile."""

from __future__ import annotations

from netcls import INSIDE, seen
from testinfra.host import Host

MOUNT = "/run/portfence/net_cls"
DAMAGE = {
    "script": ("mv /etc/portfence/classid.sh /etc/portfence/away", "mv /etc/portfence/away /etc/portfence/classid.sh"),
    "mount": (
        # A folder in its place, where anything can be written.
        f"umount --lazy {MOUNT} && mkdir -p {MOUNT}/portfence/legacy && touch {MOUNT}/portfence/legacy/cgroup.procs",
        f"rm -r {MOUNT}/portfence && systemctl reload portfence-classid.service",
    ),
    # libpam has a fallback (other), which lets everything pass.
    "session": ("mv /etc/pam.d/portfence-0x100001 /root/", "mv /root/portfence-0x100001 /etc/pam.d/"),
}


def test_unit_that_cannot_be_put_in_does_not_start(host: Host) -> None:
    """It fails closed: the program never runs. When all is well again, it starts."""
    for number, (name, (damage, repair)) in enumerate(DAMAGE.items()):
        unit = f"legacy-worker@broken{number}"
        host.check_output(damage)
        # Type=simple has started when the process is there; the second command waits until it has ended or runs.
        host.run(f"systemctl start {unit}.service; timeout 5 sh -c 'while systemctl is-active --quiet {unit}.service; do sleep 0.1; done'")
        state = host.run(f"systemctl is-active {unit}.service").stdout.strip()
        ran = host.file(f"/run/{unit}/seen").exists
        host.check_output(repair)
        assert state in ("failed", "inactive") and not ran, name
        host.check_output(f"systemctl restart {unit}.service")
        assert seen(host, f"{unit}.service")["first"] in INSIDE
        host.check_output(f"systemctl stop {unit}.service")
