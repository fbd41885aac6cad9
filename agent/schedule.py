"""Working hours on the clock of a place: is it open now, and when does that change?

`agent.hours` says which of the 168 hours of a week are meant. Here they meet a time zone, where days of 23 and 25 hours
exist: an hour that happens twice is open both times, one that is skipped does not happen. All arithmetic is in UTC,
because Python subtracts and compares two times of one zone by what their clocks show.

The daemon loads this only where hours are configured, and so do `zoneinfo` and its data.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import reduce
from pathlib import Path

from agent.errors import ConfigError
from agent.hours import HOURS_OF_WEEK, Hours, HoursError, parse_hours

log = logging.getLogger(__name__)

LOCALTIME = Path("/etc/localtime")
EVERY_HOUR = Hours((1 << HOURS_OF_WEEK) - 1)
#: No state lasts longer, unless it lasts for ever: a weekly hour can be skipped once, by a change of the clocks.
LONGEST_STATE = timedelta(days=16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of open time, from `start` until before `end`; None where it has no bound."""

    start: datetime | None
    end: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Working hours in a time zone. Times that go in know their zone; those that come out are in this one."""

    uptime: tuple[str, ...]
    downtime: tuple[str, ...]
    open_hours: Hours
    zone: tzinfo
    zone_name: str

    @property
    def spec(self) -> str:
        """The hours as they were given: `uptime "20-23 SUN" (Europe/Berlin)`."""
        entries = " ".join(f'"{entry}"' for entry in self.uptime or self.downtime)
        return f"{'uptime' if self.uptime else 'downtime'} {entries} ({self.zone_name})"

    @property
    def never_opens(self) -> bool:
        return not self.open_hours.mask

    @property
    def always_open(self) -> bool:
        return self.open_hours == EVERY_HOUR

    def is_open(self, at: datetime) -> bool:
        local = self._local(at)
        return self.open_hours.has(local.weekday(), local.hour)

    def next_change(self, after: datetime) -> datetime | None:
        """The first moment after `after` from which on it is open and was closed, or the reverse; None: never."""
        if self.never_opens or self.always_open:
            return None
        start = at = after.astimezone(UTC)
        was_open = self.is_open(at)
        while at - start < LONGEST_STATE:
            at = self._next_hour(at)
            if self.is_open(at) != was_open:
                return self._local(at)
        return None

    def windows(self, start: datetime, end: datetime) -> list[Window]:
        """The open time that touches the time from `start` until before `end`, with its bounds wherever they are."""
        first, last = start.astimezone(UTC), end.astimezone(UTC)
        if self.never_opens or first >= last:
            return []
        if self.always_open:
            return [Window(start=None, end=None)]
        return list(self._windows(first, last))

    def _windows(self, first: datetime, last: datetime) -> Iterator[Window]:
        opens = self._opened_before(first) if self.is_open(first) else self.next_change(first)
        while opens and opens.astimezone(UTC) < last:
            closes = self.next_change(opens)
            yield Window(start=opens, end=closes)
            opens = self.next_change(closes) if closes else None

    def _opened_before(self, at: datetime) -> datetime | None:
        """When the state at `at` began."""
        began = None
        change = self.next_change(at - LONGEST_STATE)
        while change and change.astimezone(UTC) <= at:
            began, change = change, self.next_change(change)
        return began

    def _next_hour(self, at: datetime) -> datetime:
        """The next moment at which the clock shows another hour than at `at`, or jumps. In UTC, as `at` is."""
        local = self._local(at)
        gone = timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
        end = at + timedelta(hours=1) - gone
        return end if self._offset(end) == self._offset(at) else self._jump(at, end)

    def _jump(self, before: datetime, after: datetime) -> datetime:
        """The second between two moments at which the offset changes."""
        early, late = before.replace(microsecond=0), after
        old = self._offset(before)
        while (seconds := round((late - early).total_seconds())) > 1:
            middle = early + timedelta(seconds=seconds // 2)
            if self._offset(middle) == old:
                early = middle
            else:
                late = middle
        return late

    def _offset(self, at: datetime) -> timedelta | None:
        return self._local(at).utcoffset()

    def _local(self, at: datetime) -> datetime:
        # by way of UTC, since a time of a skipped hour stays as it is if it has the same zone already
        return at.astimezone(UTC).astimezone(self.zone)


def read_schedule(*, uptime: Sequence[str], downtime: Sequence[str], timezone: str = "") -> Schedule | None:
    """The schedule of some entries; None without any. Raises ConfigError. An empty time zone is that of the host."""
    if uptime and downtime:
        raise ConfigError(
            "uptime and downtime are both given",
            hint="Give one of them: uptime is when tasks are taken, downtime when they are not.",
        )
    if not uptime and not downtime:
        return None
    named = _hours_of("uptime" if uptime else "downtime", uptime or downtime)
    zone, zone_name = (_zone(timezone.strip()), timezone.strip()) if timezone.strip() else host_zone()
    return Schedule(
        uptime=tuple(uptime),
        downtime=tuple(downtime),
        open_hours=named if uptime else Hours(EVERY_HOUR.mask & ~named.mask),
        zone=zone,
        zone_name=zone_name,
    )


def host_zone(env: Mapping[str, str] = os.environ, localtime: Path = LOCALTIME) -> tuple[tzinfo, str]:
    """The time zone of this host and its name: from the variable TZ, else /etc/localtime, else UTC."""
    given = env.get("TZ", "").strip().removeprefix(":")
    name = _below_zoneinfo(given) or given
    if name and (named := _named_zone(name)):
        return named, name
    if given and given != str(localtime):
        log.warning("TZ=%s is not the name of a time zone: working hours go by %s", given, localtime)
    return _zone_of_file(localtime) or (UTC, "UTC")


def _zone_of_file(file: Path) -> tuple[tzinfo, str] | None:
    """What `file` holds, and the name in its link, which counts alone where the host has no data of zones."""
    from zoneinfo import ZoneInfo

    try:
        name = _below_zoneinfo(os.readlink(file)) or _below_zoneinfo(os.path.realpath(file))
    except OSError:
        name = ""
    try:
        with file.open("rb") as stream:
            return ZoneInfo.from_file(stream, key=name or "localtime"), name or "localtime"
    except (OSError, ValueError):
        named = _named_zone(name) if name else None
        return (named, name) if named else None


def _below_zoneinfo(path: str) -> str:
    return path.partition("/zoneinfo/")[2]


def _named_zone(name: str) -> tzinfo | None:
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: the name of a folder, such as Europe
        return None


def _zone(name: str) -> tzinfo:
    zone = _named_zone(name)
    if zone is None:
        raise ConfigError(f"there is no time zone {name!r}", hint=_zones_like(name))
    return zone


def _zones_like(name: str) -> str:
    from difflib import get_close_matches
    from zoneinfo import available_timezones

    known = {zone.lower(): zone for zone in sorted(available_timezones())}
    city = name.lower().rpartition("/")[2].replace(" ", "_")
    found = [zone for zone in known if zone.rpartition("/")[2] == city][:3]
    found += [zone for zone in get_close_matches(name.lower(), known, n=3) if zone not in found]
    if not found:
        return "Names are those of the IANA data base, such as Europe/Berlin or UTC."
    return f"Did you mean {' or '.join(known[zone] for zone in found[:3])}?"


def _hours_of(what: str, entries: Sequence[str]) -> Hours:
    """All hours of the entries of `what`."""
    return reduce(Hours.__or__, (_read(entry, _place(what, at, entries)) for at, entry in enumerate(entries)))


def _place(what: str, at: int, entries: Sequence[str]) -> str:
    return what if len(entries) == 1 else f"{what}, entry {at + 1}"


def _read(entry: str, place: str) -> Hours:
    try:
        return parse_hours(entry)
    except HoursError as error:
        raise ConfigError(f"{place}: {error}", hint=_pointing_at(error)) from error


def _pointing_at(error: HoursError) -> str:
    """The entry, and below it a caret where reading stopped; two blanks in, as hints are printed."""
    shown = "".join(sign if sign.isprintable() else " " for sign in error.text)
    return f"{shown}\n  {' ' * error.position}^"
