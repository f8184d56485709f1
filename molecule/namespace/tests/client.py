# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests of this scenario ask the units of a test host."""

from __future__ import annotations

import json
import time

from testhost import PEER, Outcome, session
from testinfra.host import Host

RANGE = range(50000, 51000)


def seen(host: Host) -> int:
    """Return the source port of the session that client.service holds now."""
    # It writes its file after its first answer; far more than a busy machine needs.
    end = time.monotonic() + 30
    while time.monotonic() < end and not host.file("/run/client/session").exists:
        time.sleep(0.2)
    return session(host, "session", folder="/run/client")["seen"]


def network(host: Host) -> str:
    """Return the network namespace in which client.service runs, as the kernel calls it."""
    pid = host.check_output("systemctl show --property=MainPID --value client.service")
    return host.check_output(f"readlink /proc/{pid}/ns/net")


def is_inside(host: Host) -> bool:
    """Tell whether client.service runs in the network namespace myapp."""
    return network(host) == host.check_output("ip netns exec myapp readlink /proc/self/ns/net")


def ask(host: Host, way: tuple[str, int], bind: int = 0) -> Outcome:
    """Let a unit of the namespace ask the peer once over `way`."""
    instance = f"{way[0]}-{PEER[way[1]]}-9000" + (f"-{bind}" if bind else "")
    host.check_output(f"rm -f /run/ask-answer; systemctl start 'ask@{instance}.service'")
    return Outcome(**json.loads(host.check_output("cat /run/ask-answer")))
