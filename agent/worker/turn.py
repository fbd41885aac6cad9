"""Whose turn it is: the order in which queues are asked.

Strict priority asks in the given order every time. With order fairness the queue after the one that gave the last task
is asked first, so a queue in which something waits is passed over at most once by each other queue. The place in that
round is kept on the disk: an agent that is restarted for every task (an upgrade, a crash) would otherwise begin with
the first queue again and again, and never come to the last one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from agent.files import read_json, write_json

log = logging.getLogger(__name__)


class Turn:
    """The round of order fairness, kept in a file; without one the order is what was asked for."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._round = _read(file) if file is not None else []

    def order(self, queues: Sequence[str]) -> list[str]:
        """The queues with the one whose turn it is first; one that is new to the round comes last."""
        known = [queue for queue in self._round if queue in queues]
        return [*known, *(queue for queue in queues if queue not in known)]

    def gave(self, queue: str, queues: Sequence[str]) -> None:
        """A queue has given a task: the one after it is next."""
        if self._file is None:
            return
        order = self.order(queues)
        at = order.index(queue) + 1 if queue in order else 0
        self._round = order[at:] + order[:at]
        try:
            write_json(self._file, {"round": self._round})
        except OSError as error:
            log.warning("the place in the round of queues cannot be kept: %s", error)


def _read(file: Path) -> list[str]:
    try:
        found = read_json(file)
    except OSError as error:
        log.warning("%s cannot be read: %s", file, error)
        found = None
    entries = found.get("round") if found else None
    return [str(queue) for queue in entries] if isinstance(entries, list) else []
