"""Records on the disk: whole, in order, rolled, redacted."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from agent.executor.console import Console, redactor


def text_of(folder: Path) -> str:
    return "".join(segment.read_text() for segment in sorted(folder.glob("*.log")))


def test_records_carry_time_kind_and_text(tmp_path: Path) -> None:
    console = Console(str(tmp_path), clock=lambda: 12.3456)
    console.info("setting up\nin two lines")
    console.warning("odd")
    console.error("bad")
    console.output(["one", "", "tab\there"])
    console.close()
    assert text_of(tmp_path) == (
        "12345\ti\tsetting up\n12345\ti\tin two lines\n12345\tw\todd\n12345\te\tbad\n"
        "12345\to\tone\n12345\to\t\n12345\to\ttab\there\n"
    )


def test_notices_never_hold_a_carriage_return(tmp_path: Path) -> None:
    console = Console(str(tmp_path), clock=lambda: 1.0)
    console.info("a\r\nb\rc")
    console.close()
    assert text_of(tmp_path) == "1000\ti\ta\n1000\ti\tb c\n"


def test_writing_starts_behind_the_segment_of_the_runner(tmp_path: Path) -> None:
    (tmp_path / "000000.log").write_text("1\ti\tfrom outside\n")
    Console(str(tmp_path)).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.log", "000001.log"]


def test_a_second_writer_takes_the_next_segment(tmp_path: Path) -> None:
    Console(str(tmp_path)).close()
    Console(str(tmp_path)).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000001.log", "000002.log"]


def test_segments_roll_between_records(tmp_path: Path) -> None:
    console = Console(str(tmp_path), clock=lambda: 1.0, segment_bytes=100)
    for number in range(50):
        console.output([f"line {number}"])
    console.close()
    segments = sorted(tmp_path.glob("*.log"))
    assert len(segments) > 5
    assert all(segment.read_bytes().endswith(b"\n") for segment in segments)
    assert text_of(tmp_path).splitlines() == [f"1000\to\tline {number}" for number in range(50)]


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    console = Console(str(tmp_path / "console"))
    console.close()
    assert (tmp_path / "console").stat().st_mode & 0o077 == 0
    assert (tmp_path / "console/000001.log").stat().st_mode & 0o077 == 0


def test_lone_surrogates_do_not_stop_the_console(tmp_path: Path) -> None:
    console = Console(str(tmp_path), clock=lambda: 1.0)
    console.info("path \udce9")
    console.close()
    assert text_of(tmp_path) == "1000\ti\tpath ?\n"


def test_a_full_disk_delays_records_and_tears_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(str(tmp_path), clock=lambda: 1.0)
    real, budget = os.write, [10]

    def write(fd: int, data: bytes) -> int:
        if budget[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = real(fd, bytes(data)[: budget[0]])
        budget[0] -= taken
        return taken

    monkeypatch.setattr(os, "write", write)
    console.output(["a first line", "a second line"])
    assert console.is_blocked
    console.output(["a third line"])
    console.retry()
    assert console.is_blocked
    budget[0] = 10_000
    console.retry()
    assert not console.is_blocked
    console.close()
    assert text_of(tmp_path) == "1000\to\ta first line\n1000\to\ta second line\n1000\to\ta third line\n"


def test_secrets_are_hidden_in_every_spelling() -> None:
    redact = redactor(["p@ss/word", "p@ss"])
    assert redact("key=p%40ss%2Fword and p@ss/word and p@ss") == "key=**** and **** and ****"


def test_passwords_of_urls_are_hidden_even_where_nobody_named_them() -> None:
    redact = redactor([])
    assert (
        redact("git+https://me:s3cr3t@host/x and http://token@host") == "git+https://****@host/x and http://****@host"
    )
    assert (
        redact("ssh://git@host/x, ftp://a:b@host, https://host/a@b")
        == "ssh://git@host/x, ftp://****@host, https://host/a@b"
    )


def test_nothing_is_hidden_where_there_is_no_secret() -> None:
    assert redactor(["", "x1y2"])("an empty secret hides nothing") == "an empty secret hides nothing"
