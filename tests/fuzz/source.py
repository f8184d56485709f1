# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all targets share: where their values come from, and what is asked of a message."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Callable, List, Mapping, Optional, Sequence, TypeVar

from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._program import Result, Running

T = TypeVar("T")

# In a long run, the kernel and the shell are given every output, and otherwise one of each shape.
EVERYTHING = os.environ.get("PORTFENCE_FUZZ_SECONDS", "0") != "0"

# Pieces that mean something to one of those who read what we write: nft, iptables-restore, the shell, systemd, sysctl, Jinja, browsers,
# spreadsheets, terminals, JSON, Python.
HOSTILE = (
    "\n", "\r", "\t", "\x00", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\x1b[2J", "\x9b2J", "\u202e", "\u200b", "\ufeff", "\ud800", "\udcff",
    "\"", "'", "\\", "`", "$(reboot)", "${x}", "$", ";", "#", "{", "}", "{{ 7 * 7 }}", "{% raw %}", "{#", "%n", "%", "&", "|", "<", ">", "*", "?",
    "~", "!", "=", "+", "-", "@", ",", ":", "/", "..", "../../etc/passwd", " ", "  ", "\" accept; log prefix \"", "; flush ruleset",
    "}\ntable inet other {", "\n-A OUTPUT -j ACCEPT", "\nCOMMIT\n*filter", "\n[Service]\nExecStart=/bin/false", "\nEND_OF_RULES\nreboot\n",
    "\nnet.ipv4.ip_forward = 1", "<script>alert(1)</script>", "\" onload=\"x", "'><b>", "&lt;", "]]>", "<!--", "=1+1", "\r=1+1", ";=1+1", "\uff1d1",
    "accept", "drop", "chain", "table", "elements", "counter", "policy", "jump", "comment", "0", "1", "-1", "65535", "65536", "4294967295",
    "4294967296", "\u00b2", "\u0661", "1e999", "NaN", "Infinity", "0x10", "9" * 5000, "null", "true", "[]", "tcp", "udp", "a", "portfence", "\u05d0\u05d1",
    "uid:0", "cgroup:/", "users:((", "pid=1", "root",
)  # fmt: skip
# Those that end something for somebody.
_SHARP = ("\n", "\r", "\x00", "\u2028", '"', "'", "\\", "$", "#", ";", "{", "}", "%", "<", "=", ",", " ", "9" * 5000)


@dataclass(frozen=True)
class Target:
    """Something that is fuzzed.

    :ivar make: an input out of the bytes of the fuzzer.
    :ivar check: whether the input was accepted (True) or refused as is documented (False). Raises anything else.
    """

    make: Callable[[Source], Any]
    check: Callable[[Any], bool]


class Source:
    """Values out of the bytes of the fuzzer."""

    def __init__(self, provider: Any) -> None:
        """:param provider: an ``atheris.FuzzedDataProvider``."""
        self._provider = provider

    def number(self, low: int, high: int) -> int:
        """A number, bounds included."""
        return int(self._provider.ConsumeIntInRange(low, high))

    def chance(self, of: int) -> bool:
        """Once in so many times."""
        return self.number(1, of) == of

    def pick(self, values: Sequence[T]) -> T:
        """One of these."""
        return values[self.number(0, len(values) - 1)]

    def some(self, values: Sequence[T], most: int) -> List[T]:
        """None to so many of these, with repetitions."""
        return [self.pick(values) for _index in range(self.number(0, most))]

    def text(self) -> str:
        """A word with a hostile piece in it, or a short text of such pieces, anything in Unicode, and harmless words."""
        if self.chance(2):
            return self.spoiled("ab")
        pieces = []
        for _index in range(self.number(0, 4)):
            kind = self.number(0, 3)
            if kind == 0:
                pieces.append(str(self._provider.ConsumeUnicode(self.number(1, 8))))
            elif kind == 1:
                pieces.append(self.pick(("a", "web-1", "x.service", "10.0.0.1", "50000", "::1")))
            else:
                pieces.append(self.pick(HOSTILE))
        return "".join(pieces)

    def spoiled(self, word: str) -> str:
        """The word with one hostile piece somewhere."""
        at = self.number(0, len(word))
        return word[:at] + self.pick(_SHARP if self.chance(2) else HOSTILE) + word[at:]

    def edited(self, text: str) -> str:
        """The text with some of it changed: lines and pieces left out, doubled, put elsewhere, replaced."""
        for _index in range(self.number(0, 4)):
            kind = self.number(0, 4)
            begin = self.number(0, len(text))
            end = self.number(begin, min(len(text), begin + 40))
            if kind == 0:
                text = text[:begin] + text[end:]
            elif kind == 1:
                text = text[:end] + text[begin:end] + text[end:]
            elif kind == 2:
                text = text[:begin] + self.text() + text[end:]
            elif kind == 3:
                text = text[:begin] + self.pick(HOSTILE) + text[begin:]
            else:
                lines = text.split("\n")
                at = self.number(0, len(lines) - 1)
                lines[at] = self.edited_words(lines[at])
                text = "\n".join(lines)
        return text

    def edited_words(self, line: str) -> str:
        """The line with one of its words replaced, whatever stands between words."""
        between = self.pick((" ", ":", "=", ",", "\t"))
        words = line.split(between)
        words[self.number(0, len(words) - 1)] = self.text()
        return between.join(words)

    def value(self, depth: int = 2) -> Any:
        """Anything that YAML or JSON can hold."""
        kind = self.number(0, 9 if depth else 7)
        if kind == 8:
            return [self.value(depth - 1) for _index in range(self.number(0, 3))]
        if kind == 9:
            return {self.text(): self.value(depth - 1) for _index in range(self.number(0, 3))}
        if kind >= 5:
            return self.text()
        return (
            None,
            self.chance(2),
            self.number(-2, 70000),
            self.pick((0, -1, 2**31, 2**32, 2**64, 10**40, 10**5000)),
            self.pick((0.5, -1.0, 1e308, float("inf"), float("nan"))),
        )[kind]

    def reshaped(self, data: Any, strange: int = 12) -> Any:
        """The data with some of its parts replaced by anything.

        :param strange: one part in so many is.
        """
        if self.chance(strange):
            return self.value()
        if isinstance(data, dict):
            kept = {key: self.reshaped(item, strange) for key, item in data.items() if not self.chance(strange * 3)}
            return {**kept, self.text(): self.value()} if self.chance(strange * 2) else kept
        if isinstance(data, list):
            items = [self.reshaped(item, strange) for item in data]
            return [*items, *items[:1]] if self.chance(strange * 2) else items
        return data

    def json(self, samples: Sequence[Any]) -> str:
        """The text of one of these values, reshaped or edited."""
        sample = self.pick(samples)
        if self.chance(15):
            return self.pick(("[", '{"a":')) * self.pick((10, 100_000))
        if self.chance(3):
            return self.edited(json.dumps(sample))
        try:
            return json.dumps(self.reshaped(sample), ensure_ascii=self.chance(2))
        except ValueError:  # a number with more digits than Python writes
            return '{"a": ' + "9" * 5000 + "}"


class FakeHost(Host):
    """A machine that has these files, and whose programs print these texts."""

    def __init__(self, *, files: Optional[Mapping[str, str]] = None, printed: str = "") -> None:
        super().__init__()
        self._files = dict(files or {})
        self._printed = printed

    def read(self, path: str) -> Optional[str]:
        """The text of a file."""
        return self._files.get(path)

    def list(self, path: str) -> List[str]:
        """Names in a directory."""
        return sorted({name[len(path) + 1 :].split("/")[0] for name in self._files if name.startswith(f"{path}/")})

    @staticmethod
    def danger(path: str) -> str:
        """Nobody else could change a file here."""
        return ""

    def find(self, name: str) -> Optional[str]:
        """Every program is there."""
        return f"/usr/bin/{name}"

    def start(self, args: Sequence[str], *, data: Optional[str] = None) -> Running:
        """Every program prints the same."""
        return Printed(self._printed)


class Printed(Running):
    """A program that has ended, and printed this."""

    def __init__(self, text: str) -> None:
        self._text = text

    def result(self, *, check: bool = True, killed: bool = False) -> Result:
        """All went well."""
        return Result(0, self._text, "")


def check_message(text: str) -> None:
    """A message for a terminal: lines without control characters, none without end."""
    assert all(line.isprintable() for line in text.split("\n")), text
    assert all(len(line) < 3000 for line in text.split("\n")), text
    text.encode("utf-8")
