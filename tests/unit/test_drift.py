# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Schema, argument specs, documentation and roles describe the same services."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List

import pytest
import yaml
from ansible_collections.portfence.egress.plugins.doc_fragments.services import ModuleDocFragment
from ansible_collections.portfence.egress.plugins.module_utils import _service
from ansible_collections.portfence.egress.plugins.module_utils._argument_spec import service_options, services_argument
from ansible_collections.portfence.egress.plugins.module_utils._policy import parse_list
from ansible_collections.portfence.egress.plugins.module_utils._service import Service

REPOSITORY = Path(__file__).parents[2]
CHOICES = {
    "state": _service.STATES,
    "assignment": _service.ASSIGNMENTS,
    "on_violation": _service.ON_VIOLATION,
    "protocols": _service.PROTOCOLS,
    "log": _service.LOG_LEVELS,
}


def documented() -> Dict[str, Any]:
    """The option services of the documentation fragment."""
    return yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]["services"]


def descriptions(option: Dict[str, Any]) -> str:
    """All that is said about an option, in one line."""
    said = option["description"]
    return " ".join([said] if isinstance(said, str) else said)


def test_the_argument_spec_has_the_keys_of_the_schema() -> None:
    assert set(service_options()) == {"name", *_service.KEYS}


def test_a_service_as_plain_data_has_the_keys_of_the_schema() -> None:
    base = {"source_ports": 1, "log": {"prefix": "x"}}
    given = [
        {**base, "name": "a", "uid": 5, "assignment": "bpf"},
        {**base, "name": "b", "classid": "10:1", "assignment": "namespace", "namespace": {"dns": "10.1.1.1"}},
        {**base, "name": "d", "unit": "d", "assignment": "app", "listen_ports": []},
        {**base, "name": "c", "addresses": "10.1.0.0/16", "interface": "br0"},
    ]
    written = [item.service.to_dict() for item in parse_list(given)]
    assert {key for data in written for key in data} == {"name", *_service.KEYS}
    assert all(set(data["log"]) == set(_service.LOG_KEYS) for data in written)
    assert [item.service for item in parse_list(written)] == [item.service for item in parse_list(given)]


def test_the_documentation_says_what_the_argument_spec_says() -> None:
    spec = services_argument()["services"]
    text = documented()
    assert list(text["suboptions"]) == list(spec["options"])
    assert {key: text[key] for key in ("type", "elements", "default")} == {
        key: spec[key] for key in ("type", "elements", "default")
    }
    for name, option in spec["options"].items():
        described = {key: value for key, value in text["suboptions"][name].items() if key not in ("description", "version_added")}
        assert described == option, name


@pytest.mark.parametrize("key", sorted(CHOICES))
def test_every_choice_is_documented(key: str) -> None:
    said = descriptions(documented()["suboptions"][key])
    missing = [choice for choice in CHOICES[key] if not re.search(rf"V\({choice}\)|C\({choice}\)", said)]
    assert not missing


def test_the_keys_of_a_log_are_documented() -> None:
    said = descriptions(documented()["suboptions"]["log"])
    assert [key for key in _service.LOG_KEYS if f"C({key})" not in said] == []
    assert f"at most {_service.PREFIX_BYTES['nftables']} bytes" in said


def test_documented_defaults_are_those_of_a_service() -> None:
    default = Service(name="a")
    for key in ("state", "assignment", "on_violation", "loopback", "exclusive", "allow_admin"):
        value = getattr(default, key)
        word = str(value).lower() if isinstance(value, bool) else value
        assert re.search(rf"Defaults to V\({word}\)", descriptions(documented()["suboptions"][key])), key
    assert f"Defaults to V([{', '.join(default.protocols)}])" in descriptions(documented()["suboptions"]["protocols"])
    said = descriptions(documented()["suboptions"]["log"])
    assert f"default to V({default.log.level}) and V({default.log.rate})" in said


def readme_table() -> Dict[str, List[str]]:
    """The rows of the table of keys in the README: key to default and meaning."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    head = "| key | default | meaning |\n|---|---|---|\n"
    assert text.count(head) == 1
    rows = text.split(head)[1].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert all(len(row) == 3 for row in cells)
    return {row[0].strip("`"): row[1:] for row in cells}


def test_the_readme_has_every_key_and_choice() -> None:
    table = readme_table()
    assert set(table) == {*_service.KEYS, *_service.ALLOCATION_KEYS}
    for key in ("assignment", "on_violation", "protocols"):
        words = set(re.findall(r"`(\w+)", " ".join(table[key])))
        assert set(CHOICES[key]) <= words, key
    assert all(f"`{key}`" in table["log"][1] for key in _service.LOG_KEYS)
    assert f"{_service.PREFIX_BYTES['nftables']} bytes" in table["log"][1]


def test_defaults_in_the_readme_are_those_of_a_service() -> None:
    default = Service(name="a")
    for key, (shown, _meaning) in readme_table().items():
        if key in ("source_ports", "listen_ports", "interface", "namespace", "uid", *_service.SELECTORS, *_service.ALLOCATION_KEYS):
            continue
        value = yaml.safe_load(shown.strip("`"))
        wanted = {"level": default.log.level, "rate": default.log.rate} if key == "log" else getattr(default, key)
        assert value == (list(wanted) if isinstance(wanted, tuple) else wanted), key
