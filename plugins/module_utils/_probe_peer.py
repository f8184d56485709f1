# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The temporary peer of a probe: a child process in a network namespace of its own.

It answers clients, and reports every opening TCP segment and every datagram that reaches its end of the cable,
so that the probe knows what arrived even where no answer came back.
"""

from __future__ import annotations

import os
import random
import selectors
import signal
import socket
import struct
import time
from functools import partial
from typing import Dict, Iterator, List, NamedTuple, NoReturn, Optional, Sequence, Tuple

from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, PortFenceError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._netns import (
    FAR_END,
    Cable,
    choose_ends,
    die_with_parent,
    leave_network,
)
from ansible_collections.portfence.egress.plugins.module_utils._probe_responder import Responder

# Seconds for a sign of life; far more than it takes on a busy machine.
PATIENCE = 30.0
_RECEIVE_BUFFER = 16 * 1024 * 1024
# Above the ports that connection tracking helpers look at.
_LOWEST_PORT = 10000

_ETHERTYPES = {"ipv4": 0x0800, "ipv6": 0x86DD}  # <linux/if_ether.h>
_PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}
_SOL_PACKET, _PACKET_STATISTICS = 263, 6  # <linux/if_packet.h>
_SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>
_SYN, _ACK = 0x02, 0x10


class Arrival(NamedTuple):
    """The opening of a connection, or a datagram, as it reached the peer.

    :ivar when: seconds of the monotonic clock, which is that of the whole machine.
    """

    protocol: str
    family: str
    source_port: int
    port: int
    when: float = 0.0


class Peer:
    """The namespace, while the context lasts."""

    def __init__(self, *, host: Host, families: Sequence[str], slots: int) -> None:
        """
        :param slots: number of ports to answer on, each for TCP and UDP in every family.
        """
        self._host = host
        self._families = tuple(families)
        first = random.randrange(_LOWEST_PORT, 65536 - slots)
        self.ports = range(first, first + slots)
        self._cable: Optional[Cable] = None
        self._pid = 0
        self._control: Optional[socket.socket] = None
        self._pending = b""
        self._asked = 0
        # The last call of ask() that has been answered: arrivals() has had all that reached the peer before that call.
        self.answered = 0

    def __enter__(self) -> Peer:
        self._cable = Cable(host=self._host, ends=choose_ends(self._host, self._families))
        try:
            self._start(self._cable)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_about: object) -> None:
        self._stop()

    @property
    def addresses(self) -> Dict[str, str]:
        """Where to connect to, by family."""
        return {family: ends.peer for family, ends in self._the_cable.ends.items()}

    @property
    def sources(self) -> Dict[str, str]:
        """This host's addresses on the cable, by family."""
        return {family: ends.host for family, ends in self._the_cable.ends.items()}

    @property
    def reports(self) -> socket.socket:
        """The socket that becomes readable when :meth:`arrivals` has something."""
        if self._control is None:
            raise HostError("the temporary peer is not running")
        return self._control

    @property
    def _the_cable(self) -> Cable:
        if self._cable is None:
            raise HostError("the temporary peer is not running")
        return self._cable

    def arrivals(self) -> List[Arrival]:
        """What arrived since the last call. Waits only when there is nothing. Raises HostError."""
        found = []
        for line in self._lines():
            if line.startswith("told "):
                self.answered = int(line.split()[1])
            else:
                protocol, family, source_port, port, when = line.split()
                found.append(Arrival(protocol, family, int(source_port), int(port), float(when)))
        return found

    def ask(self) -> int:
        """Have the peer tell of all that has reached it by now, and answer it; the number of this call. Raises HostError."""
        self._asked += 1
        self._send(f"tell {self._asked}")
        return self._asked

    def check_complete(self) -> None:
        """Raises HostError when arrivals may have been missed."""
        self._send("lost?")
        while True:
            for line in self._lines():
                if line.startswith("lost "):
                    lost = int(line.split()[1])
                    if lost:
                        raise HostError(
                            f"the temporary peer was too slow and missed {lost} packets, so nothing is proved;"
                            " run the probe again while this host has less to do"
                        )
                    return

    def _start(self, cable: Cable) -> None:
        self._control, theirs = socket.socketpair()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            self._control.close()
            _child(parent=parent, host=self._host, cable=cable, ports=self.ports, control=theirs)
        theirs.close()
        self._control.settimeout(PATIENCE)
        self._await("separated")
        cable.plug(self._pid)
        self._send("plugged")
        self._await("ready")
        cable.check()

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
        # The kernel removes the pair with the namespace, but in its own time.
        if self._cable is not None:
            self._cable.unplug()

    def _send(self, word: str) -> None:
        try:
            self.reports.sendall(f"{word}\n".encode("ascii"))
        except OSError as error:
            raise HostError(f"the temporary peer has ended: {error.strerror}") from error

    def _await(self, word: str) -> None:
        lines = self._lines()
        if lines != [word]:
            raise HostError(f"the temporary peer said {lines!r} instead of {word!r}")

    def _lines(self) -> List[str]:
        """Whole lines that the child has written. Raises HostError with what it says went wrong."""
        while b"\n" not in self._pending:
            try:
                part = self.reports.recv(65536)
            except OSError as error:
                raise HostError(f"the temporary peer gives no sign of life: {error}") from error
            if not part:
                raise HostError("the temporary peer has ended unexpectedly")
            self._pending += part
        text, _newline, self._pending = self._pending.rpartition(b"\n")
        lines = text.decode("utf-8").split("\n")
        if lines[0].startswith("error "):
            raise HostError(lines[0][len("error ") :])
        return lines


def _child(*, parent: int, host: Host, cable: Cable, ports: Sequence[int], control: socket.socket) -> NoReturn:
    """The child process: never returns to the code of the module."""
    try:
        die_with_parent(parent)
        leave_network()
        control.sendall(b"separated\n")
        if control.recv(100):
            cable.set_up_far_end()
            _serve(families=tuple(cable.ends), ports=ports, control=control)
    except (PortFenceError, OSError) as error:
        text = " ".join(str(error).split())
        try:
            control.sendall(f"error {text}\n".encode())
        except OSError:
            pass  # the parent has stopped listening
    finally:
        os._exit(0)


def _serve(*, families: Sequence[str], ports: Sequence[int], control: socket.socket) -> None:
    """Answer and report until the parent closes its end."""
    selector = selectors.DefaultSelector()
    taps = [_tap(family) for family in families]
    responder = Responder(selector=selector, families=families, ports=ports)
    first, last = ports[0], ports[-1]

    def report(family: str, tap: socket.socket) -> None:
        found = [item for item in _openings(tap, family) if first <= item.port <= last]
        if found:
            control.sendall("".join(f"{' '.join(map(str, item))}\n" for item in found).encode("ascii"))

    for family, tap in zip(families, taps):
        selector.register(tap, selectors.EVENT_READ, partial(report, family))
    selector.register(control, selectors.EVENT_READ)
    control.sendall(b"ready\n")
    pending = b""
    while True:
        asked = False
        for key, _mask in selector.select():
            asked = asked or key.data is None
            if key.data is not None:
                key.data(key.fileobj)
        if not asked:
            continue
        words = control.recv(4096)
        if not words:
            responder.close()
            return
        # What came in before these words were written may have come after the look above.
        for key, _mask in selector.select(0):
            if key.data is not None:
                key.data(key.fileobj)
        *lines, pending = (pending + words).split(b"\n")
        for line in lines:
            if line.startswith(b"tell "):
                control.sendall(b"told " + line[len(b"tell ") :] + b"\n")
            else:
                lost = sum(struct.unpack("II", tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1] for tap in taps)
                control.sendall(f"lost {lost}\n".encode("ascii"))


def _tap(family: str) -> socket.socket:
    """A socket that gets every packet of a family that comes in through the cable (packet(7))."""
    # Protocol 0 at first: nothing is received until the buffer is as large as it has to be.
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    tap.setblocking(False)
    tap.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    tap.bind((FAR_END, _ETHERTYPES[family]))
    return tap


def _openings(tap: socket.socket, family: str) -> Iterator[Arrival]:
    while True:
        try:
            packet = tap.recv(128)
        except BlockingIOError:
            return
        found = parse_opening(packet, family)
        if found is not None:
            yield found._replace(when=time.monotonic())


def parse_opening(packet: bytes, family: str) -> Optional[Arrival]:
    """The opening TCP segment or the datagram in an IP packet; None for anything else. Pure."""
    number, start = _transport(packet, family)
    if number not in _PROTOCOLS or len(packet) < start + 14 - 6 * (number == socket.IPPROTO_UDP):
        return None
    if number == socket.IPPROTO_TCP and packet[start + 13] & (_SYN | _ACK) != _SYN:
        return None
    source_port, port = struct.unpack_from("!HH", packet, start)
    return Arrival(_PROTOCOLS[number], family, source_port, port)


def _transport(packet: bytes, family: str) -> Tuple[int, int]:
    """Protocol number, and where its header starts; -1 for a fragment that has none."""
    if family == "ipv6":
        return (packet[6], 40) if len(packet) >= 40 else (-1, 0)
    if len(packet) < 20 or struct.unpack_from("!H", packet, 6)[0] & 0x1FFF:
        return -1, 0
    return packet[9], (packet[0] & 0x0F) * 4
