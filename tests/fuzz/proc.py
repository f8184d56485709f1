# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ss, conntrack, ip, /proc and the account files say is read, whatever names processes, cgroups and accounts have."""

from __future__ import annotations

import re
from typing import Tuple

from ansible_collections.portfence.egress.plugins.module_utils import _accounts, _accounts_host, _classid_units, _info, _mounts, _usage
from ansible_collections.portfence.egress.plugins.module_utils._errors import PortFenceError
from ansible_collections.portfence.egress.tests.fuzz.source import FakeHost, Source, Target, check_message

_SS = """tcp LISTEN 0 128 127.0.0.1:{port} 0.0.0.0:* users:(("{name}",pid=5,fd=3)) uid:1000 ino:5 sk:300 cgroup:/user.slice/{group} <->
tcp ESTAB 0 0 [::ffff:192.0.2.1]:50001 [::ffff:192.0.2.2]:443 users:(("b",pid=6,fd=3),("{name}",pid=7,fd=4)) uid:5 ino:6 sk:301 cgroup:/system.slice/b <->
udp UNCONN 0 0 [fe80::1]%eth0:546 [::]:* ino:7 sk:302 cgroup:/ v6only:1 <->
udp ESTAB 0 0 1.0.2.1:5 1.0.2.2:6 ino:8 sk:303 cgroup:/user.slice/{group} <->
"""
_CONNTRACK = """ipv4     2 tcp      6 431999 ESTABLISHED src=1.0.2.1 dst=1.0.2.2 sport=50001 dport=443 src=1.0.2.2 dst=1.0.2.1 sport=443 dport=50001 use=2
ipv6     10 udp      17 29 src=fd00::1 dst=fd00::2 sport=1 dport=53 [UNREPLIED] src=fd00::2 dst=fd00::1 sport=53 dport=1 mark=0 zone=0 use=2
"""
_LINKS = ([{"ifname": "lo", "addr_info": [{"family": "inet", "local": "127.0.0.1", "prefixlen": 8}]}, {}], [])
_PASSWD = "root:x:0:0:root:/root:/bin/bash\nmyapp:!:995:995:service,account:/nonexistent:/usr/sbin/nologin\n+::::::\n"
_SHADOW = "root:$6$x:19000:0:99999:7:::\nmyapp:!:19000::::::\n"
_GROUP = "root:x:0:\nmyapp:x:995:alice,bob\n"
_DEFS = "# comment\nUID_MIN\t\t\t 1000\nSYS_UID_MIN 101\nSYS_UID_MAX 999\nGID_MIN 1000\n"
_STATUS = "Name:\t{name}\nUmask:\t0022\nState:\tS (sleeping)\nUid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\n"
_STAT = "5 ({name}) S 1 5 5 0 -1 4194304 100 0 0 0 0 0 0 0 20 0 1 0 100 0 0\n"
_CGROUP = "12:net_cls,net_prio:/{group}\n1:name=systemd:/user.slice/{group}\n0::/user.slice/{group}\n"


def _sockets(source: Source) -> Tuple[str, str, str, str, str]:
    # A process names itself (15 bytes), and a user makes cgroups below its own; the kernel keeps newlines out of the latter only.
    name = source.text().encode("utf-8", "surrogatepass")[:15].decode("utf-8", "replace").replace("\x00", "")
    group = source.text().encode("utf-8", "replace").decode("utf-8").replace("\n", "").replace("\x00", "")
    sockets = _SS.format(name=name, group=group, port=source.number(1, 65535))
    return name, group, sockets, source.edited(sockets), source.edited(_CONNTRACK) if source.chance(2) else source.json(_LINKS)


def _check_sockets(texts: Tuple[str, str, str, str, str]) -> bool:
    """Names of processes and cgroups change nothing but how they are shown."""
    name, group, sockets, edited, printed = texts
    found = _usage.parse_sockets(sockets)
    expected = _usage.parse_sockets(_SS.format(name="x", group="x", port=1))
    assert [(socket.protocol, socket.state, socket.uid, socket.peer, socket.program is None) for socket in found] == [
        (socket.protocol, socket.state, socket.uid, socket.peer, socket.program is None) for socket in expected
    ], found
    assert [(socket.cgroup or "").split("/")[0] for socket in found] == ["user.slice", "system.slice", "", "user.slice"]
    for socket in [*found, *_usage.parse_sockets(edited)]:
        check_message(socket.program or "")
        assert 0 <= socket.port <= 65535 and 0 <= socket.peer_port <= 65535
    host = FakeHost(
        files={
            "/proc/5/cgroup": _CGROUP.format(group=group),
            "/proc/5/stat": _STAT.format(name=name),
            "/proc/5/status": _STATUS.format(name=name.replace("\n", "\\n")),
        },
        printed=printed,
    )
    groups, net_cls = _classid_units._processes(host)[5]
    assert groups == [f"/user.slice/{group}", f"/user.slice/{group}"] and net_cls == f"/{group}"
    assert set(_accounts_host._processes(host, {0, 1000})) == {1000}
    _check_mount(name.encode("utf-8"))
    flows = _usage.parse_flows(printed)
    try:
        _info._addresses(host)
    except PortFenceError as error:
        check_message(str(error))
        return bool(flows)
    return True


def _check_mount(name: bytes) -> None:
    """Root of a user namespace mounts what it likes where it likes; the kernel escapes what would end a field (mangle_path() in fs/seq_file.c)."""
    shown = re.sub(rb"[ \t\n\\#]", lambda found: b"\\%03o" % found[0][0], name)
    line = b"36 35 98:0 /%s /mnt/%s rw,noatime master:1 - fuse.%s %s rw,user_id=1000\n" % (shown, shown, shown, shown)
    assert _mounts.parse_mount(line) == (b"36", (b"98:0", b"/" + name), b"/mnt/" + name)


def _accounts_of(source: Source) -> Tuple[str, str, str, str]:
    return source.edited(_PASSWD), source.edited(_SHADOW), source.edited(_GROUP), source.edited(_DEFS)


def _check_accounts(texts: Tuple[str, str, str, str]) -> bool:
    """Lines that are none are left out."""
    passwd, shadow, group, defs = texts
    accounts = _accounts.parse_passwd(passwd, shadow=_accounts.parse_shadow(shadow))
    lines = passwd.split("\n")
    for account in accounts:
        assert any(line.startswith(f"{account.name}:") for line in lines)
        assert account.uid is not None and 0 <= account.uid < 2**32
    groups = _accounts.parse_group(group)
    assert all(item.gid is not None and 0 <= item.gid < 2**32 for item in groups)
    for kind in ("UID", "GID"):
        bounds = _accounts.parse_login_defs(defs, kind=kind)
        assert bounds.low <= 2**32 and bounds.high <= 2**32
    return len(accounts) == 2 and len(groups) == 2


TARGETS = {"sockets": Target(_sockets, _check_sockets), "accounts": Target(_accounts_of, _check_accounts)}
