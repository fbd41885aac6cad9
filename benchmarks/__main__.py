"""`python -m benchmarks`: measure, print the table, keep the values."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click

from benchmarks.bed import open_bed
from benchmarks.contestants import Contestant, ours, reference
from benchmarks.figures import FIGURES
from benchmarks.figures.base import Bench, Row
from benchmarks.measure import machine
from benchmarks.report import as_json, as_page, as_text, lines_of, with_rows, write
from benchmarks.soak import BEGINNING

ROOT = Path(__file__).parent.parent
FEWEST_RUNS = 5


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(FIGURES)), help="This figure (repeatable).")
@click.option("--runs", default=FEWEST_RUNS, show_default=True, help="Runs of each figure.")
@click.option("--quick", is_flag=True, help="One run of each, idle for 15 s, without the outages: a first look.")
@click.option("--skip-reference", is_flag=True, help="Ours alone.")
@click.option("--write-docs", is_flag=True, help="Put the rows into docs/benchmarks.md (no quick run).")
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=ROOT / "demo-state",
    help="Where the server and the agents keep their files meanwhile.  [default: demo-state in the checkout]",
)
def main(*, only: tuple[str, ...], runs: int, quick: bool, skip_reference: bool, write_docs: bool, state: Path) -> None:
    """Measure every figure; end with 1 when one of ours misses its limit."""
    if write_docs and (quick or skip_reference or runs < FEWEST_RUNS):
        raise click.UsageError("--write-docs takes no --quick, --skip-reference or fewer runs")
    chosen = only or tuple(name for name in FIGURES if not (quick and name == "outage"))
    contestants = [ours(), *([] if skip_reference else _reference())]
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "runs": str(1 if quick else runs),
        "gpufleet": version("gpufleet"),
        "clearml-agent": contestants[-1].title.split()[-1] if len(contestants) > 1 else "not measured",
        **machine(),
    }
    rows: list[Row] = []
    with open_bed(state) as bed:
        bench = Bench(
            bed=bed,
            contestants=contestants,
            runs=1 if quick else runs,
            window_seconds=15.0 if quick else 60.0,
            say=lambda text: click.echo(text, err=True),
        )
        for name in chosen:
            started = time.monotonic()
            rows += FIGURES[name](bench)
            bench.say(f"{name}: measured in {time.monotonic() - started:.0f} s")
    click.echo(as_text(rows))
    file = ROOT / "benchmarks/results" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    write(file, as_json(rows, facts))
    click.echo(f"\nvalues in {file}")
    if write_docs:
        page = ROOT / "docs/benchmarks.md"
        before = page.read_text()
        kept = lines_of(before, BEGINNING)
        write(page, with_rows(before, rows, facts) if only else as_page(rows, facts, kept=kept))
    sys.exit(0 if all(row.reached for row in rows) else 1)


def _reference() -> list[Contestant]:
    """`clearml-agent` where it can be had; without it ours is measured alone."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.reference_agent import VERSION, ReferenceAgentUnavailable, reference_agent

    try:
        return [reference(reference_agent(), VERSION)]
    except ReferenceAgentUnavailable as error:
        click.echo(f"clearml-agent is not measured: {error}", err=True)
        return []


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
