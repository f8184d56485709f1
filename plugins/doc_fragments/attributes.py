# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module of the collection says about itself. A module adds only its C(support) for each attribute."""

from __future__ import annotations


class ModuleDocFragment:
    """Attributes shared by all modules: check mode, diff mode, idempotence, platform."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode and predict what would change, without changing the host.
  diff_mode:
    description: Returns in diff mode what changed, or in check mode what would change.
  idempotent:
    description:
      - When run twice in a row outside check mode, with the same arguments, the second run says that nothing changed.
      - This assumes that the host has not been changed by anything else between the runs.
  platform:
    description: The operating systems on which the module works.
    support: full
    platforms: linux
"""
