"""The table, as text for a terminal and as a page of the documentation, and the raw values as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.figures.base import Row

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


def as_page(rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    """`docs/benchmarks.md`: the last full table."""
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
    return "\n".join([*lines, *(_line(row) for row in rows), ""])


def with_rows(page: str, rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    """The page with these rows measured anew, on the day that they then name, and the others as they are."""
    lines = page.rstrip("\n").split("\n")
    for row in rows:
        fresh = _line(row).replace(f"| {row.title} |", f"| {row.title} ({facts['date']}) |", 1)
        at = next(
            (at for at, line in enumerate(lines) if re.match(rf"\| {re.escape(row.title)}(?: \([-\d]+\))? \|", line)),
            None,
        )
        if at is None:
            lines.append(fresh)
        else:
            lines[at] = fresh
    return "\n".join([*lines, ""])


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
    }


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
