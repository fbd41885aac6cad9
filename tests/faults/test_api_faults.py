"""Every call of the API goes wrong once: its request is lost, its reply is lost, it comes 40 s late, a gateway says 502
though the server has acted on it, the server says 429. On our server, and on one without our extensions.

The calls are those that `agent/api` names, so one that is new goes wrong, too, or fails here.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.agent import create_script, wait_for
from support.apiserver import ServerProcess
from support.cli import run_cli
from support.fault_case import Case
from support.plain_server import plain_server
from support.repositories import make_repository
from support.watcher import Watcher

from agent.steps import Step
from benchmarks.faultproxy import Fault, FaultProxy

ROOT = Path(__file__).parent.parent.parent
ENDPOINT = re.compile(r'"((?:auth|server|queues|tasks|events|workers)\.[a-z_]+)"')
#: Names of what a server can do, which look the same.
FEATURES = {"events.log_ids", "tasks.status_wait"}
SOURCES = [file.read_text() for file in (ROOT / "agent/api").glob("*.py")]
ENDPOINTS = sorted({name for source in SOURCES for name in ENDPOINT.findall(source)} - FEATURES)
KINDS = ("ours", "plain")
FAULTS = (Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.GATEWAY_AFTER, Fault.REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """How an agent comes to make a call: what the task and the agent are like, and what else happens.

    `lose` is a call whose first reply is lost, which leads to the one that is looked at.
    """

    script: dict[str, Any] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=dict)
    agent: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    queues: tuple[str, ...] = ("{name}",)
    in_default_queue: bool = False
    on_branch: bool = False
    gives_back: bool = False
    stops: bool = False
    leaves: bool = False
    lose: str = ""
    status: str = "completed"
    kinds: tuple[str, ...] = KINDS


PLAIN = Story()
STORIES = {
    "queues.create": Story(queues=("{name}", "{name}-made"), setup={"create_queue": True}),
    "queues.get_default": Story(setup={"queues": ()}, in_default_queue=True),
    "tasks.failed": Story(script={"code": 3}, status="failed"),
    "tasks.stopped": Story(script={"pause": 0.4}, stops=True, status="stopped"),
    "tasks.enqueue": Story(gives_back=True),
    "queues.move_task_to_front": Story(gives_back=True),
    "tasks.edit": Story(on_branch=True),
    "tasks.set_requirements": Story(task={"requirements": {"pip": "six"}}),
    "tasks.ping": Story(script={"pause": 0.1}, agent={"task_ping_interval_seconds": 0.3}),
    "workers.set_runtime_properties": Story(setup={"services": 2}),
    "workers.unregister": Story(leaves=True),
    "queues.peek_task": Story(kinds=("plain",)),
    "queues.get_by_id": Story(kinds=("plain",), lose="queues.get_next_task"),
    "workers.get_runtime_properties": Story(kinds=("plain",)),
    "events.get_task_log": Story(kinds=("plain",), lose="events.add_batch"),
}
#: Calls of `clearml-agent execute`, which a person or a batch system makes, and which says what it could not do.
BY_HAND = ("tasks.clone", "tasks.dequeue")
WITH_DAEMON = tuple(name for name in ENDPOINTS if name not in BY_HAND)


def story_for(endpoint: str) -> Story:
    return STORIES.get(endpoint, PLAIN)


def cases() -> list[Any]:
    return [
        pytest.param(kind, endpoint, fault, id=f"{kind}-{endpoint}-{fault.name}")
        for endpoint in WITH_DAEMON
        for kind in story_for(endpoint).kinds
        for fault in FAULTS
    ]


@contextmanager
def proxy_to(server: ServerProcess, kind: str) -> Iterator[FaultProxy]:
    with ExitStack() as stack:
        url = server.api if kind == "ours" else stack.enter_context(plain_server(server.api))[0]
        yield stack.enter_context(FaultProxy(url))


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "endpoint", "fault"), cases())
def test_a_call_that_goes_wrong_once_costs_nothing(
    server: ServerProcess, tmp_path: Path, kind: str, endpoint: str, fault: Fault
) -> None:
    go_through(server, tmp_path, kind, endpoint, fault)


@pytest.mark.parametrize("fault", [Fault.DROP_AFTER])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("endpoint", ["queues.get_next_task", "tasks.started", "events.add_batch", "tasks.completed"])
def test_the_calls_that_matter_most_may_lose_their_reply(
    server: ServerProcess, tmp_path: Path, kind: str, endpoint: str, fault: Fault
) -> None:
    go_through(server, tmp_path, kind, endpoint, fault)


@pytest.mark.thorough
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", KINDS)
def test_replies_that_come_forty_seconds_late_cost_only_time(server: ServerProcess, tmp_path: Path, kind: str) -> None:
    late = [endpoint for endpoint in WITH_DAEMON if kind in story_for(endpoint).kinds]
    places = {endpoint: tmp_path / endpoint for endpoint in late}
    for place in places.values():
        place.mkdir()
    with ThreadPoolExecutor(6) as pool:
        pending = [
            pool.submit(go_through, server, place, kind, endpoint, Fault.DELAY, seconds=180.0)
            for endpoint, place in places.items()
        ]
        for going in pending:
            going.result()


def go_through(
    server: ServerProcess, place: Path, kind: str, endpoint: str, fault: Fault, *, seconds: float = 60.0
) -> None:
    story = story_for(endpoint)
    with proxy_to(server, kind) as proxy, Watcher() as watcher:
        task = on_branch(place) if story.on_branch else story.task
        case = Case(
            server,
            place,
            url=proxy.url,
            script=story.script,
            task=task,
            setup=story.setup,
            environ=watcher.environ,
            polling_interval_seconds=0.5,
            **story.agent,
        )
        if story.lose:
            proxy.plan(story.lose, Fault.DROP_AFTER)
        proxy.plan(endpoint, fault)
        if story.stops:
            watcher.at(Step.PROCESS_WRITTEN, lambda _: server.call("tasks.stop", task=case.task))
        if story.gives_back:
            watcher.at(Step.POPPED, lambda _: case.agent.process.send_signal(signal.SIGTERM))
        if story.in_default_queue:
            server.call("tasks.dequeue", task=case.task)
            server.call("tasks.enqueue", task=case.task, queue_name="default")
        case.start(*(name.format(name=case.name) for name in story.queues))
        try:
            if story.gives_back:
                case.agent.process.wait(seconds)
                case.agent.restart()
            assert case.settle(seconds=seconds) == story.status
            assert len(case.checker.attempts(case.task)) <= 1
            if story.leaves:
                assert case.agent.signal(signal.SIGTERM, seconds=seconds) == 0
            wait_for(lambda: was_hit(proxy, endpoint, fault), seconds=seconds, what=f"{endpoint} is called")
        finally:
            case.end()


def was_hit(proxy: FaultProxy, endpoint: str, fault: Fault) -> bool:
    return any(one.path == f"/{endpoint}" and one.fault is fault for one in proxy.exchanges)


def on_branch(place: Path) -> dict[str, str]:
    """Fields of a task whose code is a branch, so that the commit has to be written back."""
    repository = make_repository(place / "code", {"other.py": "print('not me')\n"})
    return {"repository": str(repository.folder), "branch": "main"}


@pytest.mark.thorough
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("endpoint", BY_HAND)
def test_execute_succeeds_or_says_what_it_could_not_do(
    server: ServerProcess, tmp_path: Path, endpoint: str, fault: Fault
) -> None:
    source = "print('once', flush=True)"
    task = create_script(server, source, queue=None)
    words = ("execute", "--id", task, *(["--clone"] if endpoint == "tasks.clone" else []))

    def execute(url: str) -> subprocess.CompletedProcess[str]:
        variables = {"CLEARML_CONFIG_FILE": str(server.conf_path), "CLEARML_API_HOST": url}
        return run_cli(tmp_path, *words, seconds=60, **variables)

    with FaultProxy(server.api) as proxy:
        proxy.plan(endpoint, fault)
        ended = execute(proxy.url)
        assert was_hit(proxy, endpoint, fault)
        assert ended.returncode in (0, 1, 4), ended.stderr
        assert ended.returncode == 0 or ("tasks." in ended.stderr and "Traceback" not in ended.stderr)
        if ended.returncode:
            assert execute(proxy.url).returncode == 0


def test_every_call_of_the_agent_is_known_here() -> None:
    assert set(STORIES) | set(BY_HAND) <= set(ENDPOINTS)
    assert len(ENDPOINTS) > 20
