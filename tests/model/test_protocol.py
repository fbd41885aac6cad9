"""The protocol of claims keeps its guarantees in every state that the model can get into; and the model can fail.

`GPUFLEET_EXAMPLES` (any number) explores some million states more, for minutes.
"""

from __future__ import annotations

import os

import pytest
from model.explore import explore
from model.protocol import Budget, Rules, begin

from agent.steps import Step

OURS, CLEARML = Rules(), Rules(repeatable_pop=False)

#: Steps that the model has no label for, each with the reason why nothing is lost by that.
BETWEEN_OTHERS = {
    Step.SEEN: "nothing is written yet: dying here is dying idle",
    Step.SETUP_WRITTEN: "dying here leaves what START_WRITTEN left: no executor has been started",
    Step.EXECUTOR_BEGUN: "the lock is held since EXECUTOR_STARTED, and launch.json is not there before LAUNCH_WRITTEN",
    Step.VERDICT_WRITTEN: "what is to be reported follows from what lies on the disk since EXIT_WRITTEN",
    Step.END_NOTED: "a line in our own console",
    Step.RETRY_DUE: "a moment's wait in EXIT_WRITTEN, after which the task is looked at as before any report",
    Step.RETRY_COUNTED: "writes a field of the task; it is then queued by force, as one that was never launched",
    Step.CONSOLE_NOTED: "the console has its own order; no claim, status or queue depends on it",
    Step.CONSOLE_SENT: "as CONSOLE_NOTED",
    Step.CONSOLE_KEPT: "as CONSOLE_NOTED",
    Step.CONSOLE_DONE: "as CONSOLE_NOTED",
    Step.PACKAGES_TOLD: "writes fields of the task, not its status",
    Step.WORKSPACE_OPEN: "the executor lives and no user code runs, as at LAUNCH_WRITTEN",
    Step.CODE_READY: "as WORKSPACE_OPEN",
    Step.PATCHED: "as WORKSPACE_OPEN",
    Step.REQUIREMENTS_KNOWN: "as WORKSPACE_OPEN",
    Step.ENVIRONMENT_READY: "as WORKSPACE_OPEN",
    Step.ENVIRONMENT_WRITTEN: "as WORKSPACE_OPEN",
    Step.PROCESS_FORKED: "the process waits for its program until PROCESS_WRITTEN, and ends if its parent dies first",
}

WORLDS = {
    "one task": (OURS, 1, Budget(1, 1, 1)),
    "one task, one person": (OURS, 1, Budget(1, 0, 2)),
    "one task, two crashes": (OURS, 1, Budget(2, 1, 0)),
    "two tasks": (OURS, 2, Budget(1, 1, 0)),
    "one task, ClearML": (CLEARML, 1, Budget(1, 1, 1)),
    "one task, two losses, ClearML": (CLEARML, 1, Budget(1, 2, 0)),
    "two tasks, ClearML": (CLEARML, 2, Budget(1, 1, 0)),
    "two tasks, one GPU": (OURS._replace(one_gpu=True), 2, Budget(1, 0, 0)),
}
LARGE_WORLDS = {
    "one task, many accidents": (OURS, 1, Budget(2, 1, 2)),
    "one task, many accidents, ClearML": (CLEARML, 1, Budget(2, 1, 2)),
    "two tasks, many accidents, one GPU": (OURS._replace(one_gpu=True), 2, Budget(2, 1, 1)),
    "two tasks and a person": (OURS, 2, Budget(1, 1, 1)),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("world", [*WORLDS, *(LARGE_WORLDS if os.environ.get("GPUFLEET_EXAMPLES") else ())])
def test_every_reachable_state_keeps_the_guarantees_and_has_a_way_out(world: str) -> None:
    rules, tasks, budget = {**WORLDS, **LARGE_WORLDS}[world]
    found = explore(begin(tasks, 2, budget), rules)
    assert not found.fault, f"{world}: {found}"


MISTAKES = {
    "claims_before_pop": (CLEARML, Budget(1, 0, 0), "under no claim"),
    "syncs_the_claim": (CLEARML, Budget(1, 0, 0), "under no claim"),
    "pops_by_name": (CLEARML, Budget(0, 1, 0), "under no claim"),
    "looks_before_start": (OURS, Budget(0, 0, 1), "a person said"),
    "starts_by_claim": (OURS, Budget(0, 0, 1), "a person said"),
    "looks_before_repeated_start": (CLEARML, Budget(0, 1, 1), "a person said"),
    "looks_for_the_entry": (CLEARML, Budget(1, 0, 2), "cannot come to an end"),
    "looks_before_report": (OURS, Budget(0, 0, 1), "a person said"),
    "tells_starts_apart": (OURS, Budget(1, 0, 2), "but its process"),
    "looks_before_repeated_give_back": (OURS, Budget(1, 1, 0), "at once"),
    "gives_back_only_what_is_ours": (OURS, Budget(1, 0, 1), "a person said"),
    "keeps_an_abort": (OURS, Budget(1, 0, 1), "a person wants it to end"),
    "adopts_by_lock": (OURS, Budget(1, 0, 0), ""),
    "ends_what_is_left": (OURS, Budget(1, 0, 0), "nobody knows of"),
    "hands_on_the_gpu": (OURS._replace(one_gpu=True), Budget(1, 0, 0), "GPU"),
    "one_daemon_per_id": (OURS, Budget(1, 0, 0), "under no claim"),
}
NEEDS_TWO_TASKS = {"pops_by_name", "hands_on_the_gpu"}


@pytest.mark.parametrize("safeguard", MISTAKES)
def test_without_any_one_safeguard_the_model_finds_a_fault(safeguard: str) -> None:
    rules, budget, fault = MISTAKES[safeguard]
    tasks = 2 if safeguard in NEEDS_TWO_TASKS else 1
    found = explore(begin(tasks, 2, budget), rules._replace(**{safeguard: False}))
    assert found.fault
    assert fault in found.fault


@pytest.mark.parametrize("rules", [OURS, CLEARML], ids=["ours", "ClearML"])
def test_between_a_look_and_the_write_that_rests_on_it_a_person_may_be_overruled(rules: Rules) -> None:
    """A limit that we know: the API has no conditional write. Should this fail, docs/guarantees.md can say more."""
    found = explore(begin(1, 2, Budget(1, 0, 1)), rules._replace(parts_look_and_write=True))
    assert "a person" in found.fault


def test_every_safeguard_of_the_model_is_taken_away_once() -> None:
    worlds = {"repeatable_pop", "one_gpu", "parts_look_and_write"}
    assert set(MISTAKES) == set(Rules._fields) - worlds


def test_every_step_of_a_task_is_in_the_model_or_not_for_a_reason() -> None:
    labels = explore(begin(1, 2, Budget(1, 1, 1)), OURS).labels
    modelled = {step for step in Step if any(step in label.split(":")[0].split(",")[0].split() for label in labels)}
    assert modelled | set(BETWEEN_OTHERS) == set(Step)
    assert not modelled & set(BETWEEN_OTHERS)
