"""Looks at the GPUs of an agent, one look at a time, with the driver kept open between them to hear of XID errors.

A look may be slow, or never end: call from a thread that nobody depends on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.gpu.condition import XidWatch, condition_of, watch_xids
from agent.gpu.health import Condition, Device, Xid
from agent.gpu.inventory import survey
from agent.gpu.nvml import Nvml, NvmlFailed
from agent.gpu.stats import visible_devices
from agent.gpu.visible import missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What one look has found: how each device is, and the XID errors since the look before. `silence` is why the
    driver as a whole does not answer, `is_complete` whether no GPU is missing.
    """

    conditions: Mapping[Device, Condition]
    xids: tuple[Xid, ...] = ()
    silence: str = ""
    is_complete: bool = True


class Checkup:
    """`devices` are the GPUs to look at; none: those that CUDA_VISIBLE_DEVICES says (`visible`), all where it is None.

    `missing` are devices that were not there when the agent started. `is_given`: the agent is to have GPUs; one that
    takes what there is may find that its host has none.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        *,
        missing: Sequence[str] = (),
        visible: str | None = None,
        is_given: bool = True,
    ) -> None:
        self._devices = tuple(devices)
        self._missing = tuple(missing)
        self._visible = visible
        self._is_given = is_given
        self._nvml: Nvml | None = None
        self._watch: XidWatch | None = None
        self._starts_anew = False

    def look(self, now: float) -> Findings:
        """How the GPUs are `now` (seconds since boot)."""
        heard = self._watch.take(now) if self._watch else ()
        if self._starts_anew:
            self.close()
        try:
            return self._look(now, heard)
        except NvmlFailed as error:
            self.close()
            is_fault = self._is_given or bool(self._devices)
            return Findings(conditions={}, xids=heard, silence=str(error) if is_fault else "")

    def _look(self, now: float, heard: tuple[Xid, ...]) -> Findings:
        nvml = self._nvml = self._nvml or Nvml()
        absent = self._still_missing(nvml)
        devices = self._devices or (() if self._missing else self._found(nvml))
        conditions = {**{device: _condition(nvml, device) for device in devices}, **absent}
        if self._watch is None:
            self._watch = watch_xids(nvml, (device.uuid for device in devices if device.uuid))
        else:
            heard = (*heard, *self._watch.take(now))
        # a GPU that comes back is only seen by who opens the driver again
        self._starts_anew = any(condition.lost for condition in conditions.values())
        return Findings(conditions=conditions, xids=heard, is_complete=not self._missing or not absent)

    def _still_missing(self, nvml: Nvml) -> dict[Device, Condition]:
        if not self._missing:
            return {}
        absent = missing(self._missing, survey(nvml))
        return {Device(label=label, uuid=""): Condition(lost=f"is missing: {why}") for label, why in absent.items()}

    def _found(self, nvml: Nvml) -> tuple[Device, ...]:
        found = visible_devices(survey(nvml), self._visible)
        devices = tuple(Device(label=device.label, uuid=device.uuid) for device in found)
        if all(device.uuid for device in devices):
            self._devices = devices
        return devices

    def close(self) -> None:
        """Let go of the driver."""
        if self._watch is not None:
            self._watch.close()
        if self._nvml is not None:
            self._nvml.close()
        self._nvml = self._watch = None
        self._starts_anew = False


def _condition(nvml: Nvml, device: Device) -> Condition:
    return condition_of(nvml, device.uuid) if device.uuid else Condition(lost="does not answer")
