# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of all unit tests. Run them with ``make check``, or ``scripts/run pytest tests/unit``."""

from __future__ import annotations

from hypothesis import settings

# The same examples in every run, and no time limit for one of them: a slow machine is not a mistake.
settings.register_profile("portfence", derandomize=True, deadline=None, database=None, print_blob=False)
settings.load_profile("portfence")
