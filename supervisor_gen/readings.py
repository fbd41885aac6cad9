"""What the values of a topology have to look like: one function per kind, from what HOCON gives to what the model has.

Each raises `Unexpected`, whose text goes on after "expected" (or stands for itself with `is_value` off).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from typing import Any

from agent.hours import HoursError, parse_hours
from supervisor_gen.model import DEFAULT_USER, OWN_VARIABLES

AGENT_NAME = re.compile(r"[a-z][a-z0-9_.]{0,47}")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(MiB|MB|M|GiB|GB|G|TiB|TB|T)?", re.IGNORECASE)
#: GB as on the card (an "80 GB" one has 81,559 MiB) and GiB as in memory.
_MIB = {
    **{"": 1.0, "m": 1.0, "mib": 1.0, "g": 1024.0, "gib": 1024.0, "t": 1024.0**2, "tib": 1024.0**2},
    **{"mb": 1e6 / 2**20, "gb": 1e9 / 2**20, "tb": 1e12 / 2**20},
}
_MEMORY_LIMIT = re.compile(r"\d+[KMGT]?|(?:100|\d{1,2})%|infinity")
_CPUS = re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*")
_HIGHEST_INDEX = 1023
_MOST_AGENTS = 1000
#: Variables that the agent or its supervisor sets: a value from elsewhere would contradict the unit.
_TAKEN = OWN_VARIABLES | {
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "CREDENTIALS_DIRECTORY", "CLEARML_CONFIG_FILE"),
    "CLEARML_WORKER_ID",  # the unit makes one of host and name: two agents of one id would shut each other out
}


class Unexpected(Exception):
    """A value that its kind cannot read. A hidden value may be a secret and is not shown."""

    def __init__(self, text: str, *, is_value: bool = True, is_hidden: bool = False) -> None:
        super().__init__(text)
        self._is_value = is_value
        self._is_hidden = is_hidden

    def about(self, name: str, value: Any) -> str:
        """What is wrong with the value of `name`."""
        if not self._is_value:
            return f"{name}: {self}"
        return f"{name}: expected {self}" if self._is_hidden else f"{name} is {value!r}, expected {self}"


def text(value: Any) -> str:
    """One line of text; a number is taken as it is written."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Unexpected("a text")
    if _CONTROL.search(str(value)):
        raise Unexpected("a text without line breaks and control characters")
    return str(value)


def texts(value: Any) -> tuple[str, ...]:
    """A list of texts; one text is a list of one."""
    if isinstance(value, (list, tuple)):
        return tuple(text(one) for one in value)
    return (text(value),)


def hosts_only(value: Any) -> tuple[str, ...]:
    """Host patterns of a group; groups within groups would match nothing."""
    patterns = texts(value)
    if any(pattern.startswith("@") for pattern in patterns):
        raise Unexpected("patterns of host names; a group has no groups in it")
    return patterns


def words(value: Any) -> tuple[str, ...]:
    """A list of texts; a text is split as a shell would."""
    if isinstance(value, str):
        try:
            return tuple(text(word) for word in shlex.split(value))
        except ValueError as error:
            raise Unexpected("a list, or a text with matching quotes") from error
    return texts(value)


def flag(value: Any) -> bool:
    """true or false; yes/no and on/off are read as well."""
    word = str(value).lower() if isinstance(value, (bool, str)) else ""
    if word in ("true", "yes", "on"):
        return True
    if word in ("false", "no", "off"):
        return False
    raise Unexpected("true or false")


def whole(least: int, most: int | None = None) -> Callable[[Any], int]:
    """A whole number within bounds, both inclusive."""
    bounds = f"from {least} to {most:,}" if most is not None else f"of at least {least}"

    def read(value: Any) -> int:
        number = _number(value)
        if number is None or number < least or (most is not None and number > most):
            raise Unexpected(f"a whole number {bounds}")
        return number

    return read


def one_of(*choices: str) -> Callable[[Any], str]:
    """One of these words."""

    def read(value: Any) -> str:
        if value not in choices:
            raise Unexpected(" or ".join(choices))
        return str(value)

    return read


def services_mode(value: Any) -> int | None:
    """false: None; true: -1, without a limit; a number: that many tasks at once."""
    number = _number(value)
    if number is not None and number >= 1:
        return number
    try:
        return -1 if flag(value) else None
    except Unexpected as error:
        raise Unexpected("true, false or how many tasks at once") from error


def gpus(value: Any) -> int:
    """The number of GPUs of one agent; "all": -1."""
    if value == "all":
        return -1
    number = _number(value)
    if number is None or number < 0:
        raise Unexpected('a whole number (0: none) or "all"')
    return number


def count(value: Any) -> int | None:
    """The number of agents; "all": None."""
    if value == "all":
        return None
    number = _number(value)
    if number is None or not 1 <= number <= _MOST_AGENTS:
        raise Unexpected(f'a whole number from 1 to {_MOST_AGENTS:,}, or "all"')
    return number


def indexes(value: Any) -> tuple[int, ...]:
    """3, [0, 1], "0-3,6"."""
    try:
        found = [index for part in texts(value) for index in _span(part)]
    except (Unexpected, ValueError) as error:
        raise Unexpected('GPU indexes such as 3, [0, 1] or "0-3,6"') from error
    return tuple(dict.fromkeys(found))


def memory_range(value: Any) -> tuple[int | None, int | None]:
    """ "80GB", ">=40GB", "<=24GiB", "40-80 GB" as MiB, both ends inclusive.

    A bare size is that size give or take a tenth: what a card is sold as, and what its driver has to give, differ.
    """
    written = str(value).replace(" ", "")
    if written.startswith((">=", "<=")):
        size = _mib(written[2:])
        return (size, None) if written[0] == ">" else (None, size)
    first, dash, last = written.partition("-")
    if dash:
        unit = re.sub(r"[\d.]", "", last)
        least, most = _mib(first if re.search(r"[A-Za-z]", first) else first + unit), _mib(last)
        if least > most:
            raise Unexpected("a span that begins with the smaller size")
        return least, most
    size = _mib(written)
    return size * 9 // 10, size * 11 // 10


def memory_limit(value: Any) -> str:
    """What systemd's MemoryMax= takes (systemd.resource-control(5))."""
    written = text(value).replace(" ", "")
    written = re.sub(r"(?i)(?<=[kmgt])i?b$", "", written)
    if written[-1:] in ("k", "m", "g", "t"):
        written = written[:-1] + written[-1].upper()
    if not _MEMORY_LIMIT.fullmatch(written) or written.lstrip("0") in ("", "%", "K", "M", "G", "T"):
        raise Unexpected('a size such as "64G" or "50%", or "infinity"')
    return written


def cpus(value: Any) -> str:
    """A list of CPUs as the kernel writes it."""
    written = ",".join(texts(value)).replace(" ", "")
    if not _CPUS.fullmatch(written) or not all(_is_span(part) for part in written.split(",")):
        raise Unexpected('CPUs such as "0-7,16-23"')
    return written


def hours(value: Any) -> tuple[str, ...]:
    """Working hours in ClearML's notation, one entry or a list of them."""
    entries = texts(value)
    for entry in entries:
        try:
            parse_hours(entry)
        except HoursError as error:
            raise Unexpected(str(error), is_value=False) from error
    return entries


def agent_name(value: Any) -> str:
    """A name that can be part of a unit's, and of a slice's, where a dash would mean another slice."""
    if not isinstance(value, str) or not AGENT_NAME.fullmatch(value):
        raise Unexpected("a name of small letters, digits, dots and underscores (no dash), such as train or quad_a")
    return value


def user(value: Any) -> str:
    """A user to run as. Agents run whatever is in a queue, so root is not one of them."""
    if not isinstance(value, str) or not _USER.fullmatch(value):
        raise Unexpected("the name of a user")
    if value == "root":
        raise Unexpected(
            f"another user than root (without the key it is {DEFAULT_USER}): agents run any task of a queue"
        )
    return value


def absolute_path(value: Any) -> str:
    """A path from the root on."""
    written = text(value)
    if not written.startswith("/") or ":" in written:
        raise Unexpected("a path that begins with / and has no colon")
    return written


def variable(name: str) -> Callable[[Any], str]:
    """The value of an environment variable; it may be secret, so no error shows it."""

    def read(value: Any) -> str:
        if not _VARIABLE.fullmatch(name):
            raise Unexpected("not a name that a variable can have", is_value=False)
        if name in _TAKEN:
            raise Unexpected("the generator sets this variable itself", is_value=False)
        try:
            return "true" if value is True else "false" if value is False else text(value)
        except Unexpected as error:
            raise Unexpected(str(error), is_hidden=True) from error

    return read


def _number(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _span(part: str) -> Iterable[int]:
    for piece in part.split(","):
        first, dash, last = piece.strip().partition("-")
        low, high = int(first), int(last) if dash else int(first)
        if not 0 <= low <= high <= _HIGHEST_INDEX:
            raise ValueError(piece)
        yield from range(low, high + 1)


def _is_span(part: str) -> bool:
    first, _, last = part.partition("-")
    return int(first) <= int(last or first)


def _mib(written: str) -> int:
    found = _SIZE.fullmatch(written)
    if not found:
        raise Unexpected('a size such as "80GB", ">=40GB", "<=24GiB" or "40-80GB"')
    return int(float(found[1]) * _MIB[(found[2] or "").lower()])
