# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""others.py: prints the firewall rules of everybody but the fence, without counts and in one order.

What is left out: tables called portfence; in the tables of iptables, our chains and what jumps to them, then built-in
chains that hold nothing and accept, and tables without chains. Whichever program comes first makes those, and they stay.
"""

from __future__ import annotations

import os
import re
import subprocess
from typing import List

KINDS = "assign|breach|check|guard|intrusions|refuse|violations|zone"
OURS = re.compile(rf"(?:portfence(?:-lo)?|managed-by-portfence-egress|pf-(?:{KINDS})-\S+)")
JUMP = re.compile(rf"(?:-[jg]|jump|goto) {OURS.pattern}$")
BUILT_IN = "PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING"
UNUSED = re.compile(rf"\tchain (?:{BUILT_IN}) \{{\n\t\ttype [^\n]* policy accept;\n\t\}}")
SHARED = re.compile(r"table ip6? (?:raw|nat|mangle|filter|security) \{")


def run(*command: str) -> str:
    """What a program prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True).stdout


def nft_tables(text: str) -> List[str]:
    """Tables in the listing of nft. The kernel lists them, and chains, in the order in which they were made."""
    found = []
    for table in re.findall(r"^table .*?^\}", text, re.MULTILINE | re.DOTALL):
        head = table.splitlines()[0]
        if re.match(r"table \S+ portfence \{", head):
            continue
        blocks = re.findall(r"^\t\S[^\n]*\{\n.*?^\t\}", table, re.MULTILINE | re.DOTALL)
        if SHARED.fullmatch(head):
            kept = [block for block in blocks if not re.match(rf"\tchain {OURS.pattern} \{{", block)]
            kept = ["\n".join(line for line in block.splitlines() if not JUMP.search(line)) for block in kept]
            blocks = [block for block in kept if not UNUSED.fullmatch(block)]
            if not blocks:
                continue
        found.append("\n".join([head, *sorted(blocks), "}"]))
    return sorted(found)


def legacy_tables(text: str) -> List[str]:
    """Tables in the listing of iptables-legacy-save."""
    found = []
    for table in re.findall(r"^\*.*?^COMMIT", text, re.MULTILINE | re.DOTALL):
        lines = [re.sub(r" \[[0-9]+:[0-9]+\]$", "", line) for line in table.splitlines()]
        lines = [line for line in lines if not re.match(rf"(?::|-A ){OURS.pattern}(?: |$)", line) and not JUMP.search(line)]
        if any(not re.match(rf"[*]|COMMIT|:(?:{BUILT_IN}) ACCEPT$", line) for line in lines):
            found.append("\n".join(lines))
    return sorted(found)


def main() -> None:
    """Print both kinds."""
    found = nft_tables(run("nft", "--stateless", "list", "ruleset"))
    for family, program in (("ip", "iptables"), ("ip6", "ip6tables")):
        if os.path.exists(f"/proc/net/{family}_tables_names"):
            with open(f"/proc/net/{family}_tables_names", encoding="utf-8") as names:
                if names.read():
                    found.extend(f"# {program}-legacy\n{table}" for table in legacy_tables(run(f"{program}-legacy-save")))
    print("\n".join(found))


if __name__ == "__main__":
    main()
