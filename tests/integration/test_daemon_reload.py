"""A changed configuration comes into force in a running agent, or is refused, and its task notices neither."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.agent import (
    TypedDaemon,
    console_of,
    create_script,
    status_of,
    wait_for,
    wait_for_status,
)
from support.apiserver import ServerProcess
from support.control import operate, reports, socket_in
from support.service import Listener

#: Counts until told to stop counting, without a pause in which an agent could miss nothing.
COUNTING = """
import os, sys, time
number = 0
while not os.path.exists({path!r}):
    print("line", number, flush=True)
    number += 1
    time.sleep(0.005)
print("counted", number, flush=True)
sys.exit({code})
"""


class Typed:
    """A daemon from the command line with a configuration file of the test's own."""

    def __init__(self, server: ServerProcess, folder: Path) -> None:
        self.server = server
        self.state = folder / "state"
        self.go = folder / "go"
        self.file = folder / "clearml.conf"
        self.file.write_text(server.conf_path.read_text())
        self.file.chmod(0o600)
        self._begun = self.file.read_text()

    def configure(self, text: str) -> None:
        """The file as it was at first, and this."""
        self.file.write_text(f"{self._begun}\n{text}\n")

    @contextmanager
    def daemon(self, queue: str, *words: str, **environ: str) -> Iterator[TypedDaemon]:
        environ = {"CLEARML_CONFIG_FILE": str(self.file), "CLEARML_WORKER_ID": "host:0", **environ}
        if not environ["CLEARML_WORKER_ID"]:
            del environ["CLEARML_WORKER_ID"]
        found = TypedDaemon(self.server, self.state, "--queue", queue, "--cpu-only", *words, environ=environ)
        try:
            yield found.wait_until_ready()
        finally:
            self.go.touch()
            if found.process.poll() is None:
                found.end()

    def counting_task(self, queue: str, *, code: int = 0) -> str:
        task = create_script(self.server, COUNTING.format(path=str(self.go), code=code), queue=queue, name="counts")
        wait_for(lambda: console_of(self.server, task, level="DEBUG"), what="the first line")
        return task

    def report(self, worker: str = "host:0") -> dict[str, Any]:
        return reports(self.state)[worker]

    def assert_console_is_whole(self, task: str) -> None:
        lines = console_of(self.server, task, level="DEBUG")
        *counted, last = [line for line in lines if line.startswith(("line", "counted"))]
        assert counted == [f"line {number}" for number in range(len(counted))]
        assert last == f"counted {len(counted)}"


@pytest.fixture
def typed(server: ServerProcess, tmp_path: Path) -> Typed:
    return Typed(server, tmp_path)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# --- what is right


@pytest.mark.parametrize("code", [0, 3])
def test_a_task_runs_through_several_reloads_and_loses_no_line(typed: Typed, queue: str, code: int) -> None:
    with typed.daemon(queue) as daemon:
        task = typed.counting_task(queue, code=code)
        began = typed.report()["since"]
        for hours in ("00-24 MON-SUN", "00-23 MON-SUN"):
            typed.configure(f'agent {{ uptime: ["{hours}"] }}')
            done = operate(typed.state, "reload", "host:0")
            assert (done.returncode, done.stdout) == (0, "Reloaded host:0\n"), done.stderr
            report = typed.report()
            assert (report["pid"], report["since"]) == (daemon.process.pid, began)
            assert report["hours"]["uptime"] == [hours]
            assert report["configuration"]["last_reload"]["error"] == ""
        wait_for(lambda: typed.report()["ready"])
        typed.go.touch()
        found = wait_for_status(typed.server, task, "completed" if code == 0 else "failed")
        assert (str(code) in found["status_reason"]) == (code != 0)
        typed.assert_console_is_whole(task)
        wait_for(lambda: not children_of(daemon.process.pid), what="the executor, a child of us, was reaped")
        other = create_script(typed.server, "print('other')", queue=queue)
        wait_for_status(typed.server, other, "completed")
    assert [file.name for file in (typed.state / "workers").glob("setup.*")] == []


def test_the_worker_id_is_never_free_and_the_worker_never_off_the_list(typed: Typed, queue: str) -> None:
    with typed.daemon(queue):
        held = typed.state / "workers" / ".host%3a0.held"
        is_over, free, gone = threading.Event(), [], []

        def watch() -> None:
            with open(held, "rb+") as file:
                while not is_over.is_set():
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        fcntl.flock(file, fcntl.LOCK_UN)
                        free.append(True)
                    except BlockingIOError:
                        is_over.wait(0.0005)

        def look() -> None:
            while not is_over.is_set():
                known = typed.server.call("workers.get_all", last_seen=600)["workers"]
                gone.extend(["host:0"] if "host:0" not in {worker["id"] for worker in known} else [])

        threads = [threading.Thread(target=watch), threading.Thread(target=look)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                assert operate(typed.state, "reload", "host:0").returncode == 0
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        assert (free, gone) == ([], [])


def test_signals_that_come_at_any_moment_of_a_reload_do_no_harm(typed: Typed, queue: str) -> None:
    """One each millisecond, also while the process becomes the next agent and nobody listens."""
    with typed.daemon(queue) as daemon:
        task = typed.counting_task(queue)
        typed.configure('agent { uptime: ["00-24 MON-SUN"] }')

        def has_begun_anew() -> bool:
            assert daemon.process.poll() is None
            daemon.process.send_signal(signal.SIGHUP)
            return daemon.log.read_text().count("starting anew") >= 6

        wait_for(has_begun_anew, pause_seconds=0.001)
        wait_for(lambda: (found := typed.report())["answers"] and found["ready"])
        assert typed.report()["hours"]["uptime"] == ["00-24 MON-SUN"]
        typed.go.touch()
        wait_for_status(typed.server, task, "completed")
        typed.assert_console_is_whole(task)


def test_a_change_is_not_lost_that_comes_while_the_one_before_comes_into_force(typed: Typed, queue: str) -> None:
    with typed.daemon(queue) as daemon:
        for count in range(1, 9):
            typed.configure(f'agent {{ uptime: ["00-{count:02} MON-SUN"] }}')
            daemon.process.send_signal(signal.SIGHUP)
            wait_for(lambda count=count: daemon.log.read_text().count("starting anew") >= count, pause_seconds=0.001)
        wait_for(lambda: typed.report().get("hours", {}).get("uptime") == ["00-08 MON-SUN"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_whoever_wants_it_gone_amid_a_reload_is_heard(typed: Typed, queue: str, number: signal.Signals) -> None:
    with typed.daemon(queue) as daemon:
        task = typed.counting_task(queue)
        for attempt in range(3):
            daemon.process.send_signal(signal.SIGHUP)
            if attempt < 2:
                wait_for(lambda count=attempt + 1: daemon.log.read_text().count("starting anew") >= count)
        daemon.process.send_signal(number)
        if number == signal.SIGUSR1:
            typed.go.touch()
        assert daemon.process.wait(30) == 0
        wanted = {signal.SIGTERM: "in_progress", signal.SIGINT: "stopped", signal.SIGUSR1: "completed"}[number]
        assert status_of(typed.server, task) == wanted


def test_variables_and_options_are_those_of_the_start_with_the_new_configuration_over_them(
    typed: Typed, queue: str
) -> None:
    typed.configure("environment { GREETING: hello, ANSWER: 1 }")
    with typed.daemon(queue, "--child-report-tags", "a-tag", GREETING="before", CUDA_VISIBLE_DEVICES="0") as daemon:
        typed.configure("environment { ANSWER: 2 }")
        assert operate(typed.state, "reload", "host:0").returncode == 0
        environment = Path(f"/proc/{daemon.process.pid}/environ").read_bytes().decode().split("\0")
        assert "GREETING=before" in environment
        assert "ANSWER=2" in environment
        wait_for(lambda: typed.report()["ready"])
        (worker,) = [
            found for found in typed.server.call("workers.get_all", last_seen=600)["workers"] if found["id"] == "host:0"
        ]
        assert "a-tag" in worker["tags"]
        task = create_script(typed.server, "import os; print(os.environ['ANSWER'], os.umask(0))", queue=queue)
        wait_for_status(typed.server, task, "completed")
        assert "2 18" in console_of(typed.server, task, level="DEBUG")


def test_an_agent_with_a_slot_keeps_it(typed: Typed, queue: str) -> None:
    names = {"CLEARML_WORKER_ID": "", "CLEARML_WORKER_NAME": "slots"}
    with typed.daemon(queue, **names) as first:
        with Typed(typed.server, typed.state.parent).daemon(queue, **names) as second:
            wait_for(lambda: reports(typed.state).keys() == {"slots:cpu:0", "slots:cpu:1"})
            assert first.end(signal.SIGTERM) == 0
            assert operate(typed.state, "reload", "slots:cpu:1").returncode == 0
            assert {name: report["pid"] for name, report in reports(typed.state).items()} == {
                "slots:cpu:1": second.process.pid
            }


def test_a_paused_agent_stays_paused(typed: Typed, queue: str) -> None:
    with typed.daemon(queue):
        operate(typed.state, "pause", "host:0", "--reason", "disks")
        assert operate(typed.state, "reload", "host:0").returncode == 0
        task = create_script(typed.server, "print('ran')", queue=queue)
        report = wait_for(lambda: (found := typed.report())["ready"] and found)
        assert (report["standing"], report["why"]) == ("paused", "disks")
        assert status_of(typed.server, task) == "queued"


def test_the_server_may_be_away_meanwhile(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server") as server:
        server.new_queue("training")
        typed = Typed(server, tmp_path)
        with typed.daemon("training") as daemon:
            task = typed.counting_task("training")
            server.stop()
            typed.configure('agent { uptime: ["00-24 MON-SUN"] }')
            assert operate(typed.state, "reload", "host:0").returncode == 0
            report = typed.report()
            assert (report["pid"], report["ready"]) == (daemon.process.pid, False)
            server.restart()
            wait_for(lambda: typed.report()["ready"], seconds=60)
            typed.go.touch()
            wait_for_status(server, task, "completed")
            typed.assert_console_is_whole(task)


def test_an_agent_in_the_background_reads_again(typed: Typed, queue: str, server: ServerProcess) -> None:
    environ = {"CLEARML_CONFIG_FILE": str(typed.file), "CLEARML_WORKER_ID": "host:0"}
    assert operate(typed.state, "daemon", "--queue", queue, "--cpu-only", "-d", **environ).returncode == 0
    try:
        before = typed.report()
        typed.configure('agent { uptime: ["00-24 MON-SUN"] }')
        os.kill(before["pid"], signal.SIGHUP)
        wait_for(lambda: typed.report().get("hours", {}).get("uptime") == ["00-24 MON-SUN"])
        assert typed.report()["pid"] == before["pid"]
        wait_for_status(server, create_script(server, "pass", queue=queue), "completed")
    finally:
        assert operate(typed.state, "daemon", "--stop", "host:0").returncode == 0


def test_a_file_can_be_handed_over_and_counts_until_another_one_is(typed: Typed, queue: str, tmp_path: Path) -> None:
    given = tmp_path / "given.conf"
    given.write_text(typed.file.read_text() + '\nagent { uptime: ["00-20 MON-SUN"] }\n')
    given.chmod(0o600)
    with typed.daemon(queue) as daemon:
        give = ("--config-file", str(given), "reload", "--give-file", "host:0")
        assert operate(typed.state, *give).returncode == 0
        assert typed.report()["hours"]["uptime"] == ["00-20 MON-SUN"]
        assert operate(typed.state, "reload", "host:0").returncode == 0
        assert typed.report()["hours"]["uptime"] == ["00-20 MON-SUN"]
        given.write_text(given.read_text().replace("00-20", "00-21"))
        assert operate(typed.state, *give).returncode == 0
        assert typed.report()["hours"]["uptime"] == ["00-21 MON-SUN"]
        arguments = Path(f"/proc/{daemon.process.pid}/cmdline").read_text()
        assert typed.server.secret_key not in arguments + daemon.log.read_text()
    assert [file.name for file in (typed.state / "workers").glob("*.conf")] == []


# --- what is wrong


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("agent { polling_interval_sec: soon }", 3, "agent.polling_interval_sec is 'soon', expected a number"),
        ("agent {", 3, "clearml.conf"),
        ('agent { uptime: ["25-99 FOO"] }', 3, "25-99"),
        ('agent { worker_id: "host:other" }', 2, "host:0 would be host:other"),
        ('api { credentials { secret_key: "wrong" } }', 5, "refused the credentials"),
        ('api { api_server: "http://127.0.0.1:9" }', 4, "cannot reach the API server http://127.0.0.1:9"),
        ('api { api_server: "nowhere" }', 3, "not an http(s) URL"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(typed: Typed, queue: str, text: str, code: int, said: str) -> None:
    # the id is given by the file: a variable would win over it
    typed.configure('agent { worker_id: "host:0" }')
    with typed.daemon(queue, CLEARML_WORKER_ID="") as daemon:
        before = typed.report()
        typed.configure(f'agent {{ worker_id: "host:0" }}\n{text}')
        done = operate(typed.state, "reload", "host:0")
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
        report = typed.report()
        unchanged = ("pid", "ready_since", "hours", "server")
        assert {name: report[name] for name in unchanged} == {name: before[name] for name in unchanged}
        last = report["configuration"]["last_reload"]
        assert (said in last["error"], last["exit_code"]) == (True, code)
        wait_for_status(typed.server, create_script(typed.server, "pass", queue=queue), "completed")
        daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: daemon.log.read_text().count("the configuration stays as it was") == 2)
        assert daemon.log.read_text().count(said) >= 2
        assert typed.server.secret_key not in daemon.log.read_text()
        typed.configure('agent { worker_id: "host:0", uptime: ["00-24 MON-SUN"] }')
        assert operate(typed.state, "reload", "host:0").returncode == 0
        assert typed.report()["hours"]["uptime"] == ["00-24 MON-SUN"]


def test_the_server_cannot_change_under_a_task_and_can_without_one(typed: Typed, queue: str, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "other") as other, typed.daemon(queue):
        other.new_queue(queue)
        task = typed.counting_task(queue)
        typed.file.write_text(other.conf_path.read_text())
        refused = operate(typed.state, "reload", "host:0")
        assert refused.returncode == 2
        assert "the server cannot change while a task runs" in refused.stderr
        typed.go.touch()
        wait_for_status(typed.server, task, "completed")
        wait_for(lambda: not typed.report()["tasks"])
        assert operate(typed.state, "reload", "host:0").returncode == 0
        wait_for_status(other, create_script(other, "pass", queue=queue), "completed")


def test_the_state_directory_cannot_change(typed: Typed, queue: str, tmp_path: Path) -> None:
    typed.configure(f'agent {{ state_dir: "{typed.state}" }}')
    with typed.daemon(queue, STATE_DIRECTORY=""):
        typed.configure(f'agent {{ state_dir: "{tmp_path}/elsewhere" }}')
        refused = operate(typed.state, "reload", "host:0")
        assert (refused.returncode, "agent.state_dir cannot change" in refused.stderr) == (2, True)


# --- terminals and supervisors


def test_an_agent_in_a_terminal_leaves_when_that_is_closed(typed: Typed, queue: str) -> None:
    program = str(Path(sys.executable).parent / "clearml-agent")
    environ = {
        **os.environ,
        "CLEARML_CONFIG_FILE": str(typed.file),
        "CLEARML_WORKER_ID": "host:0",
        "STATE_DIRECTORY": str(typed.state),
    }
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(program, [program, "daemon", "--queue", queue, "--cpu-only", "--foreground"], environ)  # noqa: S606
    wait_for(lambda: typed.state.exists() and (found := reports(typed.state)) and found["host:0"]["ready"])
    task = typed.counting_task(queue)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert status_of(typed.server, task) == "in_progress"
    with typed.daemon(queue):
        typed.go.touch()
        wait_for_status(typed.server, task, "completed")
        typed.assert_console_is_whole(task)


def test_a_service_manager_is_told_when_it_begins_and_when_it_is_over(typed: Typed, queue: str, tmp_path: Path) -> None:
    listener = Listener(tmp_path / "notify")
    try:
        with typed.daemon(queue, NOTIFY_SOCKET=str(listener.path)):
            wait_for(lambda: listener.times_of("READY"))
            for count, text in enumerate(('agent { uptime: ["00-24 MON-SUN"] }', "agent {"), start=1):
                typed.configure(text)
                assert operate(typed.state, "reload", "host:0").returncode == (0 if count == 1 else 3)
                wait_for(lambda count=count: listener.times_of("READY")[-1] > listener.times_of("RELOADING")[count - 1])
                assert len(listener.times_of("RELOADING")) == count
            assert listener.times_of("RELOADING") == listener.times_of("MONOTONIC_USEC")
            assert not listener.times_of("STOPPING")
            wait_for(lambda: typed.report()["ready"])
            assert socket_in(typed.state, "host:0").exists()
        assert listener.times_of("STOPPING")
    finally:
        listener.close()
