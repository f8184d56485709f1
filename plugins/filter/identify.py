# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter C(portfence.egress.identify): who was behind an address and a port."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Callable, Dict, List, Mapping, Tuple

from ansible.errors import AnsibleFilterError
from ansible_collections.portfence.egress.plugins.module_utils._errors import InputError, PortFenceError, Problem, shown
from ansible_collections.portfence.egress.plugins.module_utils._identify import identify as matches_of
from ansible_collections.portfence.egress.plugins.module_utils._identify import read_question
from ansible_collections.portfence.egress.plugins.module_utils._lock_file import COMMAND, LockFile, parse
from ansible_collections.portfence.egress.plugins.plugin_utils._lock_store import NoFolderError, lock_path, read
from ansible_collections.portfence.egress.plugins.plugin_utils._places import places

DOCUMENTATION = r"""
name: identify
short_description: Who was behind an address and a port
version_added: 0.2.0
author:
  - PortFence contributors (@portfence)
description:
  - Takes the variables of all hosts, and an address and a port as a log shows them. Gives the services that have the port, or had
    it at a time, with their host, and since when.
  - A host has the address in C(ansible_host) or that of its name in the inventory, where these are addresses, and is seen under those
    of its variable C(egress_addresses), which hosts behind one NAT have in common. Names are not resolved. A service that is forwarded
    without masquerade is seen under its own addresses, and under no others.
  - Ranges that were handed out come from the file of allocated ports, which knows the past, renamed hosts and hosts that are not
    in the inventory any more among it. Ports that are written by hand come from the policies, as they are now.
options:
  _input:
    description: The magic variable C(hostvars), or a mapping of the names of hosts to their variables.
    type: dict
    required: true
  address:
    description: An IPv4 or IPv6 address. The port can stand behind it, as in C(10.1.2.3:50432) and C([2001:db8::1]:50432).
    type: str
    required: true
  port:
    description: The source port. Required unless it stands behind the address.
    type: int
  time:
    description:
      - When it was, a day or a time in ISO 8601, in UTC where it has no zone. The file knows days; on the day of a change both
        owners are given. It must not be still to come.
      - Defaults to now.
    type: str
  lock_file:
    description: The file of allocated ports on the controller.
    type: path
  inventory_sources:
    description: The magic variable C(ansible_inventory_sources). Without O(lock_file), the file lies beside the first of them.
    type: list
    elements: str
seealso:
  - module: portfence.egress.port_allocations
"""

EXAMPLES = r"""
- name: Show who is behind a port
  ansible.builtin.debug:
    msg: "{{ hostvars | portfence.egress.identify('203.0.113.7', 16400, inventory_sources=ansible_inventory_sources) }}"
  run_once: true

- name: Show who was behind a port last winter
  ansible.builtin.debug:
    msg: "{{ hostvars | portfence.egress.identify('203.0.113.7:16400', time='2026-01-31', lock_file='/srv/inventory/port-allocations.yml') }}"
  run_once: true
"""

RETURN = r"""
_value:
  description: The answer.
  type: dict
  contains:
    question:
      description: Address and port, in one spelling.
      type: str
      sample: 203.0.113.7:16400
    day:
      description: The day in UTC that was asked about; none for now.
      type: str
      sample: "2026-01-31"
    hosts:
      description: Hosts that have the address, or are seen under it.
      type: list
      elements: str
    matches:
      description:
        - Services that have the port, or had it then. An empty list means that the port is nobody's.
        - Each has C(service), C(host) (its name then; empty where it may be several), C(hosts) (the names in the inventory now, of all
          hosts that it may be), C(nat_domain), C(ports), C(since), C(until), C(allocated)
          and C(certain), which is false where it may be several hosts, where nothing says which hosts had the service then, or whether the
          host of now is that of then.
      type: list
      elements: dict
    text:
      description: The answer in words, a line for each match.
      type: list
      elements: str
      sample: ["web on web1 in the NAT domain east: 16384-16895 since 2026-01-01"]
    unread:
      description:
        - What could not be read, a line for each. With any, the answer may lack services. These are variables of hosts that may have the
          port as well, and the file of allocated ports, if there is none and a host with the address has services with
          C(source_ports) V(auto).
      type: list
      elements: str
      sample: ["web7: egress_addresses: found a template that fails: 'ansible_default_ipv4' is undefined"]
"""


def identify(
    hosts: Any, address: Any = None, port: Any = None, time: Any = None, lock_file: Any = None, inventory_sources: Any = None
) -> Dict[str, Any]:
    """See DOCUMENTATION. Raises AnsibleFilterError."""
    if not isinstance(hosts, Mapping):
        raise AnsibleFilterError(f"portfence.egress.identify takes hostvars, found {shown(hosts)}")
    problems: List[Problem] = []
    try:
        question = read_question(address=address, port=port, time=time, now=datetime.now(timezone.utc), problems=problems)
        if question is None:
            raise InputError(what="the question", problems=problems)
        found = places(hosts, question.address)
        lock, missing = _lock(lock_file, inventory_sources)
        matches = matches_of(question, seen=found.seen, domains=found.domains, hosts=found.names, holdings=lock.holdings)
    except PortFenceError as error:
        raise AnsibleFilterError(str(error)) from error
    return {
        "question": str(question),
        "day": question.day.isoformat() if question.day else None,
        "hosts": [place.host.name for place in found.seen],
        "matches": [match.to_dict() for match in matches],
        "text": [str(match) for match in matches],
        # Hosts whose ports are all written by hand need no file.
        "unread": [*found.unread, *([missing] if missing and found.automatic else [])],
    }


def _lock(path: Any, sources: Any) -> Tuple[LockFile, str]:
    """The file of allocated ports, and why there is none; which is a mistake if somebody named it."""
    try:
        place = lock_path(path, sources)
    except NoFolderError as error:
        return LockFile(), str(error)
    text = read(place)
    if text is not None:
        return parse(text, path=place), ""
    if path is not None:
        raise PortFenceError(f"{place}: there is no such file; accepted: the file of allocated ports")
    return LockFile(), f"{place}: there is no such file; run: {COMMAND}"


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"identify": identify}
