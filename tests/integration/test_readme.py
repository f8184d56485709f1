# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory of the README, file by file as it stands there, on a host of its own."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import yaml
from lab import REPOSITORY, Lab

FOLDER = "/var/lib/readme"


def test_the_complete_inventory_is_fenced_completely(lab: Lab) -> None:
    services = set()
    for block in re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL):
        named = re.match(r"# (inventory/group_vars/[\w./-]+\.yml)", block)
        if named:
            path = Path(FOLDER, named[1])
            lab.run(["sh", "-c", f"mkdir -p {path.parent} && cat > {path}"], data=block)
            services.update(name for variable in yaml.safe_load(block).values() for name in variable)
    assert {"myapp", "collector"} < services
    host = f"web1 ansible_connection=local ansible_python_interpreter={sys.executable}"
    lab.run(["sh", "-c", f"cat > {FOLDER}/inventory/hosts"], data=f"[web]\n{host}\n")
    environment = {"ANSIBLE_COLLECTIONS_PATH": lab.collections(), "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    playbook = os.path.join(os.path.dirname(sys.executable), "ansible-playbook")
    done = lab.run([playbook, "-i", f"{FOLDER}/inventory", "portfence.egress.site"], env=environment, check=False, timeout=300)
    assert done.rc == 0, done.out + done.err
    assert f"web1: {len(services)} services, changed, probe passed" in done.out
    assert set(lab.module("fence_info")["services"]) == services
