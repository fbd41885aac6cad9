"""Tasks that are tried again: a real daemon on a real server, with a git server that comes back, or does not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.agent import AgentProcess, agent_on, console_of, create_script, is_alive, wait_for, wait_for_status
from support.apiserver import ServerProcess
from support.cli import run_cli
from support.disks import enlarge, needs_root, small_disk
from support.documents import ROOT
from support.faulty_http import nobody
from support.plain_server import plain_server
from support.reference_agent import loopback_only
from support.repositories import GitServer, make_repository
from support.watcher import Watcher

from agent.steps import Step

FAILS = "import sys\nprint('tried', flush=True)\nsys.exit(7)\n"


def with_policy(server: ServerProcess, source: str = FAILS, *, queue: str = "default", **more: Any) -> str:
    """A queued task with a retry policy (`retry_on="7"`, ...), set the way the SDK and the web page set it."""
    policy = {name: more.pop(name) for name in list(more) if name.startswith("retry_")}
    task = create_script(server, source, queue=None, **more)
    set_policy(server, task, **policy)
    server.call("tasks.enqueue", task=task, queue_name=queue)
    return task


def set_policy(server: ServerProcess, task: str, **policy: Any) -> None:
    properties = [{"section": "properties", "name": name, "value": str(value)} for name, value in policy.items()]
    server.call("tasks.edit_hyper_params", task=task, hyperparams=properties)


def tries(server: ServerProcess, task: str) -> int:
    return sum(line == "tried" for line in console_of(server, task, level="DEBUG"))


def count(server: ServerProcess, task: str) -> Any:
    return server.call("tasks.get_by_id", task=task)["task"]["runtime"].get("_retries")


def said(server: ServerProcess, task: str, words: str) -> bool:
    return words in "\n".join(console_of(server, task))


# --- what is tried again


def test_a_task_is_tried_again_until_its_git_server_is_back(server: ServerProcess, tmp_path: Path) -> None:
    make_repository(tmp_path / "git/code.git", {"main.py": "print('here it is')\n"})
    git = GitServer(root=tmp_path / "git", broken=True)
    with git.running(), agent_on(server, tmp_path / "state"):
        task = with_policy(
            server,
            "",
            repository=git.url("code.git"),
            branch="main",
            entry_point="main.py",
            retry_on="infrastructure",
            retry_limit=20,
            retry_delay_seconds=0.2,
        )
        wait_for(lambda: said(server, task, "Retry 2 of 20"), what="two failures")
        git.broken = False
        done = wait_for_status(server, task, "completed", "failed", seconds=60)
        assert (done["status"], done["status_reason"]) == ("completed", "worker execution done")
    console = console_of(server, task)
    assert console.count("here it is") == 1
    told = [line for line in console if line.startswith("checkout: cannot fetch the repository")]
    assert len(told) == done["runtime"]["_retries"] >= 2
    assert "its server is in trouble. Nothing in the task is at fault" in told[0]
    assert not said(server, task, "Traceback")


@needs_root
def test_a_task_is_tried_again_until_there_is_space_on_the_disk(server: ServerProcess, tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "git/x.git", {"main.py": "print('ran')\n", "big": os.urandom(6_000_000)})
    with small_disk(tmp_path / "disk", "5m") as disk, agent_on(server, disk) as agent:
        task = with_policy(
            server,
            "",
            repository=str(repository.folder),
            branch="main",
            entry_point="main.py",
            retry_on="infrastructure",
            retry_delay_seconds=1,
        )
        wait_for(lambda: said(server, task, "Retry 1 of 3"), what="the first failure")
        assert said(server, task, "the disk is full")
        enlarge(disk, "64m")
        assert wait_for_status(server, task, "completed", "failed", seconds=60)["status"] == "completed"
        assert agent.process.poll() is None


def test_an_infrastructure_failure_is_told_apart_and_by_default_not_retried(
    server: ServerProcess, tmp_path: Path
) -> None:
    with agent_on(server, tmp_path), nobody() as port:
        task = create_script(server, "", repository=f"http://127.0.0.1:{port}/code.git", branch="main")
        done = wait_for_status(server, task, "failed")
        assert done["status_reason"] == (
            "worker execution exit code 75: infrastructure failure: checkout: cannot fetch the repository "
            f"http://127.0.0.1:{port}/code.git: its server cannot be reached"
        )
        assert done["status_message"] == "Changed by clearml-agent testhost:0"
        assert "_retries" not in done["runtime"]
        own = create_script(server, FAILS)
        assert wait_for_status(server, own, "failed")["status_reason"] == "worker execution exit code 7"
        assert tries(server, own) == 1
        assert said(server, own, "Process failed, exit code 7")


def test_the_limit_is_kept_and_a_reset_begins_to_count_anew(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path):
        task = with_policy(server, retry_on="3, 5-8", retry_limit=2, retry_delay_seconds=0.1)
        for _ in range(2):
            done = wait_for_status(server, task, "failed", seconds=60)
            assert done["status_reason"] == "worker execution exit code 7; no retry is left (2 of 2 done)"
            assert (tries(server, task), count(server, task)) == (3, 2)
            clone = server.call("tasks.clone", task=task)["id"]
            assert server.call("tasks.get_by_id", task=clone)["task"]["runtime"] == {}
            assert "retry_on" in server.call("tasks.get_by_id", task=clone)["task"]["hyperparams"]["properties"]
            server.call("tasks.reset", task=task)
            assert count(server, task) is None
            server.call("tasks.enqueue", task=task, queue_name="default")
        wait_for_status(server, task, "failed", seconds=60)


def test_another_exit_code_is_not_retried(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path):
        task = with_policy(server, retry_on="infrastructure, 8-20", retry_delay_seconds=0)
        assert wait_for_status(server, task, "failed")["status_reason"] == "worker execution exit code 7"
        assert tries(server, task) == 1


def test_what_else_the_script_keeps_in_its_runtime_stays(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path):
        task = with_policy(server, retry_on="7", retry_limit=1, retry_delay_seconds=1)
        wait_for(lambda: said(server, task, "Retry 1 of 1"), what="the wait")
        server.call("tasks.edit", task=task, force=True, runtime={"progress": "half"})
        done = wait_for_status(server, task, "failed")
        assert done["runtime"] == {"progress": "half", "_retries": 1}


def test_an_executor_that_was_killed_is_a_failure_of_the_host(server: ServerProcess, tmp_path: Path) -> None:
    code = "import os, time\nprint('tried', os.getpid(), flush=True)\ntime.sleep(600)\n"
    with agent_on(server, tmp_path, stop_grace_seconds=1.0) as agent:
        task = with_policy(server, code, retry_on="infrastructure", retry_delay_seconds=0)

        def pids() -> list[int]:
            return [int(line.split()[1]) for line in console_of(server, task) if line.startswith("tried ")]

        wait_for(pids, what="the first run")
        launch = agent.runs()[0] / "launch.json"
        os.kill(int(re.findall(r'"pid":(\d+)', launch.read_text())[0]), signal.SIGKILL)
        wait_for(lambda: len(pids()) == 2, what="the second run")
        assert said(server, task, "ended without an outcome: it was killed, or the host went down (exit code 75)")
        assert not is_alive(pids()[0])
        server.call("tasks.stop", task=task)
        wait_for_status(server, task, "stopped")


def test_a_policy_that_cannot_be_read_is_warned_of_and_the_task_runs(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path):
        task = with_policy(server, "print('tried')\n", retry_on="always")
        wait_for_status(server, task, "completed")
        [warning] = console_of(server, task, level="WARNING")
        assert "retry_on of the task has 'always'. It may have `infrastructure`, exit codes" in warning
        failing = with_policy(server, retry_on="7", retry_limit="1000")
        wait_for_status(server, failing, "failed")
        assert said(server, failing, "It is not tried again: the property retry_limit of the task is '1000'")
        assert tries(server, failing) == 1


def test_a_server_without_extensions_is_enough(server: ServerProcess, tmp_path: Path) -> None:
    with (
        plain_server(server.api) as (url, calls),
        agent_on(server, tmp_path, url=url, polling_interval_seconds=0.2),
    ):
        task = with_policy(server, retry_on="7", retry_limit=1, retry_delay_seconds=0.1)
        done = wait_for_status(server, task, "failed", seconds=60)
        assert done["status_reason"].endswith("no retry is left (1 of 1 done)")
        assert tries(server, task) == 2
        assert calls["tasks.edit_runtime"] == 0


# --- while it waits


def test_an_abort_during_the_wait_has_the_last_word(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path) as agent:
        task = with_policy(server, retry_on="7", retry_delay_seconds=300)
        wait_for(lambda: said(server, task, "Retry 1 of 3 in 300 s."), what="the wait")
        assert server.status(task) == "in_progress"
        server.call("tasks.stop", task=task)
        done = wait_for_status(server, task, "stopped")
        assert done["status_reason"] == "task was stopped by tasks.stop"
        wait_for(lambda: not agent.runs(), what="the run is over")
        assert console_of(server, task)[-1] == "Process aborted by user"
        assert (tries(server, task), count(server, task)) == (1, None)


def test_a_reset_during_the_wait_ends_it(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path) as agent:
        task = with_policy(server, retry_on="7", retry_delay_seconds=300)
        wait_for(lambda: said(server, task, "Retry 1 of 3"), what="the wait")
        server.call("tasks.reset", task=task)
        wait_for(lambda: not agent.runs(), what="the run is over")
        assert server.status(task) == "created"


def test_an_agent_that_is_told_to_end_its_task_does_not_wait(server: ServerProcess, tmp_path: Path) -> None:
    with agent_on(server, tmp_path) as agent:
        task = with_policy(server, retry_on="7", retry_delay_seconds=300)
        wait_for(lambda: said(server, task, "Retry 1 of 3"), what="the wait")
        assert agent.signal(signal.SIGINT) == 0
        assert server.status(task) == "stopped"
        assert agent.runs() == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_agent_that_leaves_during_the_wait_leaves_the_rest_of_it_to_the_next(
    server: ServerProcess, tmp_path: Path, how: signal.Signals
) -> None:
    with agent_on(server, tmp_path) as agent:
        task = with_policy(server, retry_on="7", retry_limit=1, retry_delay_seconds=3)
        wait_for(lambda: said(server, task, "Retry 1 of 1 in 3 s."), what="the wait")
        agent.signal(how)
        assert server.status(task) == "in_progress"
        # what was decided stands, whatever becomes of the policy meanwhile
        set_policy(server, task, retry_on="nothing that can be read")
        agent.restart().wait_until_ready()
        wait_for(lambda: tries(server, task) == 2, what="the retry")
        done = wait_for_status(server, task, "failed")
        assert done["runtime"] == {"_retries": 1}
        assert sum("Retry 1 of 1" in line for line in console_of(server, task)) == 1


# --- agents that die at the worst of times


@pytest.mark.parametrize(
    "step",
    [
        *(Step.EXIT_WRITTEN, Step.VERDICT_WRITTEN, Step.END_NOTED, Step.RETRY_DUE, Step.CONSOLE_DONE),
        *(Step.RETRY_COUNTED, Step.GIVING_BACK, Step.GIVEN_BACK, Step.MOVED_TO_FRONT, Step.END_TOLD),
        Step.REPORT_WRITTEN,
    ],
)
def test_an_agent_killed_at_any_step_of_a_retry_loses_no_task_and_counts_once(
    server: ServerProcess, tmp_path: Path, step: Step
) -> None:
    with Watcher() as watcher:
        watcher.at(step, lambda pid: os.kill(pid, signal.SIGKILL))
        agent = AgentProcess(server, tmp_path / "state", environ=watcher.environ).wait_until_ready()
        try:
            task = with_policy(server, retry_on="7", retry_limit=2, retry_delay_seconds=0.1)
            assert agent.process.wait(60) == -signal.SIGKILL
            agent.restart().wait_until_ready()
            done = wait_for_status(server, task, "failed", seconds=60)
            assert done["status_reason"] == "worker execution exit code 7; no retry is left (2 of 2 done)"
            assert (tries(server, task), count(server, task)) == (3, 2)
            wait_for(lambda: not agent.runs(), what="the run is over")
        finally:
            agent.signal(signal.SIGINT)


# --- in the foreground, and with the SDK


def test_execute_ends_with_the_exit_code_of_infrastructure_and_retries_nothing(
    server: ServerProcess, tmp_path: Path
) -> None:
    with nobody() as port:
        url = f"http://127.0.0.1:{port}/code.git"
        task = create_script(server, "", queue=None, repository=url, branch="main")
        set_policy(server, task, retry_on="infrastructure")
        for more in ((), ("--disable-monitoring",)):
            ended = run_cli(
                tmp_path, "execute", "--id", task, *more, seconds=60, CLEARML_CONFIG_FILE=str(server.conf_path)
            )
            assert ended.returncode == 75, ended.stderr
            assert "its server cannot be reached. Check the network of this host." in ended.stdout
            if not more:
                assert "its retry policy does not apply: it is run once" in ended.stdout
                assert server.status(task) == "failed"
                server.call("tasks.reset", task=task)


def example() -> str:
    """The example of the documentation, as it stands there."""
    page = (ROOT / "docs/retries.md").read_text()
    block = re.search(r"<!-- run by (\S+) -->\n```python\n(.*?)```", page, re.DOTALL)
    assert block is not None
    assert (ROOT / block[1]).samefile(__file__)
    return block[2]


def test_the_example_of_the_documentation_sets_a_policy_that_an_agent_obeys(
    server: ServerProcess, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text("import sys\nprint('tried')\nsys.exit(75)\n")
    (tmp_path / "example.py").write_text(example() + "print('TASK', task.id)\n")
    ran = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "CLEARML_CONFIG_FILE": str(server.conf_path),
            "CLEARML_SUPPRESS_UPDATE_MESSAGE": "1",
            **loopback_only(),
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    task = re.findall(r"^TASK (\w+)$", ran.stdout, re.MULTILINE)[0]
    with agent_on(server, tmp_path / "state"):
        done = wait_for_status(server, task, "failed", "completed", seconds=100)
    assert done["status_reason"] == "worker execution exit code 75; no retry is left (2 of 2 done)"
    assert tries(server, task) == 3
