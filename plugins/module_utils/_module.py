# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How modules of the collection end."""

from __future__ import annotations

import gc
from typing import Any, Callable, Dict, NoReturn

from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError

# Of longer lists, the length is told in the place of their content.
_LONGEST = 20


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
        fail(module, msg=str(error))


def leave(module: Any, **result: Any) -> NoReturn:
    """End a module with its result.

    Otherwise Ansible adds all parameters to the result, for -vvv, and takes them through every hand that a result goes through: a long list
    of services, with each key that has no value, takes more time than all of the rest.
    """
    module.exit_json(**result, invocation=_invocation(module.params))
    raise AssertionError("exit_json came back")


def fail(module: Any, **result: Any) -> NoReturn:
    """End a module that failed, likewise."""
    module.fail_json(**result, invocation=_invocation(module.params))
    raise AssertionError("fail_json came back")


def _invocation(params: Dict[str, Any]) -> Dict[str, Any]:
    """What Ansible tells of the parameters."""
    told = {
        key: f"{len(value)} items, which are not repeated here" if isinstance(value, list) and len(value) > _LONGEST else value
        for key, value in params.items()
    }
    return {"module_args": told}
