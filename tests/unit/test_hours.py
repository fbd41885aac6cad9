"""Working hours mean what ClearML's documentation says, in every form."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.hours import DAYS, HOURS_OF_WEEK, Hours, HoursError, parse_hours

MON, TUE, WED, THU, FRI, SAT, SUN = range(7)


def _hours(text: str) -> set[tuple[int, int]]:
    found = parse_hours(text)
    return {(day, hour) for day in range(7) for hour in range(24) if found.has(day, hour)}


def _of(day: int, hours: range) -> set[tuple[int, int]]:
    return {(day, hour) for hour in hours}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("20-23 SUN", _of(SUN, range(20, 23))),
        ("20-23 SUN,TUE", _of(SUN, range(20, 23)) | _of(TUE, range(20, 23))),
        ("20-23 SUN-TUE", _of(SUN, range(20, 23)) | _of(MON, range(20, 23)) | _of(TUE, range(20, 23))),
        ("20 SUN", _of(SUN, range(20, 24))),
        ("20-00,00-08 SUN", _of(SUN, range(20, 24)) | _of(SUN, range(8))),
        ("20-24 SUN", _of(SUN, range(20, 24))),
        ("00-08 MON", _of(MON, range(8))),
        ("0 MON", _of(MON, range(24))),
        ("00-00 MON", _of(MON, range(24))),
        ("0-24 mon", _of(MON, range(24))),
        ("22-06 FRI", _of(FRI, range(22, 24)) | _of(SAT, range(6))),
        ("22-06 SUN", _of(SUN, range(22, 24)) | _of(MON, range(6))),
        ("12-13 FRI-MON", {(day, 12) for day in (FRI, SAT, SUN, MON)}),
        ("12-13 SAT-SUN", {(SAT, 12), (SUN, 12)}),
        (" 9-10 ,11-12   Mon , TUE ", {(MON, 9), (MON, 11), (TUE, 9), (TUE, 11)}),
    ],
)
def test_every_form_has_its_meaning(text: str, meant: set[tuple[int, int]]) -> None:
    assert _hours(text) == meant


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("", 0, "an hour"),
        ("SUN", 0, "an hour"),
        ("24 SUN", 0, "an hour (00 to 23)"),
        ("20-25 SUN", 3, "an hour (00 to 24)"),
        ("200-23 SUN", 0, "an hour"),
        ("20-", 3, "an hour"),
        ("08-08 SUN", 3, "an end other than 08"),
        ("20-23", 5, "a blank and days"),
        ("20-23SUN", 5, "a blank and days"),
        ("20:30 SUN", 2, "a comma and more hours"),
        ("20-23 SUM", 6, "a day (MON"),
        ("20-23 SUNDAY", 6, "a day"),
        ("20-23 SUN,", 10, "a day"),
        ("20-23 SUN TUE", 10, "the end"),
        ("20-23 SUN\n", 9, "the end"),
    ],
)
def test_malformed_hours_say_where_and_what_was_expected(text: str, position: int, expected: str) -> None:
    with pytest.raises(HoursError) as caught:
        parse_hours(text)
    assert caught.value.position == position
    assert expected in caught.value.expected
    assert f"character {position + 1}: " in str(caught.value)


NUMBERS = st.integers(0, 23)
SPANS = st.lists(st.tuples(NUMBERS, st.none() | st.integers(1, 24)).filter(lambda span: span[0] != span[1]), min_size=1)
RANGES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1)


@given(SPANS, RANGES)
def test_any_spans_on_any_days_are_the_hours_that_counting_finds(
    spans: list[tuple[int, int | None]], ranges: list[tuple[int, int]]
) -> None:
    hours = ",".join(f"{start:02}" if end is None else f"{start:02}-{end % 24:02}" for start, end in spans)
    text = hours + " " + ",".join(f"{DAYS[first]}-{DAYS[last]}" for first, last in ranges)
    counted = set()
    for first, last in ranges:
        day = first
        while True:
            for start, end in spans:
                hour = day * 24 + start
                while True:
                    counted.add(divmod(hour % HOURS_OF_WEEK, 24))
                    hour += 1
                    if hour % 24 == (end or 24) % 24:
                        break
            if day == last:
                break
            day = (day + 1) % 7
    assert _hours(text) == counted


@given(st.text("0123456789-, SUNMOTEsun:\t\n", max_size=16) | st.text(max_size=8))
@example("\u0663 SUN")
def test_any_text_is_either_some_hours_or_an_error_within_it(text: str) -> None:
    try:
        found = parse_hours(text)
    except HoursError as error:
        sound = error.position in range(len(text) + 1)
    else:
        sound = found.mask in range(1, 1 << HOURS_OF_WEEK)
    assert sound


def test_several_entries_are_open_when_any_of_them_is() -> None:
    assert parse_hours("17-20 SUN-TUE") | parse_hours("17-20 WED") == parse_hours("17-20 SUN-WED")
    assert parse_hours("00-00 SUN-SAT") == Hours((1 << HOURS_OF_WEEK) - 1)
