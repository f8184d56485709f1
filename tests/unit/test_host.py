# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door to the machine: programs, files that are replaced as a whole, the lock."""

from __future__ import annotations

import inspect
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.portfence.egress.plugins.module_utils import _boot_lock, _host, _program
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, KilledError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._program import Result, failure

HOST = Host()


def test_run_gives_what_the_program_left() -> None:
    result = HOST.run(["/bin/sh", "-c", "cat; echo oops >&2; exit 3"], data="in\u00e4", check=False)
    assert result == Result(3, "in\u00e4", "oops\n")


@pytest.mark.parametrize("refusal", [AttributeError, PermissionError])
def test_there_need_be_no_files_in_memory(refusal: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python that was built with an old C library has no memfd_create, and a seccomp filter can refuse it."""

    def refuse(*_arguments: object) -> int:
        raise refusal()

    monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setattr(_program, "_RUN", str(tmp_path))
    result = HOST.run(["/bin/sh", "-c", "cat; cat /dev/stdin; ls -a $1; echo oops >&2", "sh", str(tmp_path)], data="in\n", check=False)
    assert result == Result(0, "in\nin\n.\n..\n", "oops\n")


def test_programs_get_no_input_and_a_plain_environment() -> None:
    result = HOST.run(["/bin/sh", "-c", "cat; pwd; env"])
    assert result.out.splitlines()[0] == "/"
    assert "LC_ALL=C" in result.out.splitlines()
    assert not [line for line in result.out.splitlines() if line.startswith(("HOME=", "LD_", "PYTHON"))]


def test_a_directory_is_never_open_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even before its mode is set."""
    seen = []
    monkeypatch.setattr(os, "chmod", lambda path, mode: seen.append((stat.S_IMODE(os.stat(path).st_mode), mode)))
    before = os.umask(0)
    try:
        HOST.make_directory(str(tmp_path / "made"))
        assert HOST.run(["/bin/sh", "-c", "umask"]).out == "0022\n"
    finally:
        os.umask(before)
    assert seen == [(0o755, 0o755)]


def test_output_that_is_no_text_is_no_reason_to_stop() -> None:
    assert HOST.run(["/usr/bin/printf", r"\377"]).out == "\ufffd"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo bad luck >&2; exit 2", "/bin/sh -c echo bad luck >&2; exit 2 ended with status 2: bad luck"),
        ("echo out; exit 1", "/bin/sh -c echo out; exit 1 ended with status 1: out"),
        ("exit 1", "/bin/sh -c exit 1 ended with status 1: it said nothing"),
        ("kill -SEGV $$", "/bin/sh -c kill -SEGV $$ was ended by signal 11: it said nothing"),
    ],
)
def test_a_program_that_fails(script: str, message: str) -> None:
    with pytest.raises(HostError) as error:
        HOST.run(["/bin/sh", "-c", script])
    assert str(error.value) == message


def test_a_program_that_was_killed_says_nothing_by_that() -> None:
    """Whoever asks for a status is told of it in another way."""
    with pytest.raises(KilledError, match="was ended by signal 9"):
        HOST.run(["/bin/sh", "-c", "kill -KILL $$"], check=False)
    assert HOST.run(["/bin/sh", "-c", "kill -KILL $$"], check=False, killed=True).rc == 137
    # bpftool(8), ssh(1)
    assert HOST.run(["/bin/sh", "-c", "exit 255"], check=False).rc == 255


def test_the_end_of_a_long_complaint_is_told() -> None:
    assert failure(["nft"], Result(1, "", "x" * 5000 + "the point")).endswith("the point")
    assert len(failure(["nft"], Result(1, "", "x" * 5000))) < 2100


def test_a_program_that_is_missing() -> None:
    with pytest.raises(HostError, match="can't run /nowhere/nft: No such file or directory"):
        HOST.run(["/nowhere/nft"])
    with pytest.raises(HostError, match="the program no-such-program was not found in .*; install the package nothing"):
        HOST.program("no-such-program", package="nothing")
    assert HOST.find("sh") in ("/usr/bin/sh", "/bin/sh")


def test_reading(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text \xff")
    assert HOST.read(str(tmp_path / "file")) == "text \udcff"
    assert HOST.read(str(tmp_path / "nothing")) is None
    assert HOST.read(str(tmp_path / "file" / "below")) is None
    with pytest.raises(HostError, match="can't read .*: Is a directory"):
        HOST.read(str(tmp_path))


def test_listing(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).touch()
    assert HOST.list(str(tmp_path)) == ["a", "b"]
    assert HOST.list(str(tmp_path / "nothing")) == []
    with pytest.raises(HostError, match="can't list .*: Not a directory"):
        HOST.list(str(tmp_path / "a"))


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    staged = HOST.stage(str(path), "new \udcff", mode=0o640)
    assert path.read_text() == "old"
    staged.promote()
    assert path.read_bytes() == b"new \xff"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["file"]
    HOST.stage(str(path), "newer").discard()
    assert path.read_bytes() == b"new \xff" and os.listdir(tmp_path) == ["file"]


def test_what_a_killed_run_left_is_overwritten_and_links_are_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    path = tmp_path / "file"
    path.symlink_to(target)
    (tmp_path / "file.portfence-new").symlink_to(target)
    HOST.write(str(path), "new")
    assert target.read_text() == "precious"
    assert not path.is_symlink() and path.read_text() == "new"


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="can't write .*/file/below: Not a directory"):
        HOST.write(str(tmp_path / "file" / "below"), "text")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(HostError, match="can't write .*/folder: Is a directory"):
        HOST.write(str(tmp_path / "folder"), "text")
    with pytest.raises(HostError, match="can't remove .*/folder: Is a directory"):
        HOST.remove(str(tmp_path / "folder"))
    HOST.remove_directory(str(tmp_path / "folder"))
    assert (tmp_path / "folder" / "inner").is_dir(), "a directory with something in it stays"


def test_the_lock_is_held_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "lock")
    monkeypatch.setattr(_host, "LOCK_PATH", path)
    with HOST.lock(wait=0):
        with pytest.raises(HostError, match=f"another run has held {path} for 0 seconds; nothing was changed"):
            with Host().lock(wait=0):
                raise AssertionError("two runs at once")
        HOST.remove_lock()
    with HOST.lock(wait=0):
        assert os.path.exists(path)


def test_runs_and_units_wait_as_long_as_is_stated() -> None:
    page = (Path(__file__).parents[2] / "docs" / "threat-model.md").read_text(encoding="utf-8")
    assert inspect.signature(Host.lock).parameters["wait"].default == _host.LOCK_WAIT == _boot_lock.WAIT
    assert f"A run waits for {_host.LOCK_WAIT:g} seconds for each of the two, then fails" in page
    assert f"command of a unit that loads something waits for {_boot_lock.WAIT} seconds" in page
    assert f"flock --wait {_boot_lock.WAIT} 9" in _boot_lock.locked("true")


def test_a_lock_whose_file_was_removed_is_not_the_one_that_others_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run may remove everything between the moment when the file is opened and the moment when it is locked."""
    monkeypatch.setattr(_host, "LOCK_PATH", str(tmp_path / "lock"))

    class Late(Host):
        """Loses that race once."""

        opened = 0

        def _open_lock(self, path: str) -> int:
            handle = super()._open_lock(path)
            self.opened += 1
            if self.opened == 1:
                self.remove_lock()
            return handle

    late = Late()
    with late.lock(wait=30):
        assert late.opened == 2
        with pytest.raises(HostError):
            with Host().lock(wait=0):
                raise AssertionError("two runs at once")


def test_a_run_that_dies_gives_the_lock_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "lock")
    script = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        monkeypatch.setattr(_host, "LOCK_PATH", path)
        with pytest.raises(HostError):
            with HOST.lock(wait=0):
                raise AssertionError("two runs at once")
        other.kill()
    with HOST.lock(wait=0):
        pass


def test_a_program_has_its_whole_input_when_it_starts() -> None:
    """Whoever writes to a pipe may be killed halfway, and the program would act on half of the text."""
    text = "add rule\n" * 20_000
    assert HOST.run(["stat", "-L", "-c", "%F %s", "/proc/self/fd/0"], data=text).out == f"regular file {len(text)}\n"
    assert HOST.run(["cat"], data="ä\udcff").out.startswith("ä")
    assert HOST.run(["cat"]).out == ""


def test_programs_keep_the_lock(tmp_path: Path) -> None:
    """They may outlive the process that started them."""
    host = Host()
    lock = tmp_path / "lock"
    with host.lock(path=str(lock)):
        seen = host.run(["sh", "-c", "readlink /proc/self/fd/*"], check=False).out
    assert str(lock) in seen
    assert str(lock) not in host.run(["sh", "-c", "readlink /proc/self/fd/*"], check=False).out
