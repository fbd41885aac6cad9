"""Who asks how a host is, remembers it, and puts and lifts the bar."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.runs import claim_of
from support.settings import settings_for

from agent.config import defaults
from agent.files import write_json
from agent.gpu.checkup import Findings
from agent.gpu.health import NO_PAST, Condition, Device, Past, Xid
from agent.models import Outcome
from agent.runner.aside import Question, aside
from agent.runner.rundir import Claim, RunDirectory
from agent.worker.bars import Bars
from agent.worker.disks import MIB, Room, folders_of, rooms, short_of
from agent.worker.gpu_health import GpuHealth, past_from, past_to_json
from agent.worker.health import Health
from agent.worker.standing import Standing
from agent.worker.streak import Streak

ONE, OTHER = Device(label="0", uuid="GPU-00000000-a"), Device(label="1", uuid="GPU-11111111-b")
LOST = Condition(lost="fell off the bus")


def well(device: Device) -> Condition:
    return Condition(gpu=device.uuid, action=0, uncorrected=0)


class Driver:
    """GPUs as a test says that they are."""

    def __init__(self, *devices: Device) -> None:
        self.conditions = {device: well(device) for device in devices}
        self.xids: tuple[Xid, ...] = ()
        self.silence = ""

    def look(self, now: float) -> Findings:
        xids, self.xids = self.xids, ()
        if self.silence:
            return Findings(conditions={}, silence=self.silence)
        return Findings(conditions=dict(self.conditions), xids=xids)

    def close(self) -> None:
        return


def _health(folder: Path, bars: Bars, driver: Driver, *, shares_out: bool = False, **wanted: Any) -> Health:
    settings = replace(defaults().agent.health, **wanted)
    return Health(settings, bars, gpus=GpuHealth(settings, folder / "w.lock", driver, shares_out=shares_out))


def _looks(health: Health, times: int = 1) -> None:
    async def scenario() -> None:
        for _ in range(times):
            await health.look()

    asyncio.run(scenario())


def _claim(*devices: str) -> Claim:
    return claim_of("t", devices=devices)


# --- GPUs


def test_any_sick_gpu_cordons_an_agent_that_has_all_of_its_own(tmp_path: Path) -> None:
    bars, driver = Bars(), Driver(ONE, OTHER)
    health = _health(tmp_path, bars, driver)
    driver.conditions[OTHER] = LOST
    _looks(health)
    assert bars.stand.tag == "cordoned: GPU 1 (GPU-11111111…) fell off the bus"
    assert health.fault(_claim()) == "GPU 1 (GPU-11111111…) fell off the bus"
    driver.conditions[OTHER] = well(OTHER)
    _looks(health)
    assert not bars
    assert health.fault(_claim()) == ""


def test_gpus_that_are_shared_out_cordon_their_agent_when_all_are_sick(tmp_path: Path) -> None:
    bars, driver = Bars(), Driver(ONE, OTHER)
    health = _health(tmp_path, bars, driver, shares_out=True)
    driver.conditions[OTHER] = LOST
    _looks(health)
    assert not bars
    assert health.sick() == {"1": "fell off the bus"}
    assert health.fault(_claim("0")) == ""
    assert health.fault(_claim("0", "1")) == "GPU 1 (GPU-11111111…) fell off the bus"
    driver.conditions[ONE] = LOST
    _looks(health)
    assert bars.stand.standing is Standing.CORDONED


def test_a_driver_without_an_answer_is_a_fault_and_what_was_known_is_not_forgotten(tmp_path: Path) -> None:
    bars, driver = Bars(), Driver(ONE)
    health = _health(tmp_path, bars, driver)
    _looks(health)
    driver.silence = "NVML: Driver Not Loaded"
    _looks(health)
    assert bars.stand.why == "the GPU driver does not answer (NVML: Driver Not Loaded)"
    assert health.fault(_claim()) == bars.stand.why
    driver.silence = ""
    _looks(health)
    assert not bars


def test_a_look_that_fails_itself_neither_ends_the_agent_nor_cordons_it(tmp_path: Path) -> None:
    class Broken(Driver):
        def look(self, now: float) -> Findings:
            raise RuntimeError("no such symbol")

    bars = Bars()
    _looks(_health(tmp_path, bars, Broken()))
    assert not bars


def test_an_ignored_xid_is_none_and_another_one_is_remembered_by_the_next_agent(tmp_path: Path) -> None:
    bars, driver = Bars(), Driver(ONE)
    driver.conditions[ONE] = Condition(gpu=ONE.uuid)
    health = _health(tmp_path, bars, driver, ignored_xids=(31,))
    driver.xids = (Xid(gpu=ONE.uuid, number=31, at=1.0),)
    _looks(health)
    assert not bars
    driver.xids = (Xid(gpu=ONE.uuid, number=48, at=1e9),)
    _looks(health)
    assert "reported XID 48" in bars.stand.why
    bars = Bars()
    again = _health(tmp_path, bars, driver)
    _looks(again)
    assert "reported XID 48" in bars.stand.why
    again.acknowledge()
    assert not bars
    bars = Bars()
    _looks(_health(tmp_path, bars, driver))
    assert not bars


def test_with_an_interval_of_zero_nothing_is_judged(tmp_path: Path) -> None:
    bars, driver = Bars(), Driver(ONE)
    driver.conditions[ONE] = LOST
    health = _health(tmp_path, bars, driver, interval_seconds=0.0)
    _looks(health)
    asyncio.run(health.run())  # returns
    assert not bars


@pytest.mark.parametrize(
    "data", [{"uncorrected": []}, {"xids": [{"what": 1}]}, {"xids": 3}, {"uncorrected": {"GPU-a": "many"}}]
)
def test_a_mark_that_cannot_be_read_is_forgotten(data: Mapping[str, Any]) -> None:
    assert past_from(data) == NO_PAST


def test_what_is_remembered_comes_back_as_it_was() -> None:
    past = Past(
        uncorrected={"GPU-a": 3},
        xids=(Xid(gpu="GPU-a", number=48, at=1.5, gi=1, ci=0),),
        acknowledged=frozenset({"GPU-a needs a reset"}),
    )
    assert past_from(past_to_json(past)) == past


# --- what may hang


def test_a_question_without_an_answer_is_not_asked_twice_and_the_next_answer_is_a_fresh_one() -> None:
    gate, asked = threading.Event(), []

    def call() -> int:
        asked.append(1)
        gate.wait(10)
        return len(asked)

    async def scenario() -> int:
        question = Question()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await question.ask(call, seconds=0.05)
        assert len(asked) == 1
        gate.set()
        return await question.ask(call, seconds=5)

    assert asyncio.run(scenario()) == 2


def test_an_error_of_what_is_asked_aside_reaches_who_asked() -> None:
    def call() -> None:
        raise ValueError("no")

    async def scenario() -> None:
        with pytest.raises(ValueError, match="no"):
            await aside(call)

    asyncio.run(scenario())


# --- disks


def test_a_disk_is_short_below_what_is_wanted_and_has_room_again_only_well_above() -> None:
    def short(free: int, known: dict[str, str]) -> dict[str, str]:
        return short_of([Room(folder="/s", free=free * MIB, total=10_000 * MIB)], known, least=100 * MIB)

    assert short(100, {}) == {}
    found = short(99, {})
    assert found == {"/s": "disk: 99 MiB free in /s, 100 MiB are wanted"}
    assert short(110, found) == found  # in the same words
    assert short(125, found) == {}


def test_a_small_disk_only_needs_a_tenth_of_itself() -> None:
    assert not short_of([Room(folder="/t", free=50 * MIB, total=400 * MIB)], {}, least=1024 * MIB)
    assert short_of([Room(folder="/t", free=39 * MIB, total=400 * MIB)], {}, least=1024 * MIB) == {
        "/t": "disk: 39 MiB free in /t, 40 MiB are wanted"
    }


def test_folders_are_those_of_the_settings_and_the_tools_and_each_disk_is_looked_at_once(tmp_path: Path) -> None:
    agent = settings_for(state=tmp_path / "state").agent
    folders = folders_of(agent, {"HOME": "/home/x", "TMPDIR": str(tmp_path / "tmp")})
    assert folders == (
        *(str(tmp_path / "state" / name).removesuffix("/.") for name in (".", "vcs", "venvs")),
        "/home/x/.cache/uv",
        str(tmp_path / "tmp"),
    )
    assert [room.folder for room in rooms(folders[:3])] == [str(tmp_path / "state")]
    assert folders_of(agent, {"UV_CACHE_DIR": "/fast/uv", "HOME": "/h"})[3:] == ("/fast/uv", "/tmp")


# --- failures in a row


def _run(folder: Path, number: int, **outcome: Any) -> RunDirectory:
    run = RunDirectory(folder / f"t{number}.1")
    run.path.mkdir()
    if outcome:
        write_json(run.path / "outcome.json", Outcome(**outcome).to_json())
    return run


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


FAILED = {"phase": "checkout", "error": "git is away\nmore", "infrastructure": True}


def _ends(streak: Streak, *runs: RunDirectory) -> None:
    for run in runs:
        streak.began(run)
        streak.ended(run)


def test_after_failures_in_a_row_a_pause_grows_with_every_task_that_is_tried_in_vain(tmp_path: Path) -> None:
    clock = Clock()
    streak = Streak(3, clock=clock)
    _ends(streak, _run(tmp_path, 1, **FAILED), _run(tmp_path, 2, **FAILED))
    assert not streak.why_not()
    _ends(streak, _run(tmp_path, 3, **FAILED))
    said = "3 tasks in a row could not be set up here; last: git is away; a pause of 30 s"
    assert streak.why_not() == said
    pauses = []
    for number in range(4, 11):
        pauses.append(streak.seconds_left())
        clock.now += streak.seconds_left()
        assert not streak.why_not()
        _ends(streak, _run(tmp_path, number, **FAILED))
    assert pauses == [30, 60, 120, 240, 480, 600, 600]


def test_one_task_is_tried_at_a_time_and_its_own_code_ends_the_doubt(tmp_path: Path) -> None:
    clock = Clock()
    streak = Streak(1, clock=clock)
    _ends(streak, _run(tmp_path, 1, **FAILED))
    clock.now += 30
    trial = _run(tmp_path, 2)
    streak.began(trial)
    assert streak.why_not().endswith("one is tried")
    streak.look()
    assert streak.why_not()
    write_json(trial.path / "user.json", {"pid": 1})
    streak.look()
    assert not streak.why_not()


@pytest.mark.parametrize(
    "outcome", [{"phase": "run", "exit_code": 1}, {"phase": "environment", "error": "no such package"}]
)
def test_a_task_that_fails_by_itself_ends_a_streak(tmp_path: Path, outcome: dict[str, Any]) -> None:
    streak = Streak(2, clock=Clock())
    _ends(streak, _run(tmp_path, 1), _run(tmp_path, 2, **outcome), _run(tmp_path, 3))
    assert not streak.why_not()
    _ends(streak, _run(tmp_path, 4))
    assert "its executor died" in streak.why_not()


def test_neither_what_was_stopped_nor_what_was_found_counts(tmp_path: Path) -> None:
    streak = Streak(1, clock=Clock())
    stopped = _run(tmp_path, 1)
    stopped.request_stop("abort")
    _ends(streak, stopped, _run(tmp_path, 2, phase="checkout", stopped=True, infrastructure=True))
    streak.ended(_run(tmp_path, 3))
    assert not streak.why_not()
    _ends(Streak(0, clock=Clock()), _run(tmp_path, 4))


def test_tasks_that_fail_side_by_side_are_one_reason_for_a_pause(tmp_path: Path) -> None:
    streak = Streak(2, clock=Clock())
    runs = [_run(tmp_path, number) for number in range(10)]
    for run in runs:
        streak.began(run)
    for run in runs:
        streak.ended(run)
    assert streak.seconds_left() == 30
