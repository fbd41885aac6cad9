"""Retry policies: how they are read, what they decide, and what a daemon that goes on after another one makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.models import Outcome, Task
from agent.runner.outcome import StopCause, Verdict, verdict_for
from agent.runner.retry import (
    COUNT,
    NEVER,
    Policy,
    PolicyUnreadable,
    count_of,
    counted,
    decide,
    policy_of,
    why_unreadable,
)
from agent.runner.rundir import RunDirectory
from agent.states import TaskStatus

LOST_GPU = "GPU 2 has fallen off the bus"


def task(**properties: Any) -> Task:
    section = {name: {"section": "properties", "name": name, "value": value} for name, value in properties.items()}
    return Task.from_wire({"id": "t", "hyperparams": {"properties": section}})


AWAY = verdict_for(Outcome(phase="checkout", error="its server is away", infrastructure=True, told=True), None)
NO_COMMIT = verdict_for(Outcome(phase="checkout", error="no such commit", told=True), None)
KILLED = verdict_for(None, None)


def ended(code: int | None = None, *, signal: int | None = None, fault: str = "") -> Verdict:
    return verdict_for(Outcome(phase="run", exit_code=code, signal=signal), None, fault=fault)


# --- reading


def test_a_task_without_properties_is_never_tried_again() -> None:
    assert policy_of(Task(id="t")) == NEVER
    assert policy_of(task(retry_limit="5")) == NEVER
    assert policy_of(task(retry_on="  ")) == NEVER


@pytest.mark.parametrize(
    ("text", "infrastructure", "codes"),
    [
        ("infrastructure", True, set()),
        ("Infrastructure, 75", True, {75}),
        ("130-132", False, {130, 131, 132}),
        ("1 , 3 - 4,", False, {1, 3, 4}),
        ("SIGKILL, sigsegv", False, {137, 139}),
        ("[75, 76]", False, {75, 76}),
        (75, False, {75}),
    ],
)
def test_what_may_be_retried_on(text: object, infrastructure: bool, codes: set[int]) -> None:
    assert policy_of(task(retry_on=text)) == Policy(infrastructure=infrastructure, codes=frozenset(codes))


@pytest.mark.parametrize(
    "text", ["0", "256", "9-3", "-1", "infra", "SIGNONE", "75;76", "7.5", "1e2", "infrastructure 75"]
)
def test_a_word_that_is_not_one_is_named_with_what_is_allowed(text: str) -> None:
    with pytest.raises(PolicyUnreadable, match=r"retry_on.*infrastructure.*1 to 255.*130-137.*SIGKILL"):
        policy_of(task(retry_on=text))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("retry_limit", "101"),
        ("retry_limit", "-1"),
        ("retry_limit", "2.5"),
        ("retry_limit", "many"),
        ("retry_delay_seconds", "-1"),
        ("retry_delay_seconds", "nan"),
        ("retry_delay_seconds", "inf"),
        ("retry_delay_seconds", "3601"),
    ],
)
def test_a_number_that_is_not_one_is_named_with_what_is_allowed(name: str, text: str) -> None:
    wanted = task(retry_on="1", **{name: text})
    with pytest.raises(PolicyUnreadable, match=f"{name} of the task is '{text}'.*number from 0 to"):
        policy_of(wanted)
    assert name in why_unreadable(wanted)


@given(st.dictionaries(st.sampled_from(["retry_on", "retry_limit", "retry_delay_seconds"]), st.text()))
def test_no_text_does_worse_than_to_be_refused(properties: dict[str, str]) -> None:
    wanted = task(**properties)
    why = why_unreadable(wanted)
    assert decide(ended(3), wanted, done=0, has_queue=True).status in (TaskStatus.FAILED, TaskStatus.QUEUED)
    if why:
        assert decide(ended(3), wanted, done=0, has_queue=True).status is TaskStatus.FAILED


@pytest.mark.parametrize("section", [None, {"retry_on": None}, {"retry_on": "1"}, {"retry_on": {"value": None}}])
def test_a_section_of_another_form_does_no_harm(section: Any) -> None:
    policy_of(Task.from_wire({"id": "t", "hyperparams": {"properties": section}}))


# --- counting


def test_the_count_is_kept_beside_what_else_is_in_the_runtime() -> None:
    assert counted({"progress": 3, COUNT: 1}, 2) == {"progress": 3, COUNT: 2}
    assert [count_of(Task(id="t", runtime={COUNT: value})) for value in (2, "2", None, "x", -1)] == [2, 2, 0, 0, 0]


def test_delays_double_up_to_five_minutes() -> None:
    assert [Policy(delay_seconds=10).delay_before(number) for number in (1, 2, 3, 5, 6, 100)] == [
        10,
        20,
        40,
        160,
        300,
        300,
    ]
    assert Policy(delay_seconds=900).delay_before(4) == 900
    assert Policy(delay_seconds=0).delay_before(4) == 0


# --- deciding


@pytest.mark.parametrize(
    ("on", "verdict", "again"),
    [
        ("infrastructure", AWAY, True),
        ("infrastructure", KILLED, True),
        ("infrastructure", NO_COMMIT, False),
        ("infrastructure", ended(1), False),
        ("infrastructure", ended(1, fault=LOST_GPU), True),
        ("infrastructure", ended(0, fault=LOST_GPU), False),
        ("1", NO_COMMIT, True),
        ("1", ended(1, fault=LOST_GPU), True),
        ("75", AWAY, True),
        ("75", ended(75), True),
        ("75", ended(76), False),
        ("130-137", ended(signal=9), True),
        ("SIGKILL", ended(137), True),
        ("1-255", ended(signal=2), False),  # somebody interrupted it
        ("1-255", ended(254), False),
        ("1-255", ended(0), False),
        ("", AWAY, False),
    ],
)
def test_who_is_tried_again(on: str, verdict: Verdict, again: bool) -> None:
    decided = decide(verdict, task(retry_on=on), done=0, has_queue=True)
    assert (decided.status is TaskStatus.QUEUED, decided.retry) == (again, int(again))
    if not again:
        assert decided == verdict


@pytest.mark.parametrize("cause", StopCause)
def test_nobody_who_was_ended_is_tried_again(cause: StopCause) -> None:
    verdict = verdict_for(Outcome(phase="run", exit_code=3, stopped=True), cause)
    assert decide(verdict, task(retry_on="infrastructure, 1-255"), done=0, has_queue=True) == verdict


def test_people_are_told_which_retry_it_is_when_and_why() -> None:
    decided = decide(AWAY, task(retry_on="infrastructure"), done=1, has_queue=True)
    assert decided.notice.endswith(" (exit code 75). Retry 2 of 3 in 20 s.")
    assert decided.reason == (
        "retry 2 of 3 after 20 s: worker execution exit code 75: infrastructure failure: checkout: its server is away"
    )


def test_a_limit_that_is_reached_is_said() -> None:
    decided = decide(ended(7), task(retry_on="7", retry_limit="2"), done=2, has_queue=True)
    assert (decided.status, decided.reason) == (
        TaskStatus.FAILED,
        "worker execution exit code 7; no retry is left (2 of 2 done)",
    )
    assert decided.notice.endswith("No retry is left (2 of 2 done).")


def test_a_task_from_no_queue_is_run_once_and_that_is_said() -> None:
    decided = decide(ended(7), task(retry_on="7"), done=0, has_queue=False)
    assert (decided.status, decided.exit_code) == (TaskStatus.FAILED, 7)
    assert "it is run once" in decided.notice


def test_a_policy_that_cannot_be_read_is_no_policy_and_that_is_said() -> None:
    decided = decide(ended(7), task(retry_on="7", retry_limit="lots"), done=0, has_queue=True)
    assert (decided.status, decided.reason) == (TaskStatus.FAILED, ended(7).reason)
    assert "It is not tried again: the property retry_limit of the task is 'lots'" in decided.notice
    assert decide(ended(0), task(retry_on="?"), done=0, has_queue=True) == ended(0)


# --- the verdict itself


def test_the_hosts_failure_has_its_own_exit_code_and_the_users_has_his() -> None:
    assert (AWAY.exit_code, NO_COMMIT.exit_code, KILLED.exit_code, ended(9).exit_code) == (75, 1, 75, 9)
    assert NO_COMMIT.reason == "worker execution exit code 1: checkout failed"


def test_a_fault_of_the_host_takes_the_blame_and_the_users_exit_code_stays_in_the_text() -> None:
    verdict = ended(134, fault=f"{LOST_GPU}.")
    assert verdict.reason == (
        f"worker execution exit code 75: infrastructure failure: {LOST_GPU} (the process ended with exit code 134)"
    )
    assert verdict.exit_code == 75
    assert "exit code 134" in verdict.notice


def test_a_program_that_could_not_be_started_is_no_success() -> None:
    verdict = verdict_for(Outcome(phase="run", error="the program of the task cannot be started", told=True), None)
    assert (verdict.status, verdict.exit_code) == (TaskStatus.FAILED, 1)


def test_what_the_console_does_not_have_yet_is_in_the_last_line() -> None:
    verdict = verdict_for(Outcome(phase="prepare", error="the run\n  cannot be read", infrastructure=True), None)
    assert "prepare: the run cannot be read" in verdict.notice
    assert "\n" not in verdict.notice


@pytest.mark.parametrize(
    "verdict", [AWAY, NO_COMMIT, ended(1, fault=LOST_GPU), ended(0), verdict_for(None, StopCause.RESET)]
)
def test_a_verdict_that_was_written_down_is_the_same_for_the_next_agent(tmp_path: Path, verdict: Verdict) -> None:
    run = RunDirectory(tmp_path)
    decided = decide(verdict, task(retry_on="infrastructure"), done=1, has_queue=True)
    run.write_verdict(decided)
    assert Verdict.from_json(run.read("verdict") or {}) == decided
    assert json.loads((tmp_path / "verdict.json").read_text())["at_ms"] > 0
