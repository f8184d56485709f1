# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Systemd units that load rules of ours at boot, the fence or those of a gateway, before the network and every ordinary service.

``nftables.service`` flushes the tables of everybody when it stops, and with its usual configuration when it starts or
reloads; firewalld stops it (``Conflicts=``). Units that restore rules of iptables flush ours in the same way. A drop-in of
such a unit loads them again each time. No dependency of ours could: PartOf= does not follow a first start, and leaves
us stopped after a stop (systemd.unit(5)).
"""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from typing import Dict, List, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._backend import Boot
from ansible_collections.portfence.egress.plugins.module_utils._ephemeral_boot import BOOT_STEPS
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._staged import TEMPORARY

FOLDER = "/etc/systemd/system"
WANTS = f"{FOLDER}/sysinit.target.wants"
_WITHOUT_RELOAD = ("netfilter-persistent.service",)
_HEADER = "# Written by the Ansible collection portfence.egress. Changes are overwritten.\n"


@dataclass(frozen=True)
class Rules:
    """What a unit loads.

    :ivar name: of the unit without suffix, and of its drop-ins.
    :ivar title: the description of the unit.
    :ivar steps: commands before it, whose failure does not matter.
    """

    name: str
    title: str
    steps: Tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """The name of the unit."""
        return f"{self.name}.service"

    @property
    def path(self) -> str:
        """The file of the unit."""
        return f"{FOLDER}/{self.unit}"

    @property
    def link(self) -> str:
        """What enables the unit."""
        return f"{WANTS}/{self.unit}"

    def drop_in_path(self, unit: str) -> str:
        """Where the drop-in of a unit is that may flush the rules."""
        return f"{FOLDER}/{unit}.d/{self.name}.conf"


# The first commands keep the reserved ports together, whatever sysctl files of others say; see BOOT_STEPS.
FENCE = Rules("portfence", "Source port fence for outbound connections", BOOT_STEPS)
EDGE = Rules("portfence-edge", "Source port identities at this gateway")


def unit_text(rules: Rules, boot: Boot) -> str:
    """The unit file."""
    steps = "".join(f"ExecStartPre=-{step}\n" for step in rules.steps)
    return f"""{_HEADER}
[Unit]
Description={rules.title}
Documentation=https://github.com/portfence/portfence.egress
DefaultDependencies=no
RequiresMountsFor={boot.file}
After=local-fs.target systemd-modules-load.service systemd-sysctl.service {" ".join(boot.follows)}
Before=sysinit.target network-pre.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
{steps}ExecStart={boot.command}
ExecReload={boot.command}

[Install]
WantedBy=sysinit.target
"""


def drop_in_text(boot: Boot, unit: str) -> str:
    """The drop-in of a unit that may flush the rules. A failure of ours does not become one of theirs.

    A unit that can't reload does not learn it from us: ``systemctl reload-or-restart`` would no longer restart it.
    """
    reload = "" if unit in _WITHOUT_RELOAD else f"ExecReload=-{boot.command}\n"
    return f"""{_HEADER}
[Service]
ExecStartPost=-{boot.command}
{reload}ExecStopPost=-{boot.command}
"""


class Unit:
    """A unit on this machine."""

    def __init__(self, *, host: Host, boot: Boot, rules: Rules = FENCE) -> None:
        self._host = host
        self._rules = rules
        drop_ins = {rules.drop_in_path(unit): drop_in_text(boot, unit) for unit in boot.follows}
        self._texts = {rules.path: unit_text(rules, boot), **drop_ins}

    def check_owner(self) -> None:
        """Raises HostError when somebody else wrote a unit of our name."""
        for path in self._texts:
            found = self._host.read(path)
            if found is not None and not found.startswith(_HEADER):
                raise HostError(f"{path} exists and was not written by this collection; rename or remove that unit")

    def paths(self) -> List[str]:
        """All that install() and remove() change."""
        return sorted({*self._texts, *self._drop_ins(), self._rules.link})

    def unwritten(self) -> Dict[str, str]:
        """The files that are not there as they should be, path to text."""
        return {path: text for path, text in self._texts.items() if self._host.read_own(path) != text}

    def missing(self) -> List[str]:
        """What has to be done so that the rules are loaded at boot, as a list for humans; empty when nothing."""
        found = [f"write {path}" for path in self.unwritten()]
        found.extend(f"remove {path}" for path in self._stale())
        if not os.path.islink(self._rules.link) or os.path.realpath(self._rules.link) != self._rules.path:
            found.append(f"enable {self._rules.unit}")
        if self._host.runs_systemd() and not self._is_active():
            found.append(f"start {self._rules.unit}")
        return found

    def install(self) -> None:
        """Write the unit and enable it. The file of the rules must be in place."""
        for path, text in self.unwritten().items():
            self._host.make_directory(os.path.dirname(path))
            self._host.write(path, text)
        self._remove(self._stale())
        self._host.make_directory(WANTS)
        if not os.path.islink(self._rules.link) or os.path.realpath(self._rules.link) != self._rules.path:
            self._host.link(self._rules.link, f"../{self._rules.unit}")

    def _stale(self) -> List[str]:
        """Drop-ins of ours that another backend needed."""
        return [path for path in self._drop_ins() if path not in self._texts]

    def _drop_ins(self) -> List[str]:
        """All drop-ins of ours."""
        found = sorted(glob.glob(self._rules.drop_in_path("*.service")))
        return [path for path in found if (self._host.read(path) or "").startswith(_HEADER)]

    def _begun(self) -> List[str]:
        """What a run that was killed had begun to write."""
        paths = (self._rules.path, self._rules.link, self._rules.drop_in_path("*.service"))
        return sorted(found for path in paths for found in glob.glob(path + TEMPORARY))

    def _remove(self, drop_ins: List[str]) -> None:
        for path in drop_ins:
            self._host.remove(path)
            self._host.remove_directory(os.path.dirname(path))

    def start(self) -> None:
        """Let systemd know the unit and the drop-in, and run the unit once."""
        if self._host.runs_systemd():
            self._host.reload_units()
            if not self._is_active():
                self._host.run(["systemctl", "start", self._rules.unit])

    def remove(self) -> None:
        """Disable the unit and take its files away, if they are there."""
        if not self.present():
            return
        if self._host.runs_systemd():
            self._host.run(["systemctl", "stop", self._rules.unit], check=False)
        self._host.remove(self._rules.link)
        self._host.remove(self._rules.path)
        for path in self._begun():
            self._host.remove(path)
        self._remove(self._drop_ins())
        if self._host.runs_systemd():
            self._host.reload_units()
            self._host.run(["systemctl", "reset-failed", self._rules.unit], check=False)

    def present(self) -> bool:
        """Whether a file of the unit or its link is there, or what was to become one."""
        return self._host.read(self._rules.path) is not None or os.path.islink(self._rules.link) or bool(self._drop_ins() or self._begun())

    def _is_active(self) -> bool:
        return self._host.run(["systemctl", "is-active", "--quiet", self._rules.unit], check=False).rc == 0
