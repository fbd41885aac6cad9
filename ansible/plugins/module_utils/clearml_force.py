# Copyright: (c) 2026, gpufleet developers
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The runtime property `force` of a worker, and what durations and times of a playbook mean.

ClearML's open-source server has no runtime properties (`NoProperties`).
"""

from __future__ import annotations

import re
import time
from datetime import datetime

from ansible_collections.gpufleet.clearml.plugins.module_utils.clearml_api import (
    CallRefused,
    ClearmlError,
    Server,
)

FORCE = "force"
FORCE_WORDS = ("on", "off")


class NoProperties(ClearmlError):
    """The server keeps no runtime properties of workers."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"the server {address} has no runtime properties of workers, so `force` cannot be set",
            "ClearML's open-source server lacks them; there, force_workers of gpufleet.clearml.clearml_queue opens and "
            "closes a queue for all of its workers",
        )


def force_of(server: Server, worker: str) -> dict:
    """The runtime property `force` of a worker: `value` (on, off, none) and `seconds_left` (None: until it is changed).

    Raises NoProperties where the server has none.
    """
    try:
        data = server.read("workers.get_runtime_properties", worker=worker)
    except CallRefused as error:
        raise (NoProperties(server.address) if _is_unknown_endpoint(error) else error) from error
    for entry in data.get("runtime_properties") or data.get("properties") or ():
        word = str(entry.get("value") or "").strip().lower()
        if entry.get("key") == FORCE and word in FORCE_WORDS:
            return {"value": word, "seconds_left": entry.get("expiry")}
    return {"value": "none", "seconds_left": None}


def set_force(server: Server, worker: str, word: str, seconds: float | None) -> None:
    """Set the runtime property `force` for some seconds (None: until it is changed), or delete it (`none`)."""
    entry: dict = {"key": FORCE, "value": "" if word == "none" else word}
    if word == "none":
        entry["expiry"] = 0
    elif seconds is not None:
        entry["expiry"] = seconds
    server.call("workers.set_runtime_properties", worker=worker, runtime_properties=[entry])


def _is_unknown_endpoint(error: CallRefused) -> bool:
    return error.status == 404 or (error.status, error.subcode) == (400, 0)


# --- durations and times

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")
_MOMENT = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)[T ](?P<minute>\d\d:\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d+))?)?"
    r"\s*(?P<zone>Z|[+-]\d\d:?\d\d)"
)


def duration_seconds(text: str, option: str = "the duration") -> float:
    """Seconds of `90`, `90s`, `15m`, `2h`, `1d` or several of these together (`1h30m`); more than none."""
    text = str(text).strip()
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        seconds = float(text)
    elif _DURATION.fullmatch(text):
        seconds = sum(float(amount) * _UNITS[unit] for amount, unit in re.findall(r"([\d.]+)([smhd])", text))
    else:
        raise ClearmlError(f"{option} is no duration: {text!r}", "Write seconds, or 90s, 15m, 2h, 1d, 1h30m")
    if seconds <= 0:
        raise ClearmlError(f"{option} is no time at all: {text!r}", "To end a force, say force: none")
    return seconds


def moment_seconds(text: str, option: str = "the time") -> float:
    """Seconds since the epoch of an ISO 8601 time with an offset, or of a number of such seconds."""
    text = str(text).strip()
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return float(text)
    found = _MOMENT.fullmatch(text)
    try:
        if not found:
            raise ValueError("no such text")
        zone = found["zone"].replace("Z", "+0000").replace(":", "")
        whole = f"{found['day']}T{found['minute']}:{found['second'] or '00'}{zone}"
        moment = datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError as error:
        raise ClearmlError(
            f"{option} is no time with an offset: {text!r}",
            "Write it like 2026-11-22T08:00:00+01:00 or 2026-11-22T07:00:00Z",
        ) from error
    return moment + float(f"0.{found['fraction'] or 0}")


def iso_text(seconds: float) -> str:
    """A time as the server writes it, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(seconds))


def needs_force(present: dict, word: str, seconds: float | None, *, earlier: float, later: float = 0.0) -> bool:
    """Whether the property `force` has to be set, given what `force_of` told.

    `seconds` is for how long it is wanted (None: until it is changed). What is left of the present one may be that much
    `earlier` or `later` than wanted (seconds) and still does.
    """
    if present["value"] != word:
        return True
    if word == "none":
        return False
    left = present["seconds_left"]
    if seconds is None or left is None:
        return seconds is not left
    return not seconds - earlier <= left <= seconds + later
