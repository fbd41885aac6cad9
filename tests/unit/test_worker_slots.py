"""How many tasks at once, and what each of them gets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs import claim_of
from support.settings import settings_for

from agent.api.queues import Waiting
from agent.gpu.allocation import Layout, Wish
from agent.gpu.leases import Leases
from agent.models import WorkerSetup
from agent.runner.rundir import Claim
from agent.worker import assembly, dynamic_gpus
from agent.worker.assembly import slots_for
from agent.worker.dynamic_gpus import DynamicGpus
from agent.worker.slots import OneSlot, OwnGpus, Services, Slot

TASK = Waiting("t1", "q")


def _claim(worker: str, devices: tuple[str, ...] = ()) -> Claim:
    return claim_of("t", worker=worker, agent="w", devices=devices)


def test_one_slot_is_the_worker_itself_and_is_taken_by_what_was_adopted() -> None:
    slots = OneSlot("w")
    slot = slots.take(0, TASK)
    assert slot == Slot(worker="w", is_own=True)
    assert not slots.offers(0)
    slots.release(slot)
    assert slots.offers(0)
    assert slots.adopt(_claim("w")).is_own
    assert not slots.offers(0)


def test_services_are_workers_below_the_agent_and_a_lower_limit_waits_for_ends() -> None:
    slots = Services("w", 2)
    first, second = slots.adopt(_claim("w:service:old")), slots.take(0, TASK)
    assert second is not None
    assert (first.worker, second.worker) == ("w:service:old", "w:service:t1")
    assert not slots.offers(0)
    slots.limit = 1
    slots.release(first)
    assert not slots.offers(0)
    slots.release(second)
    assert slots.offers(0)
    assert Services("w", None).offers(0)


def _dynamic(
    folder: Path, *wishes: tuple[int, int], count: int = 4, reserve: float | None = None, **more: Any
) -> DynamicGpus:
    return DynamicGpus(
        "host",
        Layout.plain([str(number) for number in range(count)]),
        [Wish(queue=str(place), least=least, most=most) for place, (least, most) in enumerate(wishes)],
        Leases(folder),
        reserve_after_seconds=reserve,
        spares_strangers=False,
        **more,
    )


def _take(slots: DynamicGpus, place: int) -> Slot:
    slot = slots.take(place, TASK)
    assert slot is not None
    return slot


def _in_loop(scenario: Any) -> None:
    asyncio.run(scenario())


def test_gpus_are_given_once_and_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        slots = _dynamic(tmp_path, (2, 2), (1, 4))
        await slots.look({})
        first = _take(slots, 0)
        assert (first.worker, first.devices) == ("host:gpu0,1", ("0", "1"))
        assert first.environment["CUDA_VISIBLE_DEVICES"] == "0,1"
        second = _take(slots, 1)
        assert second.devices == ("2", "3")
        assert not slots.offers(0)
        assert not slots.offers(1)
        assert slots.available == ""
        slots.release(first)
        assert slots.available == "0_0,1_0"
        assert slots.offers(0)

    _in_loop(scenario)


def test_a_lease_that_somebody_else_gets_first_is_decided_around(tmp_path: Path) -> None:
    async def scenario() -> None:
        slots = _dynamic(tmp_path, (2, 2))
        await slots.look({})
        lease = Leases(tmp_path).take("0", alone=True)
        assert lease is not None
        slot = _take(slots, 0)
        assert "0" not in slot.devices
        assert slots.look_again_seconds == dynamic_gpus.LOOK_AGAIN_SECONDS
        slots.release(slot)
        os.close(lease)
        await slots.look({})
        assert slots.available.count("_0") == 4

    _in_loop(scenario)


def test_what_was_adopted_keeps_its_gpus_though_only_its_executor_holds_the_lease(tmp_path: Path) -> None:
    async def scenario() -> None:
        slots = _dynamic(tmp_path, (1, 4))
        adopted = slots.adopt(_claim("host:gpu0,1", ("0", "1")))
        assert adopted.worker == "host:gpu0,1"
        await slots.look({})
        assert _take(slots, 0).devices == ("2", "3")

    _in_loop(scenario)


def test_a_large_task_that_waits_long_enough_gets_what_becomes_free(tmp_path: Path) -> None:
    async def scenario() -> None:
        slots = _dynamic(tmp_path, (1, 1), (4, 4), reserve=60.0)
        await slots.look({})
        running = [_take(slots, 0) for _ in range(4)]
        now = asyncio.get_running_loop().time()
        slots.release(running.pop())
        await slots.look({1: now - 30})
        assert slots.offers(0)
        await slots.look({1: now - 61})
        assert not slots.offers(0)
        for slot in running:
            slots.release(slot)
        assert slots.offers(1)

    _in_loop(scenario)


def test_gpus_given_by_uuid_are_named_so_to_the_task(tmp_path: Path) -> None:
    async def scenario() -> None:
        layout = Layout.plain(["0", "1"])
        layout = Layout([replace(unit, uuid=f"GPU-{unit.label}") for unit in layout.units], {})
        wish = Wish(queue="0", least=2, most=2)
        slots = DynamicGpus(
            "h",
            layout,
            [wish],
            Leases(tmp_path),
            reserve_after_seconds=None,
            spares_strangers=False,
            names_by_uuid=True,
        )
        await slots.look({})
        assert _take(slots, 0).environment["CUDA_VISIBLE_DEVICES"] == "GPU-0,GPU-1"

    _in_loop(scenario)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=40))
def test_no_gpu_is_given_twice_whatever_begins_and_ends(
    tmp_path_factory: pytest.TempPathFactory, steps: Sequence[tuple[int, bool]]
) -> None:
    wishes = ((4, 4), (2, 2), (1, 3))

    async def scenario() -> None:
        slots = _dynamic(tmp_path_factory.mktemp("leases"), *wishes, count=8)
        running: list[Slot] = []
        await slots.look({})
        for place, ends in steps:
            if ends and running:
                slots.release(running.pop(0))
            elif slots.offers(place):
                running.append(_take(slots, place))
                assert wishes[place][0] <= len(running[-1].devices) <= wishes[place][1]
            given = [device for slot in running for device in slot.devices]
            assert len(given) == len(set(given))
            free = 8 - len(given)
            for other, (least, _) in enumerate(wishes):
                assert slots.offers(other) is (least <= free)
        for slot in running:
            slots.release(slot)

    asyncio.run(scenario())


def test_an_agent_with_a_gpu_waits_while_it_is_given_to_a_task(tmp_path: Path) -> None:
    leases = Leases(tmp_path)
    lease = leases.take("GPU-0", alone=True)
    assert lease is not None
    slots = OneSlot("w", OwnGpus(leases, [("0", "GPU-0")]))

    async def scenario() -> None:
        await slots.look({})
        assert not slots.offers(0)
        assert slots.why_not == "GPU 0 is given to a task of an agent with --dynamic-gpus"
        assert slots.look_again_seconds
        os.close(lease)
        await slots.look({})
        assert slots.offers(0)
        slot = slots.take(0, TASK)
        assert slot is not None
        slots.release(slot)
        assert not leases.is_free("GPU-0")  # the agent keeps it for its whole life

    asyncio.run(scenario())


@pytest.mark.parametrize(("is_on", "is_there"), [(True, True), (True, False), (False, True)])
def test_tasks_are_told_of_mps_where_it_runs_and_is_wanted(
    tmp_path: Path, is_on: bool, is_there: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(assembly.MPS_VARIABLE, str(tmp_path))
    if is_there:
        (tmp_path / "control").touch()
    settings = settings_for(state=tmp_path, gpu_leases_dir=str(tmp_path / "leases"))
    sharing = replace(settings.agent.gpu_sharing, mps=is_on)
    settings = replace(settings, agent=replace(settings.agent, gpu_sharing=sharing))
    unit = {"label": "0", "uuid": "GPU-0", "gpu": 0, "numa": None}
    setup = WorkerSetup(settings={}, gpus="0", gpu_suffix="gpu0", units=(unit,), share=0.25)
    slots = slots_for(setup, settings, "w")
    assert isinstance(slots, OneSlot)
    slot = slots.take(0, TASK)
    assert slot is not None
    wanted: Mapping[str, str] = (
        {assembly.MPS_VARIABLE: str(tmp_path), "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "25"} if is_on and is_there else {}
    )
    assert slot.environment == wanted
    assert ("no MPS control daemon" in caplog.text) is (is_on and not is_there)
