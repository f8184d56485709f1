# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an account without rights can try to send from a port outside its range. Runs in a lab: attacks.py NAME PORT.

Every attempt sends to port 7000 of the peer, from PORT and those above, and prints the names of the errors that it met. Whether
anything left is for the peer to say. ATTEMPTS and PLACES give each attempt the line that docs/threat-model.md has for it, in this order.
"""

from __future__ import annotations

import importlib
import sys

from attempt import ATTEMPTS, begin, met
from attempts_places import PLACES

_PARTS = ("attempts_sockets", "attempts_accounts", "attempts_places")
# What this program consists of.
FILES = ("attacks.py", "attempt.py", *(f"{part}.py" for part in _PARTS))

for _part in _PARTS:
    importlib.import_module(_part)

if __name__ == "__main__":
    begin(int(sys.argv[2]))
    {**ATTEMPTS, **PLACES}[sys.argv[1]].run()
    print(" ".join(dict.fromkeys(met)))
