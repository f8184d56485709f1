# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A policy on its way through the pure stages, for tests that start with what a user writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils import _iptables
from ansible_collections.portfence.egress.plugins.module_utils._errors import Problem
from ansible_collections.portfence.egress.plugins.module_utils._nftables import Fence, compile_fence
from ansible_collections.portfence.egress.plugins.module_utils._plan import merge
from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_variables
from ansible_collections.portfence.egress.plugins.module_utils._resolve import Lookup, Resolved, resolve
from ansible_collections.portfence.egress.plugins.module_utils._ruleset import Ruleset, build
from ansible_collections.portfence.egress.plugins.module_utils._service import Declared, Service

NOBODY = Lookup(uid=lambda name: None, gid=lambda name: None)


@dataclass(frozen=True)
class Compiled:
    """What became of a policy."""

    services: Tuple[Service, ...]
    resolved: Tuple[Resolved, ...]
    problems: Tuple[Problem, ...]
    ruleset: Ruleset
    fence: Fence

    @property
    def rules(self) -> _iptables.Fence:
        """The same fence for iptables."""
        assert _iptables.unsupported(self.ruleset) == []
        return _iptables.compile_fence(self.ruleset)


def lookup(*, users: Optional[Mapping[str, int]] = None, groups: Optional[Mapping[str, int]] = None) -> Lookup:
    """A name service that knows these names."""
    return Lookup(uid=(users or {}).get, gid=(groups or {}).get)


def declare(services: Sequence[Service]) -> Tuple[Declared, ...]:
    """Services with paths as in the inventory."""
    return tuple(Declared(f"egress_services.{service.name}", service) for service in services)


def compile_policy(variables: Mapping[str, Any], *, names: Lookup = NOBODY, nat: bool = False) -> Compiled:
    """Everything that lies between the inventory and nft. Raises InputError.

    Names that are not found are problems of the result, not errors, as on a host.
    """
    services = parse_variables(variables)
    present = merge({}, declare(services), state="present", purge=False).values()
    resolved, problems = resolve(tuple(present), lookup=names, admin_uids={0: "root"})
    ruleset = build(resolved)
    return Compiled(services, resolved, tuple(problems), ruleset, compile_fence(ruleset, nat=nat))


def fence_of(services: Mapping[str, Any], *, names: Lookup = NOBODY, nat: bool = False) -> Fence:
    """The fence of services without mistakes."""
    compiled = compile_policy({"egress_services": services}, names=names, nat=nat)
    assert compiled.problems == ()
    return compiled.fence


def messages(problems: Sequence[Problem]) -> List[str]:
    """Problems as a user reads them."""
    return [str(problem) for problem in problems]
