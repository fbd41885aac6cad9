"""Small files that other processes read: written whole or not at all, and only for our own eyes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def write_json(path: Path, value: Json, *, durable: bool = False) -> None:
    """Replace `path` (mode 0600) by `value`; a reader sees the old or the new content.

    `durable` waits until the file and its directory entry are on the disk, so that it is there after a power failure.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass"))
        if durable:
            file.flush()
            os.fsync(descriptor)
    os.replace(temporary, path)
    if durable:
        sync_directory(path.parent)


def read_json(path: Path) -> Json | None:
    """The object in `path`; None if the file is missing or not a whole JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def sync_directory(path: Path) -> None:
    """Make names created in or renamed into `path` survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
