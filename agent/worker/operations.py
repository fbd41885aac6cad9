"""What an operator may ask of an agent through its control socket.

| do     | with     | what happens                                                                              |
|--------|----------|-------------------------------------------------------------------------------------------|
| status |          | nothing; the answer is the report (`report.py`)                                           |
| stop   |          | the task is ended and reported as stopped, then the agent goes                            |
| leave  |          | the agent goes; its task runs on, and the next agent adopts it                            |
| drain  |          | the agent finishes its task, takes no other, then goes                                    |
| pause  | why      | no further task is taken, also after a restart or a reboot, until `resume`                |
| resume |          | takes back `pause`, and says of whatever else has put up a bar that a person has looked   |
| reload | config   | the configuration is read again, and comes into force without a gap for the task          |

Each answers when what it promises is so: after `pause` no task is taken that was not taken before. What takes longer
(the end of a task) is for the asker to wait for. A drain is not taken back: who drains wants the agent gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from agent.errors import AgentError
from agent.models import Json
from agent.worker.marks import Pause
from agent.worker.post import Post
from agent.worker.reload import Reload
from agent.worker.report import report_of
from agent.worker.standing import Standing

log = logging.getLogger(__name__)

#: A claim that is under way when the agent is paused is over, one way or the other, within this time; if the server
#: keeps it waiting for longer, its task may still start.
CLAIM_SECONDS = 5.0


class Operations:
    """Called with a request, returns what the answer holds."""

    def __init__(self, post: Post, reload: Reload) -> None:
        self._post = post
        self._reload = reload
        self._pause = Pause(post.identity.record)
        self._known: dict[str, Callable[[Json], Awaitable[Json]]] = {
            "status": self._status,
            "stop": self._stop,
            "leave": self._leave,
            "drain": self._drain,
            "pause": self._put_pause,
            "resume": self._resume,
            "reload": self._read_again,
        }

    async def __call__(self, request: Json) -> Json:
        operation = self._known.get(str(request["do"]))
        if operation is None:
            raise AgentError(f"this agent does not know {request['do']!r}", hint=f"It knows {', '.join(self._known)}.")
        return await operation(request)

    def obey_pause(self) -> None:
        """Be paused from the beginning if the agent before this one was."""
        why = self._pause.reason()
        if why is not None:
            log.info("paused%s", f": {why}" if why else "", extra={"action": "pause"})
            self._post.bars.put(Standing.PAUSED, why)

    async def _status(self, request: Json) -> Json:
        return {"agent": await asyncio.to_thread(report_of, self._post, self._reload.last)}

    async def _stop(self, request: Json) -> Json:
        self._post.stop.wish_end_of_task()
        return await self._tasks()

    async def _leave(self, request: Json) -> Json:
        self._post.stop.wish_leave()
        return await self._tasks()

    async def _drain(self, request: Json) -> Json:
        self._post.stop.wish_drain()
        return await self._tasks()

    async def _put_pause(self, request: Json) -> Json:
        why = " ".join(str(request.get("why") or "").split())
        await asyncio.to_thread(self._pause.begin, why)
        self._post.bars.put(Standing.PAUSED, why)
        log.info("paused%s: no further task is taken", f" ({why})" if why else "", extra={"action": "pause"})
        await self._until_no_claim()
        return await self._tasks()

    async def _resume(self, request: Json) -> Json:
        was = self._post.bars.stand
        await asyncio.to_thread(self._pause.end)
        self._post.bars.lift(Standing.PAUSED)
        for hear in self._post.on_resume:
            hear()
        log.info("resumed", extra={"action": "resume"})
        return {"was": was.tag, "still": self._post.bars.stand.tag, "draining": self._post.stop.drain.is_set()}

    async def _read_again(self, request: Json) -> Json:
        config = request.get("config")
        if config is not None and not (isinstance(config, dict) and isinstance(config.get("text"), str)):
            raise AgentError('"config" is an object with the "name" and the "text" of a file')
        await self._reload.read_again(config)
        return {}

    async def _until_no_claim(self) -> None:
        if (crew := self._post.duty.crew) is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(crew.undivided.wait(), CLAIM_SECONDS)

    async def _tasks(self) -> Json:
        """The tasks that run, for who waits for them or has to know of them."""
        runs = await asyncio.to_thread(self._post.runs.of_agent, self._post.identity.worker_id)
        return {"tasks": [claim.task for _, claim in runs]}
