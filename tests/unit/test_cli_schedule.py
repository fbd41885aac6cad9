"""`clearml-agent schedule check`: what it says about hours, as text and as JSON, and how it refuses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.cli import run_cli

EXAMPLE = ("schedule", "check", "20-23 SUN", "--at", "2026-11-22T21:00", "--tz", "Europe/Berlin")
BERLIN = ("--tz", "Europe/Berlin")


def test_hours_are_explained_as_json(tmp_path: Path) -> None:
    result = run_cli(tmp_path, *EXAMPLE, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "open": True,
        "next_change": "2026-11-22T23:00:00+01:00",
        "windows": [
            {"start": "2026-11-22T20:00:00+01:00", "end": "2026-11-22T23:00:00+01:00"},
            {"start": "2026-11-29T20:00:00+01:00", "end": "2026-11-29T23:00:00+01:00"},
        ],
        "at": "2026-11-22T21:00:00+01:00",
        "time_zone": "Europe/Berlin",
        "uptime": ["20-23 SUN"],
        "downtime": [],
    }


def test_hours_are_explained_as_text_with_the_week_drawn(tmp_path: Path) -> None:
    result = run_cli(tmp_path, *EXAMPLE)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        "open at Sun 2026-11-22 21:00 +01:00, closes Sun 2026-11-22 23:00 +01:00 (in 2 h)\n"
        "\n"
        "Working hours of the next 7 days (Europe/Berlin):\n"
        "  Sun 2026-11-22 20:00 +01:00 to Sun 2026-11-22 23:00 +01:00 (3 h)\n"
        "  Sun 2026-11-29 20:00 +01:00 to Sun 2026-11-29 23:00 +01:00 (3 h)\n"
        "\n"
        "     00 03 06 09 12 15 18 21\n"
        "MON  ........................\n"
        "TUE  ........................\n"
        "WED  ........................\n"
        "THU  ........................\n"
        "FRI  ........................\n"
        "SAT  ........................\n"
        "SUN  ....................#@#.\n"
        "     # open  . closed  @ that time\n"
    )


def test_hours_off_are_the_other_hours(tmp_path: Path) -> None:
    result = run_cli(tmp_path, *EXAMPLE, "--downtime", "--json")
    answer = json.loads(result.stdout)
    assert (result.returncode, answer["open"], answer["downtime"], answer["uptime"]) == (0, False, ["20-23 SUN"], [])
    assert answer["windows"] == [{"start": "2026-11-22T23:00:00+01:00", "end": "2026-11-29T20:00:00+01:00"}]
    assert run_cli(tmp_path, *EXAMPLE, "--downtime").stdout.startswith("closed at Sun 2026-11-22 21:00 +01:00, opens ")


@pytest.mark.parametrize(
    ("more", "is_open", "windows", "line"),
    [
        ((), True, [{"start": None, "end": None}], "open now, always"),
        (("--downtime",), False, [], "closed now, never opens"),
    ],
)
def test_hours_that_never_change_have_no_next_change(
    more: tuple[str, ...], is_open: bool, windows: list[object], line: str, tmp_path: Path
) -> None:
    arguments = ("schedule", "check", "0-24 SUN-SAT", *more)
    answer = json.loads(run_cli(tmp_path, *arguments, "--json").stdout)
    assert (answer["open"], answer["next_change"], answer["windows"]) == (is_open, None, windows)
    assert run_cli(tmp_path, *arguments).stdout.splitlines()[0] == line


@pytest.mark.parametrize(
    ("at", "zone", "meant"),
    [
        ("2026-10-25T02:30", "Europe/Berlin", "2026-10-25T02:30:00+02:00"),
        ("2026-10-25T02:30+01:00", "Europe/Berlin", "2026-10-25T02:30:00+01:00"),
        ("2026-11-22T20:00Z", "Asia/Kathmandu", "2026-11-23T01:45:00+05:45"),
        ("2026-11-22", "Australia/Lord_Howe", "2026-11-22T00:00:00+11:00"),
    ],
)
def test_time_without_an_offset_is_that_of_the_clock_and_the_first_if_shown_twice(
    at: str, zone: str, meant: str, tmp_path: Path
) -> None:
    result = run_cli(tmp_path, "schedule", "check", "20 SUN", "--at", at, "--tz", zone, "--json")
    assert json.loads(result.stdout)["at"] == meant


def test_zone_is_that_of_the_host_unless_one_is_given(tmp_path: Path) -> None:
    result = run_cli(tmp_path, "schedule", "check", "20 SUN", "09-17 MON", "--json", TZ="Asia/Tokyo")
    answer = json.loads(result.stdout)
    assert (answer["time_zone"], answer["at"][-6:]) == ("Asia/Tokyo", "+09:00")
    assert "." not in answer["at"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("20-25 SUN",),
            "uptime: '20-25 SUN', character 4: expected an hour (00 to 24)\n  20-25 SUN\n     ^\n",
        ),
        (
            ("20 SUN", "20 SUM", "--downtime"),
            "downtime, entry 2: '20 SUM', character 4: expected a day (MON, TUE, WED, THU, FRI, SAT, SUN)\n"
            "  20 SUM\n     ^\n",
        ),
        (("20 SUN", "--tz", "berlin"), "there is no time zone 'berlin'\n  Did you mean Europe/Berlin?\n"),
        (
            ("20 SUN", "--at", "noon"),
            "--at noon: expected a date and a time\n  Such as 2026-11-22T21:00 or 2026-11-22T21:00+01:00.\n",
        ),
        (
            ("20 SUN", "--at", "2026-03-29T02:30", *BERLIN),
            "--at 2026-03-29T02:30: there is no such time in Europe/Berlin, the clock is put forward over it\n"
            "  The clock shows 2026-03-29T03:30+02:00 at that moment.\n",
        ),
        (("20 SUN", "--at", "9999-12-31T23:00"), "--at 9999-12-31T23:00: too far away from now\n"),
        (("20 SUN", "--at", "0001-01-01", *BERLIN), "--at 0001-01-01: too far away from now\n"),
        ((), "missing argument '\"SPEC\"...'\n  `clearml-agent schedule check --help` shows what there is.\n"),
    ],
)
def test_what_cannot_be_read_is_exit_code_2(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    result = run_cli(tmp_path, "schedule", "check", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"clearml_agent: ERROR: {said}"


def test_group_alone_shows_its_help_and_refuses_other_words(tmp_path: Path) -> None:
    alone = run_cli(tmp_path, "schedule")
    assert (alone.returncode, alone.stderr) == (0, "")
    assert alone.stdout == run_cli(tmp_path, "schedule", "--help").stdout
    assert "  check  Say when hours are open" in alone.stdout
    other = run_cli(tmp_path, "schedule", "chek")
    assert other.returncode == 2
    assert other.stderr.startswith("clearml_agent: ERROR: no such command 'chek'")


def test_configuration_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "clearml.conf").write_text("agent { this is no configuration")
    assert run_cli(tmp_path, *EXAMPLE).returncode == 0
