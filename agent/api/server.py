"""What the server can do beyond the ClearML API that every server has.

Our embedded server lists its extensions in `server.info` → `features`; a ClearML Server has no such field, so an
agent uses an extension only where it exists.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.api.client import AsyncClient, Call
from agent.errors import ApiError
from agent.models import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The extensions of one server; all absent on a ClearML Server."""

    wait_for_task: bool = False  # get_next_task holds the request and looks at several queues
    watch: bool = False  # and tells what was said about the worker and its queues
    repeatable_pop: bool = False  # a named pop with the same claim gives the same answer again
    claimed_start: bool = False  # tasks.started with that claim is refused if anything was said of the task since
    log_ids: bool = False  # a console event with a known id is not stored twice
    wait_for_status: bool = False  # tasks.get_all holds the request until a status changes

    @classmethod
    def from_info(cls, info: Json) -> Features:
        names = set(info.get("features") or ())
        return cls(
            wait_for_task="get_next_task.wait" in names,
            watch="get_next_task.watch" in names,
            repeatable_pop="get_next_task.claim" in names,
            claimed_start="tasks.started.claim" in names,
            log_ids="events.log_ids" in names,
            wait_for_status="tasks.status_wait" in names,
        )


def info() -> Call[Features]:
    return Call(endpoint="server.info", parse=Features.from_info)


async def features_of(api: AsyncClient, *, give_up_after: float = 10.0) -> Features:
    """The server's extensions: none if it cannot be asked. Raises what tells of an outage, so that it is not taken
    for a server without them.
    """
    try:
        return await api.send_until_answered(info(), give_up_after=give_up_after)
    except ApiError as error:
        if error.is_server_fault:
            raise
        return Features()
