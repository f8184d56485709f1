# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Between a policy that knows a service by its unit and another one: runs that are killed, or fail. What starts then is fenced by the old or the new one.

What stands for systemd here starts a service as its drop-in says that was there at the last daemon-reload: in a new cgroup, ExecCondition= first.
At boot that is the one on the disk, and the slices that portfence.service wants are there before it.
"""

from __future__ import annotations

import os
import re
import shlex
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import pytest
from crash import OUTSIDE, Crashes, Press, Pressure, Subject, converge, crash
from lab import Lab
from lab_keeper import PEER_ADDRESSES, PORT
from module_server import Supervised
from test_crash import judge
from test_unread_units import UNITS

UID = 991
# The fence looks cgroups up from the root of the hierarchy, which is the machine's: all of this lab's are below one slice.
TOP = f"portfencetest{os.getpid()}"
SLICE, APPS, BATCH = f"{TOP}.slice", f"{TOP}-apps.slice", f"{TOP}-batch.slice"
CGROUPS = "/sys/fs/cgroup"
SYSTEMCTL = f"""#!/bin/sh
case "$1" in
    daemon-reload) test ! -e /run/refuses && {UNITS} /run/known.new . && mv /run/known.new /run/known ;;
    show) printf 'LoadState=loaded\\nSlice={SLICE}\\n' ;;
    is-active) case "$3" in *.slice) test -d "{CGROUPS}/{SLICE}/$3" ;; firewalld*) false ;; esac ;;
    is-enabled) case "$3" in firewalld*) false ;; esac ;;
    start) test ! -e /run/masked && shift && for unit; do mkdir -p "{CGROUPS}/{SLICE}/$unit" || exit; done ;;
esac
"""
# Prints each of the ports from which it gets through to the peer.
SENDER = """
import socket, struct, sys
for port in sys.argv[2].split(","):
    for address in sys.argv[3:]:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.bind(("", int(port)))
        sock.settimeout(5)
        try:
            sock.connect((address, int(sys.argv[1])))
            print(port)
        except OSError:
            pass
        sock.close()
"""
WATCH = f"""
table inet watch {{
    counter leaked {{ }}
    chain input {{
        type filter hook input priority 0;
        meta l4proto {{ tcp, udp }} th dport {PORT} th sport {OUTSIDE}-{OUTSIDE + 3} counter name leaked
    }}
}}
"""


class Started(NamedTuple):
    """What became of a service. :ivar refused: why it did not start. :ivar passed: the ports from which it gets through, once for each family."""

    refused: str
    passed: Tuple[int, ...]


class SystemdLab(Lab):
    """See the top of the file."""

    def __enter__(self) -> SystemdLab:
        super().__enter__()
        try:
            self.run(["sh", "-c", "cat >/usr/local/sbin/systemctl && chmod 755 /usr/local/sbin/systemctl"], data=SYSTEMCTL)
            self.run(["mkdir", "-p", "/etc/systemd/system"])
            self.add_user("myapp", UID)
            self.peer.nft(WATCH)
            self.power_on()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> str:
        """Remove the cgroups, and end the lab."""
        if self._keeper is not None:
            self._remove_cgroups()
        return super().close()

    def _remove_cgroups(self) -> None:
        self.run(["find", f"{CGROUPS}/{SLICE}", "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"], check=False)

    def power_on(self) -> None:
        """systemd reads its units, and starts the slices that come before portfence.service."""
        self.run(["sh", "-c", f"mkdir -p /run/systemd/system && mount -t cgroup2 none {CGROUPS}"])
        self._remove_cgroups()
        self.run(["mkdir", f"{CGROUPS}/{SLICE}"])
        self.run(["systemctl", "daemon-reload"])
        for names in self.told("portfence.service", "Wants"):
            self.run(["systemctl", "start", *names.split()])

    def wanted_units(self) -> Set[str]:
        """Those that are enabled, and those that our drop-ins of services want."""
        wanted = [name for service, _slice in (WEB, IN_BATCH, INSTANCE) for names in self.told(service, "Wants") for name in names.split()]
        return {*super().wanted_units(), *wanted}

    def told(self, unit: str, key: str) -> List[str]:
        """The values of a key in our drop-in of a unit, as systemd has read it. Of drop-ins with one name, that of an instance hides that of its template."""
        text = ""
        for name in dict.fromkeys([unit, re.sub("@.*[.]", "@.", unit)]):
            text = text or self.run(["tar", "-xOf", "/run/known", f"./{name}.d/50-portfence.conf"], check=False).out
        return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]

    def forget(self, policy: Dict[str, Any]) -> None:
        """The slices of a policy have not been started."""
        for service in policy["services"]:
            if str(service.get("unit")).endswith(".slice"):
                self.run(["find", f"{CGROUPS}/{SLICE}/{service['unit']}", "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"], check=False)

    def start(self, service: str, slice_path: str) -> Started:
        """Restart a service, or start it."""
        group = f"{CGROUPS}/{slice_path}/{service}"
        self.run(["sh", "-ec", 'if test -d "$0"; then rmdir "$0"; fi; mkdir -p "$0"', group])
        for value in self.told(service, "ExecCondition"):
            done = self.run([*inside(group), *shlex.split(value.lstrip("+").replace("%n", service))], check=False)
            if done.rc != 0:
                return Started(f"{done.rc}: {done.err}", ())
        sender = [*BECOME, "/usr/bin/python3", "-I", "-c", SENDER, str(PORT), ",".join(map(str, PORTS)), *PEER_ADDRESSES.values()]
        return Started("", tuple(map(int, self.run([*inside(group), *sender]).out.split())))


def inside(group: str) -> List[str]:
    """What stands before a command to run it in a cgroup."""
    return ["sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', group]


BECOME = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--"]
# Allowed by both policies, by the old one, by the new one, and by none.
PORTS = (50000, 50500, 51500, OUTSIDE)
OLD: Dict[str, Any] = {"name": "myapp", "source_ports": "50000-50999", "assignment": "app", "on_violation": "reject", "exclusive": False}
NEW: Dict[str, Any] = {**OLD, "name": "renamed", "source_ports": ["50000-50099", "51000-51999"]}
ABSENT = {"services": [], "state": "absent", "purge": True}
WEB, INSTANCE = ("web.service", SLICE), ("web@1.service", SLICE)
IN_APPS, IN_BATCH = ("web.service", f"{SLICE}/{APPS}"), ("job.service", f"{SLICE}/{BATCH}")


def only(service: Dict[str, Any], **selector: str) -> Dict[str, Any]:
    """The fence with one service."""
    return {"services": [{**service, **selector}], "purge": True, "backend": "nftables"}


class Case(NamedTuple):
    """Two policies. :ivar services: who is started, and in which slice. :ivar pressed: whether both fence the first one, so that it may try all the time."""

    states: Tuple[Dict[str, Any], Dict[str, Any]]
    services: Tuple[Tuple[str, str], ...]
    pressed: bool


CASES = {
    "unit and user": Case((only(OLD, unit="web.service"), only(NEW, user="myapp")), (WEB,), True),
    "unit and unit": Case((only(OLD, unit="web.service"), only(NEW, unit="web.service")), (WEB,), True),
    "template and instance": Case((only(OLD, unit="web@.service"), only(NEW, unit="web@1.service")), (INSTANCE,), True),
    "unit and nothing": Case((only(OLD, unit="web.service"), ABSENT), (WEB,), False),
    "slice and user": Case((only(OLD, unit=APPS), only(NEW, user="myapp")), (IN_APPS,), True),
    "slice and slice": Case((only(OLD, unit=APPS), only(NEW, unit=BATCH)), (IN_APPS, IN_BATCH), False),
    "slice and nothing": Case((only(OLD, unit=APPS), ABSENT), (IN_APPS,), False),
}


def old_or_new(case: Case) -> Callable[[Any, Sequence[Any]], bool]:
    """Whoever starts is in the one policy or in the other. From the kernel's first fence until its file is there, what it knows by unit does not start."""

    def whole(seen: Any, expected: Sequence[Any]) -> bool:
        told = "did not end, and /etc/portfence/fence.nft can't be loaded; run the play again\n"
        return seen in expected or (ABSENT in case.states and all(item.refused.endswith(told) for item in seen))

    return whole


def subject_of(case: Case) -> Subject:
    """What is looked at is what becomes of services that start."""

    def look(lab: Lab) -> Any:
        assert isinstance(lab, SystemdLab)
        return [lab.start(*service) for service in case.services]

    def press(lab: Lab) -> Pressure:
        service, slice_path = case.services[0]
        return Pressure(lab, *inside(f"{CGROUPS}/{slice_path}/{service}"), *BECOME)

    return Subject("fence", case.states, look, whole=old_or_new(case), press=Press(press) if case.pressed else None)


@contextmanager
def started(case: Case) -> Iterator[Tuple[SystemdLab, Supervised, Subject, List[Any]]]:
    """A lab, the case in it, and what both policies look like. The account is not fenced in the beginning."""
    with SystemdLab() as lab, Supervised(lab) as modules:
        subject = subject_of(case)
        assert subject.look(lab) == [Started("", tuple(port for port in PORTS for _family in PEER_ADDRESSES))] * len(case.services)
        lab.peer.nft("reset counters")
        expected = []
        for state in case.states:
            assert converge(lab, subject, state) == []
            expected.append(subject.look(lab))
        yield lab, modules, subject, expected


def files(lab: Lab) -> str:
    """What the fence has on the disk, and systemd has read."""
    ours = "/etc/portfence/fence.nft /etc/portfence/units.sh /etc/systemd/system"
    script = f"find {ours} -type f -exec sha256sum {{}} + 2>/dev/null | sort; tar -tf /run/known | grep -v '/$'; ls /run | grep portfence-"
    return lab.run(["sh", "-c", script], check=False).out


@pytest.mark.parametrize("name", CASES)
def test_killed(name: str, points: Optional[int]) -> None:
    with started(CASES[name]) as (lab, modules, subject, _expected):
        judge(crash(lab, modules, subject, points=points), 20)


@pytest.mark.parametrize("name", CASES)
def test_killed_and_back_to_the_old_policy(name: str, points: Optional[int]) -> None:
    crashes = Crashes()
    with started(CASES[name]) as (lab, modules, subject, expected):
        for to in (0, 1):
            old = subject.states[1 - to]
            assert converge(lab, subject, old) == []
            before = files(lab)
            calls = modules.run("fence", subject.states[to])["calls"]
            for number in range(0, len(calls), 1 if points is None else max(1, len(calls) // points)):
                assert converge(lab, subject, old) == []
                modules.run("fence", subject.states[to], kill=number, everybody=bool(number % 2))
                crashes.killed.append(calls[number])
                problems = converge(lab, subject, old)
                if not problems and files(lab) != before:
                    problems = [f"{files(lab)}\ninstead of\n{before}"]
                if not problems and subject.look(lab) != expected[1 - to]:
                    problems = [f"{subject.look(lab)} instead of {expected[1 - to]}"]
                crashes.problems.extend(f"back from {to}, killed at {number}, {calls[number]}: {problem}" for problem in problems)
    judge(crashes, 20)


# nft loads nothing outside of a network namespace of its own.
BROKEN_NFT = """#!/bin/sh
case $* in '-f -') test "$(readlink /proc/self/ns/net)" != "$(cat /run/own)" || { echo broken >&2; exit 1; } ;; esac
exec /run/nft "$@"
"""
BREAK = {
    "systemd refuses to read its units": ("touch /run/refuses", "rm /run/refuses", "daemon-reload"),
    "a slice is masked": ("touch /run/masked", "rm /run/masked", "systemctl start"),
    "the kernel refuses the fence": (
        "touch /run/nft && mount --bind /usr/sbin/nft /run/nft && readlink /proc/self/ns/net >/run/own"
        " && cat >/run/fake && chmod 755 /run/fake && mount --bind /run/fake /usr/sbin/nft",
        "umount /usr/sbin/nft && umount /run/nft && rm /run/nft",
        "broken",
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("what", BREAK)
def test_fails(name: str, what: str) -> None:
    breaks, mends, message = BREAK[what]
    failed = 0
    with started(CASES[name]) as (lab, _modules, subject, expected):
        for to in (0, 1):
            for again in (1 - to, to):
                assert converge(lab, subject, subject.states[1 - to]) == []
                before = files(lab)
                if what == "a slice is masked":
                    # One that the old policy has, nobody could have stopped.
                    lab.forget(subject.states[to])
                lab.run(["sh", "-ec", breaks], data=BROKEN_NFT)
                result = lab.module("fence", **subject.states[to])
                lab.run(["sh", "-ec", mends])
                if not result.get("failed"):
                    continue
                failed += 1
                assert message in result["msg"]
                assert subject.look(lab) in expected
                lab.reboot()
                assert subject.look(lab) in expected
                assert converge(lab, subject, subject.states[again]) == []
                assert subject.look(lab) == expected[again]
                if again != to:
                    assert files(lab) == before
    assert failed == expected_failures(CASES[name], what)


def expected_failures(case: Case, what: str) -> int:
    """How many of the changes there and back, with both ends each, have what is broken among what they do."""
    if what == "a slice is masked":
        return 2 * sum(str(service.get("unit")).endswith(".slice") for state in case.states for service in state["services"])
    # What a unit is told is the same for whichever service it is.
    return 0 if what == "systemd refuses to read its units" and case == CASES["unit and unit"] else 4


def test_moves_from_iptables_and_fails() -> None:
    """The fence of iptables stays, and knows no units: the one that the new policy names starts as before."""
    case = Case((only(OLD, user="myapp"), only(NEW, unit="web.service")), (WEB,), False)
    old = {**case.states[0], "backend": "iptables"}
    with SystemdLab() as lab:
        lab.use_iptables("nft")
        subject = subject_of(case)
        assert converge(lab, subject, old) == []
        expected = subject.look(lab)
        assert expected == [Started("", tuple(port for port in PORTS[:2] for _family in PEER_ADDRESSES))]
        lab.run(["touch", "/run/masked"])
        late = {"name": "late", "unit": APPS, "source_ports": "55000-55099", "assignment": "app", "exclusive": False}
        result = lab.module("fence", **{**case.states[1], "services": [*case.states[1]["services"], late]})
        assert result.get("failed") and "systemctl start" in result["msg"]
        assert subject.look(lab) == expected
        lab.reboot()
        assert subject.look(lab) == expected
        assert not lab.module("fence", **case.states[1]).get("failed")
        assert [ports for _refused, ports in subject.look(lab)] != [ports for _refused, ports in expected]
