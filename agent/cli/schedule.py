"""`clearml-agent schedule check`: what working hours mean, before they decide about anything."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import click

from agent.cli.group import HELP, AgentCommand
from agent.errors import ConfigError, UsageError
from agent.hours import DAYS, HOURS_OF_DAY
from agent.schedule import Schedule, Window, read_schedule

SHOWN = timedelta(days=7)
OPEN, CLOSED, HERE = "#", ".", "@"


@click.group("schedule", invoke_without_command=True, context_settings=HELP, short_help="Show what working hours mean.")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Show what working hours mean.

    `schedule check SPEC...` reads hours as `daemon --uptime` does, and says whether they are open, when that changes,
    and what the next seven days and the week look like. It asks no server and reads no configuration file. Its options
    are --downtime, --at TIME, --tz ZONE and --json; docs/scheduling.md has examples.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@command.command(
    "check", cls=AgentCommand, context_settings=HELP, short_help="Say when hours are open, and show their week."
)
@click.argument("specs", metavar='"SPEC"...', nargs=-1, required=True)
@click.option("--downtime", "is_downtime", is_flag=True, help="SPECs are hours off, and all others are working hours.")
@click.option("--at", "at_text", metavar="TIME", help="Not now but at this time: 2026-11-22T21:00, or with +01:00.")
@click.option("--tz", "zone_name", metavar="ZONE", default="", help="Time zone (Europe/Berlin); without it the host's.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object.")
def check(*, specs: Sequence[str], is_downtime: bool, at_text: str | None, zone_name: str, is_json: bool) -> int:
    """Say whether working hours are open, when that changes, and show the next seven days and the week.

    A SPEC is "<hours> <days>": "20-23 SUN", "08-18 MON-FRI", "22-06 FRI,SAT". Several are open when one of them is.

    A TIME without an offset is what the clock of the time zone shows; if it shows that twice, the first time is meant.
    """
    schedule = _schedule(specs, is_downtime=is_downtime, zone_name=zone_name)
    at = _moment(at_text, schedule) if at_text is not None else datetime.now(UTC).replace(microsecond=0)
    try:
        shown = _as_json(schedule, at) if is_json else "\n".join(_as_text(schedule, at, is_now=at_text is None))
    except OverflowError as error:
        raise UsageError(f"--at {at_text}: too far away from now") from error
    click.echo(shown)
    return 0


def _schedule(specs: Sequence[str], *, is_downtime: bool, zone_name: str) -> Schedule:
    try:
        schedule = read_schedule(
            uptime=() if is_downtime else specs, downtime=specs if is_downtime else (), timezone=zone_name
        )
    except ConfigError as error:
        raise UsageError(error.message, hint=error.hint) from error
    if schedule is None:
        raise UsageError("no working hours are given")
    return schedule


def _moment(text: str, schedule: Schedule) -> datetime:
    """The time that `text` means. Raises UsageError."""
    try:
        given = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"--at {text}: expected a date and a time", hint="Such as 2026-11-22T21:00 or 2026-11-22T21:00+01:00."
        ) from error
    if given.tzinfo:
        return given
    local = given.replace(tzinfo=schedule.zone)
    try:
        shown = local.astimezone(UTC).astimezone(schedule.zone)
    except OverflowError as error:
        raise UsageError(f"--at {text}: too far away from now") from error
    if shown.replace(tzinfo=None) != given:
        raise UsageError(
            f"--at {text}: there is no such time in {schedule.zone_name}, the clock is put forward over it",
            hint=f"The clock shows {shown.isoformat(timespec='minutes')} at that moment.",
        )
    return local


def _as_json(schedule: Schedule, at: datetime) -> str:
    change = schedule.next_change(at)
    answer = {
        "open": schedule.is_open(at),
        "next_change": change and change.isoformat(),
        "windows": [
            {"start": window.start and window.start.isoformat(), "end": window.end and window.end.isoformat()}
            for window in schedule.windows(at, at.astimezone(UTC) + SHOWN)
        ],
        "at": at.astimezone(schedule.zone).isoformat(),
        "time_zone": schedule.zone_name,
        "uptime": schedule.uptime,
        "downtime": schedule.downtime,
    }
    return json.dumps(answer, indent=2, ensure_ascii=False)


def _as_text(schedule: Schedule, at: datetime, *, is_now: bool) -> Iterator[str]:
    local = at.astimezone(schedule.zone)
    yield f"{_state(schedule, at)} {'now' if is_now else f'at {_shown(local)}'}, {_change(schedule, at)}"
    yield ""
    yield f"Working hours of the next 7 days ({schedule.zone_name}):"
    windows = schedule.windows(at, at.astimezone(UTC) + SHOWN)
    yield from (f"  {_span(window)}" for window in windows)
    if not windows:
        yield "  none"
    yield ""
    yield from _week(schedule, local)
    yield f"     {OPEN} open  {CLOSED} closed  {HERE} {'now' if is_now else 'that time'}"


def _state(schedule: Schedule, at: datetime) -> str:
    return "open" if schedule.is_open(at) else "closed"


def _change(schedule: Schedule, at: datetime) -> str:
    if schedule.always_open:
        return "always"
    change = schedule.next_change(at)
    if change is None:
        return "never opens"
    verb = "closes" if schedule.is_open(at) else "opens"
    return f"{verb} {_shown(change)} (in {_duration(change.astimezone(UTC) - at.astimezone(UTC))})"


def _span(window: Window) -> str:
    if window.start is None or window.end is None:
        return "all the time"
    length = window.end.astimezone(UTC) - window.start.astimezone(UTC)
    return f"{_shown(window.start)} to {_shown(window.end)} ({_duration(length)})"


def _shown(moment: datetime) -> str:
    """`Sun 2026-11-22 23:00 +01:00`; the day is English in every locale."""
    text = moment.isoformat(sep=" ", timespec="minutes")
    return f"{DAYS[moment.weekday()].title()} {text[:16]} {text[16:]}"


def _duration(length: timedelta) -> str:
    """The two largest units of it."""
    minutes, seconds = divmod(int(length.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, HOURS_OF_DAY)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    said = [f"{number} {unit}" for number, unit in parts if number]
    return " ".join(said[:2]) or "less than a second"


def _week(schedule: Schedule, local: datetime) -> Iterator[str]:
    """The week as the clock shows it: a row a day, a column an hour."""
    yield "     " + "".join(f"{hour:02} " for hour in range(0, HOURS_OF_DAY, 3)).rstrip()
    for number, day in enumerate(DAYS):
        signs = [OPEN if schedule.open_hours.has(number, hour) else CLOSED for hour in range(HOURS_OF_DAY)]
        if number == local.weekday():
            signs[local.hour] = HERE
        yield f"{day}  {''.join(signs)}"
