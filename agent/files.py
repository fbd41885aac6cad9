"""Small files that other processes read: written whole or not at all, and only for our own eyes."""

from __future__ import annotations

import json
import os
from typing import Any

Json = dict[str, Any]
StrPath = str | os.PathLike[str]


def write_json(path: StrPath, value: Any, *, durable: bool = False) -> None:
    """Replace `path` (mode 0600) by `value` as JSON; a reader sees the old or the new content.

    `durable` waits until the file and its directory entry are on the disk, so that it is there after a power failure.
    """
    path = os.fspath(path)
    data = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    temporary = f"{path}.{os.getpid()}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(descriptor)
    os.replace(temporary, path)
    if durable:
        sync_directory(os.path.dirname(path) or ".")


def load_json(path: StrPath) -> Any:
    """The value that a file holds; OSError and ValueError as `open` and `json` raise them."""
    with open(path, "rb") as file:
        return json.loads(file.read())


def read_json(path: StrPath) -> Json | None:
    """The object in `path`; None if the file is missing or not a whole JSON object."""
    try:
        value = load_json(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def sync_directory(path: StrPath) -> None:
    """Make names created in or renamed into `path` survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
