# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs modules in labs, many in a row: imported once, each run is a fork of this process in the namespaces of the lab.

Started as ``python module_server.py``. A request and its reply are one line of JSON each. It does not live in the lab, so it outlives a
reboot there. It has one thread, so that it may fork.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

sys.path.insert(0, str(Path(__file__).parent))

from lab import PATH, Lab, LabError
from syscall_trap import Supervisor

_MODULES = ("fence", "ephemeral_ports", "cgroup_classid", "network_namespace", "service_account")


class ModuleServer:
    """The other end of it."""

    def __init__(self, lab: Lab) -> None:
        """:param lab: where modules are run."""
        self._lab = lab
        self._process: Optional[subprocess.Popen[str]] = None

    def __enter__(self) -> ModuleServer:
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
        return self

    def __exit__(self, *_about: object) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def run(self, name: str, params: Dict[str, Any]) -> Dict[str, Any]:
        """The result of a module, like Lab.module()."""
        reply = self.supervised(name, params)
        try:
            answer: Dict[str, Any] = json.loads(reply["out"])
        except ValueError:
            raise LabError(f"{name} gave no result (status {reply['rc']}):\n{reply['out']}") from None
        return answer

    def supervised(self, name: str, params: Dict[str, Any], **how: Any) -> Dict[str, Any]:
        """Run a module that is stopped.

        :param how: what Supervisor() takes; its files are in the lab.
        :return: ``calls``, the exit status ``rc``, and ``out``, what it printed.
        """
        self.begin(name, params, **how)
        return self.finish()

    def begin(self, name: str, params: Dict[str, Any], **how: Any) -> None:
        """Let a module run, and don't wait for it."""
        self._ask({"module": name, "params": params, "how": how})

    def begin_command(self, command: Sequence[str], **how: Any) -> None:
        """Let a program run, and don't wait for it."""
        self._ask({"command": list(command), "params": {}, "how": how})

    def _ask(self, request: Dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        request["enter"] = self._lab._enter[1:-1]
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def finish(self) -> Dict[str, Any]:
        """Wait for it; see supervised()."""
        assert self._process is not None and self._process.stdout is not None
        reply: Dict[str, Any] = json.loads(self._process.stdout.readline())
        return reply


def _serve() -> None:
    modules = {name: importlib.import_module(f"ansible_collections.portfence.egress.plugins.modules.{name}") for name in _MODULES}
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile() as data, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as reply:
            data.write(json.dumps({"ANSIBLE_MODULE_ARGS": request["params"]}).encode())
            data.seek(0)
            child = os.fork()
            if child == 0:
                try:
                    os.dup2(data.fileno(), 0)
                    os.dup2(out.fileno(), 1)
                    _enter(request["enter"])
                    supervisor = Supervisor(**request["how"])
                    if "module" in request:
                        status = supervisor.run(modules[request["module"]].main)
                    else:
                        status = supervisor.run(partial(os.execvp, request["command"][0], request["command"]))
                    reply.write(json.dumps({"calls": supervisor.calls, "rc": status}).encode())
                    reply.flush()
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            out.seek(0)
            reply.seek(0)
            print(json.dumps({**json.load(reply), "out": out.read().decode(errors="replace")}), flush=True)


def _enter(namespaces: List[str]) -> None:
    """Be where nsenter(1) goes with these options."""
    library = ctypes.CDLL(None, use_errno=True)
    handles = [os.open(option.partition("=")[2], os.O_RDONLY) for option in namespaces]
    for handle in handles:
        if library.setns(handle, 0) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        os.close(handle)
    os.environ.clear()
    os.environ.update(PATH=PATH, HOME="/root", LC_ALL="C.UTF-8")
    # A PID namespace is that of children.
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os._exit(0)


if __name__ == "__main__":
    _serve()
