# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The argument spec of a list of services, one for every module that takes it.

Types are loose where the policy accepts several spellings; :mod:`_policy` reads the values and tells every mistake.
The documentation fragment ``portfence.egress.services`` says the same for people.
"""

from __future__ import annotations

from typing import Any, Dict


def service_options() -> Dict[str, Any]:
    """The keys of one service."""
    return {
        "name": {"type": "str", "required": True},
        "state": {"type": "str"},
        "source_ports": {"type": "raw"},
        "user": {"type": "raw"},
        "group": {"type": "raw"},
        "classid": {"type": "raw"},
        "unit": {"type": "raw"},
        "addresses": {"type": "raw"},
        "interface": {"type": "str"},
        "masquerade": {"type": "raw"},
        "protocols": {"type": "raw"},
        "assignment": {"type": "str"},
        "share_ports": {"type": "raw"},
        "listen_ports": {"type": "raw"},
        "namespace": {"type": "raw"},
        "on_violation": {"type": "str"},
        "exclusive": {"type": "raw"},
        "loopback": {"type": "raw"},
        "log": {"type": "raw"},
        "uid": {"type": "raw"},
        "manage_account": {"type": "raw"},
        "allow_admin": {"type": "raw"},
    }


def services_argument(*, required: bool = False) -> Dict[str, Any]:
    """The parameter ``services``."""
    spec: Dict[str, Any] = {"type": "list", "elements": "dict", "options": service_options()}
    if required:
        spec["required"] = True
    else:
        spec["default"] = []
    return {"services": spec}
