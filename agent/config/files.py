"""The `files { }` section: files that are to be there before a task runs, such as a cloud's credentials."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
from collections.abc import Iterable
from typing import Any

from agent.config.schema import FileEntry
from agent.errors import ConfigError

log = logging.getLogger(__name__)

#: These may hold anything, so they are for their owner unless the entry says otherwise.
DEFAULT_MODE = 0o600


def write_files(entries: Iterable[FileEntry]) -> None:
    """Write the files, each whole or not at all. One that exists is left alone where `overwrite` is false."""
    for entry in entries:
        if os.path.exists(entry.path) and not entry.overwrite:
            continue
        content = content_of(entry)
        try:
            _write(entry.path, content, DEFAULT_MODE if entry.mode is None else entry.mode)
        except OSError as error:
            raise ConfigError(f"files.{entry.name}: cannot write {entry.path}: {error.strerror}") from error
        log.debug("wrote %s (files.%s)", entry.path, entry.name, extra={"action": "files"})


def content_of(entry: FileEntry) -> bytes:
    """The bytes of the file: `contents`, decoded as `format` says, written as `target_format` says."""
    contents: Any = entry.contents
    match entry.format:
        case "base64":
            try:
                contents = base64.b64decode(str(contents), validate=True)
            except (ValueError, binascii.Error) as error:
                raise ConfigError(f"files.{entry.name}: contents is not base64") from error
        case "" | "string":
            pass
        case other:
            raise ConfigError(f"files.{entry.name}: format is {other!r}, expected base64 or nothing")
    match entry.target_format:
        case "json" | "yaml" | "yml":  # every JSON text is YAML
            text = contents.decode() if isinstance(contents, bytes) else contents
            return (text if isinstance(text, str) else json.dumps(text, indent=2)).encode()
        case "" | "bytes" | "string":
            if isinstance(contents, bytes):
                return contents
            return (contents if isinstance(contents, str) else json.dumps(contents)).encode()
        case other:
            raise ConfigError(f"files.{entry.name}: target_format is {other!r}, expected json, yaml, yml or bytes")


def _write(path: str, content: bytes, mode: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(descriptor, mode)
    os.replace(temporary, path)
