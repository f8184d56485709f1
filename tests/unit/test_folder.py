# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory that somebody else moves while root works in it, and one that can't be written to."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError
from ansible_collections.portfence.egress.plugins.module_utils._folder import open_folder


def test_what_becomes_of_the_path_does_not_matter(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    path.mkdir()
    elsewhere.mkdir()
    (elsewhere / "file").write_text("precious", encoding="utf-8")
    with open_folder(str(path)) as folder:
        assert folder is not None and not folder.has("file")
        path.rename(tmp_path / "aside")
        path.symlink_to(elsewhere)
        folder.write("file", "text")
        assert folder.has("file")
        assert (tmp_path / "aside/file").read_text(encoding="utf-8") == "text"
        folder.write("file", "new")
        folder.remove("file")
        folder.remove("file")
    assert list((tmp_path / "aside").iterdir()) == []
    assert (elsewhere / "file").read_text(encoding="utf-8") == "precious"


def test_there_is_none(tmp_path: Path) -> None:
    with open_folder(f"{tmp_path}/missing/folder") as folder:
        assert folder is None


def test_nothing_is_left_of_what_could_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with open_folder(str(tmp_path)) as folder:
        assert folder is not None
        with pytest.raises(HostError, match=f"can't write {tmp_path}/file: Is a directory"):
            folder.write("file", "text")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
        # That is none of ours.
        assert not folder.has("file")
        folder.remove("file")
        with pytest.raises(HostError, match="can't look at .*: File name too long"):
            folder.has("x" * 300)


def test_handles_are_closed(tmp_path: Path) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    with open_folder(str(tmp_path)):
        assert count() > before
    with open_folder(f"{tmp_path}/missing"):
        pass
    assert count() == before
