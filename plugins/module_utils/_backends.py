# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which firewall of the host holds its fence, and which shall."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, List, Optional, Tuple, cast

from ansible_collections.portfence.egress.plugins.module_utils._backend import Backend
from ansible_collections.portfence.egress.plugins.module_utils._counters import Counters
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, KilledError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._nft import Nft
from ansible_collections.portfence.egress.plugins.module_utils._nft_names import NAT_FAMILIES
from ansible_collections.portfence.egress.plugins.module_utils._store import FENCE_FILE, IPTABLES_FILE

if TYPE_CHECKING:
    from ansible_collections.portfence.egress.plugins.module_utils._backend_nftables import NftablesBackend

AUTO = "auto"
BACKENDS = ("nftables", "iptables")
CHOICES = (AUTO, *BACKENDS)
# What modules return of the backend where there is none.
NO_BACKEND = {"backend": None, "nft_version": None, "iptables_version": None, "iptables_variant": None}

# Names of the tables that iptables-legacy has made in this network namespace, one a line.
_LEGACY_TABLES = ("/proc/net/ip_tables_names", "/proc/net/ip6_tables_names")


def choose(host: Host, wanted: str = AUTO) -> Backend:
    """The backend that shall hold the fence. Raises HostError when it can't be used.

    :param wanted: one of :data:`CHOICES`. "auto" is the one that the host has; without a fence, nftables where it can be
        used, else iptables.
    """
    chosen = kept() if wanted == AUTO else wanted
    if chosen == "iptables":
        return _iptables(host)
    if chosen == "nftables":
        return _nftables(host)
    usable = _candidates(host)
    holding = next((backend for backend in usable if backend.live()), None)
    nftables = next((backend for backend in usable if backend.name == "nftables"), None)
    if nftables is not None and holding in (None, nftables):
        return nftables
    if holding is None and host.find("iptables-restore") is None:
        _nftables(host)  # raises why it can't be used
    return _iptables(host)


# A host compiles what a module imports anew each time, so nobody imports a backend who has no use for it.
def _nftables(host: Host) -> NftablesBackend:
    from ansible_collections.portfence.egress.plugins.module_utils._backend_nftables import NftablesBackend

    return NftablesBackend(host)


def _iptables(host: Host, variant: Optional[str] = None) -> Backend:
    from ansible_collections.portfence.egress.plugins.module_utils._backend_iptables import IptablesBackend

    return IptablesBackend(host, variant=variant)


def kept() -> Optional[str]:
    """The backend that holds the fence by the files for boot; None when there is no such file."""
    return next((name for name, path in (("nftables", FENCE_FILE), ("iptables", IPTABLES_FILE)) if os.path.exists(path)), None)


def in_force(host: Host) -> Optional[str]:
    """The backend that holds the fence by the files for boot, else by the kernel; None when there is no fence."""
    return kept() or next((backend.name for backend in _candidates(host) if backend.live()), None)


def others(host: Host, chosen: Backend) -> List[Tuple[Backend, Any]]:
    """Fences of ours that another backend, or another variant of iptables, holds beside the chosen one, with what is live."""
    found = [(backend, backend.live()) for backend in _candidates(host, chosen) if not _same(backend, chosen)]
    return [(backend, live) for backend, live in found if live]


def counters_reader(host: Host) -> Callable[[], Callable[[], Counters]]:
    """What begins to read the counters of the fence in force, each time that it is called. What that gives is to be called for them, once:
    none where there is no fence.

    All three raise HostError.
    """
    name = in_force(host)
    if name == "nftables":
        return Nft(host).begin_counters
    backend = None if name is None else _iptables(host)
    return lambda: Counters if backend is None else partial(backend.counted, None)


def is_absent(host: Host) -> bool:
    """Whether the host has no firewall that could hold a fence."""
    return host.find("nft") is None and host.find("iptables-save") is None


def _same(one: Backend, other: Backend) -> bool:
    return one.name == other.name and getattr(one, "variant", None) == getattr(other, "variant", None)


def _candidates(host: Host, known: Optional[Backend] = None) -> List[Backend]:
    """The backends that can hold a fence now. No program of iptables is asked in vain: it may load modules.

    :param known: one that is not made again.
    """
    found: List[Backend] = []
    shared = True
    if host.find("nft") is not None:
        try:
            nftables = cast("NftablesBackend", known) if known is not None and known.name == "nftables" else _nftables(host)
        except KilledError:
            raise
        except HostError:
            pass  # older than the oldest that can have a fence of ours
        else:
            tables = nftables.tables_if_works()
            if tables is not None:
                found.append(nftables)
                # iptables-nft gives the table with our check this name.
                shared = any(family in NAT_FAMILIES and name == "mangle" for family, name in tables)
    if shared and host.find("iptables-nft-save") is not None:
        found.append(_iptables(host, variant="nft"))
    if any(host.read(path) for path in _LEGACY_TABLES) and host.find("iptables-legacy-save") is not None:
        found.append(_iptables(host, variant="legacy"))
    return found
