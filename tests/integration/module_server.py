# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs modules in labs, many in a row: imported once, each run is a fork of this process in the namespaces of the lab.

Started as ``python module_server.py``. A request and its reply are one line of JSON each. It does not live in the lab, so it outlives a
reboot there. It has one thread, so that it may fork.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence

sys.path.insert(0, str(Path(__file__).parent))

from lab_keeper import PATH
from syscall_trap import Supervisor, run_and_exit

if TYPE_CHECKING:
    from lab import Lab

TIMEOUT = 120  # seconds until what was begun is killed


class Server:
    """The other end of it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def begin(self, enter: Sequence[str], **request: Any) -> None:
        """Let something run, and don't wait for it.

        :param enter: what stands before a command to run it in the lab: nsenter(1), its options, "--".
        :param request: ``module``, with ``arguments``, what Ansible gives it, or ``command``; ``supervised``, what Supervisor() takes, if
            there is to be one; ``env``, variables beside PATH, HOME and LC_ALL.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"enter": enter[1:-1], **request}) + "\n")
        self._process.stdin.flush()

    def finish(self) -> Dict[str, Any]:
        """Wait for it.

        :return: the exit status ``rc``, negative where a signal ended it, ``out`` and ``err``, what it printed, and the supervisor's ``calls``.
        """
        assert self._process.stdout is not None
        reply: Dict[str, Any] = json.loads(self._process.stdout.readline())
        return reply


_IDLE: List[Server] = []


def run_module(enter: Sequence[str], name: str, arguments: Mapping[str, Any], env: Mapping[str, str]) -> Dict[str, Any]:
    """Run a module; see Server. There are as many servers as modules ever run at once."""
    server = _IDLE.pop() if _IDLE else Server()
    server.begin(enter, module=name, arguments=arguments, env=env)
    done = server.finish()
    _IDLE.append(server)
    return done


@atexit.register
def _close_idle() -> None:
    while _IDLE:
        _IDLE.pop().close()


class Supervised:
    """Modules and programs in a lab that can be stopped at what they do."""

    def __init__(self, lab: Lab) -> None:
        """:param lab: where they are run."""
        self._lab = lab

    def __enter__(self) -> Supervised:
        self._server = Server()
        return self

    def __exit__(self, *_about: object) -> None:
        self._server.close()

    def run(self, name: str, params: Mapping[str, Any], **how: Any) -> Dict[str, Any]:
        """Run a module.

        :param how: what Supervisor() takes; its files are in the lab.
        :return: see Server.finish().
        """
        self.begin(name, params, **how)
        return self.finish()

    def begin(self, name: str, params: Mapping[str, Any], **how: Any) -> None:
        """Let a module run, and don't wait for it."""
        self._server.begin(self._lab.enter, module=name, arguments=params, supervised=how)

    def begin_command(self, command: Sequence[str], **how: Any) -> None:
        """Let a program run, and don't wait for it."""
        self._server.begin(self._lab.enter, command=list(command), supervised=how)

    def finish(self) -> Dict[str, Any]:
        """Wait for it."""
        return self._server.finish()


def _serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        function = _function(request)
        with tempfile.TemporaryFile() as data, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as reply:
            data.write(json.dumps({"ANSIBLE_MODULE_ARGS": request.get("arguments")}).encode())
            data.seek(0)
            child = os.fork()
            if child == 0:
                try:
                    for number, file in enumerate((data, out, err)):
                        os.dup2(file.fileno(), number)
                    _enter(request["enter"], request.get("env", {}))
                    reply.write(json.dumps(_run(function, request.get("supervised"))).encode())
                    reply.flush()
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            for file in (out, err, reply):
                file.seek(0)
            said = {name: file.read().decode(errors="replace") for name, file in (("out", out), ("err", err))}
            print(json.dumps({**json.loads(reply.read() or b'{"rc": 70}'), **said}), flush=True)


def _function(request: Mapping[str, Any]) -> Callable[[], object]:
    """What is to be run. Modules are imported here, once."""
    if "command" in request:
        return partial(os.execvp, request["command"][0], request["command"])
    name = f"ansible_collections.portfence.egress.plugins.modules.{request['module']}"
    try:
        main: Callable[[], object] = importlib.import_module(name).main
    except ImportError:
        return partial(importlib.import_module, name)  # fails again, where it is reported
    return main


def _run(function: Callable[[], object], supervised: Optional[Mapping[str, Any]]) -> Dict[str, Any]:
    if supervised is not None:
        supervisor = Supervisor(**supervised)
        return {"rc": supervisor.run(function), "calls": supervisor.calls}
    child = os.fork()
    if child == 0:
        signal.alarm(TIMEOUT)
        run_and_exit(function)
    return {"rc": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}


def _enter(namespaces: List[str], env: Mapping[str, str]) -> None:
    """Be where nsenter(1) goes with these options."""
    library = ctypes.CDLL(None, use_errno=True)
    handles = [os.open(option.partition("=")[2], os.O_RDONLY) for option in namespaces]
    for handle in handles:
        if library.setns(handle, 0) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        os.close(handle)
    os.environ.clear()
    os.environ.update(PATH=PATH, HOME="/root", LC_ALL="C.UTF-8", **env)
    # A PID namespace is that of children.
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os._exit(0)


if __name__ == "__main__":
    _serve()
