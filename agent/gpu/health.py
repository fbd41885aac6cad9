"""Whether a GPU is fit for tasks: what its driver says of it, judged. Pure.

A fault is told as what one says of a GPU ("fell off the bus"). What a driver cannot tell is None, and nothing is
concluded from it. All of a GPU concerns its MIG instances, except for an XID error that names one of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

#: nvmlDeviceGpuRecoveryAction_t: what the driver wants before the GPU is used again.
NO_ACTION = 0
_ACTIONS = {
    1: "needs a reset",
    2: "needs a reboot of its host",
    3: "needs all traffic between GPUs to stop",
    4: "needs to be drained and reset",
    5: "needs its IMEX domain to be recovered",
    6: "needs a reset of its bus",
    7: "needs a reboot of its host",
}
#: What a driver writes for "no instance in particular".
NO_INSTANCE = 0xFFFFFFFF


class Kind(StrEnum):
    """What kind of fault it is."""

    LOST = "lost"
    ACTION = "action"
    ECC = "ecc"
    PAGES = "pages"
    ROWS = "rows"
    BROKEN_ROWS = "broken_rows"
    XID = "xid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU or MIG instance that is watched. `uuid` is empty where nobody has been able to tell it."""

    label: str
    uuid: str

    @property
    def name(self) -> str:
        return f"GPU {self.label} ({self.uuid[:12]}…)" if self.uuid else f"GPU {self.label}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """How a GPU is. `gpu` is the UUID of the whole GPU; `instance` the driver's ids of the MIG instance on it.

    `lost` says why it cannot be asked, and then nothing else is known. `uncorrected` counts memory errors since the
    driver was loaded or the GPU was reset.
    """

    gpu: str = ""
    instance: tuple[int, int] | None = None
    lost: str = ""
    action: int | None = None
    uncorrected: int | None = None
    pages_pending: bool | None = None
    rows_pending: bool | None = None
    rows_broken: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Xid:
    """A critical error that the driver has reported of a GPU, `at` seconds since boot."""

    gpu: str
    number: int
    at: float
    gi: int = NO_INSTANCE
    ci: int = NO_INSTANCE

    def concerns(self, condition: Condition) -> bool:
        if self.gpu != condition.gpu:
            return False
        if condition.instance is None or self.gi == NO_INSTANCE:
            return True
        gi, ci = condition.instance
        return self.gi == gi and self.ci in (NO_INSTANCE, ci)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a GPU is not fit. `gpu` is the whole one's UUID, or the label of one that cannot be asked."""

    kind: Kind
    gpu: str
    what: str

    @property
    def key(self) -> str:
        """What is acknowledged when somebody says that this fault is to be lived with."""
        return f"{self.gpu} {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What has to be remembered to judge: by the UUID of whole GPUs.

    `uncorrected` are the memory errors there were when the GPU was first looked at, `acknowledged` the keys of faults
    that an operator has said to live with.
    """

    uncorrected: Mapping[str, int]
    xids: tuple[Xid, ...] = ()
    acknowledged: frozenset[str] = frozenset()


NO_PAST = Past(uncorrected={})


def grown(past: Past, conditions: Iterable[Condition], fresh: Iterable[Xid], *, quiet: float, now: float) -> Past:
    """The past with what has just been seen: new errors, and without those that are over.

    An XID error is over when the driver knows of nothing to be done; where it cannot tell, when nothing else is wrong
    and there has been no other for `quiet` seconds. `fresh` ones have come since the conditions were asked for last, so
    they count until the next look.
    """
    counts = dict(past.uncorrected)
    over: set[str] = set()
    for condition in conditions:
        if condition.uncorrected is not None and not condition.lost:
            counts[condition.gpu] = min(condition.uncorrected, counts.get(condition.gpu, condition.uncorrected))
        if _has_recovered(replace(past, uncorrected=counts), condition, quiet=quiet, now=now):
            over.add(condition.gpu)
    kept = (*(xid for xid in past.xids if xid.gpu not in over), *fresh)
    latest = {(xid.gpu, xid.number, xid.gi, xid.ci): xid for xid in kept}
    return replace(past, uncorrected=counts, xids=tuple(latest.values()))


def _has_recovered(past: Past, condition: Condition, *, quiet: float, now: float) -> bool:
    if condition.lost:
        return False
    if condition.action is not None:
        return condition.action == NO_ACTION
    last = max((xid.at for xid in past.xids if xid.gpu == condition.gpu), default=now)
    return now - last >= quiet and not faults_of(replace(past, xids=()), condition)


def faults_of(past: Past, condition: Condition, *, label: str = "") -> tuple[Fault, ...]:
    """Everything that makes this GPU or instance unfit, the gravest first."""
    if condition.lost:
        return (Fault(kind=Kind.LOST, gpu=condition.gpu or label, what=condition.lost),)
    found = [(kind, what) for kind, what in _told(past, condition) if what]
    faults = tuple(Fault(kind=kind, gpu=condition.gpu, what=what) for kind, what in found)
    return tuple(fault for fault in faults if fault.key not in past.acknowledged)


def _told(past: Past, condition: Condition) -> Iterable[tuple[Kind, str]]:
    if condition.action:
        what = _ACTIONS.get(condition.action, "needs attention")
        yield Kind.ACTION, f"{what} (recovery action {condition.action})"
    if xids := {xid.number for xid in past.xids if xid.concerns(condition)}:
        yield Kind.XID, f"reported XID {', '.join(str(number) for number in sorted(xids))}"
    count = condition.uncorrected or 0
    if (more := count - past.uncorrected.get(condition.gpu, count)) > 0:
        yield Kind.ECC, f"has {more} new uncorrected memory error{'s' if more > 1 else ''} (ECC)"
    if condition.pages_pending:
        yield Kind.PAGES, "has memory pages to retire at its next reset"
    if condition.rows_pending:
        yield Kind.ROWS, "has memory rows to remap at its next reset"
    if condition.rows_broken:
        yield Kind.BROKEN_ROWS, "has a broken memory row and no spare one"


def acknowledged(past: Past, conditions: Iterable[Condition]) -> Past:
    """The past once an operator has said that what is known is to be lived with. What cannot be asked stays unfit."""
    keys = {fault.key for condition in conditions for fault in faults_of(past, condition) if fault.kind in _BEARABLE}
    counts = {c.gpu: c.uncorrected for c in conditions if c.uncorrected is not None and not c.lost}
    return Past(
        uncorrected={**past.uncorrected, **counts},
        acknowledged=frozenset(keys | set(past.acknowledged)),
    )


_BEARABLE = frozenset({Kind.ACTION, Kind.PAGES, Kind.ROWS, Kind.BROKEN_ROWS})


def still_acknowledged(past: Past, conditions: Collection[Condition]) -> Past:
    """Without what was acknowledged and is over: when it comes again, it is new."""
    bare = replace(past, acknowledged=frozenset())
    told = {fault.key for condition in conditions for fault in faults_of(bare, condition)}
    silent = {condition.gpu for condition in conditions if condition.lost}
    kept = {key for key in past.acknowledged if key in told or key.partition(" ")[0] in silent}
    return replace(past, acknowledged=frozenset(kept))
