# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk that is full, read-only, or has an immutable file on it, for the modules other than fence: told in one message, and nothing is half done.

Those of the module fence are in test_hostile_disk_fence.py, test_hostile_host.py and test_fence_faults.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, Type

import ephemeral
import namespaces
import net_cls
import pytest
from lab import Lab
from net_cls import NetClsLab

UNIT = "/etc/systemd/system"
ETC_OF_ITS_OWN = "mkdir /run/etc; mount -t tmpfs -o mode=755 none /run/etc; cp -a /etc/. /run/etc; mount --move /run/etc /etc; rmdir /run/etc"


def state_of_edge(lab: Lab) -> str:
    """All that the module can change."""
    find = f"find /etc/portfence {UNIT}"
    script = f"nft -s list ruleset | sort; {find} 2>/dev/null | sort; {find} -type f 2>/dev/null | sort | xargs sha256sum"
    return lab.run(["sh", "-c", script], check=False).out


def state_of_accounts(lab: Lab) -> str:
    """All that the tools change but for their own copies of what was."""
    homes = "ls -nA --time-style=+ /home | grep -v total; ls -d /var/lib/second"
    return lab.run(["sh", "-c", f"cd /etc; cat passwd shadow group gshadow; ls passwd.lock group.lock; {homes}"], check=False).out


@dataclass(frozen=True)
class Case:
    """A module, what it is told first and then, what it changes, and files that it then writes, or removes when everything goes."""

    module: str
    first: Dict[str, Any]
    second: Dict[str, Any]
    gone: Dict[str, Any]
    state: Callable[[Lab], str]
    written: str
    removed: str
    kind: Type[Lab] = Lab


NAMESPACE = {"name": "boxed", "source_ports": "52000-52099", "dns": ["192.0.2.53"]}
ADDRESS = {"address": "10.20.0.2", "protocol": "tcp", "service": "myapp", "hosts": ["web1"]}
CASES = [
    Case(
        "ephemeral_ports",
        {"name": "site", "reserved_ports": ["50000-50999"]},
        {"name": "site", "reserved_ports": ["51000-51999"], "local_port_range": "33000-49000"},
        {"name": "site", "state": "absent"},
        ephemeral.state,
        "/etc/sysctl.d/60-portfence.conf",
        "/etc/sysctl.d/60-portfence.conf",
    ),
    Case(
        "cgroup_classid",
        {"cgroups": [{"name": "legacy", "classid": "0x100001"}]},
        {"cgroups": [{"name": "legacy", "classid": "0x100002"}, {"name": "second", "classid": "0x100003"}]},
        {"cgroups": [], "purge": True},
        net_cls.state,
        "/etc/portfence/classids",
        "/etc/portfence/classid.sh",
        NetClsLab,
    ),
    Case(
        "network_namespace",
        {"namespaces": [NAMESPACE]},
        {"namespaces": [{**NAMESPACE, "source_ports": "53000-53099"}, {"name": "second", "source_ports": "54000-54099"}]},
        {"namespaces": [], "purge": True},
        namespaces.state,
        "/etc/portfence/namespaces.d/boxed.sh",
        f"{UNIT}/portfence-namespaces.service",
    ),
    Case(
        "service_account",
        {"accounts": [{"name": "first"}]},
        {"accounts": [{"name": "first"}, {"name": "second", "home": "/var/lib/second", "create_home": True}]},
        {"accounts": [{"name": "first"}], "state": "absent"},
        state_of_accounts,
        "/etc/shadow",
        "/etc/group",
    ),
    Case(
        "edge",
        {"identities": [{**ADDRESS, "source_ports": "50000-50999"}]},
        {"identities": [{**ADDRESS, "source_ports": "51000-51999"}], "unknown": "drop"},
        {"identities": [], "state": "absent"},
        state_of_edge,
        "/etc/portfence/edge.nft",
        f"{UNIT}/portfence-edge.service",
    ),
]


@pytest.fixture(name="case", params=CASES, ids=lambda case: case.module)
def fixture_case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture(name="host")
def fixture_host(case: Case) -> Iterator[Lab]:
    """Its /etc is a file system of its own."""
    with case.kind() as lab:
        lab.run(["sh", "-c", ETC_OF_ITS_OWN])
        yield lab


def fill(lab: Lab, pages: int) -> None:
    """Leave so many pages of memory, which is what a file takes at least."""
    used = int(lab.run(["sh", "-c", "rm -f /etc/filler; df --block-size=4096 --output=used /etc | tail -n 1"]).out)
    # Its own page, and one that df does not tell apart from none.
    lab.run(["mount", "-o", f"remount,size={(used + 64) * 4}k", "/etc"])
    lab.run(["dd", "if=/dev/zero", "of=/etc/filler", "bs=4096", f"count={64 - pages}", "status=none"])


def tell(case: Case, lab: Lab, params: Dict[str, Any], cause: str) -> Dict[str, Any]:
    """The result of a run; one that fails names a path and the cause, and leaves everything as it was."""
    before = case.state(lab)
    result = lab.module(case.module, **params)
    if result.get("failed"):
        told = result["msg"]
        assert "/etc" in told and cause in told and told.count(cause) == 1 and "put back" not in told, told
        assert case.state(lab) == before, told
        assert lab.run(["find", "/etc", "/run", "-xdev", "-name", "*.portfence-new"]).out == ""
    return result


def converges(case: Case, lab: Lab, params: Dict[str, Any]) -> None:
    result = lab.module(case.module, **params)
    assert not result.get("failed") and result["changed"], result
    assert not lab.module(case.module, **params)["changed"]


@pytest.mark.parametrize("begin", ["nothing", "something"])
def test_a_disk_that_gets_full(case: Case, host: Lab, begin: str) -> None:
    """With room for none of the files, for the first of them, and so on."""
    if begin == "something":
        assert host.module(case.module, **case.first)["changed"]
    failed = 0
    for pages in range(64):
        fill(host, pages)
        result = tell(case, host, case.second, "No space left on device")
        if not result.get("failed"):
            break
        failed += 1
    assert failed, "there was room from the beginning"
    assert result["changed"]
    assert not host.module(case.module, **case.second)["changed"]


@pytest.mark.parametrize("to", ["second", "gone"])
def test_a_disk_that_is_read_only(case: Case, host: Lab, to: str) -> None:
    assert host.module(case.module, **case.first)["changed"]
    host.run(["mount", "-o", "remount,ro", "/etc"])
    cause = "mounted read-only" if case.module == "service_account" else "Read-only file system"
    assert tell(case, host, getattr(case, to), cause).get("failed")
    host.run(["mount", "-o", "remount,rw", "/etc"])
    converges(case, host, getattr(case, to))


@pytest.mark.parametrize("to", ["second", "gone"])
def test_an_immutable_file(case: Case, host: Lab, to: str) -> None:
    """See chattr(1)."""
    assert host.module(case.module, **case.first)["changed"]
    path = case.written if to == "second" else case.removed
    host.run(["chattr", "+i", path])
    result = tell(case, host, getattr(case, to), "Operation not permitted")
    assert result.get("failed") and f"can't change {path}: " in result["msg"], result
    host.run(["chattr", "-i", path])
    converges(case, host, getattr(case, to))


@pytest.mark.parametrize(("full", "told"), [("ro", "can't change /srv/disk/myapp: Read-only file system"), ("nr_inodes=1", "directory /srv/disk/myapp")])
def test_a_home_that_can_not_be_made(lab: Lab, full: str, told: str) -> None:
    """There is no account then: the next run would leave the home of one that exists alone."""
    lab.run(["sh", "-c", f"mount -t tmpfs -o mode=755 none /srv && mkdir /srv/disk && mount -t tmpfs -o mode=755,{full} none /srv/disk"])
    account = {"name": "myapp", "home": "/srv/disk/myapp", "create_home": True}
    before = state_of_accounts(lab)
    result = lab.module("service_account", accounts=[account])
    assert result.get("failed") and told in result["msg"], result
    assert state_of_accounts(lab) == before
    lab.run(["mount", "-o", "remount,rw,nr_inodes=100", "/srv/disk"])
    assert lab.module("service_account", accounts=[account])["changed"]
    assert lab.run(["stat", "--format=%U %a", "/srv/disk/myapp"]).out.split()[0] == "myapp"
    assert not lab.module("service_account", accounts=[account])["changed"]


def test_an_account_stays_where_its_group_would_go_with_it(lab: Lab) -> None:
    """userdel(8) deletes the group of the account's name, and the name from other groups, whoever put them there."""
    lab.run(["sh", "-c", "groupadd --gid 1500 myapp && groupadd others && sed -i 's/^others:.*/&other/' /etc/group /etc/gshadow"])
    lab.run(["sh", "-c", "mount -t tmpfs -o mode=755 none /srv && mkdir /srv/disk && mount -t tmpfs -o mode=755,nr_inodes=1 none /srv/disk"])
    groups = lab.run(["cat", "/etc/group"]).out
    for name in ("myapp", "other"):
        account = {"name": name, "home": f"/srv/disk/{name}", "create_home": True}
        result = lab.module("service_account", accounts=[account])
        assert result["failed"] and f"the account {name} is there, without its home: make that, or delete the account and run again" in result["msg"]
        assert lab.run(["id", "--user", name]).rc == 0
    assert set(groups.splitlines()) <= set(lab.run(["cat", "/etc/group"]).out.splitlines())


def test_a_home_that_is_there_need_not_be_writable(lab: Lab) -> None:
    lab.run(["sh", "-c", "mount -t tmpfs -o mode=755 none /srv && mkdir /srv/myapp && mount -o remount,ro /srv"])
    assert lab.module("service_account", accounts=[{"name": "myapp", "home": "/srv/myapp", "create_home": True}])["changed"]


def test_a_link_that_leads_nowhere_is_told(lab: Lab) -> None:
    lab.run(["sh", "-c", "mount -t tmpfs -o mode=755 none /srv && ln -s /srv/away /srv/homes"])
    result = lab.module("service_account", accounts=[{"name": "myapp", "home": "/srv/homes/myapp", "create_home": True}])
    assert result["failed"] and result["msg"] == "can't use /srv/homes: No such file or directory", result
