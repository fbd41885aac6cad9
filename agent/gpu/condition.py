"""How the GPUs are, asked of an opened NVML: the questions whose answers `health` judges, and the driver's XID errors.

A GPU that does not answer is no failure here. It is what there is to say of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from agent.gpu.health import Condition, Xid
from agent.gpu.nvml import GpuLost, GpuRefused, Nvml, text_of

#: NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, which older bindings have no name for; drivers know it since 570.
RECOVERY_ACTION = 230
#: Events that are taken in at one look; what a GPU has to say beyond is said at the next.
MOST_EVENTS = 64


def condition_of(nvml: Nvml, uuid: str) -> Condition:
    """How the GPU is, or the one with this MIG instance; one that does not answer is a condition, too."""
    try:
        return _answers(nvml, uuid)
    except GpuRefused:
        return Condition()
    except GpuLost as error:
        gpu_of = "" if uuid.startswith("MIG-") else uuid
        return Condition(gpu=gpu_of, lost=f"{_fate(nvml, error.__cause__)} ({error})")


def _answers(nvml: Nvml, uuid: str) -> Condition:
    lib = nvml.lib
    handle = _handle(nvml, uuid)
    gpu = _gpu_of(nvml, uuid, handle)
    instance = _instance(nvml, handle) if uuid.startswith("MIG-") else None
    nvml.memory(handle)  # a question that the GPU itself has to answer
    rows = nvml.one_or(None, lib.nvmlDeviceGetRemappedRows, gpu)
    return Condition(
        gpu=text_of(nvml.one(lib.nvmlDeviceGetUUID, gpu)),
        instance=instance,
        action=_recovery_action(nvml, gpu),
        uncorrected=_uncorrected(nvml, gpu),
        pages_pending=_flag(nvml.one_or(None, lib.nvmlDeviceGetRetiredPagesPendingStatus, gpu)),
        rows_pending=_flag(rows and rows[2]),
        rows_broken=_flag(rows and rows[3]),
    )


def _instance(nvml: Nvml, handle: Any) -> tuple[int, int]:
    gi = nvml.one(nvml.lib.nvmlDeviceGetGpuInstanceId, handle)
    return gi, nvml.one(nvml.lib.nvmlDeviceGetComputeInstanceId, handle)


def _recovery_action(nvml: Nvml, gpu: Any) -> int | None:
    lib = nvml.lib
    values = nvml.one_or(None, lib.nvmlDeviceGetFieldValues, gpu, [RECOVERY_ACTION])
    if values is None or values[0].nvmlReturn != lib.NVML_SUCCESS:
        return None
    return int(values[0].value.uiVal)


def _uncorrected(nvml: Nvml, gpu: Any) -> int | None:
    lib = nvml.lib
    which = (lib.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, lib.NVML_VOLATILE_ECC)
    count: int | None = nvml.one_or(None, lib.nvmlDeviceGetTotalEccErrors, gpu, *which)
    return count


def _fate(nvml: Nvml, cause: BaseException | None) -> str:
    if isinstance(cause, nvml.lib.NVMLError_GpuIsLost):
        return "fell off the bus"
    if isinstance(cause, nvml.lib.NVMLError_NotFound):
        return "is not there any more"
    return "does not answer"


def _handle(nvml: Nvml, uuid: str) -> Any:
    """A GPU or instance by its UUID. NVML may say "lost" of one because of another that it passes on the way."""
    lib = nvml.lib
    try:
        return nvml.one(lib.nvmlDeviceGetHandleByUUID, uuid)
    except GpuLost as error:
        if not isinstance(error.__cause__, lib.NVMLError_GpuIsLost):
            raise
        for handle in _handles(nvml):
            if nvml.or_nothing(lib.nvmlDeviceGetUUID, handle) == uuid:
                return handle
        raise


def _handles(nvml: Nvml) -> Iterable[Any]:
    """Every GPU and instance that can be got hold of."""
    lib = nvml.lib
    for index in range(nvml.whole(lib.nvmlDeviceGetCount)):
        gpu = nvml.or_nothing(lib.nvmlDeviceGetHandleByIndex, index)
        if gpu is None:
            continue
        yield gpu
        for number in range(nvml.or_nothing(lib.nvmlDeviceGetMaxMigDeviceCount, gpu) or 0):
            instance = nvml.or_nothing(lib.nvmlDeviceGetMigDeviceHandleByIndex, gpu, number)
            if instance is not None:
                yield instance


def _gpu_of(nvml: Nvml, uuid: str, handle: Any) -> Any:
    """The handle of the whole GPU."""
    if not uuid.startswith("MIG-"):
        return handle
    return nvml.one(nvml.lib.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle)


def watch_xids(nvml: Nvml, uuids: Iterable[str]) -> XidWatch | None:
    """Hear of the critical errors of these GPUs (for an instance, of its GPU) from now on; None where none can."""
    lib = nvml.lib
    events = nvml.one_or(None, lib.nvmlEventSetCreate)
    if events is None:
        return None
    watched: dict[int, str] = {}
    for uuid in dict.fromkeys(uuids):
        with suppress(GpuLost):
            gpu = _gpu_of(nvml, uuid, _handle(nvml, uuid))
            place = _place(gpu)
            if place not in watched:
                name = text_of(nvml.one(lib.nvmlDeviceGetUUID, gpu))
                nvml.one(lib.nvmlDeviceRegisterEvents, gpu, lib.nvmlEventTypeXidCriticalError, events)
                watched[place] = name
    return XidWatch(nvml, events, watched)


class XidWatch:
    """The critical errors that the driver reports of some GPUs. It keeps them until they are asked for."""

    def __init__(self, nvml: Nvml, events: Any, watched: dict[int, str]) -> None:
        self._lib = nvml.lib
        self._events = events
        self._watched = watched

    def take(self, now: float) -> tuple[Xid, ...]:
        """Those that have come since; they get the time `now`, because the driver tells none."""
        found: list[Xid] = []
        while (event := self._next()) is not None and len(found) < MOST_EVENTS:
            gpu = self._watched.get(_place(event.device), "")
            if event.eventType == self._lib.nvmlEventTypeXidCriticalError and gpu:
                found.append(
                    Xid(
                        gpu=gpu,
                        number=int(event.eventData),
                        at=now,
                        gi=int(event.gpuInstanceId),
                        ci=int(event.computeInstanceId),
                    )
                )
        return tuple(found)

    def close(self) -> None:
        with suppress(self._lib.NVMLError):
            self._lib.nvmlEventSetFree(self._events)

    def _next(self) -> Any:
        """The next one that waits; a driver that does not answer, or tells of no events, has none."""
        try:
            return self._lib.nvmlEventSetWait_v2(self._events, 0)
        except self._lib.NVMLError:
            return None


def _place(handle: Any) -> int:
    """What tells two handles apart: the address that they are."""
    import ctypes

    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def _flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)
