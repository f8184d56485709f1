# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The classid of a net_cls cgroup: 32 bits, major and minor part as tc(8) has it. Pure."""

from __future__ import annotations

import re
from typing import Any, Optional

from ansible_collections.portfence.egress.plugins.module_utils._errors import shown

ACCEPTED = 'accepted: "0x100001", or the same as "10:1" (major:minor, both hexadecimal), above 0 and up to 0xffffffff'

_HIGHEST = 0xFFFFFFFF
_WHOLE = re.compile(r"0[xX][0-9a-fA-F]{1,8}")
_PARTS = re.compile(r"([0-9a-fA-F]{1,4}):([0-9a-fA-F]{1,4})")
_DECIMAL = re.compile(r"[1-9][0-9]{0,9}")  # as net_cls.classid prints it


def parse_classid(value: Any) -> int:
    """Read a classid: ``0x100001``, ``10:1``, or the number. Raises ValueError with what was found and what is accepted.

    The kernel cuts a number that is too large to 32 bits without a word (write_classid()), and 0 is what every process
    has that is in no cgroup of net_cls. A number without a major part is refused: YAML 1.1 reads ``10:1`` without quotes
    as 601, and no tc class is called so. Such a classid can still be written as text, ``"0x259"``.
    """
    number = _number(value)
    if number is None or not 0 < number <= _HIGHEST:
        raise ValueError(f"found {shown(value)}; {ACCEPTED}")
    if number <= 0xFFFF and _is_number(value):
        raise ValueError(
            f"found the number {number}, which is what YAML makes of 10:1 and the like without quotes; {ACCEPTED}, with the quotes"
        )
    return number


def format_classid(classid: int) -> str:
    """The form that everything of this collection shows and stores, ``0x100001``. It is the kernel's and nft's, too."""
    return f"0x{classid:x}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int) or _DECIMAL.fullmatch(value) is not None


def _number(value: Any) -> Optional[int]:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if not isinstance(value, str):
        return None
    if _WHOLE.fullmatch(value):
        return int(value, 16)
    parts = _PARTS.fullmatch(value)
    if parts:
        return int(parts[1], 16) << 16 | int(parts[2], 16)
    return int(value) if _DECIMAL.fullmatch(value) else None
