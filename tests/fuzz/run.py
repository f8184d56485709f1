# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fuzzes one target, guided by the coverage of the plugins: ``python -m …tests.fuzz.run TARGET --runs 1000 --seed 1 --work FOLDER``.

Ends with status 0 when no input broke a promise. Otherwise, the input is printed as Python writes it, and its bytes are in the folder;
``--replay FILE`` runs them once more. ``summary.json`` in the folder says how many inputs ran, and what became of them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Counter as Counts

import atheris
from ansible_collections.portfence.egress.tests.fuzz.places import PLACES

_PACKAGE = "ansible_collections.portfence.egress"
# Seconds for one input until it counts as endless.
_ENDLESS = 20
# Inputs of random bytes to begin with.
_FIRST = 50


def main() -> None:
    """Run the target that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=PLACES)
    parser.add_argument("--runs", type=int, default=-1)
    parser.add_argument("--seconds", type=int, default=0)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--replay", type=Path)
    given = parser.parse_args()
    with atheris.instrument_imports(include=[f"{_PACKAGE}.plugins"]):
        module = importlib.import_module(f"{_PACKAGE}.tests.fuzz.{PLACES[given.target].module}")
        from ansible_collections.portfence.egress.tests.fuzz.source import Source, Target

    target: Target = module.TARGETS[given.target]
    seen: Counts[str] = Counter()

    def one(data: bytes) -> None:
        seen["ran"] += 1
        value = target.make(Source(atheris.FuzzedDataProvider(data)))
        try:
            accepted = target.check(value)
        except BaseException:
            traceback.print_exc()
            print(f"target {given.target}, input: {_shown(value)}", file=sys.stderr, flush=True)
            raise
        seen["accepted" if accepted else "refused"] += 1
        # The fuzzer ends the process without a word to Python.
        if seen["ran"] % 10 == 0 or seen["ran"] == given.runs:
            (given.work / "summary.json").write_text(json.dumps(seen, sort_keys=True) + "\n", encoding="utf-8")

    if given.replay:
        one(given.replay.read_bytes())
        return
    # Long inputs from the beginning: of the bytes that are missing, all choices would be the first.
    corpus = given.work / "corpus"
    corpus.mkdir(exist_ok=True)
    dice = random.Random(given.seed)
    for number in range(_FIRST):
        (corpus / f"{number:03d}").write_bytes(dice.randbytes(dice.randrange(8, 1000)))
    options = [f"-seed={given.seed}", f"-artifact_prefix={given.work}/", f"-timeout={_ENDLESS}", "-max_len=4096", "-len_control=0"]
    options += ["-verbosity=0", "-print_final_stats=1", f"-runs={given.runs}", f"-max_total_time={given.seconds}"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def _shown(value: object) -> str:
    try:
        return repr(value)[:20_000]
    except (ValueError, RecursionError):
        return "nothing that Python writes; see the bytes"


if __name__ == "__main__":
    main()
