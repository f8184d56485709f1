# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence of a host whose admin stays with iptables."""

from __future__ import annotations

from testinfra.host import Host

PROGRAMS = ("iptables", "ip6tables")


def test_rules_are_those_of_iptables(host: Host) -> None:
    """The fence is in the tables of iptables, in both families, and nowhere else."""
    for program in PROGRAMS:
        assert "--to-source :50000-50999" in host.check_output(f"{program}-save")
    assert not host.file("/etc/portfence/fence.nft").exists
    if host.exists("nft"):
        assert "table inet portfence" not in host.check_output("nft list tables")


def test_variant_is_that_of_the_host(host: Host) -> None:
    """No other variant holds anything of ours."""
    legacy = host.backend.get_hostname() == "debian11"
    assert ("legacy" in host.check_output("iptables --version")) == legacy
    other = "nft" if legacy else "legacy"
    assert "portfence" not in host.check_output(f"iptables-{other}-save; ip6tables-{other}-save")


def test_jumps_stand_in_the_first_place(host: Host) -> None:
    """Rules of the admin come behind those of the fence."""
    for program in PROGRAMS:
        for table, chain in (("mangle", "POSTROUTING"), ("nat", "POSTROUTING"), ("filter", "OUTPUT"), ("raw", "OUTPUT")):
            rules = [line for line in host.check_output(f"{program} -t {table} -S {chain}").splitlines() if line.startswith("-A")]
            assert rules[0] == f"-A {chain} -j portfence"
            assert len([rule for rule in rules if "portfence" in rule]) == 1


def test_rules_of_the_admin_stay(host: Host) -> None:
    """Everything that the admin has is still there."""
    theirs = [line for line in host.file("/root/rules-of-the-admin").content_string.splitlines() if line.startswith("-A")]
    assert len(theirs) == 8
    now = host.check_output("iptables-save; ip6tables-save").splitlines()
    assert [rule for rule in theirs if rule not in now] == []
    assert "portfence" not in host.file("/etc/iptables/rules").content_string
