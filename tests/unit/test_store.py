# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The services stored on a host, in a folder of their own instead of /etc/portfence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import pytest
from ansible_collections.portfence.egress.plugins.module_utils import _store
from ansible_collections.portfence.egress.plugins.module_utils._errors import HostError, InputError
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_list
from ansible_collections.portfence.egress.plugins.module_utils._service import Service


@pytest.fixture(name="folder")
def fixture_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the services; nothing exists yet."""
    base = tmp_path / "portfence"
    monkeypatch.setattr(_store, "BASE", str(base))
    monkeypatch.setattr(_store, "FOLDER", str(base / "services.d"))
    monkeypatch.setattr(_store, "FENCE_FILE", str(base / "fence.nft"))
    return base / "services.d"


def service(**given: Any) -> Service:
    """A service without mistakes."""
    (item,) = parse_list([{"name": "my.app-1", "source_ports": "50000-50999", **given}])
    return item.service


def test_what_is_written_is_read(folder: Path) -> None:
    store = _store.Store(Host())
    wanted = service(user=["a", 5], log={"prefix": "P: "}, protocols=["udp"])
    assert store.read() == {}
    assert store.differs(wanted)
    store.prepare()
    store.write(wanted)
    assert not store.differs(wanted)
    found = store.read()
    assert {name: (item.path, item.service) for name, item in found.items()} == {
        "my.app-1": (str(folder / "my.app-1.json"), wanted)
    }
    assert store.differs(service())
    store.remove("my.app-1")
    store.remove("my.app-1")
    assert store.read() == {}


def test_the_file_is_the_same_every_time(folder: Path) -> None:
    del folder
    text = _store.to_text(service(protocols=["udp", "tcp"]))
    assert text == _store.to_text(service(protocols=["tcp", "udp"]))
    assert text.endswith("}\n") and list(json.loads(text)) == sorted(json.loads(text))


GOOD: Dict[str, Any] = {"name": "a", "source_ports": 50000}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Expecting value: line 1 column 1 (char 0); mend or remove the file"),
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1); mend or remove the file"),
        ("[]", 'the key name must be "a", like the file; mend or remove the file'),
        (json.dumps({**GOOD, "name": "b"}), 'the key name must be "a", like the file; mend or remove the file'),
        (json.dumps({**GOOD, "state": "absent"}), 'the key state must be "present"; mend or remove the file'),
    ],
)
def test_a_file_that_can_not_be_used_is_named(folder: Path, content: str, message: str) -> None:
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(content)
    with pytest.raises(InputError) as error:
        _store.Store(Host()).read()
    assert str(error.value) == f"the services stored in {folder} has 1 mistake:\n  {folder}/a.json: {message}"


def test_every_bad_file_is_named_at_once(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps({**GOOD, "source_ports": "9-1", "protocols": ["x"]}))
    (folder / "b.json").write_bytes(b"\xff\xfe")
    (folder / "c.json").write_text(json.dumps({**GOOD, "name": "c"}))
    (folder / "README").write_text("not ours")
    with pytest.raises(InputError) as error:
        _store.Store(Host()).read()
    assert [problem.path for problem in error.value.problems] == [
        f"{folder}/a.json[0].source_ports",
        f"{folder}/a.json[0].protocols[0]",
        f"{folder}/b.json",
    ]


def test_removing_everything_keeps_files_of_others(folder: Path) -> None:
    store = _store.Store(Host())
    store.prepare()
    store.write(service())
    (folder.parent / "fence.nft").write_text("fence")
    (folder / "x.json.portfence-new").write_text("left by a run that was killed")
    store.remove_all()
    assert not folder.parent.exists()
    store.remove_all()
    store.prepare()
    (folder / "notes.txt").write_text("mine")
    store.remove_all()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_folder_that_others_can_write_to_is_refused(folder: Path) -> None:
    folder.parent.mkdir()
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(HostError, match="with mode 0777; it must belong to root and be writable by root alone"):
        _store.Store(Host()).prepare()
    folder.rmdir()
    folder.symlink_to("/tmp")
    with pytest.raises(HostError, match="is not a directory"):
        _store.Store(Host()).prepare()
