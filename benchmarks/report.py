"""The table, as text for a terminal and as a page of the documentation, and the raw values as JSON.

Below the table the page shows how some of its numbers grow with their size, as bars. A plot is known by its first line,
as a row is by its first cell, so that both can be measured anew by themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.figures.base import Row

GROWTH_HEAD = "## How it grows"
GROWTH = (
    GROWTH_HEAD,
    "",
    "Numbers of gpufleet with fewer and with more agents on one server, or hosts; how many is on the left.",
)
LONGEST_BAR = 50
_BLOCK = re.compile(r"```text\n(.*?)```", re.DOTALL)

HEAD = ("figure", "unit", "limit", "gpufleet", "", "clearml-agent")


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table."""
    bound = ("≥ " if row.at_least else "≤ ") + f"{row.limit:g}" if row.limit else "0"
    reference = row.result("reference")
    return (
        row.title,
        row.unit,
        bound,
        _number(row.result("ours")),
        "reached" if row.reached else "MISSED",
        _number(reference) if reference is not None else "not measured",
    )


def _number(value: float | None) -> str:
    if value is None:
        return "not measured"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.1f}"


def as_text(rows: Sequence[Row]) -> str:
    table = [HEAD, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def as_page(rows: Sequence[Row], facts: Mapping[str, str], *, kept: Sequence[str] = ()) -> str:
    """`docs/benchmarks.md`: the last full table, and lines that are `kept` because they are measured elsewhere."""
    titles = f"gpufleet {facts['gpufleet']}", f"clearml-agent {facts['clearml-agent']}"
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench ARGS=--write-docs`: both agents on the embedded server, on one machine, in turns.",
        f"Times and sizes are medians of {facts['runs']} runs or more; faults are those of the worst run.",
        "`clearml-agent` runs with its environment cache on, its faster setting. What each figure does is told at the",
        "top of its file in `benchmarks/figures/`.",
        "",
        f"{facts['date']}; {facts['processor']}; {facts['memory']}; {facts['system']}; Python {facts['python']}.",
        "",
        f"| figure | to reach | {titles[0]} | | {titles[1]} |",
        "|---|---|---|---|---|",
    ]
    return _page([*lines, *(_line(row) for row in rows), *kept], _plots(rows))


def lines_of(page: str, beginning: str) -> list[str]:
    """The rows of a page whose titles begin so."""
    return [line for line in page.split("\n") if line.startswith(f"| {beginning}")]


def _page(table: Sequence[str], plots: Sequence[str]) -> str:
    below = ["", *GROWTH, *(f"\n```text\n{plot}\n```" for plot in plots)] if plots else []
    return "\n".join([*table, *below, ""])


def _plots(rows: Sequence[Row]) -> list[str]:
    return [plot(row) for row in rows if row.growth]


def plot(row: Row) -> str:
    """How a number of ours grows: a line with a bar for each size, after one that says what it is."""
    sizes = [f"{size:,}" for size in row.growth]
    width, most = max(map(len, sizes)), max(row.growth.values()) or 1.0
    bars = [_bar(value / most) for value in row.growth.values()]
    lines = [
        f"{size.rjust(width)}  {bar.ljust(LONGEST_BAR)}  {_number(value)}"
        for size, bar, value in zip(sizes, bars, row.growth.values(), strict=True)
    ]
    return "\n".join([f"{row.grows}, {row.unit}", *lines])


def _bar(share: float) -> str:
    """Whole blocks and one of eight widths, so that small differences can be seen."""
    whole, rest = divmod(round(share * LONGEST_BAR * 8), 8)
    parts = " ▏▎▍▌▋▊▉"
    return ("█" * whole + parts[rest]).rstrip()


def with_rows(page: str, rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    """The page with these rows measured anew, on the day that they then name, and the others as they are."""
    table, _head, below = page.partition(f"\n{GROWTH_HEAD}\n")
    lines = table.rstrip("\n").split("\n")
    for row in rows:
        fresh = _line(row).replace(f"| {row.title} |", f"| {row.title} ({facts['date']}) |", 1)
        _put(lines, fresh, rf"\| {re.escape(row.title)}(?: \([-\d]+\))? \|")
    plots = [block.rstrip("\n") for block in _BLOCK.findall(below)]
    for row in rows:
        if row.growth:
            fresh = plot(row).replace(row.grows, f"{row.grows} ({facts['date']})", 1)
            _put(plots, fresh, rf"{re.escape(row.grows)}(?: \([-\d]+\))?, ")
    return _page(lines, plots)


def _put(parts: list[str], fresh: str, known_by: str) -> None:
    """In place of the one that begins so, or at the end."""
    at = next((at for at, part in enumerate(parts) if re.match(known_by, part)), None)
    if at is None:
        parts.append(fresh)
    else:
        parts[at] = fresh


def _line(row: Row) -> str:
    title, unit, bound, ours, reached, reference = cells(row)
    return f"| {title} | {bound} {unit} | {ours} | {reached} | {reference} |"


def as_json(rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    return json.dumps({"facts": dict(facts), "rows": [_row(row) for row in rows]}, indent=2) + "\n"


def _row(row: Row) -> dict[str, object]:
    return {
        "title": row.title,
        "unit": row.unit,
        "limit": row.limit,
        "at_least": row.at_least,
        "reached": row.reached,
        "results": {name: row.result(name) for name in row.values},
        "values": dict(row.values),
        "growth": {str(size): value for size, value in row.growth.items()},
    }


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
