# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nftables as the backend of the fence."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from ansible_collections.portfence.egress.plugins.module_utils import _plan
from ansible_collections.portfence.egress.plugins.module_utils._backend import Backend, Boot, Change, Plan
from ansible_collections.portfence.egress.plugins.module_utils._boot_lock import locked
from ansible_collections.portfence.egress.plugins.module_utils._counters import Counters
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._nft import Nft
from ansible_collections.portfence.egress.plugins.module_utils._nft_listing import Listing, Live, family_of
from ansible_collections.portfence.egress.plugins.module_utils._nft_names import CHECK_FAMILY, NAT_FAMILIES
from ansible_collections.portfence.egress.plugins.module_utils._nftables import Fence, compile_fence, needs_nat
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import Ruleset
from ansible_collections.portfence.egress.plugins.module_utils._store import FENCE_FILE
from ansible_collections.portfence.egress.plugins.module_utils._tried import Tried
from ansible_collections.portfence.egress.plugins.module_utils._unit_host import find_cgroups
from ansible_collections.portfence.egress.plugins.module_utils._unit_members import SCRIPT

# Parts of a change: what comes first, the change itself, and what takes the first part away when the second fails.
_FIRST, _INPUT, _UNDO = "first", "nft", "undo"


class NftablesBackend(Backend):
    """Tables of our own, beside those of others."""

    name = "nftables"

    def __init__(self, host: Host) -> None:
        """Raises HostError when nft is missing or too old, or fails."""
        self._host = host
        self._nft = Nft(host)
        self._tried = Tried(host=host, version=self._nft.version)
        # Where the fence has units, it is loaded along with their cgroups.
        load = f"if test -e {SCRIPT}; then exec /bin/sh {SCRIPT} load; fi; exec {self._nft.path} -f {FENCE_FILE}"
        # Its configuration usually flushes every table.
        self.boot = Boot(file=FENCE_FILE, command=locked(load), follows=("nftables.service",))

    def tables_if_works(self) -> Optional[List[Tuple[str, str]]]:
        """Family and name of every table; None where the kernel can't be asked."""
        return self._nft.tables_if_works()

    def versions(self) -> Dict[str, Optional[str]]:
        """See Backend."""
        return {"nft_version": self._nft.version, "iptables_version": None, "iptables_variant": None}

    def live(self) -> Live:
        """Our tables by family."""
        return self.begin()()

    def begin(self) -> Callable[[], Live]:
        """See Backend."""
        finish = self._nft.begin()

        def checked() -> Live:
            found = finish()
            _plan.check_owner(found.tables)
            return found

        return checked

    def live_text(self) -> str:
        """See Backend."""
        return self._nft.live_text()

    def counted(self, live: Any) -> Counters:
        """See Backend."""
        counters: Counters = live.counters
        return counters

    def unsupported(self, ruleset: Ruleset) -> List[Tuple[str, str, str]]:
        """Units, where nft is too old; else nothing: the schema of a service is that of nftables."""
        if self._nft.knows_cgroups():
            return []
        return [
            (
                rules.name,
                "unit",
                f"found {rules.units[0].unit}; nft {self._nft.version} can't match the cgroup of a unit, which takes 0.9.9;"
                " accepted with this nft: the selectors user, group, classid and addresses",
            )
            for rules in ruleset.services
            if rules.units
        ]

    def plan(self, ruleset: Ruleset, *, live: Any) -> Plan:
        """See Backend."""
        tables = live.tables
        fence = compile_for(ruleset, tables)
        cgroups = find_cgroups(self._host, fence.members)
        known = self._tried.gave(fence.text, _plan.fingerprint(tables, fence))
        if known and _plan.has_members(live=tables, fence=fence, cgroups=cgroups):
            return Plan(fence.text, None, False, fence, fence.members)
        canonical = self._nft.canonical(fence.text)
        load = None
        if not _plan.equal(live=tables, wanted=canonical, fence=fence, cgroups=cgroups):
            first = _plan.preparation(live=tables, wanted=canonical, fence=fence)
            load = {
                _FIRST: first.add,
                _INPUT: _plan.transaction(live=tables, wanted=canonical, fence=fence, cgroups=cgroups),
                _UNDO: first.undo,
            }
        tried = _plan.fingerprint({family: family_of(canonical, family) for family in fence.tables}, fence)
        return Plan(fence.text, load, load is not None and CHECK_FAMILY not in tables, fence, fence.members, tried)

    def remember(self, plan: Plan) -> None:
        """See Backend."""
        if plan.tried is not None:
            self._tried.remember(plan.text, plan.tried)

    def planned_text(self, plan: Plan) -> str:
        """See Backend."""
        return self._nft.canonical_text(plan.text)

    def removal(self, live: Any) -> Change:
        """See Backend."""
        return {_INPUT: _plan.removal(live.tables)}

    def load(self, change: Change) -> None:
        """One transaction, all of it or nothing; before it, chains that nothing leads to yet."""
        if change.get(_FIRST):
            self._nft.load(change[_FIRST])
        try:
            self._nft.load(change[_INPUT])
        except HostError:
            if change.get(_UNDO):
                self._nft.load(change[_UNDO])
            raise


def compile_for(ruleset: Ruleset, live: Mapping[str, Listing]) -> Fence:
    """The fence of these rules. NAT tables that are live stay: connections that they rewrote need them."""
    return compile_fence(ruleset, nat=needs_nat(ruleset) or any(family in live for family in NAT_FAMILIES))
