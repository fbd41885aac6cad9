"""The named steps in the life of a task, and the place where a test may stand between two of them.

Each step is a moment after which something is true that was not true before: on our disk, on the server, or in the
table of processes. Any process may die there, so each is a test (`tests/faults`), which takes this list as it is. In
production `reached` is one comparison: nobody watches.

A watcher is a unix socket that GPUFLEET_STEPS names. It is told step and pid, and whoever reached the step stands still
until it answers or goes away.
"""

from __future__ import annotations

import os
from enum import StrEnum

WATCHER = "GPUFLEET_STEPS"


class Step(StrEnum):
    """In order of time, as far as there is one."""

    # the daemon takes a task (agent/runner/claim.py, start.py, lifecycle.py)
    SEEN = "seen"  # a task waits in a queue; nothing is written yet
    CLAIM_WRITTEN = "claim_written"
    POPPED = "popped"  # the server has said that it is ours
    CLAIM_HELD = "claim_held"  # and that is written
    TASK_WRITTEN = "task_written"
    START_TOLD = "start_told"  # the server has it in progress
    START_WRITTEN = "start_written"
    SETUP_WRITTEN = "setup_written"
    EXECUTOR_STARTED = "executor_started"

    # the executor sets it up and runs it (agent/executor/lifecycle.py)
    EXECUTOR_BEGUN = "executor_begun"  # it lives and has not said who it is
    LAUNCH_WRITTEN = "launch_written"
    WORKSPACE_OPEN = "workspace_open"
    CODE_READY = "code_ready"
    PATCHED = "patched"
    REQUIREMENTS_KNOWN = "requirements_known"
    ENVIRONMENT_READY = "environment_ready"
    ENVIRONMENT_WRITTEN = "environment_written"
    PROCESS_FORKED = "process_forked"  # the user's process waits for its program
    PROCESS_WRITTEN = "process_written"
    PROCESS_ENDED = "process_ended"
    OUTCOME_WRITTEN = "outcome_written"

    # the daemon ships and reports meanwhile (agent/runner/log_stream.py, writeback.py)
    CONSOLE_NOTED = "console_noted"  # which records go next is written down
    CONSOLE_SENT = "console_sent"  # the server has them
    CONSOLE_KEPT = "console_kept"  # and that is written
    PACKAGES_TOLD = "packages_told"

    # the daemon ends a task that was aborted
    STOP_SEEN = "stop_seen"
    STOP_WRITTEN = "stop_written"
    STOP_SENT = "stop_sent"

    # the daemon sees the end (agent/runner/lifecycle.py, judging.py, report.py)
    EXECUTOR_GONE = "executor_gone"
    EXIT_WRITTEN = "exit_written"
    VERDICT_WRITTEN = "verdict_written"  # what it will be told to have come to
    END_NOTED = "end_noted"  # the last line of the console
    CONSOLE_DONE = "console_done"  # all of it is on the server
    END_TOLD = "end_told"  # the final status is on the server
    REPORT_WRITTEN = "report_written"
    RUN_REMOVED = "run_removed"

    # a task that failed is queued again (agent/runner/report.py), once its console is there
    RETRY_DUE = "retry_due"  # its delay has gone by, and nobody has ended it meanwhile
    RETRY_COUNTED = "retry_counted"  # the server has the number of the retry

    # a task that did not start goes back to its queue (agent/runner/give_back.py)
    GIVING_BACK = "giving_back"
    GIVEN_BACK = "given_back"
    MOVED_TO_FRONT = "moved_to_front"

    # the next daemon looks through what was left (agent/runner/recovery.py)
    FOUND = "found"


_watcher = os.environ.get(WATCHER, "")


def reached(step: Step) -> None:
    """Say that `step` is reached; returns at once unless somebody watches."""
    if _watcher:
        _stand_still(step)


def _stand_still(step: Step) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as watcher:
        try:
            watcher.connect(_watcher)
            watcher.sendall(f"{step.value} {os.getpid()}\n".encode())
            watcher.recv(1)
        except OSError:
            return
