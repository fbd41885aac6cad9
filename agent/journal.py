"""The daemon's log as records of the journal, with fields to search by: systemd's native protocol, no library needed.

`journalctl CLEARML_TASK=<id>` finds everything that agents of a host have said about a task. Only a process whose
standard error is the journal logs this way (`JOURNAL_STREAM`, systemd.exec(5)); the format is that of
https://systemd.io/JOURNAL_NATIVE_PROTOCOL/: one datagram, a field a line, and a length before a value of several lines.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "clearml-agent"
#: What fits into a datagram under any setting of net.core.wmem_default; a longer text (a traceback) is cut.
LONGEST_BYTES = 64 * 1024
_CUT = "\n[cut]"
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def is_stderr(stream: str) -> bool:
    """Whether `stream`, the value of JOURNAL_STREAM ("device:inode"), names our own standard error."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return stream == f"{found.st_dev}:{found.st_ino}"


class JournalHandler(logging.Handler):
    """Sends each record as one entry. A journal that cannot be reached costs the fields: the text goes to stderr."""

    def __init__(self, redact: Callable[[str], str], address: str = SOCKET) -> None:
        super().__init__()
        self.redact = redact
        self.worker = ""
        self._address = address

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.redact(self._text(record))
            data = b"".join(field_of(name, value) for name, value in self._fields(record, text))
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                    sender.sendto(data, self._address)
            except OSError:
                sys.stderr.write(f"{text}\n")
        except Exception:
            self.handleError(record)

    def _text(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        return text if len(text) <= LONGEST_BYTES // 4 else text[: LONGEST_BYTES // 4] + _CUT

    def _fields(self, record: logging.LogRecord, text: str) -> Iterator[tuple[str, str]]:
        yield "MESSAGE", text
        yield "PRIORITY", str(next((number for level, number in _PRIORITIES if record.levelno >= level), 7))
        yield "SYSLOG_IDENTIFIER", IDENTIFIER
        yield "CODE_FUNC", f"{record.name}.{record.funcName}"
        if self.worker:
            yield "CLEARML_WORKER", self.worker
        for name in ("task", "action"):
            if value := getattr(record, name, ""):
                yield f"CLEARML_{name.upper()}", self.redact(str(value))


def field_of(name: str, value: str) -> bytes:
    """One field of an entry."""
    data = value.encode("utf-8", "replace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
