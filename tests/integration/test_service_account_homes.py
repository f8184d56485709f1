# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module service_account, where somebody else than root could lead it to another place with the home of an account."""

from __future__ import annotations

import pytest
from lab import Lab
from test_service_account import accounts, failure, refusal

EVIL = 991
# What evil has, and a folder of root's that it leads to.
EVILS = """
mkdir -p /home/evil/deep /var/lib/portfence-test/roots
ln -s /etc /home/evil/link
ln -s /home/evil/deep /var/lib/portfence-test/to-evil
ln -s evil /home/of-evil; chown -h evil /home/of-evil
mkdir /var/lib/portfence-test/team /var/lib/portfence-test/all
chown -R -h evil /home/evil
chgrp evil /var/lib/portfence-test/team; chmod 775 /var/lib/portfence-test/team; chmod 1777 /var/lib/portfence-test/all
"""
FOREIGN_WAYS = [
    ("/home/evil/myapp", "/home/evil belongs to UID 991 with mode 0755"),
    ("/home/evil/link/myapp", "/home/evil belongs to UID 991 with mode 0755"),
    ("/home/evil/link/deep/er/myapp", "/home/evil belongs to UID 991 with mode 0755"),
    ("/home/evil/../../etc/myapp", "/home/evil belongs to UID 991 with mode 0755"),
    ("/home/missing/../evil/link/myapp", "/home/missing is not there, so that nobody knows where .. leads"),
    ("/home/of-evil/myapp", "/home/of-evil is a symbolic link of UID 991"),
    ("/var/lib/portfence-test/to-evil/myapp", "/home/evil belongs to UID 991 with mode 0755"),
    ("/var/lib/portfence-test/team/myapp", "/var/lib/portfence-test/team belongs to UID 0 with mode 0775"),
    ("/var/lib/portfence-test/all/myapp", "/var/lib/portfence-test/all belongs to UID 0 with mode 1777"),
]


@pytest.fixture(name="evil")
def fixture_evil(lab: Lab) -> Lab:
    lab.add_user("evil", EVIL)
    lab.run(["sh", "-ec", EVILS])
    return lab


@pytest.mark.parametrize("check_mode", [False, True])
def test_root_makes_no_home_where_others_may_lead_it(evil: Lab, check_mode: bool) -> None:
    for home, found in FOREIGN_WAYS:
        message = refusal(evil, {"name": "fine"}, {"name": "myapp", "home": home, "create_home": True}, check_mode=check_mode)
        assert f"accounts[1].home: found {home!r}, and {found}; accepted for a home that is created: " in message


def test_a_home_inside_another_one_that_is_created(lab: Lab) -> None:
    """Once the outer one is there, that account may put a link in it."""
    outer = {"name": "outer", "home": "/var/lib/portfence-test/outer/", "create_home": True}
    inner = {"name": "inner", "home": "/var/lib/portfence-test/outer/deep/inner", "create_home": True}
    assert "accounts[1].home: found '/var/lib/portfence-test/outer/deep/inner', which is inside the home of outer;" in refusal(lab, outer, inner)
    assert "accounts[0].home: found" in refusal(lab, inner, outer)
    accounts(lab, outer)
    assert "/var/lib/portfence-test/outer belongs to UID " in refusal(lab, outer, inner)
    accounts(lab, outer, {**inner, "create_home": False})


def test_a_home_behind_links_of_roots(evil: Lab) -> None:
    evil.run(["sh", "-c", "cd /var/lib/portfence-test; ln -s roots one; ln -s /var/lib/portfence-test/./one/../one two"])
    accounts(evil, {"name": "myapp", "home": "/var/lib/portfence-test/two/deep/myapp", "create_home": True})
    assert evil.run(["stat", "-c", "%U", "/var/lib/portfence-test/roots/deep/myapp"]).out == "myapp\n"


def test_links_in_a_circle(lab: Lab) -> None:
    lab.run(["sh", "-c", "mkdir /var/lib/portfence-test; cd /var/lib/portfence-test; ln -s there here; ln -s here there"])
    assert "more than 40 symbolic links lead to it" in refusal(lab, {"name": "myapp", "home": "/var/lib/portfence-test/here/myapp", "create_home": True})


def test_a_home_that_is_there_is_taken_wherever_it_is(evil: Lab) -> None:
    """Nothing is made then, and nobody gets what is there."""
    evil.run(["mkdir", "/home/evil/there", "/etc/there"])
    before = evil.run(["stat", "-c", "%U %a %Z", "/home/evil/there", "/etc/there"]).out
    homes = ["/home/evil/there", "/home/evil/link/there"]
    accounts(evil, *({"name": f"myapp{number}", "home": home, "create_home": True} for number, home in enumerate(homes)))
    accounts(evil, {"name": "other", "home": "/home/evil/link/other"})
    assert evil.run(["stat", "-c", "%U %a %Z", "/home/evil/there", "/etc/there"]).out == before
    assert evil.run(["test", "-e", "/etc/other"], check=False).rc == 1


def test_a_home_that_goes_while_the_account_is_made(evil: Lab) -> None:
    """Whoever owns the folder takes it away after the look at it, and puts a link of that name in its place."""
    evil.run(["mkdir", "/home/evil/deep/myapp"])
    script = '#!/bin/sh\nrm -r /home/evil/deep; ln -s /etc /home/evil/deep; exec /usr/sbin/useradd "$@"\n'
    evil.run(["sh", "-c", "cat >/usr/local/sbin/useradd; chmod 755 /usr/local/sbin/useradd"], data=script)
    accounts(evil, {"name": "myapp", "home": "/home/evil/deep/myapp", "create_home": True})
    assert evil.run(["readlink", "/home/evil/deep"]).out == "/etc\n"
    assert evil.run(["test", "-e", "/etc/myapp"], check=False).rc == 1


def test_root_deletes_no_home_where_others_may_lead_it(evil: Lab) -> None:
    for number, (home, found) in enumerate(FOREIGN_WAYS):
        name = f"myapp{number}"
        evil.run(["sh", "-c", 'mkdir -p "$1"', "sh", home])
        accounts(evil, {"name": name, "uid": 4800 + number, "home": home})
        evil.run(["chown", name, home])
        if "missing" not in home:
            message = refusal(evil, {"name": name}, state="absent", remove_home=True)
            assert f"accounts[0].name: its home {home} is not deleted, because {found}" in message
            assert message == failure(evil, {"name": name}, state="absent", remove_home=True, check_mode=True)
        accounts(evil, {"name": name}, state="absent")
        evil.run(["test", "-d", home])


def test_a_home_that_became_a_link_stays_with_what_it_leads_to(lab: Lab) -> None:
    accounts(lab, {"name": "myapp", "uid": 4800, "home": "/var/lib/portfence-test/myapp", "create_home": True})
    lab.run(["sh", "-c", "cd /var/lib/portfence-test; mkdir theirs; chown myapp theirs; rmdir myapp; ln -s theirs myapp"])
    accounts(lab, {"name": "myapp"}, state="absent", remove_home=True)
    assert lab.run(["ls", "/var/lib/portfence-test"]).out == "myapp\ntheirs\n"
