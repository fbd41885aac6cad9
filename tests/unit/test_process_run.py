"""Commands: captured, limited in time, stopped with their whole group, redacted."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.process.run import CommandFailed, Commands, spelled, tail
from agent.process.stop import StopRequested, StopSignal


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    with StopSignal() as stop:
        yield Commands(environ={"PATH": os.defpath, "KEPT": "1"}, cwd=str(tmp_path), stop=stop)


def is_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_output_and_exit_code_are_kept(commands: Commands) -> None:
    done = commands.run(["sh", "-c", "echo out; echo err >&2; cat; exit 3"], stdin=b"in\n", check=False)
    assert done.returncode == 3
    assert done.text == "out\nin\n"
    assert sorted(done.output.split()) == ["err", "in", "out"]


def test_a_failure_is_one_line_and_the_end_of_the_output(commands: Commands) -> None:
    with pytest.raises(CommandFailed, match=r"`sh -c .*` ended with exit code 7") as failed:
        commands.run(["sh", "-c", "echo why >&2; exit 7"])
    assert failed.value.hint == "why"
    assert failed.value.returncode == 7


def test_a_signal_is_named_as_one(commands: Commands) -> None:
    with pytest.raises(CommandFailed, match="ended with signal 9"):
        commands.run(["sh", "-c", "kill -9 $$"])


def test_a_command_that_is_not_there_says_so(commands: Commands) -> None:
    with pytest.raises(CommandFailed, match="cannot start there-is-none: No such file") as failed:
        commands.run(["there-is-none"])
    assert failed.value.returncode is None


def test_variables_can_be_added_and_taken_away(commands: Commands) -> None:
    done = commands.run(["sh", "-c", "echo $KEPT-$MORE"], environ={"KEPT": "", "MORE": "2"})
    assert done.text == "-2\n"


def test_large_input_and_output_do_not_block_each_other(commands: Commands) -> None:
    data = b"x" * 3_000_000
    assert len(commands.run(["cat"], stdin=data).text) == len(data)
    assert commands.run(["true"], stdin=data).returncode == 0


def test_a_deadline_ends_the_whole_group(commands: Commands, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(CommandFailed, match=r"was stopped after 0 s without an end") as failed:
        commands.run(["sh", "-c", "echo begun; sleep 60 & echo $! > pid; wait"], deadline_seconds=0.3)
    assert time.monotonic() - started < 10
    assert failed.value.hint == "begun"
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_a_stop_ends_the_command(commands: Commands) -> None:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    started = time.monotonic()
    with pytest.raises(StopRequested):
        commands.run(["sleep", "60"])
    assert time.monotonic() - started < 5
    with pytest.raises(StopRequested):
        commands.run(["true"])


def test_a_daemon_that_keeps_the_pipe_does_not_keep_us(commands: Commands) -> None:
    started = time.monotonic()
    done = commands.run(["sh", "-c", "sleep 60 & echo $!"])
    os.kill(int(done.text), signal.SIGKILL)
    assert time.monotonic() - started < 5


def test_secrets_are_hidden_in_errors(commands: Commands) -> None:
    careful = replace(commands, redact=lambda text: text.replace("secret", "****"))
    with pytest.raises(CommandFailed) as failed:
        careful.run(["sh", "-c", "echo secret; exit 1"])
    assert "secret" not in f"{failed.value} {failed.value.output}"


def test_a_quick_command_is_silent_and_a_slow_one_is_shown(commands: Commands) -> None:
    shown: list[str] = []
    commands.run(["sh", "-c", "echo quick"])
    slow = replace(commands, show=shown.append, quiet_seconds=0.0)
    slow.run(["sh", "-c", "printf 'one\\ntwo\\rthree\\n'"])
    assert shown == ["one", "two", "three"]


def test_long_commands_and_outputs_are_shortened() -> None:
    assert spelled(["/usr/bin/git", "fetch", "a b"]) == "git fetch 'a b'"
    assert len(spelled(["x" * 500])) == 200
    assert tail("\n".join("abcdef"), 2) == "... 4 lines before these ...\ne\nf"
