# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How every module of the collection ends."""

from __future__ import annotations

import gc
from typing import Any, Callable

from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError


def run_module(module: Any, run: Callable[[Any], None]) -> None:
    """Run a module, whose errors end it with their message instead of a traceback.

    :param module: an AnsibleModule.
    :param run: does the work, and leaves through exit_json.
    """
    # Next to nothing is garbage before the process ends, and listings of the kernel have very many objects.
    gc.disable()
    try:
        run(module)
    except PortFenceError as error:
        module.fail_json(msg=str(error))
