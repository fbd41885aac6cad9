"""Stopping a task, and what a task leaves behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from support.executor import Run, literal, make_run, settings_in, wait_until
from support.repositories import GitServer, make_repository


def started(tmp_path: Path, code: str, *, grace: float = 10.0) -> Run:
    run = make_run(tmp_path, literal(code), settings=settings_in(tmp_path, stop_grace_seconds=grace))
    return run.start()


def stop(run: Run, times: int = 1) -> float:
    assert run.process is not None
    for _ in range(times):
        run.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    run.wait()
    return time.monotonic() - began


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_task_is_asked_to_end_and_may_tidy_up(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "def end(*_):\n    print('tidying up'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\nprint('ready')\ntime.sleep(60)\n"
    )
    run = started(tmp_path, code)
    with run.ended_in_any_case():
        wait_until(run.output)
        assert stop(run, times=3) < 5
    outcome = run.outcome()
    assert (outcome["phase"], outcome["stopped"], outcome["exit_code"]) == ("run", True, 0)
    assert run.output() == ["ready", "tidying up"]


def test_a_task_that_does_not_listen_is_killed_with_its_whole_group(tmp_path: Path) -> None:
    code = (
        "import os, signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '60'], preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))\n"
        "apart = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "print(child.pid, apart.pid)\ntime.sleep(60)\n"
    )
    run = started(tmp_path, code, grace=0.3)
    with run.ended_in_any_case():
        pids = [int(pid) for pid in wait_until(run.output)[0].split()]
        assert stop(run) < 5
    outcome = run.outcome()
    assert (outcome["stopped"], outcome["exit_code"], outcome["signal"]) == (True, None, signal.SIGKILL)
    assert not any(map(is_alive, pids))


def test_what_a_task_leaves_behind_is_ended(tmp_path: Path) -> None:
    code = (
        "import subprocess\n"
        "shell = ['sh', '-c', 'setsid sleep 60 & echo $!; wait']\n"
        "apart = subprocess.Popen(shell, stdout=subprocess.PIPE, start_new_session=True)\n"
        "print(apart.pid, int(apart.stdout.readline()))\n"
    )
    run = started(tmp_path, code)
    with run.ended_in_any_case():
        began = time.monotonic()
        assert run.wait()["exit_code"] == 0
        assert time.monotonic() - began < 5
    assert not any(is_alive(int(pid)) for pid in run.output()[0].split())


def test_a_double_forked_daemon_is_ended(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        open('daemon', 'w').write(str(os.getpid()))\n"
        "        time.sleep(60)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "while not os.path.exists('daemon') or not open('daemon').read(): time.sleep(0.01)\n"
    )
    run = started(tmp_path, code)
    with run.ended_in_any_case():
        assert run.wait()["exit_code"] == 0
    assert not is_alive(int((run.workspace / "code/daemon").read_text()))


def test_a_leftover_that_ignores_term_is_killed_after_two_seconds(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, time\n"
        "shell = 'trap \"\" TERM; touch ready; while :; do sleep 1; done'\n"
        "print(subprocess.Popen(['sh', '-c', shell]).pid)\n"
        "while not os.path.exists('ready'): time.sleep(0.01)\n"
    )
    run = started(tmp_path, code)
    with run.ended_in_any_case():
        outcome = run.wait()
    assert outcome["exit_code"] == 0
    assert 1.9 < outcome["timings"]["run"] < 6
    assert not is_alive(int(run.output()[0]))


def test_the_end_is_noticed_at_once(tmp_path: Path) -> None:
    run = make_run(tmp_path, literal("import time; print(time.time())\n"))
    outcome = run.execute()
    assert outcome["finished_at_ms"] / 1000 - float(run.output()[0]) < 0.3


def test_a_stop_during_set_up_abandons_it(tmp_path: Path) -> None:
    make_repository(tmp_path / "git/repo.git")
    (tmp_path / "bin").mkdir()
    slow = tmp_path / "bin/git"
    slow.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    slow.chmod(0o755)
    run = make_run(tmp_path, {"repository": str(tmp_path / "git/repo.git"), "branch": "main", "entry_point": "main.py"})
    with run.start(environ={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}).ended_in_any_case():
        pid = int(wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
        assert stop(run) < 5
    outcome = run.outcome()
    assert (outcome["phase"], outcome["stopped"], outcome["exit_code"]) == ("checkout", True, None)
    assert not is_alive(pid)
    assert not (run.folder / "user.json").exists()


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1])
def test_a_stop_at_any_moment_ends_in_an_outcome(tmp_path: Path, delay: float) -> None:
    run = started(tmp_path, "import time; time.sleep(60)\n", grace=0.5)
    with run.ended_in_any_case():
        # Before Python has installed the handler a signal simply ends the executor; the runner sees no outcome then.
        wait_until((run.folder / "console/000001.log").exists)
        time.sleep(delay)
        assert stop(run) < 5
    assert run.outcome()["stopped"] is True
    assert not (run.folder / "user.json").exists() or not is_alive(run.json("user.json")["pid"])


def test_a_killed_executor_leaves_nothing_that_reads_like_an_outcome(tmp_path: Path) -> None:
    run = started(tmp_path, "import time; print('ready'); time.sleep(60)\n")
    with run.ended_in_any_case():
        wait_until(run.output)
        assert run.process is not None
        run.process.kill()
        run.process.wait(10)
        user = run.json("user.json")
        assert is_alive(user["pid"])
        assert not (run.folder / "outcome.json").exists()
        os.killpg(user["pgid"], signal.SIGKILL)
        wait_until(lambda: not is_alive(user["pid"]))
    assert [path.name for path in run.folder.glob("*.new")] == []


def test_credentials_are_gone_when_user_code_starts(tmp_path: Path) -> None:
    make_repository(tmp_path / "git/repo.git", {"main.py": "import os; print(os.listdir('../..'))\n"})
    with GitServer(root=tmp_path / "git", password="s3cr3t").running() as server:
        run = make_run(
            tmp_path,
            {"repository": server.url("repo.git", userinfo="me:s3cr3t"), "branch": "main", "entry_point": "main.py"},
        )
        run.execute()
    assert "git-credentials.json" not in run.output()[0]
