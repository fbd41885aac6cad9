"""The versions we report: of the server whose interface this is, and of this program."""

from __future__ import annotations

#: Digits and dots only: clients turn each part into a number.
SERVER_VERSION = "2.3.0"
BUILD = "1"
NAME = "gpufleet"

#: Extensions of the protocol that clients may use where they see them in `server.info`.
FEATURES = (
    "get_next_task.wait",
    "get_next_task.claim",
    "tasks.started.claim",
    "get_next_task.watch",
    "events.log_ids",
    "tasks.status_wait",
)
