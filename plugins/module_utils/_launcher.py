# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""portfence-run: starts a command as a service of this host, so that it is fenced from its first packet.

    portfence-run [--user NAME] SERVICE -- COMMAND [ARGUMENT ...]

The module fence installs this file on the host as /usr/local/bin/portfence-run, so it imports nothing of the collection.
It reads what the host was told of the service (/etc/portfence/services.d/SERVICE.json), goes where packets of that
service come from (its account, group, cgroup or network namespace), and becomes the command.

Ends with 125 where it can't do that, and with 126 or 127 where the command can't be run or found, as env(1) does.
"""

from __future__ import annotations

import argparse
import grp
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
from typing import Any, Dict, List, NoReturn, Optional, Sequence

SERVICES = "/etc/portfence/services.d"
FENCES = {"nftables": "/etc/portfence/fence.nft", "iptables": "/etc/portfence/fence.iptables"}
CGROUPS = "/sys/fs/cgroup"
NET_CLS = ("/run/portfence/net_cls", "/sys/fs/cgroup/net_cls", "/sys/fs/cgroup/net_cls,net_prio")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\Z")
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


class Refusal(Exception):
    """The command can't be started as the service."""


def main(arguments: Optional[Sequence[str]] = None) -> NoReturn:
    """Read the command line, and become the command."""
    parser = argparse.ArgumentParser(
        prog="portfence-run",
        description="Start a command as a service of this host, so that it is fenced from its first packet.",
        usage="portfence-run [--user NAME] SERVICE -- COMMAND [ARGUMENT ...]",
    )
    parser.add_argument("--user", metavar="NAME", help="account that runs the command, where the service is not one account")
    parser.add_argument("service", metavar="SERVICE")
    parser.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command:
        parser.error("no command; write it behind --")
    try:
        start(read_service(given.service), command, user=given.user)
    except Refusal as refusal:
        _leave(125, str(refusal))


def read_service(name: str) -> Dict[str, Any]:
    """What the host was told of a service. Raises Refusal."""
    if not _NAME.match(name):
        raise Refusal(f"{name[:60]!r} is no name of a service")
    try:
        with open(f"{SERVICES}/{name}.json", encoding="utf-8") as file:
            service: Dict[str, Any] = json.load(file)
    except FileNotFoundError:
        known = sorted(entry[:-5] for entry in os.listdir(SERVICES) if entry.endswith(".json")) if os.path.isdir(SERVICES) else []
        raise Refusal(f"this host has no service {name}; it has: {', '.join(known) or 'none'}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise Refusal(f"{SERVICES}/{name}.json: {error}") from None
    if not isinstance(service, dict) or service.get("name") != name:
        raise Refusal(f"{SERVICES}/{name}.json is not of the service {name}; run the play again")
    return service


def start(service: Dict[str, Any], command: Sequence[str], *, user: Optional[str]) -> NoReturn:
    """Become the command, as the service. Raises Refusal."""
    name = service["name"]
    if service.get("addresses"):
        raise Refusal(f"{name} is traffic that this host forwards; start the command in the container or namespace with its address")
    account = choose_account(service, user)
    if os.geteuid() != 0:
        if not service.get("user") or service.get("assignment") == "namespace" or os.geteuid() != account.pw_uid:
            raise Refusal(f"only root can start a command as {name}; use sudo")
    else:
        require_fence(name)
    if service.get("classid"):
        join_class(name)
    if service.get("unit"):
        command = join_unit(name, service["unit"], command, account)
    groups = service.get("group") or []
    gid = find_group(groups[0]) if groups else account.pw_gid
    if gid != account.pw_gid or os.geteuid() == 0:
        become = [find_helper("setpriv"), f"--reuid={account.pw_uid}", f"--regid={gid}", "--init-groups", "--"]
    else:
        become = []
    enter = [find_helper("ip"), "netns", "exec", name] if service.get("assignment") == "namespace" else []
    execute([*enter, *become, *command], account)


def choose_account(service: Dict[str, Any], user: Optional[str]) -> pwd.struct_passwd:
    """The account that runs the command: one of the service, or else the one that was named or called sudo. Raises Refusal."""
    users: List[str] = service.get("user") or []
    if users:
        accounts = [find_account(item) for item in users]
        if user is None:
            return accounts[0]
        for account in accounts:
            if account.pw_name == user or str(account.pw_uid) == user:
                return account
        names = ", ".join(account.pw_name for account in accounts)
        raise Refusal(f"{user} is no account of {service['name']}, which runs as {names}")
    if user is None and service.get("unit"):
        user = unit_property(service["unit"][0], "User") or None
    user = user or os.environ.get("SUDO_USER")
    if user is None and os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    if user is None and service.get("group"):
        raise Refusal(f"{service['name']} is a group; name the account that runs the command with --user")
    return find_account(user or "root")


def find_account(name: str) -> pwd.struct_passwd:
    """An account by name or UID. Raises Refusal."""
    try:
        return pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        raise Refusal(f"there is no account {name} on this host") from None


def find_group(name: str) -> int:
    """A GID. Raises Refusal."""
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise Refusal(f"there is no group {name} on this host") from None


def require_fence(name: str) -> None:
    """Raises Refusal unless the kernel has the fence of the service: without it, the command would run free."""
    if os.path.exists(FENCES["iptables"]):
        command = ["iptables", "--wait", "--table", "mangle", "--list", "portfence", "--numeric"]
    else:
        command = ["nft", "list", "chain", "inet", "portfence", f"check_{name}"]
    if _run(command).returncode != 0:
        raise Refusal(f"the fence of {name} is not in force; see systemctl status portfence, or run the play again")


def join_class(name: str) -> None:
    """Move this process to the net_cls cgroup of the service. Raises Refusal."""
    for folder in NET_CLS:
        path = f"{folder}/portfence/{name}/cgroup.procs"
        if os.path.exists(path):
            _join(path)
            return
    raise Refusal(f"this host has no net_cls cgroup portfence/{name}; run the play again, with the role cgroups")


def join_unit(name: str, units: Sequence[str], command: Sequence[str], account: pwd.struct_passwd) -> List[str]:
    """Move this process to the cgroup of a unit of the service that runs. Raises Refusal.

    :returns: the command, or one that runs it in a slice.
    """
    for unit in units:
        if unit.endswith(".slice"):
            scope = [find_helper("systemd-run"), "--quiet", "--scope", f"--slice={unit}"]
            execute([*scope, f"--uid={account.pw_uid}", f"--gid={account.pw_gid}", "--", *command], account)
        if unit.endswith("@.service"):
            running = _run(["systemctl", "list-units", "--plain", "--no-legend", "--state=running", unit.replace("@.", "@*.")])
            unit = (running.stdout.split() or [unit])[0]
        path = unit_property(unit, "ControlGroup")
        if path and os.path.exists(f"{CGROUPS}{path}/cgroup.procs"):
            _join(f"{CGROUPS}{path}/cgroup.procs")
            return list(command)
    raise Refusal(f"no unit of {name} runs ({', '.join(units)}); start it first, or start the command as a part of it")


def unit_property(unit: str, name: str) -> str:
    """A property of a unit, empty where there is none."""
    return _run(["systemctl", "show", f"--property={name}", "--value", unit]).stdout.strip()


def find_helper(name: str) -> str:
    """The path of a program that is started before the command, with the rights of the caller, whose PATH may be somebody else's. Raises Refusal."""
    path = shutil.which(name, path=_ENVIRONMENT["PATH"])
    if path is None:
        raise Refusal(f"the program {name} was not found in {_ENVIRONMENT['PATH']}")
    return path


def _join(path: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror}") from None


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, env=_ENVIRONMENT, check=False)
    except OSError as error:
        raise Refusal(f"can't run {command[0]}: {error.strerror}") from None


def _leave(status: int, message: str) -> NoReturn:
    sys.stderr.write(f"portfence-run: {message}\n")
    raise SystemExit(status)


def execute(command: Sequence[str], account: pwd.struct_passwd) -> NoReturn:
    """Become a command, with the environment of an account."""
    environment = {**os.environ, "HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}
    program = shutil.which(command[0], path=environment.get("PATH", _ENVIRONMENT["PATH"])) or shutil.which(
        command[0], path=_ENVIRONMENT["PATH"]
    )
    if program is None:
        _leave(127, f"{command[0]}: command not found")
    try:
        os.execve(program, list(command), environment)
    except OSError as error:
        _leave(126, f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
