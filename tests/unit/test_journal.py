"""Log records as the journal gets them."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import journal
from agent.logs import Redactor, name_worker, set_up_logging


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(str(tmp_path / "socket"))
        found.settimeout(5)
        yield found


def logger_to(address: Path, secrets: tuple[str, ...] = ()) -> tuple[logging.Logger, journal.JournalHandler]:
    handler = journal.JournalHandler(Redactor(secrets), str(address))
    log = logging.Logger("agent.test", logging.DEBUG)
    log.addHandler(handler)
    return log, handler


def fields_of(data: bytes) -> dict[str, str]:
    """An entry, read as https://systemd.io/JOURNAL_NATIVE_PROTOCOL/ describes it."""
    fields = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + length], rest[8 + length + 1 :]
        fields[name.decode()] = value.decode()
        data = rest
    return fields


def test_a_record_has_its_task_worker_action_and_priority(tmp_path: Path, listener: socket.socket) -> None:
    log, handler = logger_to(tmp_path / "socket")
    handler.worker = "host:gpu0"
    log.warning("task %s ended", "abc", extra={"task": "abc", "action": "task_ended"})
    found = fields_of(listener.recv(65536))
    assert found.pop("CODE_FUNC").startswith("agent.test.")
    assert found == {
        "MESSAGE": "task abc ended",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "clearml-agent",
        "CLEARML_WORKER": "host:gpu0",
        "CLEARML_TASK": "abc",
        "CLEARML_ACTION": "task_ended",
    }


def test_several_lines_are_one_entry_and_hold_no_secret(tmp_path: Path, listener: socket.socket) -> None:
    log, _ = logger_to(tmp_path / "socket", ("hunter2secret",))
    try:
        raise ValueError("the password is\nhunter2secret")
    except ValueError:
        log.exception("failed with hunter2secret", extra={"task": "of hunter2secret"})
    found = fields_of(listener.recv(65536))
    assert found["MESSAGE"].startswith("failed with ***\nTraceback")
    assert found["CLEARML_TASK"] == "of ***"
    assert "hunter2secret" not in str(found)


def test_a_text_that_is_too_long_is_cut_and_arrives(tmp_path: Path, listener: socket.socket) -> None:
    log, _ = logger_to(tmp_path / "socket")
    log.info("ü" * 1_000_000)
    message = fields_of(listener.recv(1 << 20))["MESSAGE"]
    assert message.endswith("[cut]")
    assert len(message.encode()) <= journal.LONGEST_BYTES


def test_a_journal_that_is_away_costs_the_fields_and_not_the_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, _ = logger_to(tmp_path / "nowhere", ("hunter2secret",))
    log.error("said with hunter2secret")
    assert capsys.readouterr().err == "said with ***\n"


def test_only_a_standard_error_that_is_the_journal_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not journal.is_stderr("")
    assert not journal.is_stderr("1:1")
    found = os.fstat(2)
    assert journal.is_stderr(f"{found.st_dev}:{found.st_ino}")


@pytest.mark.parametrize(("json_lines", "kind"), [(False, journal.JournalHandler), (True, logging.StreamHandler)])
def test_json_lines_win_over_the_journal(json_lines: bool, kind: type[logging.Handler]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    found = os.fstat(2)
    try:
        set_up_logging(json_lines=json_lines, journal_stream=f"{found.st_dev}:{found.st_ino}")
        name_worker("host:gpu0")
        assert [type(handler) for handler in root.handlers] == [kind]
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.captureWarnings(False)
