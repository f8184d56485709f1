# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The systemd unit that loads the fence at boot, before the network and every ordinary service."""

from __future__ import annotations

import os
from typing import List

from ansible_collections.portfence.egress.plugins.module_utils._backend import Boot
from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_boot import BOOT_STEPS
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host

NAME = "portfence.service"
FOLDER = "/etc/systemd/system"
PATH = f"{FOLDER}/{NAME}"
WANTS = f"{FOLDER}/sysinit.target.wants"
LINK = f"{WANTS}/{NAME}"
_HEADER = "# Written by the Ansible collection portfence.egress. Changes are overwritten.\n"


def unit_text(boot: Boot) -> str:
    """The unit file.

    It is ordered behind the units that load the rules of others, which usually flush every table, and follows their
    restarts and reloads for the same reason (systemd.unit(5): PartOf=, PropagatesReloadTo=).

    Its first commands keep the reserved ports together, whatever sysctl files of others say; see BOOT_STEPS.
    """
    follows = " ".join(boot.follows)
    ports = "".join(f"ExecStartPre=-{step}\n" for step in BOOT_STEPS)
    return f"""{_HEADER}
[Unit]
Description=Source port fence for outbound connections
Documentation=https://github.com/portfence/portfence.egress
DefaultDependencies=no
RequiresMountsFor={boot.file}
After=local-fs.target systemd-modules-load.service systemd-sysctl.service {follows}
Before=sysinit.target network-pre.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target
PartOf={follows}
ReloadPropagatedFrom={follows}

[Service]
Type=oneshot
RemainAfterExit=yes
{ports}ExecStart={boot.command}
ExecReload={boot.command}

[Install]
WantedBy=sysinit.target
"""


class Unit:
    """The unit on this machine."""

    def __init__(self, *, host: Host, boot: Boot) -> None:
        self._host = host
        self._text = unit_text(boot)

    def check_owner(self) -> None:
        """Raises HostError when somebody else wrote a unit of our name."""
        found = self._host.read(PATH)
        if found is not None and not found.startswith(_HEADER):
            raise HostError(f"{PATH} exists and was not written by this collection; rename or remove that unit")

    def missing(self) -> List[str]:
        """What has to be done so that the fence is loaded at boot, as a list for humans; empty when nothing."""
        found = []
        if self._host.read(PATH) != self._text:
            found.append(f"write {PATH}")
        if not os.path.islink(LINK) or os.path.realpath(LINK) != PATH:
            found.append(f"enable {NAME}")
        if self._running_systemd() and not self._is_active():
            found.append(f"start {NAME}")
        return found

    def install(self) -> None:
        """Write the unit and enable it. The fence file must be in place."""
        if self._host.read(PATH) != self._text:
            self._host.write(PATH, self._text)
        self._host.make_directory(WANTS)
        if not os.path.islink(LINK) or os.path.realpath(LINK) != PATH:
            self._host.remove(LINK)
            try:
                os.symlink(f"../{NAME}", LINK)
            except OSError as error:
                raise HostError(f"can't enable {NAME}: {LINK}: {error.strerror}") from error

    def start(self) -> None:
        """Let systemd know the unit, and run it once, so that it follows the units of others from now on."""
        if self._running_systemd():
            self._host.run(["systemctl", "daemon-reload"])
            if not self._is_active():
                self._host.run(["systemctl", "start", NAME])

    def remove(self) -> None:
        """Disable the unit and take its file away, if it is there."""
        known = self._host.read(PATH) is not None or os.path.islink(LINK)
        if not known:
            return
        if self._running_systemd():
            self._host.run(["systemctl", "stop", NAME], check=False)
        self._host.remove(LINK)
        self._host.remove(PATH)
        if self._running_systemd():
            self._host.run(["systemctl", "daemon-reload"])
            self._host.run(["systemctl", "reset-failed", NAME], check=False)

    def present(self) -> bool:
        """Whether the unit or its link is there."""
        return self._host.read(PATH) is not None or os.path.islink(LINK)

    def _is_active(self) -> bool:
        return self._host.run(["systemctl", "is-active", "--quiet", NAME], check=False).rc == 0

    @staticmethod
    def _running_systemd() -> bool:
        """See sd_booted(3)."""
        return os.path.isdir("/run/systemd/system")
