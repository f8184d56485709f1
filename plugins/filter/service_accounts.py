# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter C(portfence.egress.service_accounts): services → the accounts that they run as."""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, List, Optional

from ansible_collections.portfence.egress.plugins.plugin_utils._services import each_present, texts

DOCUMENTATION = r"""
name: service_accounts
short_description: The accounts that services run as
version_added: 0.2.0
author:
  - PortFence contributors (@portfence)
description:
  - Takes services and gives the list that the module M(portfence.egress.service_account) takes. Services that are absent, or whose
    account is not managed, are not in it, nor are bare numbers, for which no account can be made.
options:
  _input:
    description: Services, as the filter P(portfence.egress.services#filter) gives them.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the accounts of a policy
  ansible.builtin.debug:
    msg: "{{ services | portfence.egress.service_accounts }}"
  vars:
    services:
      - name: myapp
        source_ports: 50000-50999
        user: [myapp]
        uid: 991
"""

RETURN = r"""
_value:
  description: The accounts, in the order of their services, each with its C(name) and its C(uid), which may be null.
  type: list
  elements: dict
"""


_SELECTORS = ("user", "group", "classid", "unit", "addresses")


def service_accounts(services: Any) -> List[Dict[str, Any]]:
    """See DOCUMENTATION. Raises AnsibleFilterError."""
    found: Dict[str, Optional[int]] = {}
    for service in each_present(services, by="service_accounts"):
        if not service.get("manage_account", True):
            continue
        # As the module fence has it: who says nothing is the account of the service's name.
        users = texts(service.get("user") or []) if any(map(service.get, _SELECTORS)) else [service["name"]]
        for user in users:
            if not re.fullmatch("[0-9]+", user):
                found.setdefault(user, None)
        # The uid of a service is that of its one user.
        if users and users[0] in found and service.get("uid") is not None:
            found[users[0]] = service["uid"]
    return [{"name": name, "uid": uid} for name, uid in found.items()]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"service_accounts": service_accounts}
