"""reference.conf, the table of keys, the fields and the page in docs/ tell the same story."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from agent.config import defaults, document, hocon
from agent.config.keys import KEYS
from agent.config.loading import REFERENCE, read_reference
from agent.config.schema import AgentSettings, ApiSettings

ROOT = Path(__file__).parent.parent.parent
ENTRIES = {entry.key: entry for entry in document.entries_of(Path(REFERENCE).read_text())}


def names_of(record: type, prefix: str) -> set[str]:
    types = get_type_hints(record)
    found = set()
    for field in fields(record):  # type: ignore[arg-type]
        inner = types[field.name]
        found |= names_of(inner, f"{prefix}{field.name}.") if is_dataclass(inner) else {prefix + field.name}
    return found


def test_every_field_is_filled_by_exactly_one_key() -> None:
    filled = [key.field for key in KEYS]
    assert sorted(filled) == sorted(names_of(ApiSettings, "api.") | names_of(AgentSettings, "agent."))


def test_every_key_has_its_default_in_the_reference() -> None:
    assert {key.key for key in KEYS} <= ENTRIES.keys()


def test_reference_names_the_variables_of_every_key() -> None:
    assert {key.key: key.env for key in KEYS} == {key.key: ENTRIES[key.key].variables for key in KEYS}


def test_every_key_that_is_said_to_have_an_effect_fills_a_field() -> None:
    acted_on = {key for key, entry in ENTRIES.items() if entry.is_acted_on and entry.default is not None}
    free = {"environment", "files", "sdk", "logging"}
    assert acted_on - free <= {key.key for key in KEYS} | {"api.host"}


def test_key_is_marked_as_without_effect_exactly_where_nothing_reads_its_field() -> None:
    source = "\n".join(
        file.read_text() for file in (ROOT / "agent").rglob("*.py") if "config" not in file.relative_to(ROOT).parts
    )
    read = set(re.findall(r"\.([a-z_]+)\b", source))
    wrong = [
        f"{key.key}: {'is' if is_read else 'is not'} read"
        for key in KEYS
        if (is_read := set(key.field.split(".")[1:]) <= read) is not ENTRIES[key.key].is_acted_on
    ]
    assert not wrong, "see [not acted on yet] in reference.conf"


def test_every_key_is_in_the_reference_only_once() -> None:
    keys = [entry.key for entry in document.entries_of(Path(REFERENCE).read_text())]
    assert len(keys) == len(set(keys))


def test_reference_is_plain_and_nothing_of_it_is_missed() -> None:
    tree = hocon.read_plain(Path(REFERENCE).read_text())
    assert tree == read_reference()
    assert set(flat(tree)) == {key for key, entry in ENTRIES.items() if entry.default is not None}


def flat(tree: dict[str, object], prefix: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        found += flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [prefix + key]
    return found


def test_page_in_the_documentation_is_up_to_date() -> None:
    assert (ROOT / "docs/configuration.md").read_text() == document.page(), (
        "run: python -m agent.config.document > docs/configuration.md"
    )


@pytest.mark.parametrize("words", ["api.example", "demo"])
def test_reference_holds_no_public_server(words: str) -> None:
    assert words not in Path(REFERENCE).read_text()


def test_defaults_are_complete_and_typed() -> None:
    settings = defaults()
    assert settings.agent.package_manager.type == "uv"
    assert settings.agent.venvs_cache.max_entries == 10
    assert settings.api.default_method == "post"
    assert settings.agent.worker_name
