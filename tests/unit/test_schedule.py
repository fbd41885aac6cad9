"""Working hours on real clocks: agreement with looking at the clock minute by minute, wherever clocks are changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.errors import ConfigError
from agent.hours import parse_hours
from agent.schedule import Schedule, Window, host_zone, read_schedule

#: Zones, and moments at which their clocks jump: by an hour, half of one, two, a day; or never.
JUMPS = {
    "Europe/Berlin": ("2026-03-29T01:00", "2026-10-25T01:00"),
    "America/New_York": ("2026-03-08T07:00", "2026-11-01T06:00"),
    "Australia/Lord_Howe": ("2026-04-04T15:00", "2026-10-03T15:30"),
    "America/St_Johns": ("2026-03-08T05:30", "2026-11-01T04:30"),
    "Antarctica/Troll": ("2026-03-29T01:00", "2026-10-25T01:00"),
    "Pacific/Apia": ("2011-12-30T10:00",),
    "Asia/Kathmandu": ("1985-12-31T18:30", "2026-01-01T00:00"),
    "UTC": ("2026-06-01T00:00",),
}
FORMS = (
    "20-23 SUN",
    "20 SUN",
    "20-23 SUN,TUE",
    "20-00,00-08 SUN",
    "02-03 SUN",
    "01-02 SUN",
    "02-03 SUN-SAT",
    "03-02 SUN-SAT",
    "00-24 FRI",
    "22-06 FRI",
    "22-06 SUN",
    "12-13 FRI-MON",
    "08-18 MON-FRI",
    "00-24 SUN-SAT",
)
MINUTE = timedelta(minutes=1)


def schedule(*uptime: str, downtime: tuple[str, ...] = (), zone: str = "Europe/Berlin") -> Schedule:
    found = read_schedule(uptime=uptime, downtime=downtime, timezone=zone)
    assert found
    return found


def moment(text: str, zone: str = "") -> datetime:
    """A time of the clock in a zone, or one with an offset."""
    read = datetime.fromisoformat(text)
    return read.replace(tzinfo=ZoneInfo(zone)) if zone else read


def shown(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def spans(windows: list[Window]) -> list[tuple[str | None, str | None]]:
    return [(shown(window.start), shown(window.end)) for window in windows]


class Watcher:
    """Looks at the clock at every full minute."""

    def __init__(self, watched: Schedule) -> None:
        entries = watched.uptime or watched.downtime
        self._named = [parse_hours(entry) for entry in entries]
        self._is_uptime = bool(watched.uptime)
        self._zone: tzinfo = ZoneInfo(watched.zone_name)

    def sees_open(self, at: datetime) -> bool:
        clock = at.astimezone(UTC).astimezone(self._zone)
        return any(hours.has(clock.weekday(), clock.hour) for hours in self._named) == self._is_uptime

    def changes(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """The full minutes after `start`, up to `end`, at which it has become another state."""
        at, state = start, self.sees_open(start)
        minute = start.replace(second=0, microsecond=0)
        while (minute := minute + MINUTE) <= end:
            if minute > at and self.sees_open(minute) != state:
                state = not state
                yield minute


@st.composite
def cases(draw: st.DrawFn) -> tuple[Schedule, datetime]:
    """A schedule, and a moment in UTC near a change of its clocks."""
    zone = draw(st.sampled_from(sorted(JUMPS)))
    jump = datetime.fromisoformat(draw(st.sampled_from(JUMPS[zone]))).replace(tzinfo=UTC)
    seconds = draw(st.integers(-8 * 86400, 2 * 86400) | st.integers(-7200, 7200))
    micros = draw(st.sampled_from((0, 0, 1, 999_999)))
    entries = tuple(draw(st.lists(st.sampled_from(FORMS), min_size=1, max_size=2)))
    is_uptime = draw(st.booleans())
    made = schedule(*(entries if is_uptime else ()), downtime=() if is_uptime else entries, zone=zone)
    return made, jump + timedelta(seconds=seconds, microseconds=micros)


@settings(deadline=None, max_examples=60)
@given(cases())
@example((schedule("02-03 SUN"), moment("2026-03-23T00:00+00:00")))
@example((schedule("00-24 FRI", zone="Pacific/Apia"), moment("2011-12-25T00:00+00:00")))
@example((schedule("02-03 SUN", zone="Australia/Lord_Howe"), moment("2026-10-03T15:29:59+00:00")))
def test_next_change_is_the_one_that_looking_every_minute_finds(case: tuple[Schedule, datetime]) -> None:
    watched, at = case
    watcher = Watcher(watched)
    assert watched.is_open(at) == watcher.sees_open(at)
    change = watched.next_change(at)
    # in UTC, because a time that a clock shows twice is equal to none of another zone
    assert (change and change.astimezone(UTC)) == next(watcher.changes(at, at + timedelta(days=16)), None)


@settings(deadline=None, max_examples=40)
@given(cases(), st.integers(1, 8 * 24 * 60))
def test_windows_are_the_open_minutes_and_reach_to_their_true_bounds(
    case: tuple[Schedule, datetime], minutes: int
) -> None:
    watched, start = case
    watcher = Watcher(watched)
    end = start + minutes * MINUTE
    windows = watched.windows(start, end)
    inside = {at for at in (start + step * MINUTE for step in range(minutes)) if watcher.sees_open(at)}
    covered = {
        at
        for at in (start + step * MINUTE for step in range(minutes))
        if any((w.start is None or w.start <= at) and (w.end is None or at < w.end) for w in windows)
    }
    assert covered == inside
    for window in windows:
        assert window.start is None or window.start < end
        assert window.end is None or window.end > start
        for bound in filter(None, (window.start, window.end)):
            assert watched.is_open(bound) != watched.is_open(bound.astimezone(UTC) - timedelta(seconds=1))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe"])
def test_uptime_and_downtime_of_the_same_hours_are_complements(form: str, zone: str) -> None:
    up, down = schedule(form, zone=zone), schedule(downtime=(form,), zone=zone)
    at = moment("2026-03-28T00:00+00:00")
    for _ in range(200):
        assert up.is_open(at) != down.is_open(at)
        assert up.next_change(at) == down.next_change(at)
        at += timedelta(minutes=17)


@pytest.mark.parametrize(
    ("entries", "windows"),
    [
        (("20-23 SUN",), [("2026-11-22T20", "2026-11-22T23"), ("2026-11-29T20", "2026-11-29T23")]),
        (("20 SUN",), [("2026-11-22T20", "2026-11-23T00"), ("2026-11-29T20", "2026-11-30T00")]),
        (
            ("20-23 SUN,TUE",),
            [
                ("2026-11-22T20", "2026-11-22T23"),
                ("2026-11-24T20", "2026-11-24T23"),
                ("2026-11-29T20", "2026-11-29T23"),
            ],
        ),
        (
            ("20-00,00-08 SUN",),
            [
                ("2026-11-22T20", "2026-11-23T00"),
                ("2026-11-29T00", "2026-11-29T08"),
                ("2026-11-29T20", "2026-11-30T00"),
            ],
        ),
        (("00-24 FRI-MON",), [("2026-11-20T00", "2026-11-24T00"), ("2026-11-27T00", "2026-12-01T00")]),
        (("22-06 FRI",), [("2026-11-27T22", "2026-11-28T06")]),
        (
            ("17-20 WED", "19-22 WED", "9-10 THU"),
            [("2026-11-25T17", "2026-11-25T22"), ("2026-11-26T09", "2026-11-26T10")],
        ),
    ],
)
def test_documented_forms_have_these_windows(entries: tuple[str, ...], windows: list[tuple[str, str]]) -> None:
    start = moment("2026-11-22T21:00", "Europe/Berlin")
    found = schedule(*entries).windows(start, start + timedelta(days=7))
    assert spans(found) == [(f"{start}:00:00+01:00", f"{end}:00:00+01:00") for start, end in windows]


def test_hour_that_happens_twice_is_open_both_times() -> None:
    night = schedule("02-03 SUN")
    assert night.is_open(moment("2026-10-25T02:30+02:00"))
    assert night.is_open(moment("2026-10-25T02:30+01:00"))
    windows = night.windows(moment("2026-10-25T00:00+02:00"), moment("2026-10-26T00:00+01:00"))
    assert spans(windows) == [("2026-10-25T02:00:00+02:00", "2026-10-25T03:00:00+01:00")]


def test_half_hour_by_which_a_clock_jumps_is_added_and_missing() -> None:
    windows = schedule("01-02 SUN", zone="Australia/Lord_Howe").windows(
        moment("2026-04-05T00:00+11:00"), moment("2026-04-05T12:00+10:30")
    )
    assert spans(windows) == [
        ("2026-04-05T01:00:00+11:00", "2026-04-05T02:00:00+10:30"),
    ]
    windows = schedule("02-03 SUN", zone="Australia/Lord_Howe").windows(
        moment("2026-10-04T00:00+10:30"), moment("2026-10-04T12:00+11:00")
    )
    assert spans(windows) == [("2026-10-04T02:30:00+11:00", "2026-10-04T03:00:00+11:00")]


def test_window_of_a_skipped_hour_does_not_happen_that_week() -> None:
    night = schedule("02-03 SUN")
    assert shown(night.next_change(moment("2026-03-22T03:00+01:00"))) == "2026-04-05T02:00:00+02:00"
    assert shown(schedule("02-04 SUN").next_change(moment("2026-03-28T12:00+01:00"))) == "2026-03-29T03:00:00+02:00"
    skipped_wall_time = moment("2026-03-29T02:30", "Europe/Berlin")
    assert not night.is_open(skipped_wall_time)


def test_change_at_the_moment_itself_is_not_the_next_one() -> None:
    evening = schedule("20-23 SUN")
    assert shown(evening.next_change(moment("2026-11-22T20:00+01:00"))) == "2026-11-22T23:00:00+01:00"
    assert shown(evening.next_change(moment("2026-11-22T19:59:59.999999+01:00"))) == "2026-11-22T20:00:00+01:00"


def test_hours_that_are_all_or_none_never_change() -> None:
    start, end = moment("2026-11-22T21:00+00:00"), moment("2026-11-23T21:00+00:00")
    always, never = schedule("0-24 SUN-SAT"), schedule(downtime=("0 SUN-SAT",))
    assert (always.always_open, always.never_opens) == (True, False)
    assert (never.always_open, never.never_opens) == (False, True)
    assert always.next_change(start) is never.next_change(start) is None
    assert always.windows(start, end) == [Window(start=None, end=None)]
    assert never.windows(start, end) == always.windows(end, start) == []


def test_no_entries_are_no_schedule() -> None:
    assert read_schedule(uptime=(), downtime=[], timezone="Nowhere") is None


def test_schedule_names_what_it_was_made_of() -> None:
    assert schedule("20-23 SUN", "08-18 MON-FRI").spec == 'uptime "20-23 SUN" "08-18 MON-FRI" (Europe/Berlin)'
    assert schedule(downtime=("9 MON",), zone=" UTC ").spec == 'downtime "9 MON" (UTC)'


def test_uptime_and_downtime_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="both given") as caught:
        read_schedule(uptime=["20 SUN"], downtime=["20 SUN"])
    assert caught.value.exit_code == 3


def test_entry_that_cannot_be_read_is_named_with_a_caret_under_the_place() -> None:
    with pytest.raises(ConfigError) as caught:
        read_schedule(uptime=(), downtime=("20-23 SUN", "20-25\tSUN"))
    assert caught.value.message == "downtime, entry 2: '20-25\\tSUN', character 4: expected an hour (00 to 24)"
    assert caught.value.hint == "20-25 SUN\n     ^"
    with pytest.raises(ConfigError, match=r"^uptime: '20', character 3: expected a blank and days"):
        read_schedule(uptime=("20",), downtime=())


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("berlin", "Did you mean Europe/Berlin?"),
        ("Europe/Berlim", "Did you mean Europe/Berlin"),
        ("new york", "Did you mean America/New_York"),
        ("Europe", "Did you mean "),
        ("../UTC", "Did you mean "),
        ("zzzzzzzz", "Names are those of the IANA data base"),
    ],
)
def test_unknown_time_zone_is_refused_with_close_ones(name: str, guess: str) -> None:
    with pytest.raises(ConfigError, match="there is no time zone") as caught:
        read_schedule(uptime=("20 SUN",), downtime=(), timezone=name)
    assert caught.value.hint.startswith(guess)


BERLIN_SUMMER = timedelta(hours=2)


def offset(zone: tzinfo) -> timedelta | None:
    return datetime(2026, 7, 1, tzinfo=UTC).astimezone(zone).utcoffset()


@pytest.mark.parametrize("given", ["Europe/Berlin", ":Europe/Berlin", "/usr/share/zoneinfo/Europe/Berlin"])
def test_zone_of_the_host_is_the_one_that_tz_names(given: str, tmp_path: Path) -> None:
    zone, name = host_zone({"TZ": given}, tmp_path / "none")
    assert (name, offset(zone)) == ("Europe/Berlin", BERLIN_SUMMER)


@pytest.fixture
def zone_file(tmp_path: Path) -> Path:
    """The data of Europe/Berlin, below a folder that is called zoneinfo."""
    import importlib.resources

    file = tmp_path / "zoneinfo/Europe/Berlin"
    file.parent.mkdir(parents=True)
    file.write_bytes((importlib.resources.files("tzdata.zoneinfo.Europe") / "Berlin").read_bytes())
    return file


@pytest.mark.parametrize("env", [{}, {"TZ": ""}, {"TZ": "XYZ-5"}])
def test_zone_of_the_host_is_else_the_one_that_localtime_leads_to(
    env: dict[str, str], zone_file: Path, tmp_path: Path
) -> None:
    link = tmp_path / "localtime"
    link.symlink_to(zone_file)
    zone, name = host_zone(env, link)
    assert (name, offset(zone)) == ("Europe/Berlin", BERLIN_SUMMER)


def test_zone_of_the_host_is_known_by_its_link_or_by_its_content_alone(zone_file: Path, tmp_path: Path) -> None:
    dangling = tmp_path / "dangling"
    dangling.symlink_to("../usr/nothing/zoneinfo/Europe/Berlin")
    assert (host_zone({}, dangling)[1], offset(host_zone({}, dangling)[0])) == ("Europe/Berlin", BERLIN_SUMMER)
    copy = tmp_path / "localtime"
    copy.write_bytes(zone_file.read_bytes())
    assert (host_zone({}, copy)[1], offset(host_zone({}, copy)[0])) == ("localtime", BERLIN_SUMMER)


def test_host_without_any_sign_of_a_zone_is_in_utc(tmp_path: Path) -> None:
    damaged = tmp_path / "localtime"
    damaged.write_text("not a zone")
    assert host_zone({}, damaged) == host_zone({}, tmp_path / "none") == (UTC, "UTC")


def test_tz_that_names_no_zone_is_said(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    host_zone({"TZ": "XYZ-5"}, tmp_path / "none")
    assert "TZ=XYZ-5 is not the name of a time zone" in caplog.text


def test_zones_are_known_where_the_host_has_no_data_of_its_own() -> None:
    import subprocess
    import sys

    code = (
        "from agent.schedule import read_schedule as r; print(r(uptime=['20 SUN'], downtime=(), timezone='Asia/Tokyo'))"
    )
    env = {**os.environ, "PYTHONTZPATH": "", "PYTHONPATH": "."}
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=root, capture_output=True, text=True, check=True)
    assert "zone_name='Asia/Tokyo'" in done.stdout
