# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs each target in a process, and in network and mount namespaces, of its own.

With the same inputs each time, or with ``PORTFENCE_FUZZ_SECONDS`` for so many seconds each, from a seed that is told with what was found.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.portfence.egress.tests.fuzz.places import PLACES

_RUN = "ansible_collections.portfence.egress.tests.fuzz.run"
_SECONDS = int(os.environ.get("PORTFENCE_FUZZ_SECONDS", "0"))


@pytest.mark.parametrize("name", PLACES)
def test_no_input_breaks_a_promise(name: str, tmp_path: Path) -> None:
    runs = PLACES[name].runs
    seed = random.SystemRandom().randrange(1, 2**31) if _SECONDS else 1
    limit = ["--seconds", str(_SECONDS)] if _SECONDS else ["--runs", str(runs)]
    command = [sys.executable, "-m", _RUN, name, *limit, "--seed", str(seed), "--work", str(tmp_path)]
    done = subprocess.run(
        ["unshare", "--net", "--mount", *command],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-20_000:]}"
    seen = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    print(f"seed {seed}: {seen}")
    assert seen["ran"] >= (1 if _SECONDS else runs)
    assert seen["accepted"] + seen["refused"] == seen["ran"]
    # Neither everything nor nothing gets past the first look.
    assert min(seen["accepted"], seen["refused"]) * 50 >= seen["ran"], seen
