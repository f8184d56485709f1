# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all lines of a probe say together: whether it failed, what is proved, what the fence counted. Pure."""

from __future__ import annotations

from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._probe import BLOCKED, REFUSED, Line


def broken_paths(lines: Sequence[Line], *, peer: str) -> Dict[Tuple[str, str], str]:
    """Protocols and families over which no attempt at all got through, each with what to say about it.

    Nothing is proved there: what is blocked may have been blocked by something else.

    :param peer: what was connected to, in words.
    """
    broken: Dict[Tuple[str, str], str] = {}
    for path, tried in _by_path(lines).items():
        silent = [line.outcome for line in tried if line.outcome.unbound is None]
        if all(outcome.seen is None and outcome.text is None for outcome in silent):
            said = ", ".join(sorted({line.outcome.said for line in tried if line.outcome.said is not None}))
            broken[path] = (
                f"{_title(path)}: nothing arrived at {peer}, not even from an account that belongs to no service ({said});"
                " nothing is proved; another firewall on this host or on the way may be in between"
            )
    return broken


def unproved(line: Line, broken: Mapping[Tuple[str, str], str]) -> Line:
    """The line, turned into a failed one where its path is broken."""
    if line.ok is None or line.attempt.path not in broken:
        return line
    return Line(line.attempt, line.outcome, line.expected, False)


def failure(lines: Sequence[Line], broken: Mapping[Tuple[str, str], str]) -> Optional[str]:
    """The message of a probe that failed, with every line that is not as the policy says; None when all are."""
    wrong = [line for line in lines if line.ok is False]
    if not wrong:
        return None
    tried = sum(line.ok is not None for line in lines)
    said = [*broken.values(), *(line.problem for line in wrong if line.problem is not None)]
    for path, there in _by_path(lines).items():
        if path not in broken and not any(line.outcome.answered for line in there):
            said.append(f"{_title(path)}: no answer came back at all; another firewall on this host drops what comes in")
    head = f"{len(wrong)} of {tried} checks {'is' if len(wrong) == 1 else 'are'} not as the policy says:"
    return "\n".join([head, *(f"  {text}" for text in said)])


def _by_path(lines: Sequence[Line]) -> Dict[Tuple[str, str], List[Line]]:
    """The lines that were tried, by protocol and family."""
    paths: Dict[Tuple[str, str], List[Line]] = {}
    for line in lines:
        if line.ok is not None:
            paths.setdefault(line.attempt.path, []).append(line)
    return paths


def _title(path: Tuple[str, str]) -> str:
    return f"{path[0].upper()} over {path[1].replace('ip', 'IP')}"


def summary(lines: Sequence[Line]) -> Dict[str, int]:
    """Numbers of checks: all, ok, failed, skipped."""
    return {
        "checks": len(lines),
        "ok": sum(line.ok is True for line in lines),
        "failed": sum(line.ok is False for line in lines),
        "skipped": sum(line.ok is None for line in lines),
    }


def caused(lines: Sequence[Line], *, before: Mapping[str, int], after: Mapping[str, int]) -> Dict[str, Dict[str, int]]:
    """How many of the packets that the fence counted came from the probe, by service.

    That is what the probe sent against the policy, but no more than the counter has grown: exact unless the fence
    let some of it pass while others broke the policy at the same time.

    :param before: packets by counter name, before the probe; ``after`` likewise.
    """
    counted: Dict[str, Dict[str, int]] = {}
    for (event, name), sent in sorted(_breaches(lines).items()):
        grown = after.get(_counter(event, name), 0) - before.get(_counter(event, name), 0)
        counted.setdefault(name, {"violations": 0, "intrusions": 0})[f"{event}s"] = max(0, min(sent, grown))
    return counted


def uncounted(lines: Sequence[Line], *, before: Mapping[str, int], after: Mapping[str, int]) -> List[str]:
    """Counters that stand still although what they count was sent and blocked: something else blocks it."""
    blocked = [line for line in lines if line.ok and line.expected is not None and line.expected.kind in (BLOCKED, REFUSED)]
    names = [_counter(event, name) for event, name in sorted(_breaches(blocked))]
    return [name for name in names if name in before and after.get(name) == before[name]]


def _breaches(lines: Sequence[Line]) -> Dict[Tuple[str, str], int]:
    sent: Dict[Tuple[str, str], int] = {}
    for line in lines:
        if line.expected is not None and line.expected.breach is not None:
            sent[line.expected.breach] = sent.get(line.expected.breach, 0) + line.outcome.packets
    return {breach: packets for breach, packets in sent.items() if packets}


def _counter(event: str, name: str) -> str:
    return f"{event}s_{name}"
