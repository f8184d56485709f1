# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter C(portfence.egress.identity_files): the identity map → files for people, gateways and intrusion detection."""

from __future__ import annotations

from typing import Any, Callable, Dict

from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.module_utils._edge import UNKNOWN, formats
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, shown
from ansible_collections.portfence.egress.plugins.module_utils._identity import parse, to_csv, to_json
from ansible_collections.portfence.egress.plugins.module_utils._suricata import files as suricata_files

DOCUMENTATION = r"""
name: identity_files
short_description: The identity map for others
version_added: 0.2.0
author:
  - PortFence contributors (@portfence)
description:
  - Writes the identity map as C(identity.json) and C(identity.csv), as rules of a gateway for nftables (C(edge.nft)) and iptables (C(edge.rules.v4),
    C(edge.rules.v6)), and for Suricata as variables (C(suricata-addresses.yaml), C(suricata-ports.yaml)) and rules (C(suricata.rules)).
options:
  _input:
    description: The identity map, as the filter P(portfence.egress.identities#filter) gives it.
    type: list
    elements: dict
    required: true
  unknown:
    description: What a gateway does with a connection of a fenced host whose source port belongs to no service of it.
    type: str
    choices: [log, drop]
    default: log
"""

EXAMPLES = r"""
- name: Show the rules of a gateway
  ansible.builtin.debug:
    msg: "{{ (identities | portfence.egress.identity_files(unknown='drop'))['edge.nft'] }}"
  vars:
    identities:
      - {address: 192.0.2.11, protocol: tcp, source_ports: 50000-50999, service: myapp, hosts: [web1]}
"""

RETURN = r"""
_value:
  description: File names, each with the text of the file.
  type: dict
"""


def identity_files(entries: Any, unknown: str = "log") -> Dict[str, str]:
    """See DOCUMENTATION. Raises AnsibleFilterError."""
    if not isinstance(unknown, str) or unknown not in UNKNOWN:
        raise AnsibleFilterError(f"unknown: found {shown(unknown)}; accepted: {', '.join(UNKNOWN)}")
    try:
        found = parse(entries)
    except InputError as error:
        raise AnsibleFilterError(str(error)) from error
    return {"identity.json": to_json(found), "identity.csv": to_csv(found), **dict(formats(found, unknown=unknown)), **dict(suricata_files(found))}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"identity_files": identity_files}
