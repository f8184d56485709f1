# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fence asks of the firewall of the host: read it, compare it, change it, load it at boot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._counters import Counters
from ansible_collections.portfence.egress.plugins.module_utils._nft_table import Member
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import Ruleset

# What a program of the backend reads, by a name that the backend knows.
Change = Mapping[str, str]


@dataclass(frozen=True)
class Boot:
    """How the fence comes back at boot: its file, the command that loads it, and the units whose restarts it follows."""

    file: str
    command: str
    follows: Tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A compiled fence against what is live.

    :ivar text: the content of the file for boot.
    :ivar load: what changes the kernel, or None where it has exactly this fence.
    :ivar counters_restart: whether counts begin anew.
    :ivar compiled: for the backend itself.
    :ivar members: what units have to add to the fence when they start.
    :ivar tried: what the kernel made of the text, for :meth:`Backend.remember`; None where it was not asked.
    """

    text: str
    load: Optional[Change]
    counters_restart: bool
    compiled: Any
    members: Tuple[Member, ...] = ()
    tried: Optional[str] = None


class Backend(ABC):
    """One of the firewalls of a host. All methods raise HostError when the host refuses."""

    name: str
    boot: Boot

    @property
    def label(self) -> str:
        """How messages call it."""
        return self.name

    @abstractmethod
    def versions(self) -> Dict[str, Optional[str]]:
        """``nft_version``, ``iptables_version`` and ``iptables_variant``; None for what is not in use."""

    @abstractmethod
    def live(self) -> Any:
        """What the kernel has of ours; something empty for nothing. Raises PortFenceError when somebody else wrote it."""

    def begin(self) -> Callable[[], Any]:
        """Begin with :meth:`live`, so that other work can be done meanwhile; what this gives is to be called for the result, once."""
        return self.live

    @abstractmethod
    def live_text(self) -> str:
        """The same for people, without counts."""

    @abstractmethod
    def counted(self, live: Any) -> Counters:
        """The counters as :meth:`live` found them, where that says so; else as they are now. None when there is no fence."""

    @abstractmethod
    def unsupported(self, ruleset: Ruleset) -> List[Tuple[str, str, str]]:
        """What the backend can't express: service, key, message."""

    @abstractmethod
    def plan(self, ruleset: Ruleset, *, live: Any) -> Plan:
        """Compile, try in a throwaway network namespace, compare."""

    @abstractmethod
    def planned_text(self, plan: Plan) -> str:
        """What :meth:`live_text` will give once the plan is loaded."""

    @abstractmethod
    def removal(self, live: Any) -> Change:
        """What takes everything of ours away."""

    @abstractmethod
    def load(self, change: Change) -> None:
        """Change the kernel."""

    def remember(self, plan: Plan) -> None:
        """Keep what was learnt when the plan was made, so that the next one is made faster."""
