"""Every refusal the server answers with, in one table.

Clients act on the pair (HTTP status, sub-code): the agent falls back when a queue id is refused with 400/701, probes
for features with 404/0, logs in again on 401. So the numbers are part of the protocol and live here, once, by name.

    raise errors.INVALID_TASK_ID(id=task_id, company=company)
    raise errors.INVALID_TASK_STATUS("Invalid status change", current_status="completed", new_status="queued")

The second group, at the end, is for the person who starts the server: exceptions that end the process with one line and
a documented exit code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class ApiError(Exception):
    """A call that is refused; `wire.error_reply` turns it into the envelope."""

    def __init__(
        self,
        code: int,
        subcode: int,
        message: str,
        *,
        detail: str = "",
        data: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.subcode = subcode
        self.message = message
        self.detail = detail
        self.data = dict(data or {})
        self.headers = dict(headers or {})

    @property
    def text(self) -> str:
        """`<Message> (<detail>): key=value, key2=(a, b)`, as clients show it to people."""
        text = self.message[:1].upper() + self.message[1:]
        if self.detail:
            text += f" ({self.detail})"
        if self.data:
            text += ": " + ", ".join(f"{key}={_shown(value)}" for key, value in self.data.items())
        return text

    def __str__(self) -> str:
        return f"{self.code}/{self.subcode}: {self.text}"


def _shown(value: object) -> str:
    if isinstance(value, list | tuple | set | frozenset):
        return "(" + ", ".join(str(item) for item in value) + ")"
    return str(value)


@dataclass(frozen=True, slots=True)
class Problem:
    """A row of the table; calling it makes the error to raise."""

    code: int
    subcode: int
    message: str

    def __call__(self, detail: str = "", /, **data: object) -> ApiError:
        """The error, with a detail in words and the values it is about."""
        return ApiError(self.code, self.subcode, self.message, detail=detail, data=data)


ENDPOINT_DROPPED = Problem(301, 1, "this endpoint has been dropped for the requested API version")

BAD_REQUEST = Problem(400, 0, "bad request")
INVALID_PATH = Problem(400, 0, "invalid request path")
BAD_IMPERSONATION = Problem(400, 5, "invalid impersonation headers")
IMPERSONATION_NOT_ALLOWED = Problem(400, 6, "impersonation is not allowed")
INVALID_ID = Problem(400, 10, "invalid id")
MISSING_FIELDS = Problem(400, 11, "missing required fields")
VALIDATION = Problem(400, 12, "validation error")
UNKNOWN_FIELD = Problem(400, 14, "bad projection or order: unknown field")
CONFLICTING_FIELDS = Problem(400, 15, "conflicting fields")
BAD_QUERY_VALUE = Problem(400, 16, "invalid value in a query field")
EMPTY_BATCH = Problem(400, 17, "batch contains no items")
BAD_BATCH_ITEM = Problem(400, 18, "failed parsing a batch item")
BAD_TYPE = Problem(400, 20, "bad type")
BAD_REGEX = Problem(400, 21, "bad regular expression")
ACCESS_KEY_NOT_FOUND = Problem(400, 75, "access key not found for user")

TASK_ERROR = Problem(400, 100, "general task error")
INVALID_TASK_ID = Problem(400, 101, "invalid task id")
TASK_VALIDATION = Problem(400, 102, "task validation error")
INVALID_TASK_STATUS = Problem(400, 110, "invalid task status")
TASK_STATUS_CHANGED = Problem(400, 121, "task status was changed by another call")
MISSING_TASK_FIELD = Problem(400, 122, "task is missing a required field")
TASK_CANNOT_BE_DELETED = Problem(400, 123, "task cannot be deleted")
EVENTS_NOT_ADDED = Problem(400, 131, "events not added")
REPORT_ERROR = Problem(400, 150, "report error")
PIPELINE_ERROR = Problem(400, 160, "pipeline error")

INVALID_MODEL_ID = Problem(400, 201, "invalid model id")
MODEL_NOT_READY = Problem(400, 202, "model is not ready")
MODEL_IS_READY = Problem(400, 203, "model is ready")
MODEL_IN_USE = Problem(400, 205, "model is used by tasks")
MODEL_CREATING_TASK_EXISTS = Problem(400, 206, "the task that created this model is published")

INVALID_USER = Problem(400, 300, "invalid user")
INVALID_USER_ID = Problem(400, 301, "invalid user id")

INVALID_PROJECT_ID = Problem(400, 401, "invalid project id")
PROJECT_HAS_TASKS = Problem(400, 402, "project has associated tasks")
PROJECT_NOT_FOUND = Problem(400, 403, "project not found")
PROJECT_HAS_MODELS = Problem(400, 405, "project has associated models")
INVALID_PROJECT_NAME = Problem(400, 407, "invalid project name")
PROJECT_LOCATION_CHANGE = Problem(400, 408, "an update cannot change a project's location")
PROJECT_TOO_DEEP = Problem(400, 409, "project path is too deep")
PROJECT_SOURCE_IS_DESTINATION = Problem(400, 410, "project cannot be moved or merged into itself")
PROJECT_UNDER_ITSELF = Problem(400, 411, "project cannot be moved under itself")
PROJECT_SAME_LOCATION = Problem(400, 412, "project is already at this location")
PROJECT_HAS_PIPELINES = Problem(400, 413, "project has associated pipelines")

INVALID_QUEUE_ID = Problem(400, 701, "invalid queue id")
QUEUE_NOT_EMPTY = Problem(400, 702, "queue is not empty")
NOT_IN_QUEUE = Problem(400, 703, "invalid queue id, or task is not in this queue")
REMOVED_DURING_MOVE = Problem(400, 704, "task was removed by another call during a move")
FAILED_MOVE = Problem(400, 705, "failed adding the task back during a move")
ALREADY_IN_QUEUE = Problem(400, 706, "task is already in this queue")
NO_DEFAULT_QUEUE = Problem(400, 707, "no queue is tagged as the default queue")
SEVERAL_DEFAULT_QUEUES = Problem(400, 708, "more than one queue is tagged as the default queue")

DATA_VALIDATION = Problem(400, 800, "data validation error")
NOT_UNIQUE = Problem(400, 801, "value combination already exists")

INVALID_WORKER_ID = Problem(400, 1001, "invalid worker id")
WORKER_REGISTRATION_FAILED = Problem(400, 1002, "worker registration failed")
WORKER_REGISTERED = Problem(400, 1003, "worker is already registered")
WORKER_NOT_REGISTERED = Problem(400, 1004, "worker is not registered")
WORKER_STATS_NOT_FOUND = Problem(400, 1005, "worker statistics not found")

INVALID_SCROLL_ID = Problem(400, 1104, "invalid scroll id")

NOT_AUTHORIZED = Problem(401, 1, "unauthorized (not authorized for this endpoint)")
ENTITY_NOT_AUTHORIZED = Problem(401, 2, "unauthorized (entity not allowed)")
BAD_AUTH_TYPE = Problem(401, 10, "unauthorized (unsupported authentication type)")
NO_CREDENTIALS = Problem(401, 20, "unauthorized (missing credentials)")
MALFORMED_CREDENTIALS = Problem(401, 21, "unauthorized (malformed credentials)")
WRONG_CREDENTIALS = Problem(401, 22, "unauthorized (invalid credentials)")
INVALID_TOKEN = Problem(401, 30, "unauthorized (invalid token)")
BLOCKED_TOKEN = Problem(401, 31, "unauthorized (token is blocked)")
INVALID_FIXED_USER = Problem(401, 40, "unauthorized (fixed user id is missing)")

ROLE_NOT_ALLOWED = Problem(403, 20, "forbidden (not allowed for this role)")
NO_WRITE_PERMISSION = Problem(403, 21, "forbidden (modification not allowed)")

UNKNOWN_ENDPOINT = Problem(404, 0, "unable to find endpoint")
GONE = Problem(410, 1, "gone")
TOO_LARGE = Problem(413, 0, "request body is too large")
BUSY = Problem(429, 0, "too many requests")

INTERNAL = Problem(500, 0, "general server error")
DATA_ERROR = Problem(500, 1, "data error")
DATABASE_UNAVAILABLE = Problem(500, 100, "database is not available")
UPDATE_FAILED = Problem(500, 102, "database update failed")
MISSING_DATA = Problem(500, 110, "missing internal data")


class StartupError(Exception):
    """The server cannot start or go on: what failed, on what, and what to try; ends the process.

    0 success · 1 other error · 2 usage · 3 configuration · 9 address in use
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class ConfigError(StartupError):
    """An option or the configuration file says something we cannot use."""

    exit_code = 3


class AddressInUse(StartupError):
    """Another process listens on the address that was asked for."""

    exit_code = 9


class DataDirectoryInUse(StartupError):
    """Another server works on this data directory; two would not see each other's changes."""

    exit_code = 1
