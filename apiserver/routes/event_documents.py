"""`events.*`: plots and images, the newest of each or page by page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .. import errors
from ..calls import Call
from ..endpoints import Reply, endpoint
from ..events.incoming import EventType
from ..fields import Fields
from ..scroll import fingerprint
from ..store import documents
from ..store.database import Session
from .event_requests import Place, require, require_owner, wanted_metrics

PLOTS_PER_PAGE = 100


@endpoint("events.get_task_plots")
async def get_task_plots(call: Call, data: Fields) -> Reply:
    """The newest plots of a task: the last iterations of each metric and variant."""
    owner, of_model = data.ident("task"), data.flag("model_events", False)
    iterations, wanted = data.integer("iters", 1, least=1), wanted_metrics(data.objects("metrics"))
    everything = data.flag("no_scroll", False)
    place = Place.read(call, data, "get_task_plots", {"task": owner, "iters": iterations, "metrics": wanted})

    def question(tx: Session) -> Reply:
        require_owner(tx, call, owner, of_model=of_model)
        chosen = _newest(documents.outlines(tx, owner, EventType.PLOT, wanted), iterations)
        start = place.key or 0
        page = chosen if everything else chosen[start : start + PLOTS_PER_PAGE]
        plots = documents.contents(tx, [outline.id for outline in page])
        return {
            "plots": plots,
            "returned": len(plots),
            "total": len(chosen),
            "scroll_id": place.after(start + len(page), len(page), len(chosen)),
        }

    return await call.read(question)


def _newest(outlines: Iterable[documents.Outline], iterations: int) -> list[documents.Outline]:
    by_name: dict[tuple[str, str], list[documents.Outline]] = {}
    for outline in outlines:
        by_name.setdefault((outline.metric, outline.variant), []).append(outline)
    chosen = []
    for name in sorted(by_name):
        newest = sorted({outline.iteration for outline in by_name[name]})[-iterations:]
        chosen += [outline for outline in by_name[name] if outline.iteration in newest]
    return chosen


@endpoint("events.debug_images")
async def debug_images(call: Call, data: Fields) -> Reply:
    """Page through a task's images by iteration, newest first."""
    return await _by_iteration(call, data, EventType.IMAGE)


@endpoint("events.plots")
async def plots(call: Call, data: Fields) -> Reply:
    """Page through a task's plots by iteration, newest first."""
    return await _by_iteration(call, data, EventType.PLOT)


async def _by_iteration(call: Call, data: Fields, kind: EventType) -> Reply:
    """A scroll id says, of each task, between which iterations the last page lay; `refresh` starts at the newest."""
    asked = data.objects("metrics")
    if not asked:
        raise errors.VALIDATION("list must not be empty", field="metrics")
    tasks = list(dict.fromkeys(entry.ident("task") for entry in asked))
    wanted = {
        task: wanted_metrics([entry for entry in asked if entry["task"] == task and "metric" in entry])
        for task in tasks
    }
    size, earlier = data.integer("iters", 1, least=1), data.flag("navigate_earlier", True)
    of_models = data.flag("model_events", False)
    shape = fingerprint({"endpoint": call.name, "metrics": [dict(entry) for entry in asked]})
    shown = _shown_before(call, data, shape)

    def question(tx: Session) -> Reply:
        if of_models:
            require(tx, call, models=tasks)
        else:
            require(tx, call, tasks=tasks)
        pages: dict[str, list[Reply]] = {}
        for task in tasks:
            by_iteration = _ids_by_iteration(documents.outlines(tx, task, kind, wanted[task]))
            pages[task] = _page_of_task(tx, by_iteration, shown.get(task), size=size, earlier=earlier)
        spans = {task: [page[-1]["iter"], page[0]["iter"]] if page else shown.get(task) for task, page in pages.items()}
        return {
            "scroll_id": call.services.scroll.pack({"shape": shape, "shown": spans}),
            "metrics": [{"task": task, "iterations": page} for task, page in pages.items()],
        }

    return await call.read(question)


def _shown_before(call: Call, data: Fields, shape: str) -> Mapping[str, list[int] | None]:
    scroll_id = data.text_or("scroll_id", "")
    if not scroll_id:
        return {}
    state = call.services.scroll.unpack(scroll_id)
    if state.get("shape") != shape:
        raise errors.INVALID_SCROLL_ID(scroll_id=scroll_id)
    shown: Mapping[str, list[int] | None] = {} if data.flag("refresh", False) else state["shown"]
    return shown


def _ids_by_iteration(outlines: Iterable[documents.Outline]) -> dict[int, list[int]]:
    grouped: dict[int, list[int]] = {}
    for outline in outlines:
        grouped.setdefault(outline.iteration, []).append(outline.id)
    return grouped


def _page_of_task(
    tx: Session, by_iteration: Mapping[int, list[int]], shown: list[int] | None, *, size: int, earlier: bool
) -> list[Reply]:
    newest_first = sorted(by_iteration, reverse=True)
    if shown is None:
        chosen = newest_first[:size]
    elif earlier:
        chosen = [iteration for iteration in newest_first if iteration < shown[0]][:size]
    else:
        chosen = [iteration for iteration in newest_first if iteration > shown[1]][-size:]
    return [{"iter": iteration, "events": documents.contents(tx, by_iteration[iteration])} for iteration in chosen]


@endpoint("events.get_multi_task_plots")
async def get_multi_task_plots(call: Call, data: Fields) -> Reply:
    """The newest plots of several tasks, side by side."""
    tasks, iterations = data.idents("tasks"), data.integer("iters", 1, least=1)
    wanted = wanted_metrics(data.objects("metrics"))

    def question(tx: Session) -> Reply:
        names = require(tx, call, tasks=tasks)
        plots: Reply = {}
        count = 0
        for task in tasks:
            for outline in _newest(documents.outlines(tx, task, EventType.PLOT, wanted), iterations):
                by_task = plots.setdefault(outline.metric, {}).setdefault(outline.variant, {}).setdefault(task, {})
                shown = by_task.setdefault(str(outline.iteration), {"name": names[task], "plots": []})
                shown["plots"] += documents.contents(tx, [outline.id])
                count += 1
        return {"plots": plots, "returned": count, "total": count}

    return await call.read(question)
