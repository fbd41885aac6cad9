"""Server, daemon and the other commands, each called by hand as the README shows it, each with its console script."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.api import Account, Api, ApiError, console_text
from demo.processes import wait_until
from demo.tasks import create, literal, project_named
from demo.watch import follow

BIN = Path(sys.executable).parent

pytestmark = pytest.mark.timeout(180)

HELLO = 'import os\nprint("hello from", os.environ["CLEARML_TASK_ID"])\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Hand:
    """A shell with a home of its own and a server to talk to."""

    home: Path
    environment: dict[str, str]
    configuration: Path
    api: Api

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `clearml-agent` to its end."""
        command = [str(BIN / "clearml-agent"), *words]
        return subprocess.run(
            command, env=self.environment, cwd=self.home, capture_output=True, text=True, check=False, timeout=120
        )

    def draft(self, script: str, *, name: str = "by hand") -> str:
        return create(self.api, name, literal(script, "hello.py"), project=project_named(self.api, "by hand"))


@contextmanager
def background(command: list[str], environment: dict[str, str], home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command that stays; Ctrl-C at the end."""
    with (home / f"{Path(command[0]).name}.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, cwd=home, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.fixture
def hand(tmp_path: Path) -> Iterator[Hand]:
    """`clearml-apiserver` on free ports, and nothing else."""
    environment = {**os.environ, "HOME": str(tmp_path)}
    configuration = tmp_path / "data/clearml.conf"
    command = [str(BIN / "clearml-apiserver"), "--data", str(tmp_path / "data"), "--port", "0", "--files-port", "0"]
    with background(command, environment, tmp_path) as process:
        assert wait_until(configuration.exists, seconds=30), (tmp_path / "clearml-apiserver.log").read_text()
        api = Api(Account.from_file(configuration))
        assert wait_until(lambda: _answers(api), seconds=30)
        environment["CLEARML_CONFIG_FILE"] = str(configuration)
        yield Hand(home=tmp_path, environment=environment, configuration=configuration, api=api)
        api.close()
        process.terminate()
        assert process.wait(30) == 0, (tmp_path / "clearml-apiserver.log").read_text()


def _answers(api: Api) -> bool:
    try:
        api("users.get_current_user")
    except (OSError, ApiError):
        return False
    return True


def test_server_writes_a_configuration_for_its_user_alone(hand: Hand) -> None:
    assert stat.S_IMODE(hand.configuration.stat().st_mode) == 0o600
    assert stat.S_IMODE(hand.configuration.parent.stat().st_mode) & 0o077 == 0


def test_daemon_in_the_foreground_takes_a_task_and_ctrl_c_ends_it(hand: Hand) -> None:
    task = hand.draft(HELLO)
    hand.api("tasks.enqueue", task=task, queue_name="default")
    daemon = [str(BIN / "clearml-agent"), "daemon", "--queue", "default", "--foreground"]
    with background(daemon, hand.environment, hand.home) as process:
        ended = follow(hand.api, [task], lambda *_: None, seconds=90)[task]
        assert (ended.status, ended.reason) == ("completed", "worker execution done")
        assert console_text(hand.api, task) == f"hello from {task}\n"
        listed = hand.call("list")
        assert (listed.returncode, ended.worker in listed.stdout) == (0, True)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert json.loads(hand.call("list", "--json").stdout)["workers"] == []


def test_execute_runs_a_task_in_the_foreground_and_gives_its_exit_code(hand: Hand) -> None:
    good, bad = hand.draft(HELLO), hand.draft("raise SystemExit(3)")
    assert (done := hand.call("execute", "--id", good)).returncode == 0, done.stderr
    assert f"hello from {good}" in done.stdout
    assert hand.call("execute", "--id", bad).returncode == 3
    states = {task["id"]: task["status"] for task in hand.api("tasks.get_all", id=[good, bad])["tasks"]}
    assert states == {good: "completed", bad: "failed"}


def test_execute_with_clone_leaves_the_original_alone(hand: Hand) -> None:
    task = hand.draft(HELLO)
    done = hand.call("execute", "--id", task, "--clone")
    assert done.returncode == 0, done.stderr
    found = hand.api("tasks.get_all", only_fields=["id", "name", "status"])["tasks"]
    assert sorted((each["name"], each["status"]) for each in found) == [
        ("Clone of by hand", "completed"),
        ("by hand", "created"),
    ]


def test_config_shows_the_settings_but_not_the_secrets(hand: Hand) -> None:
    account = Account.from_file(hand.configuration)
    shown = hand.call("config")
    assert shown.returncode == 0
    assert account.api_server in shown.stdout
    assert account.secret_key not in shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("daemon", "--queue", "defalt", "--foreground"), 6, "default"),
        (("execute", "--id", "no such task"), 6, "no such task"),
        (("daemon", "--queue", "default", "--gpus", "zero", "--foreground"), 7, "zero"),
    ],
)
def test_a_mistake_is_one_clear_line_and_its_own_exit_code(
    hand: Hand, words: tuple[str, ...], code: int, message: str
) -> None:
    done = hand.call(*words)
    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr


def test_without_a_configuration_the_agent_says_what_to_do(tmp_path: Path) -> None:
    command = [str(BIN / "clearml-agent"), "daemon", "--queue", "default", "--foreground"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3
    assert "clearml.conf" in done.stderr
    assert "Traceback" not in done.stderr
