"""The end of events: what goes when their task or model goes. Importing this makes the tables of events known.

How events come in is in `event_batches`; they are kept by `console`, `scalars` and `documents`.
"""

from __future__ import annotations

from .console import delete_console
from .database import Transaction
from .documents import delete_documents
from .scalars import delete_scalars


def delete_for_task(tx: Transaction, task_id: str) -> int:
    """Delete all events of a task; returns how many there were. Its `last_metrics` are the caller's."""
    return delete_console(tx, task_id) + delete_scalars(tx, task_id) + delete_documents(tx, task_id)


def delete_for_model(tx: Transaction, model_id: str) -> int:
    """Delete all events of a model; returns how many there were."""
    return delete_for_task(tx, model_id)
