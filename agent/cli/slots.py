"""What the options of `daemon` say about how many tasks run at once, on which GPUs, and when."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from agent.config.schema import Settings
from agent.errors import GpuSpecError, UsageError
from agent.gpu.allocation import Layout
from agent.gpu.model import Gpus, Inventory, Unknown
from agent.gpu.visible import missing

if TYPE_CHECKING:
    from agent.cli.daemon import Wishes

NO_GPUS = Layout((), {})

_WISH = re.compile(r"^(?P<name>.+?)=(?P<least>\d{1,4})(?:-(?P<most>\d{1,4}))?$")
_FRACTION = re.compile(r"=0?\.\d+$")


def queue_wishes(queues: Sequence[str], *, is_dynamic: bool) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Names of queues, and with dynamic GPUs how many a task of each gets: (at least, at most). Raises UsageError."""
    names = tuple(name for name in queues if name)
    if not is_dynamic:
        return names, ()
    if not names:
        raise UsageError(
            "--dynamic-gpus needs --queue NAME=N or NAME=MIN-MAX", hint="For example --queue quad=4 any=1-2"
        )
    found = [_wish(entry) for entry in names]
    again = {name.lower() for name, _ in found if [other.lower() for other, _ in found].count(name.lower()) > 1}
    if again:
        raise UsageError(f"--queue: {min(again)} is named twice")
    return tuple(name for name, _ in found), tuple(wish for _, wish in found)


def _wish(entry: str) -> tuple[str, tuple[int, int]]:
    if _FRACTION.search(entry):
        hint = "Parts of a GPU are for agents that share one: --gpus 0 --gpu-share 0.5, one agent for each part."
        raise UsageError(f"--queue {entry}: tasks get whole GPUs or MIG instances", hint=hint)
    match = _WISH.match(entry)
    if match is None:
        hint = "A task of quad=4 gets 4 GPUs, one of any=1-4 gets from 1 to 4."
        raise UsageError(f"--queue {entry}: with --dynamic-gpus expected NAME=N or NAME=MIN-MAX", hint=hint)
    least, most = int(match["least"]), int(match["most"] or match["least"])
    if not 1 <= least <= most:
        raise UsageError(f"--queue {entry}: {least}-{most} is no range of at least one GPU")
    return match["name"], (least, most)


def services_limit(values: Sequence[str]) -> int | None:
    """How many services at once: 0 for any number, None without `--services-mode`. Raises UsageError."""
    given = [value for value in values if value]
    if not values:
        return None
    if not given or given == ["-1"]:
        return 0
    if len(given) > 1 or not given[0].isdecimal() or int(given[0]) == 0:
        raise UsageError(f"--services-mode {' '.join(given)}: expected how many tasks at once, 1 or more")
    return int(given[0])


def with_hours(settings: Settings, uptime: Sequence[str], downtime: Sequence[str]) -> Settings:
    """`settings` with the hours of the command line, which replace those of the configuration as a whole."""
    up, down = (tuple(entry for entry in entries if entry) for entries in (uptime, downtime))
    if up and down:
        raise UsageError(
            "--uptime and --downtime exclude each other",
            hint="Give the hours in which the worker works, or the others.",
        )
    if not up and not down:
        return settings
    return replace(settings, agent=replace(settings.agent, uptime=up, downtime=down))


def check_hours(settings: Settings) -> None:
    """Raises ConfigError where the working hours cannot be read."""
    agent = settings.agent
    if agent.uptime or agent.downtime or agent.timezone:
        from agent.schedule import read_schedule

        read_schedule(uptime=agent.uptime, downtime=agent.downtime, timezone=agent.timezone)


def check_combination(wishes: Wishes) -> None:
    """Raises UsageError for options that contradict each other."""
    if wishes.ranges and wishes.services is not None:
        raise UsageError("--services-mode and --dynamic-gpus exclude each other")
    if wishes.ranges and (wishes.cpu_only or not wishes.gpus or wishes.gpus == "none"):
        raise UsageError("--dynamic-gpus needs --gpus: the GPUs that tasks get theirs from", hint="--gpus 0-7")
    if wishes.share is None:
        return
    if not 0.01 <= wishes.share <= 1:
        raise UsageError(f"--gpu-share {wishes.share:g}: expected a part from 0.01 to 1")
    if wishes.ranges or wishes.cpu_only or not wishes.gpus or wishes.gpus == "none":
        raise UsageError("--gpu-share needs --gpus, and goes neither with --dynamic-gpus nor without GPUs")


def layout_without_missing(
    devices: Sequence[str], inventory: Inventory, wishes: Wishes
) -> tuple[Layout, tuple[str, ...]]:
    """The units of an agent some of whose GPUs are missing, and these. GPUs that are shared out are so without them;
    any other agent needs all of its own.
    """
    absent = tuple(missing(devices, inventory)) if isinstance(inventory, Gpus) else ()
    there = [device for device in devices if device not in absent]
    if not isinstance(inventory, Gpus) or not wishes.ranges or not there:
        return NO_GPUS, absent
    try:
        return Layout.of(inventory, there), absent
    except ValueError as error:
        raise GpuSpecError(f"--gpus: {error}") from error


def layout_of(devices: Sequence[str], inventory: Inventory, wishes: Wishes) -> Layout:
    """The GPUs and MIG instances that an agent has. Raises GpuSpecError where it needs to know them and cannot.

    Without a driver to ask, dynamic GPUs are told apart by their labels: they may be those of another vendor.
    """
    if isinstance(inventory, Gpus):
        labels = [str(gpu.index) for gpu in inventory.gpus] if devices == ("all",) else devices
        try:
            layout = Layout.of(inventory, labels)
        except (ValueError, KeyError) as error:
            raise GpuSpecError(f"--gpus: {error}") from error
    elif wishes.share is not None:
        reason = inventory.reason if isinstance(inventory, Unknown) else "this host has no NVIDIA GPU"
        raise GpuSpecError(f"--gpu-share: the memory of GPU {','.join(devices)} cannot be read: {reason}")
    elif wishes.ranges and devices != ("all",):
        layout = Layout.plain(devices)
    else:
        return NO_GPUS
    for name, (least, _) in zip(wishes.queues, wishes.ranges, strict=False):
        if least > len(layout.units):
            raise UsageError(f"--queue {name}={least}: the agent has {len(layout.units)} GPUs")
    return layout
