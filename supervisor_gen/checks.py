"""What is wrong with a topology although each value of it can be read: keys that contradict each other. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from supervisor_gen.model import Entry, Place, Topology

#: apiserver and ClearML Server refuse shorter names.
SHORTEST_QUEUE_NAME = 3
_DYNAMIC = re.compile(r"(?P<name>.+)=(?P<least>\d+(?:\.\d+)?)(?:-(?P<most>\d+(?:\.\d+)?))?")
#: Options of the daemon that have a key of their own, or are not the topology's to choose.
_INSTEAD = {
    "--queue": "queues",
    "--gpus": "gpu and gpus",
    "--cpu-only": "gpus: 0",
    "--dynamic-gpus": "dynamic_gpus",
    "--services-mode": "services_mode",
    "--order-fairness": "order_fairness",
    "--create-queue": "create_queue",
    "--docker": "mode and image",
    "--podman": "mode and image",
    "--uptime": "uptime",
    "--downtime": "downtime",
    "--config-file": "config_file",
}
_OURS = ("--foreground", "--detached", "-d", "--stop", "--status")
_SECRET = ("--git-pass", "--git-user")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where."""

    place: Place
    text: str


def problems_of(topology: Topology) -> Iterator[Problem]:
    """Every contradiction of a topology."""
    for entry in topology.entries:
        yield from _hosts(entry, topology.groups)
        yield from _numbers(entry)
        yield from _queues(entry)
        yield from _runtime(entry)
        yield from _options(entry)


def _hosts(entry: Entry, groups: Mapping[str, tuple[str, ...]]) -> Iterator[Problem]:
    for pattern in entry.hosts:
        if pattern.startswith("@") and pattern[1:] not in groups:
            known = ", ".join(sorted(groups)) or "none"
            yield Problem(entry.place_of("hosts"), f"there is no group {pattern[1:]} (known: {known})")
    if "hosts" in entry.places and not entry.hosts:
        yield Problem(entry.place_of("hosts"), "hosts is empty; leave it out for every host")


def _numbers(entry: Entry) -> Iterator[Problem]:
    if entry.gpus == 0:
        for key in ("gpu", "rest", "optional"):
            if key in entry.places:
                yield Problem(entry.place_of(key), f"{key} says nothing about an agent without GPUs (gpus: 0)")
        if entry.settings.dynamic_gpus:
            yield Problem(entry.place_of("dynamic_gpus"), "dynamic_gpus needs GPUs, and gpus is 0")
        if entry.count is None and "count" in entry.places:
            yield Problem(entry.place_of("count"), 'count: how many agents without GPUs? "all" is no number')
    if entry.gpus == -1 and entry.count not in (None, 1):
        yield Problem(entry.place_of("count"), 'gpus is "all", which makes one agent; count contradicts it')
    if entry.gpus != 1 and not entry.name:
        yield Problem(entry.place, "name: needed unless the agents have one GPU each")
    if entry.rest and entry.count is not None and entry.gpus != -1:
        yield Problem(entry.place_of("count"), "rest takes whatever is left; count contradicts it")


def _queues(entry: Entry) -> Iterator[Problem]:
    place, settings = entry.place_of("queues"), entry.settings
    if not settings.queues:
        yield Problem(place, "queues: an agent has to listen to at least one queue")
    names = []
    for written in settings.queues:
        name = written
        if settings.dynamic_gpus:
            found = _DYNAMIC.fullmatch(written)
            if not found:
                yield Problem(place, f"queue {written!r}: with dynamic_gpus expected NAME=N or NAME=MIN-MAX")
                continue
            name = found["name"]
            yield from (Problem(place, f"queue {written!r}: {text}") for text in _amount(found, entry.gpus))
        elif _DYNAMIC.fullmatch(written):
            yield Problem(place, f"queue {written!r}: a number of GPUs for each task needs dynamic_gpus: true")
        if len(name.strip()) < SHORTEST_QUEUE_NAME:
            yield Problem(
                place, f"queue {name!r}: a server takes no name of fewer than {SHORTEST_QUEUE_NAME} characters"
            )
        elif name != name.strip() or name.startswith("-"):
            yield Problem(place, f"queue {name!r}: a name may not begin with a dash, nor begin or end with a blank")
        names.append(name.lower())
    for name, times in Counter(names).items():
        if times > 1:
            yield Problem(place, f"queue {name!r} is named {times} times")


def _amount(found: re.Match[str], gpus: int) -> Iterator[str]:
    least, most = found["least"], found["most"] or found["least"]
    if "." in least or "." in most:
        yield "fractions of a GPU are not shared out here"
    elif int(least) < 1:
        yield "a task needs at least 1 GPU"
    elif int(least) > int(most):
        yield "the smaller number comes first"
    elif int(least) > gpus > 0:
        yield f"a task needs {least} GPUs, and an agent has {gpus} (gpus)"


def _runtime(entry: Entry) -> Iterator[Problem]:
    settings = entry.settings
    if settings.mode == "venv":
        for key in ("image", "arguments"):
            if getattr(settings, key):
                yield Problem(entry.place_of(key), f"{key} belongs to mode: docker or mode: podman")
    elif settings.arguments and not settings.image:
        yield Problem(entry.place_of("arguments"), "arguments need an image before them")
    if settings.uptime and settings.downtime:
        yield Problem(entry.place_of("downtime"), "uptime and downtime are both given; one says it all")
    if settings.services_mode is not None and entry.gpus != 0:
        yield Problem(entry.place_of("services_mode"), "services_mode is for agents without GPUs (gpus: 0)")
    if settings.services_mode is not None and settings.dynamic_gpus:
        yield Problem(entry.place_of("services_mode"), "services_mode and dynamic_gpus exclude each other")


def _options(entry: Entry) -> Iterator[Problem]:
    place = entry.place_of("options")
    if entry.settings.options and not entry.settings.options[0].startswith("-"):
        first = entry.settings.options[0]
        yield Problem(place, f"options: {first!r} is no option, and would be read as part of what stands before it")
    for word in entry.settings.options:
        option = word.partition("=")[0]
        if option in _INSTEAD:
            yield Problem(place, f"options: {option} is written as the key {_INSTEAD[option]}")
        elif option in _OURS:
            yield Problem(place, f"options: {option} is for the supervisor to say")
        elif option in _SECRET:
            yield Problem(
                place, f"options: {option} would be seen by every user; put it into {entry.settings.config_file}"
            )
