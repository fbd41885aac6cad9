"""Writing the small files of a run directory so that a reader sees all of one or none of it."""

from __future__ import annotations

import json
import os
from typing import Any


def write_json(path: str, value: Any, *, durable: bool = False) -> None:
    """Replace `path` by the value as JSON, 0600. `durable` waits until the disk has it."""
    write_bytes(path, json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"), durable=durable)


def write_bytes(path: str, data: bytes, *, durable: bool = False, mode: int = 0o600) -> None:
    """Replace `path` by `data`: a temporary file beside it, then a rename."""
    temporary = f"{path}.{os.getpid()}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, path)
    if durable:
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_json(path: str) -> Any:
    """The value that a file holds; OSError and ValueError as `open` and `json` raise them."""
    with open(path, "rb") as file:
        return json.loads(file.read())
