"""Everything that the crew of an agent works with, put together: queues, gate, slots, and who reports what as whom."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

from agent.api.workers import AVAILABLE_GPUS
from agent.models import WorkerSetup
from agent.runner.abort import StatusBoard
from agent.runner.aside import aside
from agent.runner.beside import beside
from agent.runner.claim import Source
from agent.runner.context import RunContext
from agent.worker.assembly import gate_for, slots_for
from agent.worker.bars import Bars
from agent.worker.closing import Closing
from agent.worker.crew import Shift
from agent.worker.gate import Gate
from agent.worker.health import Health
from agent.worker.listening import Listening
from agent.worker.poller import Poller, turn_file
from agent.worker.post import Post, executor_setup, sampler_for
from agent.worker.presence import Presence
from agent.worker.slots import Services, Slot, Slots
from agent.worker.standing import Stand, Standing
from agent.worker.turn import Turn


def shift_for(post: Post, source: Source, presence: Presence, health: Health) -> Shift:
    """Everything that the crew works with, put together."""
    worker, agent = post.identity.worker_id, post.settings.agent
    slots, gate = slots_for(post.setup, post.settings, worker, sick=health.sick), gate_for(post.settings)
    listening = Listening(post.api, source, worker=worker, on_change=presence.listen_to)
    poller = Poller(
        post.api,
        listening,
        gate,
        Turn(turn_file(post.identity.record, order_fairness=post.setup.order_fairness)),
        post.runs,
        worker=worker,
        polling_interval_seconds=post.setup.polling_interval_seconds or agent.polling_interval_seconds,
        heard=lambda: _obey(slots, gate, post.setup),
    )
    context = RunContext(
        api=post.api,
        features=source.features,
        board=StatusBoard(post.api, source.features, poll_seconds=agent.status_poll_seconds),
        runtime=post.runtime,
        settings=post.settings,
        worker=worker,
        executor_setup=executor_setup(post.setup, worker),
        executor_environ=post.environ,
        sampler=sampler_for(post.settings, post.gpus),
        announce=presence.announce,
        end_task=post.stop.end_task,
        closing=Closing(poller, agent.at_closing),
        fault=health.fault,
        examine=health.look,
    )

    def tell() -> None:
        _tell(slots, gate, post.bars, presence)

    post.bars.listen(tell)
    return Shift(
        agent=worker,
        api=post.api,
        runs=post.runs,
        stop=post.stop,
        slots=slots,
        poller=poller,
        listening=listening,
        bars=post.bars,
        health=health,
        context=context,
        below=lambda context, slot: _as_sub_worker(post, context, slot),
        say=post.supervisor.status,
        changed=tell,
        reserves=bool(post.setup.wishes) and agent.dynamic_gpus.reserve_after_seconds is not None,
    )


def _obey(slots: Slots, gate: Gate, setup: WorkerSetup) -> None:
    """The property `max_num_instances` changes the number of services while the agent runs."""
    if isinstance(slots, Services):
        slots.limit = (setup.services or None) if gate.most_tasks is None else gate.most_tasks


def _tell(slots: Slots, gate: Gate, bars: Bars, presence: Presence) -> None:
    """Let the server know whether tasks are taken, and what of."""
    stand = gate.stand()
    if stand.standing in (Standing.OPEN, Standing.FORCED_ON) and slots.why_not:
        stand = Stand(standing=Standing.WAITING, why=slots.why_not)
    presence.tell(bars.stand if bars else stand)
    if (available := slots.available) is not None:
        presence.publish(AVAILABLE_GPUS, available)


@contextlib.asynccontextmanager
async def _as_sub_worker(post: Post, context: RunContext, slot: Slot) -> AsyncIterator[RunContext]:
    """A worker of its own on the server's list, for as long as a run is seen through."""
    gpus = post.gpus_for(slot.environment) if slot.devices else None
    interval = post.settings.agent.status_report_interval_seconds
    presence = Presence(
        post.api,
        worker=slot.worker,
        queues=(),
        tags=post.setup.child_report_tags,
        sampler=sampler_for(post.settings, gpus),
        interval_seconds=interval,
    )
    try:
        async with beside(presence.run()):
            yield replace(context, announce=presence.announce, sampler=sampler_for(post.settings, gpus))
        await presence.unregister()  # not where the run is left behind
    finally:
        if gpus is not None:
            aside(gpus.close)  # a driver that hangs keeps nobody
