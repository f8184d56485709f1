# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs on the host, without Ansible, whenever metrics are collected."""

from __future__ import annotations

import time
from typing import Any, Dict

from ansible_collections.portfence.egress.plugins.module_utils._apply import FenceOfHost, is_untouched
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._folder import open_folder
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._info import gather
from ansible_collections.portfence.egress.plugins.module_utils._metrics import to_text
from ansible_collections.portfence.egress.plugins.module_utils._names import lookup_on

FILE = "portfence.prom"


def collect(directory: str) -> None:
    """Read the fence of this host, and write the file of metrics into the directory.

    When the fence can't be read, the file says so and PortFenceError is raised.
    """
    with open_folder(directory) as folder:
        if folder is None:
            raise HostError(f"the directory {directory} does not exist")
        try:
            text = to_text(_info(Host()), now=time.time())
        except PortFenceError:
            folder.write(FILE, to_text(None, now=time.time()))
            raise
        folder.write(FILE, text)


def _info(host: Host) -> Dict[str, Any]:
    if is_untouched(host):
        return {"in_sync": True, "services": {}}
    return gather(host=host, fence=FenceOfHost(host=host, lookup=lookup_on(host), admin_uids={}))
