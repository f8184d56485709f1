# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""connect.py tcp|udp ADDRESS PORT [LOCAL_PORT]: asks a responder once which source port it sees, and prints the outcome as JSON.

`seen` is the port, or null; `local` that of the socket itself; `error` is null, or the name of the error (ECONNREFUSED, EPERM, timeout…).
"""

from __future__ import annotations

import errno
import json
import socket
import struct
import sys

# Seconds. The way to the responder has no delay: a packet that was let pass is answered in milliseconds, even on a busy machine.
TIMEOUT = 2


def main() -> None:
    """Connect, ask, print."""
    protocol, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    local_port = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    outcome: dict[str, object] = {"seen": None, "local": None, "error": None}
    with socket.socket(family, kind) as sock:
        sock.settimeout(TIMEOUT)
        if protocol == "tcp":
            # Close with a reset: no TIME_WAIT keeps the next test from the same port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            # An unmodified client binds nothing at all.
            if local_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("", local_port))
            sock.connect((address, port))
            outcome["local"] = sock.getsockname()[1]
            sock.send(b"?\n")
            outcome["seen"] = int(sock.recv(64))
        except socket.timeout:
            outcome["error"] = "timeout"
        except OSError as exc:
            outcome["error"] = errno.errorcode[exc.errno]
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
