# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists of services, as filters are given them."""

from __future__ import annotations

from typing import Any, Iterator, List, Mapping

from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.module_utils._errors import shown


def each_service(services: Any, *, by: str) -> Iterator[Mapping[str, Any]]:
    """The services of a list, in one pass: a template that goes through a long list again and again takes seconds.

    :param by: name of the filter. Raises AnsibleFilterError when it is no such list.
    """
    if not isinstance(services, (list, tuple)):
        raise AnsibleFilterError(f"portfence.egress.{by} takes a list of services, found {shown(services)}")
    for index, service in enumerate(services):
        if not isinstance(service, Mapping) or not isinstance(service.get("name"), str):
            raise AnsibleFilterError(f"services[{index}]: found {shown(service)}; accepted: a mapping with name, source_ports, …")
        state = service.get("state", "present")
        if state not in ("present", "absent"):
            # Taken for absent, it would delete what the service has.
            raise AnsibleFilterError(f"services[{index}].state: found {shown(state)}; accepted: present, absent")
        yield service


def each_present(services: Any, *, by: str) -> Iterator[Mapping[str, Any]]:
    """Those of :func:`each_service` that are not absent."""
    return (service for service in each_service(services, by=by) if service.get("state", "present") == "present")


def texts(value: Any) -> List[str]:
    """A list, or the one value that stands for it, as texts."""
    return [str(item) for item in (value if isinstance(value, (list, tuple)) else [value])]
