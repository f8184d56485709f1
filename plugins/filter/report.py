# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter C(portfence.egress.report): what fence_info says of many hosts → a page, a table and data."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping

from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.module_utils._errors import shown
from ansible_collections.portfence.egress.plugins.plugin_utils import _report

DOCUMENTATION = r"""
name: report
short_description: A report on the fences of many hosts
version_added: 0.2.0
author:
  - PortFence contributors (@portfence)
description:
  - Writes what M(portfence.egress.fence_info) returned for each host as a page that needs nothing else (C(report.html)), as a table (C(report.csv)) and
    as data (C(report.json)).
  - Shown are a map of the ports, violations and intrusions, services in want of ports, fences that were changed by hand, hosts that were not read, and
    hosts without a service.
options:
  _input:
    description: Names of hosts, each with the registered result of M(portfence.egress.fence_info), whether it failed or not.
    type: dict
    required: true
  when:
    description: The time that the page names.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Write the page
  ansible.builtin.copy:
    dest: report.html
    content: "{{ (results | portfence.egress.report(when=now(utc=true).strftime('%F %T UTC')))['report.html'] }}"
    mode: "0644"
  vars:
    results:
      web1: {in_sync: true, drift: [], services: {}}
      web2: {unreachable: true, msg: Connection timed out}
  delegate_to: localhost
"""

RETURN = r"""
_value:
  description: File names, each with the text of the file.
  type: dict
"""


def report(hosts: Any, when: str) -> Dict[str, str]:
    """See DOCUMENTATION. Raises AnsibleFilterError."""
    if not isinstance(hosts, Mapping) or not all(isinstance(info, Mapping) for info in hosts.values()):
        raise AnsibleFilterError(f"portfence.egress.report takes a mapping of host names to results, found {shown(hosts)}")
    try:
        found = _report.build({str(name): info for name, info in hosts.items()}, when=when)
    except (KeyError, TypeError) as error:
        raise AnsibleFilterError(f"a result is none of portfence.egress.fence_info: {error}") from error
    return {"report.html": _report.to_html(found), "report.csv": _report.to_csv(found), "report.json": _report.to_json(found)}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"report": report}
