"""What the endpoints of events have in common: whose events, which metrics, and where a reader of pages is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import errors
from ..calls import Call
from ..events.incoming import Standing
from ..fields import Fields
from ..scroll import fingerprint
from ..store import event_batches
from ..store.database import Session
from ..store.scalars import Wanted


class Place:
    """Where a reader of pages is; carried by the reader, in the scroll id."""

    def __init__(self, call: Call, shape: str, state: Mapping[str, Any], scroll_id: str) -> None:
        self._scroll = call.services.scroll
        self._shape = shape
        self._scroll_id = scroll_id
        self.key: int | None = state.get("key")
        self.stage: int = state.get("stage", 0)
        self.delivered: int = state.get("delivered", 0)
        self.total: int | None = state.get("total")

    @classmethod
    def read(cls, call: Call, data: Fields, endpoint_name: str, filter_: Mapping[str, object]) -> Place:
        """The place in the request's scroll id; the beginning without one, a refusal for one of another question."""
        scroll_id = data.text_or("scroll_id", "")
        shape = fingerprint({"endpoint": endpoint_name, **filter_})
        state = call.services.scroll.unpack(scroll_id) if scroll_id else {}
        if scroll_id and state.get("shape") != shape:
            raise errors.INVALID_SCROLL_ID(scroll_id=scroll_id)
        return cls(call, shape, state, scroll_id)

    def after(self, key: int | None, returned: int, total: int, *, stage: int = 0) -> str:
        """The scroll id for the next page; it stays the same at the end."""
        if not returned and self._scroll_id:
            return self._scroll_id
        delivered = self.delivered + returned
        return self._scroll.pack(
            {"shape": self._shape, "key": key, "stage": stage, "delivered": delivered, "total": total}
        )


def wanted_metrics(metrics: Sequence[Fields]) -> Wanted:
    """Which metrics and variants a request names; none named means all."""
    if not metrics:
        return None
    return {entry.text("metric"): entry.strings("variants") for entry in metrics}


def require_owner(tx: Session, call: Call, owner: str, *, of_model: bool) -> None:
    if of_model:
        require(tx, call, models=[owner])
    else:
        require(tx, call, tasks=[owner])


def require(tx: Session, call: Call, *, tasks: Sequence[str] = (), models: Sequence[str] = ()) -> dict[str, str]:
    """The names of these tasks or models; refuses the ids that are not there."""
    names = event_batches.names_of(tx, tasks, models, call.company)
    if missing := [task for task in tasks if task not in names]:
        raise errors.INVALID_TASK_ID(id=missing[0] if len(missing) == 1 else missing, company=call.company)
    if missing := [model for model in models if model not in names]:
        raise errors.INVALID_MODEL_ID(id=missing[0] if len(missing) == 1 else missing, company=call.company)
    return {owner: names[owner] for owner in (*tasks, *models)}


def require_open(tx: Session, call: Call, owner: str, *, allow_locked: bool, of_model: bool = False) -> None:
    """Refuse a task or model that is not there, or that is published, unless that is allowed."""
    require_owner(tx, call, owner, of_model=of_model)
    ids: tuple[list[str], list[str]] = ([], [owner]) if of_model else ([owner], [])
    standing = event_batches.standings(tx, *ids, call.company).get(owner)
    if standing is None:
        raise errors.NO_WRITE_PERMISSION(id=owner)
    if standing is Standing.LOCKED and not allow_locked:
        raise (errors.MODEL_IS_READY if of_model else errors.INVALID_TASK_STATUS)("it is published", id=owner)
