"""What counts in a row of the benchmarks, and how the table says it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.bed import Ran
from benchmarks.contestants import Contestant
from benchmarks.figures.base import Row
from benchmarks.figures.console import LINE, whole_lines, worst_time_error
from benchmarks.report import as_json, as_page, as_text, lines_of, plot, with_rows
from benchmarks.soak import BEGINNING, rows_from

OURS = Contestant(name="ours", title="gpufleet", executable=Path("a"))
REFERENCE = Contestant(name="reference", title="clearml-agent", executable=Path("b"))
FACTS = {
    "gpufleet": "0.1",
    "clearml-agent": "3.0.3",
    "runs": "5",
    "date": "2026-01-01",
    "processor": "2 cores",
    "memory": "8 GiB",
    "system": "Debian",
    "python": "3.11",
}


def row(*values: float, limit: float = 1.0, at_least: bool = False, worst: bool = False) -> Row:
    made = Row(title="something", unit="s", limit=limit, at_least=at_least, worst=worst)
    for value in values:
        made.add(OURS, value)
    return made


def test_times_count_by_their_median_and_faults_by_their_worst_run() -> None:
    assert row(0.1, 0.2, 9.0).result("ours") == 0.2
    assert row(0, 0, 3, worst=True).result("ours") == 3


@pytest.mark.parametrize(
    ("made", "reached"),
    [
        (row(0.9), True),
        (row(1.1), False),
        (row(151, limit=150, at_least=True), True),
        (row(149, limit=150, at_least=True), False),
        (row(0, 0, limit=0, worst=True), True),
        (row(0, 1, limit=0, worst=True), False),
        (row(), False),
    ],
)
def test_a_limit_is_reached_from_the_right_side_and_never_without_a_value(made: Row, reached: bool) -> None:
    assert made.reached is reached


def test_table_names_limit_result_and_what_was_not_measured() -> None:
    assert as_text([row(0.25)]).splitlines()[-1].split("  ")[0] == "something"
    assert "| something | ≤ 1 s | 0.250 | reached | not measured |" in as_page([row(0.25)], FACTS)
    assert "MISSED" in as_text([row(2.0)])


def test_a_row_that_is_measured_anew_takes_its_place_and_names_its_day() -> None:
    other = Row(title="other (b)", unit="s", limit=1.0)
    other.add(OURS, 0.5)
    page = as_page([row(0.25), other], FACTS)
    for value, day in ((0.3, "2026-01-02"), (0.4, "2026-01-03")):
        page = with_rows(page, [row(value)], {**FACTS, "date": day})
    lines = [line for line in page.splitlines() if line.startswith(("| something", "| other"))]
    assert lines == [
        "| something (2026-01-03) | ≤ 1 s | 0.400 | reached | not measured |",
        "| other (b) | ≤ 1 s | 0.500 | reached | not measured |",
    ]
    new = Row(title="new", unit="s", limit=1.0)
    assert with_rows(page, [new], FACTS).splitlines()[-1].startswith("| new (2026-01-01) |")


def growing(title: str, **sizes: float) -> Row:
    growth = {int(size[1:]): value for size, value in sizes.items()}
    made = Row(title=f"1,000 agents, {title}", unit="MB", limit=300.0, grows=title, growth=growth)
    made.add(OURS, 100.0)
    return made


def test_a_plot_has_a_line_for_each_size_and_bars_in_proportion_to_the_largest() -> None:
    head, *lines = plot(growing("memory", n100=12.25, n1000=50.0, n2000=100.0)).split("\n")
    assert head == "memory, MB"
    assert [line.split() for line in lines] == [
        ["100", "█" * 6 + "▏", "12.2"],
        ["1,000", "█" * 25, "50"],
        ["2,000", "█" * 50, "100"],
    ]
    assert len({len(line.rpartition("  ")[0]) for line in lines}) == 1
    assert plot(growing("nothing", n1=0.0)).endswith("0")


def test_plots_stand_below_the_table_and_rows_measured_anew_take_their_places_in_both() -> None:
    grown = growing("memory", n1=1.0, n2=2.0)
    page = as_page([row(0.25), grown, growing("processor", n1=3.0)], FACTS)
    assert (
        page.index("| 1,000 agents, processor |")
        < page.index("## How it grows")
        < page.index("```text\nmemory, MB\n1  ")
    )
    assert "## How it grows" not in as_page([row(0.25)], FACTS)
    later = {**FACTS, "date": "2026-01-02"}
    for value in (4.0, 8.0):
        page = with_rows(page, [growing("memory", n1=value), Row(title="new", unit="s", limit=1.0)], later)
    assert (
        page.count("## How it grows")
        == page.count("| 1,000 agents, memory ")
        == page.count("memory (2026-01-02), MB")
        == 1
    )
    assert page.count("```text") == 2
    assert page.index("| new (2026-01-02) |") < page.index("## How it grows")
    assert page.index("memory (2026-01-02), MB") < page.index("processor, MB") < len(page)
    assert f"{'█' * 50}  8" in page
    assert with_rows(page, [row(0.25)], FACTS).count("```text") == 2


def test_the_first_plot_of_a_page_makes_the_section() -> None:
    page = with_rows(as_page([row(0.25)], FACTS), [growing("memory", n1=1.0)], FACTS)
    assert page.endswith("  1\n```\n")
    assert page.count("## How it grows") == 1


def test_every_value_is_kept() -> None:
    made = row(0.1, 0.3)
    made.add(REFERENCE, 4.0)
    kept = json.loads(as_json([made], FACTS))["rows"][0]
    assert kept["values"] == {"ours": [0.1, 0.3], "reference": [4.0]}
    assert kept["results"] == {"ours": 0.2, "reference": 4.0}


def event(timestamp: int, *lines: str) -> dict[str, object]:
    return {"level": "DEBUG", "timestamp": timestamp, "msg": "\n".join(lines) + "\n"}


def line(number: int, moment: float) -> str:
    text = f"line {number:06d} {moment:.3f} abcdefghijklmnopqrstuvwxyz0123456789 end"
    assert LINE.fullmatch(text)
    return text


def test_a_cut_line_does_not_count_and_a_late_stamp_is_measured() -> None:
    cut = line(1, 10.0)
    events = [event(10_000, line(0, 10.0), cut[:20]), event(10_900, cut[20:], line(2, 10.4))]
    ran = Ran(id="t", status="completed", enqueued=0.0, completed=0.0, events=events)
    assert whole_lines(ran) == [0, 2]
    assert worst_time_error(ran) == pytest.approx(0.5)


SOAK = {
    "minutes": 10.0,
    "tasks": 3000,
    "faults": {"abort": 30, "kill agent": 70},
    "calls spoilt": 500,
    "memory (MiB, second and last quarter)": {"server": [50.0, 51.0], "agent 0": [15.0, 15.3], "agent 1": [15.0, 18.0]},
    "open files (second and last quarter)": {"server": [50, 48], "agent 0": [11, 14]},
}


def test_a_soak_becomes_rows_with_the_worst_of_its_agents() -> None:
    values = {row.title.partition(": ")[2]: (row.result("ours"), row.reached) for row in rows_from(SOAK)}
    assert values["growth of an agent's memory"] == (pytest.approx(20.0), False)
    assert values["growth of the server's memory"] == (pytest.approx(2.0), True)
    assert values["more open files, agents and server"] == (3.0, True)


def test_rows_of_a_soak_stay_when_everything_else_is_measured_anew() -> None:
    page = with_rows(as_page([row(0.25)], FACTS), rows_from(SOAK), FACTS)
    kept = lines_of(page, BEGINNING)
    assert len(kept) == len(rows_from(SOAK))
    assert lines_of(as_page([row(0.5)], FACTS, kept=kept), BEGINNING) == kept
