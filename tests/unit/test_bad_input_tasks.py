"""Task objects that nobody should send: either a value comes out of them, or an error that a person understands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bad_input import EVIL_TEXTS, JSON, VALID, bad_tasks, deep, examples, with_change
from support.fake_api import fake_api
from support.runs import run_context
from support.settings import settings_for

from agent.api import events, queues, server, tasks, workers
from agent.api.client import Client
from agent.api.queues import Queue, Steering, Waiting
from agent.api.server import Features
from agent.api.transport import Reply, Transport
from agent.errors import AgentError, ApiError, BadTask, SetupFailed
from agent.executor import patch
from agent.executor.entry import entry_for
from agent.executor.places import Places
from agent.executor.remotes import parse
from agent.executor.requirements_file import read_text
from agent.executor.wanted import Found, Wanted, plan_for
from agent.models import Outcome, Script, Task
from agent.packages.uv import install_command
from agent.process.environ import for_task, task_section
from agent.runner import claim as claiming
from agent.runner.abort import wait_for_abort_callback
from agent.runner.claim import Claimant, Claimed, claim_task
from agent.runner.claim import Source as Queues
from agent.runner.context import GoneHandle
from agent.runner.lifecycle import launch
from agent.runner.outcome import StopCause, verdict_for
from agent.runner.rundir import Runs, folder_for
from agent.runner.writeback import calls_for
from agent.runtimes.host import HostRuntime
from agent.states import RunPhase, TaskStatus
from agent.worker.gate import Gate

OURS = Queues(queues=(Queue("q1", "train"),), features=Features(repeatable_pop=True), api_version=(2, 34))

# --- reading a task


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("script",), [], "its field script is a list, expected was an object"),
        (("script",), "x", "its field script is a text, expected was an object"),
        (("script", "entry_point"), ["x"], "its field script.entry_point is a list, expected was a text"),
        (("script", "binary"), {"a": 1}, "its field script.binary is an object"),
        (("script", "diff"), True, "its field script.diff is true or false"),
        (("script", "working_dir"), "a\0b", "script.working_dir is a text with NUL"),
        (
            ("script", "branch"),
            "x" * 5000,
            "script.branch is 5000 characters long, expected was a text of at most",
        ),
        (("script", "requirements"), 5, "its field script.requirements is a number, expected was an object"),
        (("script", "requirements", "pip"), {"a": "b"}, "its field script.requirements.pip is an object"),
        (("script", "requirements", "pip"), [["x"]], "its field script.requirements.pip is a list"),
        (("hyperparams",), [1], "its field hyperparams is a list, expected was an object"),
        (("hyperparams", "Args"), "x", "its field hyperparams is a text, expected was an object"),
        (("hyperparams", "Environment"), {"A\n": {"value": []}}, "its field hyperparams.Environment.A? is a list"),
        (("runtime",), "x", "its field runtime is a text"),
        (("id",), None, "its field id is empty"),
        (("id",), [], "its field id is a list"),
        (("anything",), deep(200), "its field task is nested more than 100 deep"),
    ],
)
def test_a_field_of_a_wrong_type_is_named_with_what_was_expected(path: tuple[str, ...], value: Any, words: str) -> None:
    with pytest.raises(BadTask) as caught:
        Task.from_wire(with_change(VALID, path, value))
    assert words in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("data", [None, [], "x", 5])
def test_what_is_no_object_is_no_task(data: Any) -> None:
    with pytest.raises(BadTask):
        Task.from_wire(data)


def test_missing_fields_get_defaults_and_odd_texts_for_people_are_left_out() -> None:
    assert Task.from_wire({"id": "t"}).script == Script()
    task = Task.from_wire({**VALID, "name": ["x"], "status_message": 5.5, "project": {}, "status": {}})
    assert (task.name, task.status_message, task.project, task.status) == ("", "", "", TaskStatus.UNKNOWN)
    assert Script.from_wire({"version_num": 1234567, "requirements": None}).version_num == "1234567"


class _Code:
    """A working copy to look for files in."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "code"
        self.root.mkdir()
        (self.root / "train.py").write_text("pass\n")
        (self.root / "out").symlink_to("/")
        (self.root / "requirements.txt").write_text("six\n")


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> _Code:
    return _Code(tmp_path_factory.mktemp("bad"))


def _is_inside(path: str | None, root: Path) -> bool:
    return path is None or os.path.realpath(path) == str(root) or os.path.realpath(path).startswith(f"{root}/")


def _try_everything(wire: Mapping[str, Any], code: _Code) -> None:
    task = Task.from_wire(wire)
    script, root = task.script, str(code.root)
    for literal in (False, True):
        try:
            entry = entry_for(script, root, literal=literal)
            assert _is_inside(entry.file, code.root)
            assert _is_inside(entry.folder, code.root)
        except SetupFailed:
            pass
    try:
        remote, _ = parse(script.repository)
        assert not remote.url.startswith("-")
        assert not remote.host.startswith("-")
    except SetupFailed:
        pass
    for text in script.requirements.values():
        with contextlib.suppress(SetupFailed):
            _check_installer(_read(code.root, text or ""))
    assert patch.is_diff(script.diff) in (True, False)
    assert isinstance(patch._bytes_of(script.diff), bytes)
    _check_environment(task_section(task.hyperparams))
    calls_for(task, {"frozen": ["a==1"], "commit": "c"})


def _check_installer(wanted: Wanted) -> None:
    """Nothing of a task's word is an option of the installer, apart from the three that are passed on."""
    plan = plan_for(wanted, settings_for().agent.package_manager)
    argv = install_command("uv", "python", "wanted.txt", None, plan)
    given = argv[5:-2]
    while given:
        flag = given.pop(0)
        assert flag in ("--pre", "--no-binary", "--only-binary")
        if flag != "--pre":
            assert not given.pop(0).startswith("-")
    for line in (*plan.needed, *plan.after, *plan.optional):
        assert not line.startswith("-") or line.startswith("--editable ")
        assert "\n" not in line
    assert not [line for line in plan.constraints if line.startswith("-")]
    assert not [url for url in plan.extra_indexes if url.startswith("-") or " " in url]


def _check_environment(section: Mapping[str, str]) -> None:
    for name, value in section.items():
        assert "=" not in name
        os.fsencode(f"{name}={value}")
        assert "\0" not in f"{name}{value}"


@examples(300)
@given(wire=bad_tasks())
def test_any_task_object_is_a_value_or_an_error_for_people(code: _Code, wire: dict[str, Any]) -> None:
    assert "\n" not in _error_of(wire, code)


def _error_of(wire: dict[str, Any], code: _Code) -> str:
    try:
        _try_everything(wire, code)
    except AgentError as error:
        return error.message
    return ""


@examples(100)
@given(wire=JSON)
def test_anything_at_all_is_a_task_or_a_bad_task(wire: Any) -> None:
    with contextlib.suppress(BadTask):
        assert Task.from_wire(wire).id


@examples(200)
@given(text=st.lists(st.sampled_from(EVIL_TEXTS) | st.text(max_size=30), max_size=5).map("\n".join))
def test_any_text_of_requirements_is_a_plan_or_an_error(code: _Code, text: str) -> None:
    with contextlib.suppress(SetupFailed):
        _check_installer(_read(code.root, text))


@examples(100)
@given(
    names=st.sampled_from(["CUDA_VISIBLE_DEVICES", "CLEARML_TASK_ID", "CLEARML_WORKER_ID", "TRAINS_TASK_ID", "PATH"])
    | st.sampled_from(EVIL_TEXTS),
    value=JSON,
)
def test_a_task_sets_its_own_variables_and_none_that_the_agent_vouches_for(names: str, value: Any) -> None:
    environ = for_task(
        {"PATH": "/bin"},
        configured={},
        section=task_section({"Environment": {names: {"value": value}}}),
        given={"CUDA_VISIBLE_DEVICES": "3"},
        identity={"CLEARML_TASK_ID": "t", "CLEARML_WORKER_ID": "w"},
        python_path=(),
        env_root="/env",
    )
    assert environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert (environ["CLEARML_TASK_ID"], environ["TRAINS_TASK_ID"], environ["CLEARML_WORKER_ID"]) == ("t", "t", "w")
    assert environ["PATH"].startswith("/env/bin")
    _check_environment(environ)


def test_a_link_of_the_repository_is_no_way_out(code: _Code) -> None:
    for script in (
        Script(entry_point="out/etc/passwd"),
        Script(entry_point="x.py", working_dir="out"),
        Script(entry_point="x.py", working_dir="out/tmp"),
        Script(entry_point="-m x", working_dir="out:etc/x.py"),
    ):
        for literal in (False, True):
            with pytest.raises(SetupFailed, match="leads out of its working copy"):
                entry_for(script, str(code.root), literal=literal)


def test_a_link_within_the_repository_is_followed(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/real.py").write_text("")
    (tmp_path / "train.py").symlink_to("src/real.py")
    assert entry_for(Script(entry_point="train.py"), str(tmp_path)).file == f"{tmp_path}/train.py"


# --- requirements


def _read(root: Path, text: str) -> Wanted:
    found = Found()
    read_text(text, Places(folders=(str(root),), root=str(root)), found)
    return found.wanted(origin="task")


@pytest.mark.parametrize(
    "line",
    [
        "--pre -r/etc/passwd x",
        "--no-binary --index-url=http://evil/",
        "--no-binary=--index-url=http://evil/",
        "--only-binary 'a b'",
        "--extra-index-url 'https://a/s --trusted-host b'",
        "--index-url",
        "--index-url ext::sh",
        "--extra-index-url=--pre",
        "--find-links 'https://a/x --pre'",
        "-c ../outside.txt",
        "-r ../outside.txt",
        "-r out/etc/passwd",
        "-r /dev/zero",
        "-c /dev/zero",
        "git+ext::sh -c touch% x",
        "git+ssh://-oProxyCommand=x/y",
        "git+https://host/r@--upload-pack=x",
        "x @ git+https://-h/r",
        "hg+https://-h/r",
        "-e git+ext::sh -c x",
        "--pre '",
        "x" * 70000,
    ],
)
def test_a_line_of_requirements_that_would_be_an_option_of_the_installer_is_refused(code: _Code, line: str) -> None:
    (code.root.parent / "outside.txt").write_text("six\n")
    with pytest.raises(SetupFailed) as caught:
        _read(code.root, line)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "line",
    [
        "--trusted-host evil", "--global-option=--x", "--install-option --y", "--config-settings a=b", "--no-index",
        "--require-hashes", "--proxy=http://evil", "--target /", "--prefix=/", "--root /", "--python /bin/sh", "-t /x",
    ],
)  # fmt: skip
def test_an_option_that_is_not_the_tasks_to_set_is_left_out_and_said(code: _Code, line: str) -> None:
    wanted = _read(code.root, f"{line}\nsix\n")
    assert wanted.flags == ()
    assert [each.text for each in wanted.requirements] == ["six"]
    assert "is left out" in wanted.warnings[0]


def test_several_options_may_stand_in_one_line_as_with_pip(code: _Code) -> None:
    wanted = _read(code.root, "--index-url https://a/s --extra-index-url=https://b/s --pre --no-binary :all:\n")
    assert wanted.extra_indexes == ("https://a/s", "https://b/s")
    assert wanted.flags == ("--pre", "--no-binary", ":all:")


def test_an_option_in_a_file_of_constraints_does_not_reach_the_installer(tmp_path: Path) -> None:
    (tmp_path / "limits.txt").write_text("six<2\n--index-url https://evil/\n-r /etc/passwd\n")
    wanted = _read(tmp_path, "-c limits.txt\n")
    assert wanted.constraints == ("six<2",)
    assert "are left out" in wanted.warnings[0]


def test_files_that_include_each_other_many_times_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("-r b.txt\n" * 50 + "six\n")
    (tmp_path / "b.txt").write_text("-r a.txt\n" * 50)
    assert [each.text for each in _read(tmp_path, "-r a.txt\n").requirements] == ["six"]


# --- replies of a server


class _Wire(Transport):
    """A connection whose other end answers with these bytes."""

    def __init__(self, body: bytes, status: int = 200) -> None:
        super().__init__("http://127.0.0.1:9")
        self._reply = Reply(status, body, "application/json")

    def post(self, path: str, *_: Any, **__: Any) -> Reply:
        if path == "/auth.login":
            return Reply(200, b'{"meta":{"result_code":200},"data":{"token":"x"}}', "application/json")
        return self._reply


def _client(body: bytes) -> Client:
    settings = settings_for()
    return Client(_Wire(body), settings.api, name="n")


ALL_CALLS = (
    tasks.get_by_id("t"), tasks.place_of("t"), tasks.runtime_of("t"), tasks.look("t"), tasks.find_by_name("x"),
    tasks.dequeue("t", new_status=TaskStatus.CREATED), tasks.clone("t", name="x"), queues.every(), queues.default(),
    queues.peek("q"), queues.entries("q"), queues.pop_any("q"), queues.pop(Waiting("t", "q")),
    queues.wait_for_next([], hold_seconds=0.0), queues.wait_for_next(["q"], hold_seconds=0.0),
    workers.runtime_properties("w"), server.info(), events.add_batch([]), events.log_after("t", 0),
)  # fmt: skip
_ENTRY = ("id", "name", "tags", "key", "value", "expiry", "task", "status", "timestamp", "msg")
_ENTRIES = st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(_ENTRY, JSON)), max_size=2)
_REPLY = (
    "task", "tasks", "queues", "queue", "entry", "entries", "steering", "properties", "features", "events", "added",
    "updated", "id",
)  # fmt: skip
_REPLIES = st.fixed_dictionaries({}, optional=dict.fromkeys(_REPLY, JSON | _ENTRIES))


@examples(150)
@given(data=_REPLIES | JSON)
def test_any_reply_is_read_or_an_error_of_ours(data: Any) -> None:
    body = json.dumps({"meta": {"result_code": 200}, "data": data}, default=str).encode("utf-8", "surrogatepass")
    client = _client(body)
    for call in ALL_CALLS:
        try:
            client.send(call)  # type: ignore[arg-type]
        except AgentError:
            continue


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"null", b'{"meta":5}', b'{"meta":{"result_code":Infinity}}', b"\xff\xfe", b"[" * 100000,
        b'{"meta":{"result_code":200},"data":[1]}', b'{"meta":{"result_code":200},"data":' + b"9" * 5000 + b"}",
        b'{"meta":{"result_code":200},"data":{"task":' + b"[" * 5000 + b"]" * 5000 + b"}}",
    ],
)  # fmt: skip
def test_a_reply_that_is_none_is_an_error_of_ours(body: bytes) -> None:
    with pytest.raises(AgentError):
        _client(body).send(tasks.get_by_id("t"))


@examples(100)
@given(value=JSON, expiry=JSON)
def test_any_runtime_property_leaves_the_gate_in_order(value: Any, expiry: Any) -> None:
    gate = Gate(None)
    listed = {"properties": [{"key": key, "value": value, "expiry": expiry} for key in ("force", "max_num_instances")]}
    for said in (listed, {"properties": [{"key": "force", "value": "off", "expiry": expiry}]}):
        gate.hear(Steering(queues=(), properties=workers.properties_in(said)))
        gate.stand()
        assert (gate.seconds_to_change() or 1.0) > 0
        gate.word_on(Queue("q", "q"))


def test_a_queue_that_is_named_to_deceive_is_shown_harmlessly() -> None:
    (queue,) = _client(
        json.dumps({"meta": {"result_code": 200}, "data": {"queues": [{"id": "q", "name": "a\n\x1b[2Jb"}]}}).encode()
    ).send(queues.every())
    assert queue.name == "a??[2Jb"


@examples(60)
@given(runtime=JSON)
def test_any_wish_for_an_abort_callback_ends(runtime: Any) -> None:
    api, _ = fake_api(tasks__get_by_id=lambda _: {"task": {"id": "t", "runtime": {"_abort_callback_timeout": runtime}}})
    asyncio.run(wait_for_abort_callback(api, "t", longest_seconds=0.0))


# --- claiming


def _claim(root: Path, task_id: str, wire: Any, *, status: str = "queued") -> tuple[Claimed | None, Any]:
    api, client = fake_api(
        queues__get_next_task=lambda body: {"entry": {"task": body["task"]}},
        tasks__get_by_id=lambda _: {"task": wire},
        tasks__get_all=lambda body: {"tasks": [{"id": body["id"][0], "status": status}]},
        tasks__started=lambda _: {},
    )

    async def scenario() -> Claimed | None:
        claimant = Claimant(worker="w", agent="w")
        claimed = await claim_task(api, OURS, Runs(root), Waiting(task_id, "q1"), claimant=claimant)
        if claimed is not None:
            running = await launch(run_context(api, runtime=HostRuntime(("/bin/false",))), claimed)
            assert running is not None
            assert isinstance(running.handle, GoneHandle)
        return claimed

    return asyncio.run(scenario()), client


@pytest.mark.parametrize("wire", [None, [], {"id": "t1", "script": []}, {"id": "other"}, {"id": "t1", "x": deep(300)}])
def test_a_popped_task_that_cannot_be_run_is_started_and_failed_with_the_reason(tmp_path: Path, wire: Any) -> None:
    claimed, client = _claim(tmp_path, "t1", wire)
    assert claimed is not None
    assert claimed.is_refused
    assert client.sent("tasks.started")
    assert claimed.run.read_claim().phase is RunPhase.STARTED  # type: ignore[union-attr]
    outcome = claimed.run.read_outcome()
    assert outcome is not None
    assert "the task cannot be run" in outcome.error
    verdict = verdict_for(outcome, None)
    assert verdict.status is TaskStatus.FAILED
    assert "its field" in verdict.reason


def test_a_bad_task_that_is_not_queued_any_more_is_left_alone(tmp_path: Path) -> None:
    claimed, client = _claim(tmp_path, "t1", [], status="stopped")
    assert claimed is None
    assert client.sent("tasks.started") == []
    assert list(Runs(tmp_path)) == []


def test_a_task_that_the_server_cannot_show_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "SHOW_SECONDS", 0.1)

    class _Refusing(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            raise ApiError("tasks.get_by_id", 500, 0, "internal error")

    api, _ = fake_api(
        queues__get_next_task=lambda body: {"entry": {"task": body["task"]}},
        tasks__get_by_id=lambda _: _Refusing()["task"],
        tasks__get_all=lambda body: {"tasks": [{"id": body["id"][0], "status": "queued"}]},
    )
    claimant = Claimant(worker="w", agent="w")
    claimed = asyncio.run(claim_task(api, OURS, Runs(tmp_path), Waiting("t1", "q1"), claimant=claimant))
    assert claimed is not None
    assert claimed.is_refused


@examples(60)
@given(task_id=st.sampled_from(EVIL_TEXTS) | st.text(max_size=300))
def test_any_task_id_makes_a_folder_below_the_runs(tmp_path_factory: pytest.TempPathFactory, task_id: str) -> None:
    root = tmp_path_factory.mktemp("ids") / "runs"
    claimant = Claimant(worker="w", agent="w")
    run, claim = Runs(root).create(claiming.claim_for(OURS, Waiting(task_id or "x", "q1"), claimant))
    assert run.path.parent == root
    assert "/" not in folder_for(task_id)
    assert [each.path for each in Runs(root).of_task(claim.task)] == [run.path]
    assert run.read_claim() == claim


# --- the end


def test_a_task_whose_program_could_not_be_started_has_not_completed() -> None:
    """The phase is `run`, and there is neither an exit code nor a signal."""
    verdict = verdict_for(Outcome(phase="run", error="OSError: Argument list too long"), None)
    assert (verdict.status, verdict.exit_code) == (TaskStatus.FAILED, 1)
    assert verdict_for(Outcome(phase="run", stopped=True), StopCause.ABORT).status is TaskStatus.STOPPED


def test_a_whole_script_of_ten_megabytes_is_told_from_a_diff_in_no_time() -> None:
    script = "x = 1\n" * 1_700_000
    began = time.monotonic()
    assert not patch.is_diff(script)
    assert not patch.is_diff(" " * 10_000_000)
    Task.from_wire(with_change(VALID, ("script", "diff"), script))
    assert time.monotonic() - began < 5.0


def test_names_of_git_itself_are_not_the_tasks_to_write(tmp_path: Path) -> None:
    assert patch._is_gits(f"{tmp_path}/.git/config", str(tmp_path))
    assert patch._is_gits(f"{tmp_path}/sub/.GIT/hooks/x", str(tmp_path))
    assert not patch._is_gits(f"{tmp_path}/.gitignore", str(tmp_path))
