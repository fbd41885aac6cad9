"""Starting programs and ending them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from agent.process import child
from agent.process.procfs import start_ticks_of


def output_of(argv: list[str], **options: object) -> tuple[int, bytes]:
    reading, writing = os.pipe()
    settings: dict[str, object] = {"environ": {"PATH": os.defpath}, "cwd": "/", "output": writing, **options}
    try:
        pid = child.spawn(argv, **settings)  # type: ignore[arg-type]
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    return os.waitpid(pid, 0)[1], data


def test_both_streams_go_where_they_should(tmp_path: Path) -> None:
    status, data = output_of(["sh", "-c", "echo out; echo err >&2; pwd; echo $A; exit 3"], cwd=str(tmp_path),
                             environ={"PATH": os.defpath, "A": "value"})  # fmt: skip
    assert child.exit_of(status) == (3, None)
    assert data.decode().split("\n") == ["out", "err", str(tmp_path), "value", ""]


def test_a_program_starts_with_ordinary_signals_and_nothing_of_ours_open() -> None:
    _, data = output_of(["sh", "-c", "grep -E 'SigIgn|SigBlk' /proc/self/status; ls /proc/self/fd"])
    lines = data.decode().split("\n")
    assert lines[0].split()[1] == "0000000000000000"
    assert int(lines[1].split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0
    assert lines[2:] == ["0", "1", "2", "3", ""]  # 3 is the folder that `ls` reads


@pytest.mark.parametrize("session", [True, False])
def test_a_program_leads_a_group_of_its_own(session: bool) -> None:
    code = "import os; print(os.getpid(), os.getpgid(0), os.getsid(0))"
    _, data = output_of([sys.executable, "-I", "-S", "-c", code], session=session)
    pid, group, sid = map(int, data.split())
    assert group == pid
    assert sid == (pid if session else os.getsid(0))


def test_a_missing_program_is_an_error_here() -> None:
    with pytest.raises(FileNotFoundError):
        output_of(["there-is-no-such-program"])
    with pytest.raises(FileNotFoundError):
        output_of(["sh"], cwd="/there/is/no/such/folder")
    with pytest.raises(PermissionError):
        output_of(["/etc/passwd"])


def test_the_program_waits_until_its_pid_is_announced(tmp_path: Path) -> None:
    seen = []

    def announce(pid: int) -> None:
        assert not (tmp_path / "started").exists()
        seen.append((pid, start_ticks_of(pid)))

    status, _ = output_of(["touch", "started"], cwd=str(tmp_path), announce=announce)
    assert status == 0
    assert (tmp_path / "started").exists()
    assert len(seen) == 1


def test_a_program_that_could_not_be_announced_does_not_start(tmp_path: Path) -> None:
    def announce(pid: int) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        output_of(["touch", "started"], cwd=str(tmp_path), announce=announce)
    assert not (tmp_path / "started").exists()


def test_the_umask_of_a_program_can_be_set(tmp_path: Path) -> None:
    output_of(["touch", "file"], cwd=str(tmp_path), umask=0o027)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_ending_a_group_that_ignores_term_takes_a_kill() -> None:
    reading, writing = os.pipe()
    code = "trap '' TERM; echo ready; while :; do sleep 1; done"
    pid = child.spawn(["sh", "-c", code], environ={"PATH": os.defpath}, cwd="/", output=writing)
    os.close(writing)
    os.read(reading, 10)
    os.close(reading)
    assert child.exit_of(child.end_group(pid, grace_seconds=0.1)) == (None, signal.SIGKILL)


def test_descendants_are_found_at_any_depth() -> None:
    reading, writing = os.pipe()
    code = "(sleep 60 & sleep 61 & echo ready; wait) & wait"
    pid = child.spawn(["sh", "-c", code], environ={"PATH": os.defpath}, cwd="/", output=writing)
    os.close(writing)
    os.read(reading, 10)
    os.close(reading)
    try:
        assert len(child.descendants(pid)) == 3
    finally:
        child.end_group(pid, grace_seconds=0)
