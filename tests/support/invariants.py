"""What must be true of tasks whatever happened: docs/guarantees.md as a program.

It looks at the server, at the run directories, at the table of processes, and at a ledger that the tasks themselves
write (`counting_script`). `now` is for a moment in which nothing moves, `settled` for the time when all is over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.agent import wait_for

ENDED = frozenset({"completed", "failed", "stopped", "published", "closed"})
#: Phases of a claim that say "ours" while the server still says `queued` and has it in no queue.
HELD = frozenset({"claiming", "claimed"})
RUNNING = frozenset({"claimed", "started", "exited"})

_SCRIPT = """\
import json, os, sys, time

LEDGER, LINES, PAUSE, CODE, PAD = {ledger!r}, {lines}, {pause}, {code}, {pad!r}
TASK = os.environ["CLEARML_TASK_ID"]
GPUS = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]


def ticks(pid):
    try:
        fields = open(f"/proc/{{pid}}/stat").read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


ME = [os.getpid(), ticks(os.getpid())]


def note(event, **more):
    line = json.dumps({{"event": event, "task": TASK, "gpus": GPUS, "process": ME, **more}}) + "\\n"
    ledger = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(ledger, line.encode())
    os.close(ledger)


note("begin")
for line in open(LEDGER):
    other = json.loads(line)
    pid, since = other["process"]
    if other["event"] == "begin" and [pid, since] != ME and ticks(pid) == since:
        if other["task"] == TASK or set(other["gpus"]) & set(GPUS):
            note("overlap", other=other)
for number in range(LINES):
    print(f"{{ME[0]}} {{number}}" + PAD, flush=True)
    time.sleep(PAUSE)
note("end", code=CODE)
sys.exit(CODE)
"""


def counting_script(ledger: Path, *, lines: int = 20, pause: float = 0.01, code: int = 0, pad: int = 0) -> str:
    """A task that counts, one line each, and notes in the ledger when it begins and ends, and whom it meets.

    `pad` makes the lines longer by so many characters.
    """
    return _SCRIPT.format(ledger=str(ledger), lines=lines, pause=pause, code=code, pad=" " + "x" * pad if pad else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One start of a task's program. `code` is None if it did not come to its end."""

    pid: int
    code: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checker:
    """Looks at `tasks` that count to `lines`, on one server, run by agents with these state directories."""

    server: Any
    states: Sequence[Path]
    ledger: Path
    lines: int = 20

    # --- a moment

    def now(self, tasks: Sequence[str]) -> list[str]:
        """What is wrong at this moment, in which nobody moves."""
        queued = self._queued()
        return [
            f"task {task}: {problem}"
            for task in tasks
            for problem in self._wrong_place(task, self.status(task), queued.count(task))
        ]

    def _wrong_place(self, task: str, status: str, queues: int) -> Iterator[str]:
        phases = [claim["phase"] for _, claim in self.runs_of(task) if claim["phase"] != "reported"]
        place = f"{status}, in {queues} queues, run directories in phases {phases}"
        if queues > 1 or (queues and status != "queued"):
            yield f"is queued wrongly: {place}"
        elif status == "queued" and not queues and not (len(phases) == 1 and phases[0] in HELD):
            yield f"is forgotten: {place}"
        elif status == "in_progress" and not (len(phases) == 1 and phases[0] in RUNNING):
            yield f"runs nowhere or twice: {place}"

    # --- the end

    def settle(self, tasks: Sequence[str], *, seconds: float = 60.0, excused: frozenset[str] = frozenset()) -> None:
        """Wait until all tasks are at rest, then raise AssertionError with everything that is wrong.

        `excused`: "outcome" where nobody can know it, "console" where what was written is no count, "earlier consoles"
        where a reset has wiped them, "ledger" where the task writes none.
        """

        def at_rest() -> bool:
            return all(self._is_at_rest(task) for task in tasks)

        try:
            wait_for(at_rest, seconds=seconds, what="all tasks are at rest")
        except AssertionError as error:
            places = [f"{task}: {self.status(task)} {[c['phase'] for _, c in self.runs_of(task)]}" for task in tasks]
            raise AssertionError(f"{error}: {places}; {self.now(tasks)}") from None
        assert not (wrong := self.settled(tasks, excused)), "\n".join(wrong)

    def _is_at_rest(self, task: str) -> bool:
        status = self.status(task)
        return not self.runs_of(task) and status in {*ENDED, "created", "gone"}

    def settled(self, tasks: Sequence[str], excused: frozenset[str] = frozenset()) -> list[str]:
        """What is wrong now that everything is over."""
        found = self.now(tasks)
        met = [entry for entry in self._entries() if entry["event"] == "overlap"]
        found += [f"ran at the same time, or on the same GPU: {entry}" for entry in met]
        for task in tasks:
            found += [f"task {task}: {problem}" for problem in self._wrong_end(task, excused)]
        return found

    def _wrong_end(self, task: str, excused: frozenset[str]) -> Iterator[str]:
        status, attempts = self.status(task), self.attempts(task)
        if pids := processes_of(task):
            yield f"is {status}, and its processes {pids} live"
        if status == "gone":
            return
        last = attempts[-1].code if attempts else None
        if status == "completed" and last != 0 and "ledger" not in excused:
            yield f"is completed, and its last attempt ended with {last}"
        if status == "failed" and last == 0 and "outcome" not in excused:
            yield f"is failed, and its last attempt ended with 0: {self._reason(task)}"
        is_forgotten = status == "created" and "earlier consoles" in excused
        if "console" not in excused and not is_forgotten:
            yield from self._wrong_console(task, attempts, is_reset="earlier consoles" in excused)

    def _wrong_console(self, task: str, attempts: Sequence[Attempt], *, is_reset: bool) -> Iterator[str]:
        """All lines of an attempt that came to its end, and the first lines of one that was killed, in order, once.

        Where the console of an earlier attempt is excused, what a reset has left of it may be anything.
        """
        written = self.console(task)
        if is_reset and attempts:
            attempts = attempts[-1:]
            written = [line for line in written if line.startswith(f"{attempts[0].pid} ")]
            attempts = attempts if written or attempts[0].code is not None else ()
        lines = iter([*written, None])
        line = next(lines)
        for attempt in attempts:
            number = 0
            while line == f"{attempt.pid} {number}":
                number += 1
                line = next(lines)
            if attempt.code is not None and number != self.lines:
                yield f"its console has {number} of {self.lines} lines of {attempt}, then {line!r}"
        if line is not None:
            yield f"its console has a line that nobody wrote there: {line!r}"

    # --- what there is

    def attempts(self, task: str) -> list[Attempt]:
        found: dict[int, int | None] = {}
        for entry in self._entries():
            if entry["task"] == task and entry["event"] in ("begin", "end"):
                found[entry["process"][0]] = entry.get("code")
        return [Attempt(pid=pid, code=code) for pid, code in found.items()]

    def status(self, task: str) -> str:
        """The status of a task; "gone" if the server has none such."""
        found = self.server.call("tasks.get_all", id=[task], only_fields=["status"])["tasks"]
        return str(found[0]["status"]) if found else "gone"

    def runs_of(self, task: str) -> list[tuple[Path, dict[str, Any]]]:
        """The run directories of a task in all state directories, with their claims."""
        found = []
        for state in self.states:
            for path in sorted(state.glob(f"runs/{task}.*")):
                try:
                    found.append((path, json.loads((path / "claim.json").read_text())))
                except (FileNotFoundError, NotADirectoryError, ValueError):
                    continue
        return found

    def console(self, task: str) -> list[str]:
        """What the task itself wrote, as the server has it."""
        from support.agent import console_of

        return [line.partition(" x")[0] for line in console_of(self.server, task, level="DEBUG")]

    def _entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.ledger.read_text().splitlines()] if self.ledger.exists() else []

    def _queued(self) -> list[str]:
        queues = self.server.call("queues.get_all", only_fields=["entries"])["queues"]
        return [entry["task"] for queue in queues for entry in queue.get("entries") or ()]

    def _reason(self, task: str) -> str:
        return str(self.server.call("tasks.get_by_id", task=task)["task"].get("status_reason"))


def processes_of(task: str) -> list[int]:
    """The living processes that run for a task: its own by their environment, its executor by its command line."""
    mark, run = f"CLEARML_TASK_ID={task}".encode(), f"/{task}.".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            folder = Path("/proc", name)
            command = folder.joinpath("cmdline").read_bytes()
            is_ours = b"agent.executor" in command and run in command
            if is_ours or mark in folder.joinpath("environ").read_bytes().split(b"\0"):
                found.append(int(name))
        except OSError:
            continue
    return found
