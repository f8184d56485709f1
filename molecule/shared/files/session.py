# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""session.py ADDRESS PORT FILE [LOCAL_PORT]: holds one TCP connection to a responder and uses it all the time.

After every answer FILE is replaced by JSON: `rounds`, the number of answers so far, and `seen`, the source port that the
responder sees. The connection is never made again: a session that breaks or stalls ends the program with an error.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time

# Seconds without an answer after which a session counts as cut: long enough for TCP to send a lost packet again.
STALLED = 10


def main() -> None:
    """Connect once, then ask ten times a second until something breaks."""
    address, port, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    local_port = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    rounds = 0
    with socket.create_connection((address, port), timeout=STALLED, source_address=("", local_port)) as sock:
        answers = sock.makefile("r", encoding="ascii")
        while True:
            sock.sendall(b"?\n")
            seen = int(answers.readline())
            rounds += 1
            with open(path + ".new", "w", encoding="ascii") as file:
                json.dump({"rounds": rounds, "seen": seen}, file)
            os.replace(path + ".new", path)
            time.sleep(0.1)


if __name__ == "__main__":
    main()
