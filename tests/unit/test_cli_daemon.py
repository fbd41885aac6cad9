"""What `daemon` makes of options and configuration before it hands over, and how it finds agents again."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.settings import settings_for

from agent.api.workers import Property
from agent.cli.daemon import Wishes, environment_for, worker_setup
from agent.cli.detach import last_error, log_name
from agent.cli.options import resolve_gpus, with_git_credentials
from agent.cli.records import LiveAgent, live_agents
from agent.cli.status import Told, hours_line, status_lines
from agent.cli.stop import choose
from agent.config.schema import Settings
from agent.gpu.model import Inventory
from agent.gpu.visible import parse_visibility
from agent.gpu.wire import inventory_from_json
from agent.models import WorkerSetup
from agent.process.procfs import start_ticks_of
from agent.worker.becoming import worker_command


def never() -> Inventory:
    raise AssertionError("the driver was asked")


def test_setup_survives_the_file_it_travels_in() -> None:
    wishes = Wishes(queues=("a", "b"), gpus="0,1", optimize=1, child_report_tags=("t",), log_level="DEBUG")
    setup = worker_setup(settings_for(), wishes, parse_visibility("0,1", False, {}))
    read = WorkerSetup.from_json(json.loads(json.dumps(setup.to_json())))
    assert (read.queues, read.child_report_tags, read.gpu_suffix, read.optimize) == (("a", "b"), ("t",), "gpu0,1", 1)
    assert read.gpu_environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert Settings.from_json(read.settings) == settings_for()


def test_environment_section_is_laid_over_ours_unless_switched_off() -> None:
    from dataclasses import replace

    settings = replace(settings_for(), environment={"A": "new", "B": "more"})
    visibility = parse_visibility(None, False, {})
    assert environment_for(settings, visibility, {"A": "old", "C": "kept"}) == {"A": "new", "B": "more", "C": "kept"}
    settings = replace(settings, agent=replace(settings.agent, apply_environment=False))
    assert environment_for(settings, visibility, {"A": "old"}) == {"A": "old"}


def test_variable_that_would_hide_gpus_is_left_out() -> None:
    visibility = parse_visibility("all", False, {})
    assert environment_for(settings_for(), visibility, {"CUDA_VISIBLE_DEVICES": "0", "X": "1"}) == {"X": "1"}


def test_daemon_does_not_import_from_where_it_was_started() -> None:
    assert worker_command(Path("/x.json"))[1:3] == ["-P", "-OO"]


def test_driver_is_asked_only_where_devices_are_named() -> None:
    for spec, cpu_only in ((None, False), ("all", False), ("none", False), ("0", True)):
        resolve_gpus(spec, cpu_only=cpu_only, env={}, inventory=never)
    with pytest.raises(AssertionError):
        resolve_gpus("0", cpu_only=False, env={}, inventory=never)


def test_gpus_that_cannot_be_checked_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    found = resolve_gpus("0", cpu_only=False, env={}, inventory=lambda: inventory_from_json({"gpus": []}))
    assert found.devices == ("0",)
    assert "no NVIDIA GPU" in caplog.text


def test_gpus_in_a_pod_are_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    env = {"KUBERNETES_PORT": "x"}
    assert resolve_gpus("0", cpu_only=False, env=env, inventory=never).devices is None
    assert "--gpus 0 is ignored" in caplog.text


def test_git_credentials_of_the_command_line_win_and_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    settings = with_git_credentials(settings_for(git_user="old", git_pass="old-pass"), "new", "new-pass")
    assert (settings.agent.git_user, settings.agent.git_pass) == ("new", "new-pass")
    assert "CLEARML_AGENT_GIT_PASS" in caplog.text
    assert "new-pass" not in caplog.text


def test_without_git_options_the_configured_credentials_stay(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        settings = with_git_credentials(settings_for(git_user="old", git_pass="old-pass"), None, None)
    assert (settings.agent.git_user, settings.agent.git_pass) == ("old", "old-pass")
    assert caplog.text == ""


# Finding agents


def write_record(state: Path, name: str, pid: int, ticks: int | None) -> None:
    (state / "workers").mkdir(exist_ok=True)
    record = {"pid": pid, "start_ticks": ticks, "worker_id": name, "slot": 0, "started_at_ms": 0, "ready": True}
    (state / "workers" / f"{name}.lock").write_text(json.dumps(record))


def test_only_living_processes_count_as_agents(tmp_path: Path) -> None:
    own = start_ticks_of(os.getpid())
    assert own
    write_record(tmp_path, "alive", os.getpid(), own)
    write_record(tmp_path, "pid-of-another", os.getpid(), own - 1)
    write_record(tmp_path, "gone", 2**22 + 1, 5)
    write_record(tmp_path, "odd", os.getpid(), None)
    (tmp_path / "workers" / "half.lock").write_text('{"pid": ')
    found = live_agents(settings_for(state=tmp_path))
    assert [agent.worker_id for agent in found] == ["alive"]
    assert found[0].is_alive
    assert found[0].is_ready


def test_process_that_has_ended_and_was_not_reaped_is_no_agent(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    write_record(tmp_path, "zombie", process.pid, start_ticks_of(process.pid))
    assert live_agents(settings_for(state=tmp_path)) == ()
    process.wait()


def test_no_state_directory_means_no_agents(tmp_path: Path) -> None:
    assert live_agents(settings_for(state=tmp_path / "none")) == ()


def living(*names: str) -> list[LiveAgent]:
    return [LiveAgent(worker_id=name, pid=1, start_ticks=1, is_ready=True) for name in names]


ALL = ("testhost:0", "testhost:1", "testhost:cpu:0", "testhost:gpu0", "other:0")


@pytest.mark.parametrize(
    ("ids", "suffix", "chosen"),
    [
        ((), None, ["testhost:0"]),
        ((), "gpu0", ["testhost:gpu0"]),
        ((), "gpu1", []),
        ((), "cpu", ["testhost:cpu:0"]),
        (("testhost:1", "other:0"), None, ["testhost:1", "other:0"]),
        (("nobody",), "gpu0", []),
    ],
)
def test_agent_to_stop_is_the_one_the_options_describe(
    ids: tuple[str, ...], suffix: str | None, chosen: list[str]
) -> None:
    found = choose(living(*ALL), ids, settings_for().agent, suffix=suffix)
    assert [agent.worker_id for agent in found] == chosen


def test_configured_worker_id_is_the_one_to_stop() -> None:
    found = choose(living("testhost:0", "mine"), (), settings_for(worker_id="mine").agent, suffix=None)
    assert [agent.worker_id for agent in found] == ["mine"]


NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()


def test_status_shows_both_views() -> None:
    worker = {
        "id": "h:1",
        "queues": [{"id": "q", "name": "train"}, {"id": "p"}],
        "task": {"id": "t", "name": "a task"},
        "last_activity_time": "1970-01-01T00:16:40+00:00",
    }
    told = Told(workers=[worker, {"id": "h:2"}], tags={"q": ("force_workers:on",)}, properties={})
    lines = status_lines(living("h:0", "h:1"), told, now=1012.3)
    assert lines == [
        "Worker h:0: running (pid 1); unknown to the server",
        "  hours: always",
        "  force: no",
        "Worker h:1: running (pid 1); reported 12 s ago",
        "  hours: always",
        "  force: no",
        "  queues: train [force_workers:on], p",
        "  task: t (a task)",
        "Worker h:2: not running here; registered with the server",
        "  force: no",
        "  queues: none",
        "  task: none",
    ]


@pytest.fixture
def _utc() -> Iterator[None]:
    """A host whose clock shows UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_utc")
def test_status_tells_hours_and_force_with_their_ends() -> None:
    hours = {"uptime": ["08-18 MON-FRI"], "downtime": [], "timezone": "Europe/Berlin"}
    agent = LiveAgent(worker_id="h:0", pid=1, start_ticks=1, is_ready=True, hours=hours)
    force = {"h:0": {"force": Property("off", 3600.0)}}
    lines = status_lines([agent], Told(properties=force), now=NOON)
    assert lines[1] == ("  hours: uptime '08-18 MON-FRI' (Europe/Berlin), open until Wed 2026-11-25 18:00 CET").replace(
        "'", '"'
    )
    assert lines[2] == "  force: off until Wed 2026-11-25 13:00 UTC"
    assert status_lines([agent], Told(), now=NOON)[2] == "  force: this server has no runtime properties"
    closed = hours_line({"downtime": ["00-24 SUN-SAT"], "timezone": "UTC"}, now=NOON)
    assert closed.endswith("closed for good")


def test_status_of_nothing() -> None:
    assert status_lines([], Told(), now=0) == ["No agent of this host is running, and the server knows none."]


@pytest.mark.parametrize(
    ("suffix", "is_shared", "chosen"),
    [
        ("dgpu0,1", False, ["h:dgpu0,1"]),
        ("gpu0", True, ["h:gpu0:0"]),
        ("gpu0", False, []),
        (None, False, ["h:dgpu0,1"]),
    ],
)
def test_agents_of_many_tasks_are_stopped_by_the_options_that_started_them(
    suffix: str | None, is_shared: bool, chosen: list[str]
) -> None:
    agent = replace(settings_for().agent, worker_name="h")
    found = choose(living("h:dgpu0,1", "h:gpu0:0", "h:gpu0:1"), (), agent, suffix=suffix, is_shared=is_shared)
    assert [one.worker_id for one in found] == chosen


# A daemon in the background


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("", None),
        ("2026-01-31 12:00:00.123 INFO agent.worker [ready] fine\n", None),
        (
            "2026-01-31 12:00:00.123 ERROR agent.worker [failed] no queue 'x'\n  It has: y.\n",
            ("no queue 'x'", "It has: y."),
        ),
        (
            "2026-01-31 12:00:00.123 ERROR agent.worker first\n2026-01-31 12:00:01.000 CRITICAL a [b] last\n",
            ("last", ""),
        ),
        (
            '{"level": "ERROR", "message": "no queue\\n  It has: y."}\n{"level": "INFO"}\n{broken\n',
            ("no queue", "It has: y."),
        ),
    ],
)
def test_last_error_of_a_log_is_found(said: str, found: tuple[str, str] | None) -> None:
    assert last_error(said) == found


@pytest.mark.parametrize(
    ("worker_id", "spec", "cpu_only", "name"),
    [
        ("", None, False, "testhost.log"),
        ("", "0,1", False, "testhost%3agpu0%2c1.log"),
        ("", None, True, "testhost%3acpu.log"),
        ("../mine", "0", False, "..%2fmine.log"),
    ],
)
def test_log_is_named_after_what_is_known_of_the_worker(
    worker_id: str, spec: str | None, cpu_only: bool, name: str
) -> None:
    settings = settings_for(worker_id=worker_id)
    setup = worker_setup(settings, Wishes(cpu_only=cpu_only), parse_visibility(spec, cpu_only, {}))
    assert log_name(settings, setup) == name
