# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""site with a service whose ports come from the allocation: refused with the command to run, and fenced once it was run."""

from __future__ import annotations

from lab import Lab
from test_playbooks import Control

POLICY = {"egress_services": {"myapp": {"source_ports": "auto", "size": 100}}, "egress_nat_domain": "nat-a"}


def test_site_wants_the_allocation_first(lab: Lab) -> None:
    lab.run(["touch", "/run/mark"])
    control = Control(lab)
    before = control.state()
    refused = control.play("portfence.egress.site", **POLICY)
    assert refused.rc != 0
    assert (
        "lab: egress_services.myapp.source_ports: found auto, and no range for it is in /var/lib/port-allocations.yml;"
        " run: ansible-playbook portfence.egress.allocate -i INVENTORY"
    ) in refused.out + refused.err
    assert "Create the accounts" not in refused.out
    assert control.state() == before

    allocated = control.play("portfence.egress.allocate", **POLICY)
    assert allocated.rc == 0, allocated.out + allocated.err
    done = control.play("portfence.egress.site", **POLICY)
    assert done.rc == 0, done.out + done.err
    assert "lab: 1 service, changed, probe passed" in done.out
    assert "16384-16511" in control.state()["rules"]
    verified = control.play("portfence.egress.verify", **POLICY)
    assert verified.rc == 0, verified.out + verified.err
