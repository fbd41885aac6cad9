"""Bad input from end to end: what a malicious or broken task finds when a real executor, or a real daemon, gets it."""

from __future__ import annotations

import http.client
import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st
from support.agent import agent_on, console_of, create_script, status_of, wait_for, wait_for_status
from support.apiserver import ServerProcess
from support.bad_input import bad_tasks, deep
from support.executor import Run, literal, make_run, settings_in
from support.http_stub import http_stub
from support.repositories import Repository, make_repository

MEGABYTES = 1024 * 1024


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "git/net.git", {"main.py": "print('ran')\n", "data.txt": "one\n"})


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that no run has any business in."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.py").write_text("print('from outside')\n")
    return folder


_attempts = iter(range(1, 10_000))


def run_of(state: Path, script: dict[str, Any], **more: Any) -> Run:
    run = make_run(state, script, attempt=next(_attempts), **more)
    run.execute()
    return run


def refused(run: Run) -> str:
    """The error of a run that did not get to its first line, by the task's own fault."""
    outcome = run.outcome()
    assert (outcome["exit_code"], outcome["infrastructure"]) == (None, False), (outcome, run.notices())
    assert "internal error" not in outcome["error"]
    assert "Traceback" not in run.notices()
    return str(outcome["error"])


def untouched(outside: Path) -> bool:
    return [path.name for path in outside.rglob("*")] == ["secret.py"]


# --- wrong types


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"script": []}, "its field script is a list"),
        ({"script": {"entry_point": {}}}, "script.entry_point is an object"),
        ({"hyperparams": {"Environment": {"A": {"value": []}}}}, "hyperparams.Environment.A is a list"),
        ({"id": None}, "its field id"),
    ],
)
def test_an_executor_names_the_field_that_is_wrong(tmp_path: Path, task: dict[str, Any], words: str) -> None:
    assert words in refused(run_of(tmp_path, {}, task=task))


@pytest.mark.parametrize("content", [b"", b"[]", b"5", b"{", b'{"settings": 5, "worker_id": 7}', b'{"settings": {}}'])
def test_an_executor_with_a_torn_setup_leaves_an_outcome(tmp_path: Path, content: bytes) -> None:
    run = make_run(tmp_path, literal("print(1)\n"), attempt=next(_attempts))
    (run.folder / "setup.json").write_bytes(content)
    run.start()
    assert run.process is not None
    run.process.wait(30)
    assert run.outcome()["infrastructure"] is True


# --- paths


@pytest.mark.parametrize(
    "fields",
    [
        {"entry_point": "../../../outside/secret.py"},
        {"entry_point": "link/secret.py"},
        {"entry_point": "secret-link.py"},
        {"entry_point": "secret.py", "working_dir": "link"},
        {"entry_point": "secret.py", "working_dir": "../../../outside"},
        {"entry_point": "-m secret", "working_dir": "link"},
        {"entry_point": "/etc/passwd"},
        {"entry_point": "-m x", "working_dir": ".:link/new.py", "diff": "print(1)\n"},
        {"entry_point": "link/deep/er/new.py", "diff": "print(1)\n"},
        {"entry_point": "link/new.py", "diff": "print(1)\n"},
        {"entry_point": "../../../outside/new.py", "diff": "print(1)\n"},
        {"entry_point": ".git/hooks/post-checkout", "diff": "print(1)\n", "binary": "bash"},
        {"entry_point": "x" * 300 + ".py", "diff": "print(1)\n"},
        {"entry_point": "data.txt/x.py", "diff": "print(1)\n"},
    ],
)
def test_a_path_that_leads_out_of_the_working_copy_is_refused(
    tmp_path: Path, repository: Repository, outside: Path, fields: dict[str, Any]
) -> None:
    (repository.folder / "link").symlink_to(outside)
    (repository.folder / "secret-link.py").symlink_to(outside / "secret.py")
    repository.commit({})
    run = run_of(tmp_path, {"repository": str(repository.folder), "branch": "main", **fields})
    refused(run)
    assert run.output() == []
    assert untouched(outside)


def test_a_notebook_is_not_converted_through_a_link(tmp_path: Path, repository: Repository, outside: Path) -> None:
    (repository.folder / "book.py").symlink_to(outside / "new.py")
    nbconvert = "import sys; open(sys.argv[3].removesuffix('.ipynb') + '.py', 'w').write('print(5)')\n"
    repository.commit({"book.ipynb": "{}", "nbconvert/__init__.py": "", "nbconvert/__main__.py": nbconvert})
    run = run_of(tmp_path, {"repository": str(repository.folder), "branch": "main", "entry_point": "book.ipynb"})
    assert run.output() == ["5"]
    assert untouched(outside)


def test_a_script_whose_name_is_an_option_is_run_as_a_script(tmp_path: Path) -> None:
    run = run_of(tmp_path, literal("import sys; print(sys.argv[0])\n", entry_point="-E.py"))
    assert run.output() == ["./-E.py"]


@pytest.mark.parametrize("binary", ["../x", "./run.sh", "--version", "bash; touch x", "nowhere/python3", "/"])
def test_a_binary_that_is_no_program_is_refused(tmp_path: Path, binary: str) -> None:
    run = run_of(tmp_path, literal("print(1)\n", binary=binary, entry_point="x.txt"))
    if "python" in binary:
        assert run.output() == ["1"]  # the environment's own
    else:
        assert "is to be run by" in refused(run)


def test_a_binary_with_a_command_in_it_runs_no_command(tmp_path: Path) -> None:
    run = run_of(tmp_path, literal("print('ran')\n", binary="python3; touch owned; #"))
    assert run.output() == ["ran"]
    assert not list(tmp_path.rglob("owned"))


# --- git


@pytest.mark.parametrize(
    "fields",
    [
        {"branch": "--upload-pack=touch owned"},
        {"branch": "-b"},
        {"tag": "--output=owned"},
        {"version_num": "--exec=touch owned"},
        {"branch": "main\n--x"},
        {"branch": "a..b"},
        {"branch": "x" * 5000},
        {"branch": "main\0"},
    ],
)
def test_a_branch_a_tag_or_a_commit_is_never_an_option(
    tmp_path: Path, repository: Repository, fields: dict[str, Any]
) -> None:
    script = {"repository": str(repository.folder), "branch": "main", "entry_point": "main.py", **fields}
    refused(run_of(tmp_path, script))
    assert not list(tmp_path.rglob("owned"))


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c 'touch {0}/owned'",
        "fd::17",
        "--upload-pack=touch {0}/owned",
        "-oProxyCommand=touch {0}/owned:x",
        "ssh://-oProxyCommand=touch$IFS{0}/owned/x",
        "ssh://%2doProxyCommand=touch/x",
        "ssh://[-oProxyCommand=touch]/x",
        "[-oProxyCommand=touch]:x",
        "ssh://-l@host/x",
        "a=b@host:x",
        "host:-x",
        "foo::http://host/x",
        "git://127.0.0.1:1/x",
        "ftp://127.0.0.1:1/x",
        "http::https://host/x",
        "file://",
        "file://-x",
        "relative/path",
        "https:///x",
    ],
)
def test_a_url_that_git_would_take_for_a_command_is_refused(tmp_path: Path, url: str) -> None:
    refused(run_of(tmp_path, {"repository": url.format(tmp_path), "branch": "main", "entry_point": "main.py"}))
    assert not (tmp_path / "owned").exists()


_MODULE = '[submodule "{name}"]\n\tpath = {path}\n\turl = {url}\n{more}'


def _with_submodule(repository: Repository, inner: Repository, text: str, *, path: str = "libs/inner") -> None:
    repository.git("submodule", "--quiet", "add", str(inner.folder), path)
    repository.commit({".gitmodules": text}, "a malicious module")


@pytest.mark.parametrize(
    "module",
    [
        ("inner", "libs/inner", "ext::sh -c touch% {0}/owned", ""),
        ("inner", "libs/inner", "fd::17", ""),
        ("inner", "libs/inner", "--upload-pack=touch {0}/owned", ""),
        ("inner", "libs/inner", "ssh://-oProxyCommand=touch/x", ""),
        ("inner", "libs/inner", "{1}", "\tupdate = !touch {0}/owned\n"),
        ("../../../hooks", "libs/inner", "{1}", ""),
        ("inner", "-x", "{1}", ""),
        ("inner", "../outside/inner", "{1}", ""),
        ("inner", "link/inner", "{1}", ""),
    ],
)
def test_a_malicious_submodule_runs_and_writes_nothing(
    tmp_path: Path, repository: Repository, outside: Path, module: tuple[str, str, str, str]
) -> None:
    hook = f"#!/bin/sh\ntouch {tmp_path}/owned\n"
    inner = make_repository(tmp_path / "git/inner.git", {"hooks/post-checkout": hook, "post-checkout": hook})
    (repository.folder / "link").symlink_to(outside)
    name, path, url, more = module
    places = {"name": name, "path": path, "url": url.format(tmp_path, inner.folder)}
    _with_submodule(repository, inner, _MODULE.format(more=more.format(tmp_path), **places))
    run = run_of(tmp_path, {"repository": str(repository.folder), "branch": "main", "entry_point": "main.py"})
    assert not (tmp_path / "owned").exists()
    assert untouched(outside)
    outcome = run.outcome()
    assert outcome["exit_code"] == 0 or "submodule" in outcome["error"], outcome


def test_what_a_repository_says_of_git_is_not_obeyed(tmp_path: Path, repository: Repository) -> None:
    """Filters are commands, and a repository can only name them; an attribute alone starts nothing."""
    command = f"touch {tmp_path}/owned"
    repository.commit(
        {
            ".gitattributes": "*.py filter=evil diff=evil merge=evil\n",
            ".gitconfig": f'[filter "evil"]\n\tsmudge = {command}\n[core]\n\tfsmonitor = {command}\n',
            ".githooks/post-checkout": f"#!/bin/sh\n{command}\n",
        }
    )
    run = run_of(tmp_path, {"repository": str(repository.folder), "branch": "main", "entry_point": "main.py"})
    assert run.output() == ["ran"]
    assert not (tmp_path / "owned").exists()


def test_attributes_that_are_a_link_to_an_endless_file_are_not_read(tmp_path: Path, repository: Repository) -> None:
    (repository.folder / ".gitattributes").symlink_to("/dev/zero")
    (repository.folder / "requirements.txt").symlink_to("/dev/zero")
    repository.commit({})
    run = run_of(
        tmp_path,
        {
            "repository": str(repository.folder),
            "branch": "main",
            "entry_point": "main.py",
            "requirements": {"pip": "# none"},
        },
    )
    assert run.output() == ["ran"]
    refused(run_of(tmp_path, {"repository": str(repository.folder), "branch": "main", "entry_point": "main.py"}))


# --- diffs


def _new_file(name: str, *, mode: str = "100644", content: str = "evil") -> str:
    return (
        f"diff --git a/{name} b/{name}\nnew file mode {mode}\n--- /dev/null\n+++ b/{name}\n"
        f"@@ -0,0 +1 @@\n+{content}\n\\ No newline at end of file\n"
    )


def test_a_diff_cannot_write_through_a_link_that_it_makes_itself(
    tmp_path: Path, repository: Repository, outside: Path
) -> None:
    diff = _new_file("way", mode="120000", content=str(outside)) + _new_file("way/evil")
    refused(run_of(tmp_path, {"repository": str(repository.folder), "branch": "main", "entry_point": "main.py",
                              "diff": diff}))  # fmt: skip
    assert untouched(outside)


@pytest.mark.parametrize(
    "name", ["../../../outside/evil", ".git/config", ".git/hooks/post-checkout", ".GIT/hooks/x", "a/.git/evil"]
)
def test_a_diff_that_names_what_is_not_the_tasks_is_refused(
    tmp_path: Path, repository: Repository, outside: Path, name: str
) -> None:
    lenient = f"--- a/{name}\n+++ b/{name}\n@@ -0,0 +1 @@\n+evil\n"
    for diff in (_new_file(name), lenient):
        script = {"repository": str(repository.folder), "branch": "main", "entry_point": "main.py", "diff": diff}
        run = run_of(tmp_path, script)
        refused(run)
        assert "evil" not in (run.workspace / "code/.git/config").read_text()
    assert untouched(outside)


def test_a_diff_with_an_absolute_path_writes_inside_or_not_at_all(
    tmp_path: Path, repository: Repository, outside: Path
) -> None:
    for name in (f"{outside}/evil", f"/{outside}/evil"):
        diff = f"--- {name}\n+++ {name}\n@@ -0,0 +1 @@\n+evil\n"
        run_of(tmp_path, {"repository": str(repository.folder), "branch": "main", "entry_point": "main.py",
                          "diff": diff})  # fmt: skip
    assert untouched(outside)


def test_a_binary_diff_one_with_returns_and_one_without_a_last_line_end_apply(
    tmp_path: Path, repository: Repository
) -> None:
    show = (
        "print(len(open('b.bin', 'rb').read()), repr(open('crlf.txt', newline='').read()), open('data.txt').read())\n"
    )
    repository.commit({"main.py": show, "b.bin": bytes(range(256)), "crlf.txt": "a\r\nb\r\n"})
    repository.write({"b.bin": bytes(range(256)) * 5, "crlf.txt": "a\r\nc\r\n", "data.txt": "two"})
    diff = repository.diff("--binary")
    for text in (diff, diff.rstrip("\n") + "\n"):
        script = {"repository": str(repository.folder), "branch": "main", "entry_point": "main.py", "diff": text}
        assert run_of(tmp_path, script).output() == [r"1280 'a\r\nc\r\n' two"]


def test_a_diff_of_ten_megabytes_is_applied_in_bounded_time_and_memory(tmp_path: Path, repository: Repository) -> None:
    repository.commit({"main.py": "print(len(open('large.txt').read()))\n", "large.txt": "first\n"})
    repository.write({"large.txt": "".join(f"line {number} of the change\n" for number in range(400_000))})
    diff = repository.diff()
    assert len(diff) > 10 * MEGABYTES
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    script = {"repository": str(repository.folder), "branch": "main", "entry_point": "main.py", "diff": diff}
    run = run_of(tmp_path, script)
    assert run.output() == [str(os.path.getsize(repository.folder / "large.txt"))]
    assert time.monotonic() - began < 30
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert after < max(before, 400 * 1024), f"{after} KiB"


def test_a_script_of_ten_megabytes_is_run_in_bounded_time_and_memory(tmp_path: Path, repository: Repository) -> None:
    text = "print(__file__[-7:])\n" + "# a comment that makes it longer\n" * 320_000
    assert len(text) > 10 * MEGABYTES
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    script = {"repository": str(repository.folder), "branch": "main", "entry_point": "main.py", "diff": text}
    assert run_of(tmp_path, script).output() == ["main.py"]
    assert time.monotonic() - began < 30
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert after < max(before, 400 * 1024), f"{after} KiB"


# --- the environment


def test_a_task_cannot_give_itself_another_identity_or_other_gpus(tmp_path: Path) -> None:
    wanted = {
        "CUDA_VISIBLE_DEVICES": "0,1,2,3", "NVIDIA_VISIBLE_DEVICES": "all", "CLEARML_TASK_ID": "other",
        "TRAINS_TASK_ID": "other", "CLEARML_WORKER_ID": "other", "CLEARML_CONFIG_FILE": "/etc/passwd", "MINE": "7",
        "PATH": "/nowhere", "A\0B": "x", "A=B": "x", "": "x", "HALF": "a\ud800b", "NUL": "a\0b",
    }  # fmt: skip
    section = {name: {"name": name, "value": value} for name, value in wanted.items()}
    names = [name for name in wanted if name.isidentifier()]
    run = run_of(
        tmp_path,
        literal(f"import os, json; print(json.dumps({{name: os.environ.get(name) for name in {names}}}))\n"),
        task={"hyperparams": {"Environment": section}},
        environment={"CUDA_VISIBLE_DEVICES": "3", "NVIDIA_VISIBLE_DEVICES": "3"},
        settings=settings_in(tmp_path, enable_task_env=True),
    )
    seen = json.loads(run.output()[0])
    assert (seen["CUDA_VISIBLE_DEVICES"], seen["NVIDIA_VISIBLE_DEVICES"]) == ("3", "3")
    assert seen["CLEARML_TASK_ID"] == seen["TRAINS_TASK_ID"] == run.json("task.json")["id"]
    assert (seen["CLEARML_WORKER_ID"], seen["MINE"]) == ("host:cpu", "7")
    assert seen["CLEARML_CONFIG_FILE"] == f"{run.folder}/clearml.conf"
    assert seen["PATH"].endswith("env/bin:/nowhere")
    assert (seen["HALF"], seen["NUL"]) == ("ab", "ab")


def test_a_variable_that_is_too_long_for_the_kernel_is_the_tasks_fault(tmp_path: Path) -> None:
    section = {"LONG": {"value": "x" * (4 * MEGABYTES)}}
    settings = settings_in(tmp_path, enable_task_env=True)
    run = run_of(tmp_path, literal("print(1)\n"), task={"hyperparams": {"Environment": section}}, settings=settings)
    assert "Argument list too long" in refused(run)


# --- a real daemon on a real server


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as running:
        yield running


class Mangler:
    """Stands between agent and server, and shows some tasks otherwise than they are."""

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self.shown: dict[str, Any] = {}

    def forward(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._upstream.hostname or "", self._upstream.port, timeout=60)
        try:
            passed = {name: value for name, value in headers.items() if name.lower() not in ("host", "connection")}
            connection.request("POST", path, body=body, headers=passed)
            reply = connection.getresponse()
            status, answer = reply.status, reply.read()
        finally:
            connection.close()
        task = json.loads(body).get("task") if path == "/tasks.get_by_id" else None
        if task not in self.shown or status != 200:
            return status, answer
        envelope = json.loads(answer)
        found = envelope["data"]["task"]
        envelope["data"] = {"task": self.shown[task](found)}
        return status, json.dumps(envelope).encode()


@contextmanager
def mangled(server: ServerProcess) -> Iterator[tuple[str, Mangler]]:
    mangler = Mangler(server.api)
    with http_stub(mangler.forward) as url:
        yield url, mangler


NESTED: dict[str, Any] = {
    "a script that is a list": lambda task: {**task, "script": ["x"]},
    "an entry point that is an object": lambda task: {**task, "script": {**task["script"], "entry_point": {}}},
    "hyperparameters that are a text": lambda task: {**task, "hyperparams": "x"},
    "a runtime that is a list": lambda task: {**task, "runtime": [1]},
    "no id": lambda task: {key: value for key, value in task.items() if key != "id"},
    "nothing at all": lambda _: None,
    "a list": lambda task: [task],
    "nested 300 deep": lambda task: {**task, "configuration": deep(300)},
    "nested 900 deep": lambda task: {**task, "x": deep(900)},
}


def test_a_task_that_no_agent_could_run_fails_with_its_reason_and_the_next_one_runs(
    server: ServerProcess, tmp_path: Path
) -> None:
    with mangled(server) as (url, mangler):
        bad = {}
        for words, change in NESTED.items():
            task = create_script(server, "print('never')\n", name=words)
            mangler.shown[task] = change
            bad[task] = words
        good = create_script(server, "print('hello')\n")
        with agent_on(server, tmp_path / "state", url=url) as agent:
            for task, words in bad.items():
                ended = wait_for_status(server, task, "failed", "completed", seconds=60)
                assert ended["status"] == "failed", words
                assert "the task cannot be run: its field" in ended["status_reason"], words
                wait_for(lambda task=task: any("the task cannot be run" in line for line in console_of(server, task)))
                assert "never" not in console_of(server, task)
            wait_for_status(server, good, "completed", seconds=60)
            wait_for(lambda: agent.runs() == [])
            assert agent.process.poll() is None


def _some_bad_tasks(number: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    @seed(20260101)
    @settings(max_examples=number, phases=[Phase.generate], database=None, deadline=None)
    @given(st.data())
    def collect(data: st.DataObject) -> None:
        found.append(data.draw(bad_tasks()))

    collect()
    return found[:number]


def test_any_task_objects_end_and_a_good_task_after_them_completes(server: ServerProcess, tmp_path: Path) -> None:
    """Thirty objects through the real path. What they ask for is not fetched: their repository is none."""
    number = 30 * int(os.environ.get("GPUFLEET_FUZZ") or 1)
    with mangled(server) as (url, mangler):
        tasks = []
        for wire in _some_bad_tasks(number):
            if isinstance(wire.get("script"), dict):
                wire["script"]["repository"] = ""
                wire["script"]["requirements"] = {}
            task = create_script(server, "print('hello')\n")

            def shown(real: dict[str, Any], wire: dict[str, Any] = wire, task: str = task) -> Any:
                changed = {**wire, "status": real["status"]}
                return {**changed, "id": task} if isinstance(wire.get("id"), str) else changed

            mangler.shown[task] = shown
            tasks.append(task)
        good = create_script(server, "print('hello')\n")
        with agent_on(server, tmp_path / "state", url=url) as agent:
            wait_for_status(server, good, "completed", "failed", seconds=100)
            wait_for(lambda: agent.runs() == [])
            assert status_of(server, good) == "completed"
            assert {status_of(server, task) for task in tasks} <= {"failed", "completed"}
            assert agent.process.poll() is None
            assert "Traceback" not in agent.log.read_text()


def test_a_runs_torn_claim_costs_neither_the_agent_nor_the_next_task(server: ServerProcess, tmp_path: Path) -> None:
    """The daemon is killed while a task runs, and the disk has lost the claim and more when the next one begins."""
    task = create_script(server, "import time; print('begun', flush=True); time.sleep(4); print('ended')\n")
    with agent_on(server, tmp_path / "state") as agent:
        wait_for(lambda: "begun" in console_of(server, task), seconds=60)
        agent.kill()
        (run,) = agent.runs()
        for name in ("claim.json", "task.json", "launch.json", "console/shipped.json"):
            (run / name).write_bytes(b"")
        long_ago = time.time() - 3600
        os.utime(run, (long_ago, long_ago))
        agent.restart().wait_until_ready()
        ended = wait_for_status(server, task, "completed", "failed", seconds=60)
        assert ended["status"] == "completed"
        good = create_script(server, "print('hello')\n")
        wait_for_status(server, good, "completed", seconds=60)
        assert "ended" in console_of(server, task)


def test_any_bytes_of_a_task_arrive_on_the_server(server: ServerProcess, tmp_path: Path) -> None:
    script = (
        "import sys\nout = sys.stdout.buffer\n"
        "out.write(b'a\\0b\\n\\xff\\xfe\\n\\xed\\xa0\\x80\\n\\x1b[2J\\n\\xe2\\x80\\xa8x\\n\\x0cform\\n1\\to\\tx\\n')\n"
        "out.write(b'x' * 300000 + b'\\n' + b'\\r'.join(b'%d' % n for n in range(5000)) + b'\\nlast')\n"
    )
    task = create_script(server, script)
    with agent_on(server, tmp_path / "state"):
        wait_for_status(server, task, "completed", seconds=60)
    lines = console_of(server, task, level="DEBUG")
    assert lines[:7] == ["a\0b", "��", "���", "\x1b[2J", "\u2028x", "\x0cform", "1\to\tx"]
    assert "".join(lines[7:-2]) == "x" * 300000
    assert lines[-2:] == ["4999", "last"]
