"""`events.download_task_log`: a whole console as a file, streamed while it is read."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable

from starlette.responses import Response, StreamingResponse

from .. import errors
from ..calls import Call
from ..endpoints import endpoint
from ..events.console import LogLine
from ..events.points import iso_time
from ..fields import Fields
from ..store import console
from .event_requests import require
from .events import log_event

LINES_PER_READ = 2_000
PLAIN_FORMAT = "{asctime} {worker} {level} {msg}"

_LINE_TYPES = frozenset({"json", "text"})
_PLACEHOLDERS: dict[str, Callable[[LogLine], str]] = {
    "asctime": lambda line: iso_time(line.timestamp),
    "timestamp": lambda line: str(line.timestamp),
    "level": lambda line: line.level,
    "worker": lambda line: line.worker,
    "msg": lambda line: line.msg.rstrip("\n"),
}


@endpoint("events.download_task_log")
async def download_task_log(call: Call, data: Fields) -> Response:
    """The console as text: one event per line as JSON, or in a format of one's own."""
    task_id = data.ident("task")
    as_json = data.one_of("line_type", _LINE_TYPES, "json") == "json"
    write = _as_json(task_id) if as_json else formatter_for(data.text_or("line_format", PLAIN_FORMAT))
    await call.read(lambda tx: require(tx, call, tasks=[task_id]))
    return StreamingResponse(
        _written(call, task_id, write),
        media_type="text/plain",
        headers={"Content-Disposition": f'attachment; filename="task_{task_id}.log"'},
    )


def formatter_for(line_format: str) -> Callable[[LogLine], str]:
    """What writes a line in this format; refuses one with unknown placeholders."""
    names = re.findall(r"{(\w*)}", line_format)
    if unknown := [name for name in names if name not in _PLACEHOLDERS]:
        raise errors.VALIDATION("unknown placeholder", field="line_format", value=unknown)

    def write(line: LogLine) -> str:
        return re.sub(r"{(\w+)}", lambda match: _PLACEHOLDERS[match[1]](line), line_format)

    return write


def _as_json(task_id: str) -> Callable[[LogLine], str]:
    return lambda line: json.dumps(log_event(task_id, line))


async def _written(call: Call, task_id: str, write: Callable[[LogLine], str]) -> AsyncIterator[bytes]:
    after: int | None = None
    while lines := await _lines_after(call, task_id, after):
        yield "".join(f"{write(line)}\n" for line in lines).encode()
        after = lines[-1].timestamp


async def _lines_after(call: Call, task_id: str, after: int | None) -> list[LogLine]:
    return await call.read(lambda tx: console.lines_after(tx, task_id, after, LINES_PER_READ))
