"""The `files` section on the disk."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from agent.config.files import content_of, write_files
from agent.config.schema import FileEntry
from agent.errors import ConfigError


def entry(path: Path | str = "/x", **fields: Any) -> FileEntry:
    known = {"contents": "text", "format": "", "target_format": "", "overwrite": True, "mode": None}
    return FileEntry(**{"name": "f", "path": str(path), **known, **fields})


def test_file_is_its_owners_only_unless_the_entry_says_otherwise(tmp_path: Path) -> None:
    write_files([entry(tmp_path / "deep" / "a"), entry(tmp_path / "b", mode=0o644)])
    assert (tmp_path / "deep" / "a").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "b").read_text() == "text"


def test_existing_file_is_replaced_only_where_that_is_wanted(tmp_path: Path) -> None:
    for name in ("kept", "replaced"):
        (tmp_path / name).write_text("before")
    write_files([entry(tmp_path / "kept", overwrite=False), entry(tmp_path / "replaced")])
    assert (tmp_path / "kept").read_text() == "before"
    assert (tmp_path / "replaced").read_text() == "text"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["kept", "replaced"]


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ({"contents": "ü"}, "ü".encode()),
        ({"contents": base64.b64encode(b"\x00\xff").decode(), "format": "base64"}, b"\x00\xff"),
        ({"contents": '{"a": 1}', "target_format": "json"}, b'{"a": 1}'),
    ],
)
def test_contents_become_bytes(fields: dict[str, Any], content: bytes) -> None:
    assert content_of(entry(**fields)) == content


@pytest.mark.parametrize("target_format", ["json", "yaml", "yml", ""])
def test_object_is_written_as_json_which_is_yaml(target_format: str) -> None:
    assert json.loads(content_of(entry(contents={"a": [1]}, target_format=target_format))) == {"a": [1]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"contents": "!", "format": "base64"}, "files.f: contents is not base64"),
        ({"format": "rot13"}, "files.f: format is 'rot13'"),
        ({"target_format": "xml"}, "files.f: target_format is 'xml'"),
    ],
)
def test_what_cannot_be_written_names_the_entry(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        content_of(entry(**fields))


def test_place_that_cannot_be_written_names_entry_and_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"files\.f: cannot write .*/file/x"):
        write_files([entry(tmp_path / "file" / "x")])
