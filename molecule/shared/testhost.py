# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of every scenario ask a test host: connections to its peer, sessions, snapshots, and what playbooks said."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import time

from testinfra.host import Host

PEER = {4: "203.0.113.2", 6: "2001:db8:1::2"}
# Ports of the peer. Translation may choose any port of a service on its way to the first one; to the second one no test
# lets anything be translated, so that a port that a program chose itself is never taken there and stays what it is.
ANY_PORT, OWN_PORT = 9000, 9001
WAYS = [(protocol, family) for protocol in ("tcp", "udp") for family in (4, 6)]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One attempt to reach the peer: the source port that the peer saw, and that of the socket; the name of the error. Or None."""

    seen: int | None
    local: int | None
    error: str | None


def connect(host: Host, *, user: str, way: tuple[str, int], bind: int = 0, translated: bool = False) -> Outcome:
    """Let `user` ask the peer once over `way`, one of WAYS, from an unmodified socket or one bound to the port `bind`.

    `translated` says that the fence is expected to choose another port than `bind`.
    """
    protocol, family = way
    port = OWN_PORT if bind and not translated else ANY_PORT
    command = f"/usr/bin/python3 /usr/local/lib/test-host/connect.py {protocol} {PEER[family]} {port}"
    if bind:
        command += f" {bind}"
    return Outcome(**json.loads(host.check_output(f"runuser -u {user} -- {command}")))


def session(host: Host, name: str, *, folder: str = "/run/sessions") -> dict[str, int]:
    """Return `rounds` and `seen` of a session of tasks/sessions.yml."""
    return json.loads(host.check_output(f"cat {folder}/{name}"))


def still_answers(host: Host, name: str) -> bool:
    """Tell whether the session `name` is alive and gets answers from now on."""
    rounds = session(host, name)["rounds"]
    unit = host.service(f"{name}.service")
    # Far more than a busy machine needs; a cut session ends its unit much earlier.
    end = time.monotonic() + 30
    while unit.is_running and time.monotonic() < end:
        if session(host, name)["rounds"] >= rounds + 5:
            return True
        time.sleep(0.2)
    return False


def snapshot(host: Host, name: str) -> list[str]:
    """Return the lines of a snapshot of tasks/snapshot.yml."""
    return host.file(f"/root/snapshot-{name}").content_string.splitlines()


def said(run: str) -> str:
    """Return what the run `run` of tasks/run_playbook.yml said."""
    return (pathlib.Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "runs" / f"{run}.txt").read_text(encoding="utf-8")


def recap(run: str) -> dict[str, dict[str, int]]:
    """Return the numbers of ok, changed, unreachable, failed, … tasks by host from the end of the run `run`."""
    _before, _title, lines = said(run).rpartition("PLAY RECAP")
    found = re.findall(r"^(\S+) +: (ok=.*)$", lines, re.MULTILINE)
    return {name: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", numbers)} for name, numbers in found}


def changed(host: Host, run: str) -> int:
    """Return how many tasks changed `host` in the run `run`."""
    return recap(run)[host.backend.get_hostname()]["changed"]
