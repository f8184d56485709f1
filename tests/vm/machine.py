# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A virtual machine with a kernel of its own, and Ansible that manages it by SSH, as it does any host."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import yaml

# Seconds for a boot. The processor is emulated, and the machine below may be busy.
PATIENCE = 400


class Machine:
    """The virtual machine. What it writes to its disk is gone when it ends."""

    def __init__(self, *, disk: Path, folder: Path) -> None:
        """
        :param disk: what scripts/vm made: vmlinuz, initrd, disk, key.
        :param folder: for the console, the inventory and the like.
        """
        self._folder = folder
        self._disk = disk
        self._process: Optional[subprocess.Popen[bytes]] = None
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self._port = sock.getsockname()[1]
        self.key = folder / "key"
        self.key.write_bytes((disk / "key").read_bytes())
        self.key.chmod(0o600)

    def __enter__(self) -> Machine:
        network = f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self._port}-:22"
        # It ends with this process, however that ends.
        command: List[str] = ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-machine", "q35"]
        command += ["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max", "-smp", "2", "-m", "768"]
        command += ["-kernel", str(self._disk / "vmlinuz"), "-initrd", str(self._disk / "initrd")]
        patient = "systemd.mask=serial-getty@ttyS0.service systemd.default_timeout_start_sec=600"
        command += ["-append", f"root=/dev/vda rw console=ttyS0 mitigations=off net.ifnames=0 quiet {patient}"]
        command += ["-drive", f"file={self._disk / 'disk'},format=raw,if=virtio,snapshot=on", "-netdev", network, "-device", "virtio-net-pci,netdev=net"]
        command += ["-device", "virtio-rng-pci", "-display", "none", "-monitor", "none", "-serial", f"file:{self._folder / 'console'}"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        self.wait()
        return self

    def __exit__(self, *_about: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def ssh_options(self) -> List[str]:
        """Options of ssh(1) that reach it."""
        known = ("-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={self._folder / 'known_hosts'}", "-o", "LogLevel=ERROR")
        return ["-i", str(self.key), *known, "-o", "ConnectTimeout=30", "-o", "ServerAliveInterval=15"]

    def run(self, script: str, *, check: bool = True, timeout: float = PATIENCE) -> str:
        """Run a shell script as root; what it printed. Raises AssertionError unless it ends with status 0."""
        command = ["ssh", *self.ssh_options, "-p", str(self._port), "root@127.0.0.1", script]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout)
        assert not check or done.returncode == 0, f"{script}: status {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def wait(self) -> str:
        """Until systemd has done everything; the id of the boot."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                said = self.run("cat /proc/sys/kernel/random/boot_id; systemctl is-system-running --wait", check=False, timeout=60)
            except subprocess.TimeoutExpired:
                said = ""
            lines = said.split()
            if len(lines) == 2 and lines[1] in ("running", "degraded"):
                assert lines[1] == "running", self.run("systemctl --failed; journalctl -b -p warning")
                return lines[0]
            assert time.monotonic() < deadline, (self._folder / "console").read_text(encoding="utf-8", errors="replace")[-3000:]
            time.sleep(1)

    def reboot(self) -> None:
        """Start it again, in order, and wait until it is there."""
        before = self.wait()
        self.run("systemctl reboot", check=False)
        deadline = time.monotonic() + PATIENCE
        while self.wait() == before:
            assert time.monotonic() < deadline, "it did not reboot"
            time.sleep(1)

    def play(self, playbook: str, *options: str, variables: Dict[str, Any], collections: str) -> str:
        """Run a playbook of the collection on it; what Ansible printed. Raises AssertionError unless it ends well.

        :param collections: a folder with ansible_collections/portfence/egress in it.
        """
        host = {
            "ansible_host": "127.0.0.1",
            "ansible_port": self._port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_extra_args": " ".join(self.ssh_options[2:]),
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_pipelining": True,
            **variables,
        }
        (self._folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"vm": host}}}), encoding="utf-8")
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": collections,
            "ANSIBLE_HOME": str(self._folder / "home"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_TIMEOUT": "120",
        }
        program = Path(sys.executable).with_name("ansible-playbook")
        done = subprocess.run(
            [program, "-i", self._folder / "hosts.yml", f"portfence.egress.{playbook}", *options],
            cwd=self._folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
