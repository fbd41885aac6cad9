"""What is said about a task of the demo when it has ended: its times, and whether all was as it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from demo.api import Api, console_text
from demo.tasks import DemoTask, check_console
from demo.watch import Ended

HEAD = ("task", "queue", "worker", "status", "to first line", "in all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one task of the demo went. Times are seconds since it was enqueued."""

    task: str
    id: str
    queue: str
    worker: str
    status: str
    reason: str
    first_line: float | None
    total: float
    faults: tuple[str, ...]

    @property
    def good(self) -> bool:
        return not self.faults


def result_of(api: Api, wanted: DemoTask, enqueued: float, ended: Ended) -> Result:
    """Compare how a task ended with how it was meant to end."""
    console = check_console(console_text(api, ended.id), wanted)
    faults = list(console.faults)
    if ended.status != wanted.status:
        faults.append(f"{ended.status} instead of {wanted.status}")
    if wanted.reason and ended.reason != wanted.reason:
        faults.append(f"reason {ended.reason!r} instead of {wanted.reason!r}")
    return Result(
        task=wanted.name,
        id=ended.id,
        queue=wanted.queue,
        worker=ended.worker,
        status=ended.status,
        reason=ended.reason,
        first_line=round(console.began - enqueued, 3) if console.began else None,
        total=round(ended.ended - enqueued, 3),
        faults=tuple(faults),
    )


def table_of(results: Sequence[Result]) -> str:
    """One line per task, in columns."""
    rows = [
        (r.task, r.queue, r.worker, r.status, f"{r.first_line:.2f} s" if r.first_line else "never", f"{r.total:.2f} s")
        for r in results
    ]
    widths = [max(len(row[column]) for row in (HEAD, *rows)) for column in range(len(HEAD))]
    lines = (HEAD, tuple("-" * width for width in widths), *rows)
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
