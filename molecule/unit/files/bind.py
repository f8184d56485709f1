# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""bind.py PORT: binds to a port, TCP and UDP, and keeps "bound" or the name of the error in /run/asked/bound-PORT."""

from __future__ import annotations

import errno
import os
import socket
import sys

said = "bound"
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    for family in (socket.AF_INET, socket.AF_INET6):
        with socket.socket(family, kind) as sock:
            try:
                sock.bind(("", int(sys.argv[1])))
            except OSError as error:
                said = errno.errorcode[error.errno or 0]
with open(f"/run/asked/bound-{sys.argv[1]}.new", "w", encoding="ascii") as file:
    file.write(said)
os.rename(f"/run/asked/bound-{sys.argv[1]}.new", f"/run/asked/bound-{sys.argv[1]}")
