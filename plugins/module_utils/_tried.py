# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel made of the fence that was tried last, remembered until the next boot.

To try a fence in a throwaway network namespace takes as long as everything else that nft does. Where the same text was
tried before, by the same nft on the same kernel, the kernel would make the same of it. What is in force is read each time.
"""

from __future__ import annotations

import hashlib
import json
from typing import Dict

from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._store import RUN, TRIED_FILE


class Tried:
    """The record on this machine. Nothing is lost with it: a fence is tried when it does not say what is needed."""

    def __init__(self, *, host: Host, version: str) -> None:
        """:param version: of nft."""
        self._host = host
        self._version = version

    def gave(self, text: str, fingerprint: str) -> bool:
        """Whether this text is known to give tables with this fingerprint."""
        return self._host.read(TRIED_FILE) == _to_text(self._record(text, fingerprint))

    def remember(self, text: str, fingerprint: str) -> None:
        """Keep what the text gave. Raises HostError."""
        self._host.make_directory(RUN)
        self._host.write(TRIED_FILE, _to_text(self._record(text, fingerprint)))

    def _record(self, text: str, fingerprint: str) -> Dict[str, str]:
        return {"nft": self._version, "text": hashlib.sha256(text.encode()).hexdigest(), "tables": fingerprint}


def _to_text(record: Dict[str, str]) -> str:
    return json.dumps(record, indent=2, sort_keys=True) + "\n"
