# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that was tampered with, or is in no good state: full and immutable disks, files of others, planted programs, any umask.

Other broken hosts are in test_fence_faults.py.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Dict, List, Tuple, Type

import pytest
from bpf_lab import BpfLab
from lab import Lab
from listing import rules
from net_cls import NetClsLab

USER = 991
MYAPP = {"name": "myapp", "source_ports": "50000-50999"}
MOVED = {"name": "myapp", "source_ports": "51000-51999"}
OF_SERVICE = "must belong to root and be writable by root alone"
RESERVED = {"name": "site", "reserved_ports": ["50000-50999"]}
NAMESPACE = {"name": "boxed", "source_ports": "52000-52099"}


class IptablesLab(Lab):
    """A lab whose fence is one of iptables."""

    variant = "nft"

    def __enter__(self) -> Lab:
        super().__enter__()
        try:
            self.use_iptables(self.variant)
        except BaseException:
            self.close()
            raise
        return self


class LegacyLab(IptablesLab):
    variant = "legacy"


@pytest.fixture(name="host")
def fixture_host(lab: Lab) -> Lab:
    lab.add_user("myapp", USER)
    return lab


def files(lab: Lab) -> Dict[str, str]:
    """Our files, each with its content."""
    listed = lab.run(["sh", "-c", "find /etc /run /usr/local -type f -path '*portfence*' ! -name '*.lock'"]).out.split()
    return {path: lab.run(["cat", path]).out for path in sorted(listed)}


def shell(lab: Lab, script: str) -> str:
    return lab.run(["sh", "-c", script]).out


def test_a_full_disk(host: Lab) -> None:
    """Neither the kernel nor the disk changes, and the next run goes on."""
    host.module("fence", services=[MYAPP])
    # So small that nothing fits in beside what is there.
    shell(host, "cp -a /etc/portfence /run/kept && mount -t tmpfs -o size=64k,mode=755 none /etc/portfence && cp -a /run/kept/. /etc/portfence")
    shell(host, "rm -r /run/kept; cat /dev/zero >/etc/portfence/filler 2>/dev/null || true")
    before, live = files(host), rules(host)
    result = host.module("fence", services=[MOVED])
    assert result["failed"] and "can't write /etc/portfence/" in result["msg"] and "No space left on device" in result["msg"]
    assert rules(host) == live
    assert files(host) == before, "no temporary file either"
    host.run(["rm", "/etc/portfence/filler"])
    assert host.module("fence", services=[MOVED])["changed"]
    assert host.connect(uid=USER, source_port=51000).port is not None


@pytest.mark.parametrize("path", ["fence.nft", "services.d/myapp.json"])
def test_an_immutable_file(host: Lab, path: str) -> None:
    """See chattr(1). What could not be written is told. The kernel has the new fence, and a boot gives the one of the disk, each whole."""
    host.module("fence", services=[MYAPP])
    shell(host, "cp -a /etc/portfence /run/kept && mount -t tmpfs -o mode=755 none /etc/portfence && cp -a /run/kept/. /etc/portfence && rm -r /run/kept")
    old = rules(host)
    host.run(["chattr", "+i", f"/etc/portfence/{path}"])
    result = host.module("fence", services=[MOVED])
    assert result["failed"] and f"can't write /etc/portfence/{path}: Operation not permitted" in result["msg"]
    assert ("the kernel has the new fence, and the next boot loads the old one" in result["msg"]) == (path == "fence.nft")
    # Whoever puts the old one back needs to know.
    assert result["changed"] and [service["source_ports"] for service in result["services_before"]] == [["50000-50999"]]
    new = rules(host)
    assert new != old
    host.reboot()
    assert rules(host) == (old if path == "fence.nft" else new)
    host.run(["chattr", "-i", f"/etc/portfence/{path}"])
    assert not host.module("fence", services=[MOVED]).get("failed")
    assert not host.module("fence", services=[MOVED])["changed"]
    assert host.connect(uid=USER, source_port=51000).port is not None
    assert not [name for name in files(host) if name.endswith(".portfence-new")]


@pytest.mark.parametrize("harm", [f"chown {USER}", "chmod 666", "chmod 664"])
def test_files_that_others_could_change_are_written_anew(host: Lab, harm: str) -> None:
    """Root loads them at boot."""
    host.module("fence", services=[MYAPP])
    ours = ["/etc/portfence/fence.nft", "/etc/systemd/system/portfence.service", "/usr/local/bin/portfence-run"]
    for path in ours:
        shell(host, f"{harm} {path}")
    result = host.module("fence", services=[MYAPP])
    assert result["changes"] == [f"write {path}" for path in ours]
    assert shell(host, f"find {' '.join(ours)} ! -user root -o -perm /022") == ""
    assert not host.module("fence", services=[MYAPP])["changed"]


@pytest.mark.parametrize("harm", [f"chown {USER}", "chmod 666"])
def test_what_others_could_have_written_is_not_believed(host: Lab, harm: str) -> None:
    """What these files say is merged with what is asked for."""
    host.module("fence", services=[MYAPP])
    host.module("ephemeral_ports", **RESERVED)
    host.module("network_namespace", namespaces=[NAMESPACE])
    for path, module, params in (
        ("/etc/portfence/services.d/myapp.json", "fence", {"services": [MOVED]}),
        ("/etc/sysctl.d/60-portfence.conf", "ephemeral_ports", {**RESERVED, "reserved_ports": ["51000-51999"]}),
        ("/etc/portfence/namespaces.d/boxed.json", "network_namespace", {"namespaces": [NAMESPACE]}),
        ("/etc/portfence/namespaces.sh", "network_namespace", {"namespaces": [NAMESPACE]}),
    ):
        before, live = files(host), rules(host)
        shell(host, f"{harm} {path}")
        result = host.module(module, **params)
        assert result.get("failed") and path in result["msg"] and OF_SERVICE in result["msg"], (path, result)
        assert (files(host), rules(host)) == (before, live)
        shell(host, f"chown root {path}; chmod 644 {path}")
    assert host.module("fence", services=[MOVED])["changed"]


@pytest.mark.parametrize("harm", [f"chown {USER}", "chmod 666"])
def test_a_way_back_that_others_could_have_written_is_none(host: Lab, harm: str) -> None:
    host.module("fence", services=[MYAPP])
    host.module("fence", services=[MOVED])
    assert host.module("fence_info")["previous"]["services"]
    shell(host, f"{harm} /etc/portfence/previous.json")
    info = host.module("fence_info")
    assert info["previous"] is None and info["last_change"] is None


@pytest.mark.parametrize("harm", [f"chown {USER}", "chmod 666"])
def test_the_program_of_the_metrics_is_nobody_elses(host: Lab, harm: str) -> None:
    """Root runs it every minute."""
    params = {"directory": "/var/lib/metrics"}
    shell(host, "mkdir -p /var/lib/metrics")
    host.module("metrics", **params)
    ours = shell(host, "ls /usr/local/lib/portfence/* /etc/systemd/system/portfence-metrics.*").split()
    assert len(ours) == 3
    for path in ours:
        shell(host, f"{harm} {path}")
    assert sorted(host.module("metrics", **params)["changes"]) == sorted(f"write {path}" for path in ours)
    assert shell(host, f"find {' '.join(ours)} ! -user root -o -perm /022") == ""
    assert not host.module("metrics", **params)["changed"]
    shell(host, f"{harm.replace('666', '777')} /usr/local/lib/portfence")
    result = host.module("metrics", **params)
    assert result["failed"] and "/usr/local/lib/portfence belongs to UID" in result["msg"]


# One of every name that a program of this host has. Each tells that it was run.
PLANT = """
import os, sys
os.makedirs("/home/planted")
with open("/home/planted.sh", "w") as file:
    file.write('#!/bin/sh\\necho "$0" >>/run/planted\\n')
os.chmod("/home/planted.sh", 0o755)
for name in {name for folder in ("/usr/sbin", "/usr/bin") for name in os.listdir(folder)}:
    os.symlink("/home/planted.sh", f"/home/planted/{name}")
for name in ("libnftables.so.1", "libc.so.6"):
    open(f"/home/planted/{name}", "w").close()
"""
PLANTED_PATH = "/home/planted:/usr/sbin:/usr/bin:/sbin:/bin"
PLANTED = {"PATH": PLANTED_PATH}
SLICE = f"portfencetest{os.getpid()}.slice"
CGROUPS = {"cgroups": [{"name": "legacy", "classid": "0x100001"}]}
MODULES: Dict[str, Dict[str, Any]] = {
    "fence": {"services": [MOVED]},
    "fence_info": {},
    "ephemeral_ports": RESERVED,
    "service_account": {"accounts": [{"name": "another"}, {"name": "housed", "home": "/home/housed", "create_home": True}]},
    "network_namespace": {"namespaces": [NAMESPACE]},
    "cgroup_classid": CGROUPS,
    "preview": {"services": [MYAPP]},
    "metrics": {"directory": "/var/lib/metrics"},
    "port_probe": {"services": [MYAPP]},
    "edge": {"identities": []},
}


# What the fence is made of, where it is not nftables alone: the lab, and what the module is told.
FENCES: Dict[str, Tuple[Type[Lab], Dict[str, Any]]] = {
    "nftables": (Lab, {}),
    "iptables-nft": (IptablesLab, {"backend": "iptables"}),
    "iptables-legacy": (LegacyLab, {"backend": "iptables"}),
    "bpf": (BpfLab, {}),
}


@pytest.mark.parametrize(
    ("module", "fence"),
    [*((module, "nftables") for module in MODULES), *((module, fence) for fence in list(FENCES)[1:] for module in ("fence", "fence_info", "port_probe"))],
)
def test_programs_that_are_planted_in_the_path_are_not_run(module: str, fence: str) -> None:
    kind, backend = FENCES[fence]
    with NetClsLab() if module == "cgroup_classid" else kind() as host:
        host.add_user("myapp", USER)
        service = {"assignment": fence} if fence == "bpf" else {}
        params = {**MODULES[module], **(backend if module == "fence" else {})}
        if "services" in params:
            params["services"] = [{**item, **service} for item in params["services"]]
        begun = host.module("fence", services=[{**MYAPP, **service}], **backend)
        assert begun["backend"] == backend.get("backend", "nftables")
        assert begun["assignments"]["myapp"] == service.get("assignment", "rewrite")
        shell(host, "mkdir -p /var/lib/metrics")
        host.run(["/usr/bin/python3", "-I", "-"], data=PLANT)
        environment = {"PATH": PLANTED_PATH, "PYTHONPATH": host.collections()}
        # Whoever looks for a program there finds that one, and who loads a library the empty one.
        names = ["nft", "ip", "useradd", "sh", "ss", "iptables", "ip6tables-save", "iptables-restore", "bpftool"]
        host.run([sys.executable, "-c", f"import subprocess\nfor name in {names}: subprocess.run([name], check=True)"], env=environment)
        assert host.run(["cat", "/run/planted"]).out.split() == [f"/home/planted/{name}" for name in names]
        planted = {"LD_LIBRARY_PATH": "/home/planted"}
        assert "file too short" in host.run(["/usr/bin/env", "LD_LIBRARY_PATH=/home/planted", "/usr/sbin/nft", "--version"], check=False).err
        host.run(["rm", "/run/planted"])
        # Python is started with that path, and sets the other for the programs that it starts.
        # A probe of bpf connects from the cgroup that has the programs.
        join = "open('/sys/fs/cgroup/cgroup.procs', 'w').write('0')" if fence == "bpf" else "pass"
        code = f"import os, runpy; {join}; os.environ.update({planted}); runpy.run_module({name_of(module)!r}, run_name='__main__')"
        data = json.dumps({"ANSIBLE_MODULE_ARGS": params})
        result = json.loads(host.run([sys.executable, "-c", code], data=data, check=False, env=environment).out)
        assert not result.get("failed"), result["msg"]
        assert result["changed"] == (module not in ("fence_info", "preview", "port_probe"))
        assert host.run(["cat", "/run/planted"], check=False).out == ""


@pytest.mark.parametrize("kind", ["user", "group", "namespace", "slice"])
def test_the_launcher_runs_nothing_else_that_is_planted_than_what_was_asked_for(lab: Lab, kind: str) -> None:
    """As of root after a su(1) that keeps the PATH of the account. The command itself is found by it."""
    lab.add_user("myapp", USER)
    service = {**MYAPP, **{"user": {}, "group": {"group": "myapp"}, "namespace": {"assignment": "namespace"}, "slice": {"unit": SLICE}}[kind]}
    if kind == "namespace":
        lab.module("network_namespace", namespaces=[MYAPP])
    shell(lab, f"mount -t cgroup2 none /sys/fs/cgroup && mkdir /sys/fs/cgroup/{SLICE}")
    try:
        result = lab.module("fence", services=[{**service, "assignment": service.get("assignment", "app")}])
        assert not result.get("failed"), result["msg"]
        lab.run(["/usr/bin/python3", "-I", "-"], data=PLANT)
        shell(lab, "touch /run/planted && chmod 666 /run/planted")
        done = lab.run(["/usr/local/bin/portfence-run", *(["--user", "myapp"] if kind != "user" else []), "myapp", "--", "id"], check=False, env=PLANTED)
    finally:
        shell(lab, f"rmdir /sys/fs/cgroup/{SLICE}")
    planted = lab.run(["cat", "/run/planted"]).out
    if kind == "slice":
        # No systemd runs here, which is what the program of the host says, and not that it was not found.
        assert planted == "" and done.rc == 1 and "bus" in done.err
    else:
        assert planted == "/home/planted/id\n" and (done.rc, done.err) == (0, "")


def name_of(module: str) -> str:
    return f"ansible_collections.portfence.egress.plugins.modules.{module}"


def run_with_umask(lab: Lab, umask: str, module: str, params: Dict[str, Any]) -> None:
    command = [sys.executable, "-m", name_of(module)]
    script = f'umask {umask}; exec "$@"'
    done = lab.run(["sh", "-c", script, "sh", *command], data=json.dumps({"ANSIBLE_MODULE_ARGS": params}), env={"PYTHONPATH": lab.collections()})
    assert not json.loads(done.out).get("failed"), done.out


BPF = {"name": "myapp", "source_ports": "50000-50999", "assignment": "bpf"}
# What is run in a lab of each kind, in order.
RUNS: Dict[Type[Lab], List[Tuple[str, Dict[str, Any]]]] = {
    Lab: [
        ("service_account", {"accounts": [{"name": "another"}, {"name": "housed", "home": "/home/in/housed", "create_home": True}]}),
        ("fence", {"services": [MYAPP, {"name": "other", "user": "another", "source_ports": "53000-53099"}]}),
        ("ephemeral_ports", RESERVED),
        ("network_namespace", {"namespaces": [{**NAMESPACE, "dns": ["192.0.2.53"], "units": ["boxed.service"]}]}),
        ("metrics", {"directory": "/var/lib/metrics"}),
        ("edge", {"identities": []}),
        ("port_probe", {"services": [MYAPP]}),
        ("fence", {"services": [MOVED]}),
    ],
    **{
        kind: [
            ("service_account", {"accounts": [{"name": "another"}]}),
            ("fence", {"services": [MYAPP, {"name": "other", "user": "another", "source_ports": "53000-53099"}], "backend": "iptables"}),
            ("fence_info", {}),
            ("port_probe", {"services": [MYAPP]}),
            ("fence", {"services": [MOVED], "backend": "iptables"}),
        ]
        for kind in (IptablesLab, LegacyLab)
    },
    NetClsLab: [("cgroup_classid", CGROUPS)],
    BpfLab: [("fence", {"services": [BPF], "purge": True}), ("fence", {"services": [{**BPF, "source_ports": "51000-51999"}], "purge": True})],
}
PLACES = "/etc/portfence /etc/systemd/system /etc/sysctl.d /etc/netns /etc/pam.d /run/portfence* /run/netns /usr/local /var/lib/metrics /home /sys/fs/bpf/*"


def made(kind: Type[Lab], umask: str) -> List[str]:
    """Owner, mode, kind and place of everything that a first run of the modules makes under a umask."""
    with kind() as lab:
        lab.add_user("myapp", USER)
        shell(lab, "mkdir -p /var/lib/metrics; touch /run/start")
        for module, params in RUNS[kind]:
            run_with_umask(lab, umask, module, params)
        # Not what the kernel itself puts into a cgroup.
        found = f"find {PLACES} -newer /run/start ! -type l ! -name 'cgroup.*' ! -name 'net_*.*' ! -name tasks ! -name notify_on_release"
        return shell(lab, f"{found} -printf '%u:%g %m %y %p\\n' 2>/dev/null | sort -k 4").splitlines()


EXECUTED = ("/usr/local/bin/portfence-run", "/etc/portfence/namespaces.sh", "/etc/portfence/namespaces.d/boxed.sh")


def documented(kind: str, path: str) -> str:
    """Owner and mode that a directory (d) or file (f) has to have."""
    if path.startswith("/home/in/"):
        return "housed:housed 755"
    if path.startswith("/sys/fs/bpf/"):
        return "root:root 700" if kind == "d" else "root:root 600"
    if kind == "d" or path in EXECUTED:
        return "root:root 755"
    if path.startswith("/run/netns/"):
        return "root:root 444"
    return "root:root 600" if path.endswith(".lock") else "root:root 644"


@pytest.mark.parametrize(("kind", "count"), [(Lab, 40), (IptablesLab, 20), (LegacyLab, 20), (NetClsLab, 9), (BpfLab, 24)])
@pytest.mark.parametrize("umask", ["000", "077"])
def test_no_umask_matters(kind: Type[Lab], count: int, umask: str) -> None:
    found = [line.split() for line in made(kind, umask)]
    assert found == [[*documented(of, path).split(), of, path] for _owner, _mode, of, path in found]
    assert len(found) > count
