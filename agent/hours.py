"""Working hours in ClearML's notation, read into the hours of a week. A leaf: it knows no clock and no time zone.

    "<hours> <days>"    20-23 SUN       from 20:00 to 23:00 on Sundays
                        20 SUN          from 20:00 to midnight
                        20-00,00-08 SUN two spans of one day; an end of 00 (or 24) is midnight
                        09-17 MON-FRI   a range of days; FRI-MON goes over the weekend
                        22-06 FRI,SAT   over midnight: the night that begins on Friday, and the one after it

The last two forms are where `clearml-agent` falls short: it reads them, and finds no hour in them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import reduce

HOURS_OF_DAY = 24
HOURS_OF_WEEK = 7 * HOURS_OF_DAY
#: In the order of `datetime.weekday()`.
DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")

_NUMBER = re.compile(r"[0-9]{1,2}(?![0-9])")
_DAY = re.compile(r"[A-Za-z]+")
_BLANKS = re.compile(r"[ \t]*")
_A_DAY = f"a day ({', '.join(DAYS)})"


class HoursError(ValueError):
    """A text that is no working hours: where in it (from 0) and what was expected there."""

    def __init__(self, text: str, position: int, expected: str) -> None:
        super().__init__(f"{text!r}, character {position + 1}: expected {expected}")
        self.text = text
        self.position = position
        self.expected = expected


@dataclass(frozen=True, slots=True)
class Hours:
    """Some of the 168 hours of a week: bit 0 of `mask` is Monday from 00:00 to 01:00, bit 167 the end of Sunday."""

    mask: int = 0

    def has(self, weekday: int, hour: int) -> bool:
        """Whether the hour that begins at `hour` o'clock belongs to them; Monday is 0, as in `datetime.weekday()`."""
        return bool(self.mask >> (weekday * HOURS_OF_DAY + hour) & 1)

    def __or__(self, other: Hours) -> Hours:
        return Hours(self.mask | other.mask)


def parse_hours(text: str) -> Hours:
    """The hours of one entry, "<hours> <days>". Raises HoursError."""
    reader = _Reader(text)
    spans = [reader.span()]
    while reader.skip(","):
        spans.append(reader.span())
    reader.expect_days()
    days = reader.days()
    while reader.skip(","):
        days |= reader.days()
    reader.expect_end()
    return reduce(Hours.__or__, (_on(day, *span) for day in days for span in spans))


def _on(day: int, start: int, length: int) -> Hours:
    """`length` hours from `start` o'clock of `day`; Sunday night goes on into Monday."""
    bits = ((1 << length) - 1) << (day * HOURS_OF_DAY + start)
    return Hours((bits | bits >> HOURS_OF_WEEK) & ((1 << HOURS_OF_WEEK) - 1))


class _Reader:
    """A text and how far it has been read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = self._blanks_from(0)

    def span(self) -> tuple[int, int]:
        """One span of hours: where it starts and how long it is."""
        start = self._hour(HOURS_OF_DAY - 1)
        if not self.skip("-"):
            return start, HOURS_OF_DAY - start
        position = self._at
        end = self._hour(HOURS_OF_DAY) or HOURS_OF_DAY
        if end == start:
            raise HoursError(self._text, position, f"an end other than {start:02}, where the span starts")
        return start, (end - start) % HOURS_OF_DAY or HOURS_OF_DAY

    def days(self) -> set[int]:
        """One day, or a range of days."""
        first = self._day()
        if not self.skip("-"):
            return {first}
        return {(first + step) % len(DAYS) for step in range((self._day() - first) % len(DAYS) + 1)}

    def skip(self, sign: str) -> bool:
        """Go past `sign`, and the blanks around it, if it is next."""
        if not self._text.startswith(sign, self._at):
            return False
        self._at = self._blanks_from(self._at + len(sign))
        return True

    def expect_days(self) -> None:
        """The hours are over: a blank was there, and days come next."""
        if self._at == len(self._text):
            raise HoursError(self._text, self._at, "a blank and days (SUN-SAT for every day)")
        if not self._text[self._at - 1].isspace():
            raise HoursError(self._text, self._at, "a comma and more hours, or a blank and days")

    def expect_end(self) -> None:
        if self._at < len(self._text):
            raise HoursError(self._text, self._at, "a comma and more days, or the end")

    def _hour(self, last: int) -> int:
        found = _NUMBER.match(self._text, self._at)
        if not found or int(found[0]) > last:
            raise HoursError(self._text, self._at, f"an hour (00 to {last})")
        self._at = self._blanks_from(found.end())
        return int(found[0])

    def _day(self) -> int:
        found = _DAY.match(self._text, self._at)
        if not found or found[0].upper() not in DAYS:
            raise HoursError(self._text, self._at, _A_DAY)
        self._at = self._blanks_from(found.end())
        return DAYS.index(found[0].upper())

    def _blanks_from(self, position: int) -> int:
        found = _BLANKS.match(self._text, position)
        return found.end() if found else position
