"""Our own log: one handler on stderr, text or one JSON object a line, and nothing secret in either.

Secrets are taken out of the finished line, so it does not matter whether they came in by a message, an argument, an
exception's text or a traceback. A `Redactor` hides the values it was told, in the forms they travel in, and the user
part of every URL. What a record is about goes into `extra={"action": "claim", "task": ...}`: text shows the action in
brackets, JSON has every key.

A task's output is data and takes another road (the console segments).
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Any, TextIO

HIDDEN = "***"

#: `scheme://user:password@` and `scheme://token@`; the bare user of an ssh URL is no secret.
_URL_USER = re.compile(r"\b(?!ssh://[^\s:@/]*@)([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#\"'<>]*@")
_AUTHORIZATION = re.compile(r"\b(Basic|Bearer)\s+[A-Za-z0-9._~+/=-]{8,}")
#: What a terminal would obey, and what ends a line elsewhere: names in a message are others' words.
_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~")
_OWN_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class Redactor:
    """Replaces secrets in text. The values it was told are never shown, not even in its own repr."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets if secret for form in _forms(secret)}
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        self._values = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        """`text` with every secret replaced by three asterisks."""
        if self._values:
            text = self._values.sub(HIDDEN, text)
        if "://" in text:
            text = _URL_USER.sub(rf"\1{HIDDEN}@", text)
        return _AUTHORIZATION.sub(rf"\1 {HIDDEN}", text)


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00.123 INFO agent.worker [claim] message`."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)s %(name)s%(bracket)s %(message)s", "%Y-%m-%d %H:%M:%S")
        self.redactor = redactor

    def formatMessage(self, record: logging.LogRecord) -> str:
        action = getattr(record, "action", "")
        record.bracket = f" [{action}]" if action else ""
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return _CONTROLS.sub("?", self.redactor(super().format(record)))


class CommandFormatter(TextFormatter):
    """`clearml_agent: WARNING: message`, for a person who typed a command."""

    def __init__(self, redactor: Redactor, program: str) -> None:
        super().__init__(redactor)
        self._style = logging.PercentStyle(f"{program}: %(levelname)s: %(message)s")


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, what `extra` gave, and the traceback if there is one."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self.redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: value for name, value in record.__dict__.items() if name not in _OWN_FIELDS}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(_redacted(entry, self.redactor), ensure_ascii=False, default=str)


class Recent(logging.Handler):
    """Keeps the last warnings and errors, for whoever asks how this process is."""

    MOST = 10
    LONGEST_MESSAGE = 1000

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._kept: deque[dict[str, Any]] = deque(maxlen=self.MOST)

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()[: self.LONGEST_MESSAGE]
        self._kept.append({"at": record.created, "level": record.levelname, "message": message})

    def entries(self) -> list[dict[str, Any]]:
        """The last of them, oldest first: at (epoch seconds), level, message."""
        return list(self._kept)


def set_up_logging(
    *,
    level: str = "INFO",
    json_lines: bool = False,
    secrets: Iterable[str] = (),
    program: str = "",
    stream: TextIO | None = None,
    journal_stream: str = "",
) -> Redactor:
    """Send everything that is logged in this process to stderr (or `stream`), without `secrets`.

    With a `program` the lines are a command's: its name, the level, the message. `journal_stream` is what systemd has
    set JOURNAL_STREAM to: if that is our standard error, records go to the journal with fields of their own. Warnings
    of Python and exceptions that nobody caught, in any thread, go the same way. Replaces what an earlier call set up.
    The returned redactor is for other ways out of the process; `current_redactor` gives it again.
    """
    redactor = Redactor(secrets)
    handler = _handler(redactor, json_lines, program, stream, journal_stream)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level_for(level))
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    return redactor


def _handler(
    redactor: Redactor, json_lines: bool, program: str, stream: TextIO | None, journal_stream: str
) -> logging.Handler:
    if journal_stream and not json_lines and stream is None:
        from agent import journal

        if journal.is_stderr(journal_stream):
            found = journal.JournalHandler(redactor)
            found.setFormatter(TextFormatter(redactor))  # for `current_redactor`
            return found
    handler = logging.StreamHandler(stream or sys.stderr)
    if json_lines:
        handler.setFormatter(JsonFormatter(redactor))
    else:
        handler.setFormatter(CommandFormatter(redactor, program) if program else TextFormatter(redactor))
    return handler


def name_worker(worker: str) -> None:
    """From here on this process logs as that worker, where the log has a place for it."""
    for handler in logging.getLogger().handlers:
        if hasattr(handler, "worker"):
            handler.worker = worker


def current_redactor() -> Redactor:
    """The redactor of the last `set_up_logging`; before it, one that knows no values."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, TextFormatter | JsonFormatter):
            return handler.formatter.redactor
    return Redactor()


def level_for(name: str) -> int:
    """The number of a level's name, in any case; INFO for one that logging does not know."""
    level = logging.getLevelName({"WARN": "WARNING"}.get(name.upper(), name.upper()))
    return level if isinstance(level, int) else logging.INFO


def _forms(secret: str) -> Iterable[str]:
    """How a value may appear: as it is, in a URL, in JSON, in Python's repr."""
    yield secret
    yield "".join(char if char in _PLAIN else "".join(f"%{byte:02X}" for byte in char.encode()) for char in secret)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]


def recent_entries() -> list[dict[str, Any]]:
    """What the handler `Recent` of this process has kept; nothing where there is none."""
    handlers = (handler for handler in logging.getLogger().handlers if isinstance(handler, Recent))
    return [entry for handler in handlers for entry in handler.entries()]


def without_secrets(value: Any) -> Any:
    """A JSON value with every secret that the log does not show replaced in its texts."""
    return _redacted(value, current_redactor())


def _redacted(value: Any, redactor: Redactor) -> Any:
    match value:
        case str():
            return redactor(value)
        case dict():
            return {redactor(str(key)): _redacted(inner, redactor) for key, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_redacted(inner, redactor) for inner in value]
        case bool() | int() | float() | None:
            return value
    return redactor(str(value))


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("agent").critical("internal error", exc_info=(kind, error, traceback), extra={"action": "crash"})


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
        _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
