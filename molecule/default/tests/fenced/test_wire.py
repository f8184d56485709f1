# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the peer of a fenced host sees: the policy of molecule.yml, proved by connecting."""

from __future__ import annotations

import pytest
from testhost import WAYS, connect
from testinfra.host import Host

MYAPP = range(50000, 51000)

pytestmark = pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}{way[1]}")


def test_unmodified_client_gets_a_port_of_its_service(host: Host, way: tuple[str, int]) -> None:
    """A program that binds nothing leaves from the service's range."""
    assert connect(host, user="myapp", way=way).seen in MYAPP


def test_bind_inside_is_kept(host: Host, way: tuple[str, int]) -> None:
    """A port of the service that the program chose itself stays."""
    assert connect(host, user="myapp", way=way, bind=50123).seen == 50123
    assert connect(host, user="otel", way=way, bind=52999).seen == 52999
    assert connect(host, user="otel", way=way, bind=53500).seen == 53500


def test_bind_outside_is_rewritten(host: Host, way: tuple[str, int]) -> None:
    """With assignment rewrite no port outside reaches the wire, not even one that the program chose."""
    assert connect(host, user="myapp", way=way, bind=40001, translated=True).seen in MYAPP


@pytest.mark.parametrize("bind", [40002, 51999, 53000])
def test_bind_outside_is_rejected(host: Host, way: tuple[str, int], bind: int) -> None:
    """With assignment app and on_violation reject the program learns at once that the port is not allowed."""
    outcome = connect(host, user="otel", way=way, bind=bind)
    assert outcome.seen is None
    assert outcome.error == {"tcp": "ECONNREFUSED", "udp": "EPERM"}[way[0]]


@pytest.mark.parametrize("bind", [50124, 52000])
def test_other_account_is_kept_out(host: Host, way: tuple[str, int], bind: int) -> None:
    """Nobody else leaves from a port of a service."""
    assert connect(host, user="nobody", way=way, bind=bind).seen is None


def test_other_account_is_unaffected_elsewhere(host: Host, way: tuple[str, int]) -> None:
    """Everybody else keeps the ports that belong to no service."""
    assert connect(host, user="nobody", way=way, bind=40003).seen == 40003
    assert connect(host, user="nobody", way=way).seen is not None
