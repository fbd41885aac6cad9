"""The console of a task: whole, in order, valid, and cheap."""

from __future__ import annotations

import os
import time
from pathlib import Path

from support.executor import literal, make_run, settings_in, wait_until


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_hundred_thousand_lines_at_once_are_whole_and_in_order(tmp_path: Path) -> None:
    code = (
        "import sys, time, os\n"
        "text = ''.join(f'line {n} ' + 'x' * 40 + '\\n' for n in range(100_000))\n"
        "sys.stdout.write(text); sys.stdout.flush()\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
    )
    run = make_run(tmp_path, literal(code))
    with run.start().ended_in_any_case():
        segments = run.folder / "console"
        wait_until(lambda: sum(path.stat().st_size for path in segments.glob("*.log")) > 100_000 * 62)
        assert run.process is not None
        spent = cpu_seconds(run.process.pid)
        (run.workspace / "code/go").touch()
        assert run.wait()["exit_code"] == 0
    assert run.output() == [f"line {n} " + "x" * 40 for n in range(100_000)]
    assert len(list(segments.glob("*.log"))) >= 1
    assert spent < 1.0, f"{spent:.2f} s of CPU for 100,000 lines"
    times = [record.at_ms for record in run.records()]
    assert times == sorted(times)
    assert abs(times[-1] - time.time() * 1000) < 60_000


def test_lines_written_one_by_one_cost_little_too(tmp_path: Path) -> None:
    code = (
        "import os, time\n"
        "for n in range(100_000): os.write(1, b'line %d\\n' % n)\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
    )
    run = make_run(tmp_path, literal(code))
    with run.start().ended_in_any_case():
        wait_until(lambda: run.output()[-1:] == ["line 99999"])
        assert run.process is not None
        spent = cpu_seconds(run.process.pid)
        (run.workspace / "code/go").touch()
        run.wait()
    assert run.output() == [f"line {n}" for n in range(100_000)]
    assert spent < 1.0, f"{spent:.2f} s of CPU for 100,000 lines"


def test_a_line_is_on_the_disk_at_once(tmp_path: Path) -> None:
    code = "import time, os\nprint(time.time())\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
    run = make_run(tmp_path, literal(code))
    with run.start().ended_in_any_case():
        (written,) = wait_until(run.output)
        seen = time.time()
        (run.workspace / "code/go").touch()
        run.wait()
    assert seen - float(written) < 1.0
    (record,) = [record for record in run.records() if record.kind == "o"]
    assert -0.001 <= record.at_ms / 1000 - float(written) < 0.5  # its clock counts whole milliseconds


def test_a_progress_bar_of_ten_thousand_updates_is_a_handful_of_lines(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "for n in range(10_000):\n"
        "    sys.stderr.write(f'\\r{n + 1}/10000'); sys.stderr.flush()\n"
        "    if n % 1000 == 0: time.sleep(0.05)\n"
        "sys.stderr.write('\\n'); print('done')\n"
    )
    run = make_run(tmp_path, literal(code), settings=settings_in(tmp_path, progress_line_interval_seconds=0.2))
    run.execute()
    lines = run.output()
    assert lines[-2:] == ["10000/10000", "done"]
    assert 3 <= len(lines) <= 20
    counts = [int(line.split("/")[0]) for line in lines[:-1]]
    assert counts == sorted(counts)
    assert all(line.endswith("/10000") for line in lines[:-1])


def test_bytes_that_are_no_text_and_lines_without_end_arrive(tmp_path: Path) -> None:
    code = (
        "import os\n"
        "os.write(1, b'caf\\xe9 \\xff\\n')\n"
        "os.write(1, b'\\xf0\\x9f'); import time; time.sleep(0.1); os.write(1, b'\\x98\\x80\\n')\n"
        "os.write(1, b'z' * 600_000 + b'\\n')\n"
        "os.write(1, b'no end')\n"
    )
    run = make_run(tmp_path, literal(code))
    run.execute()
    lines = run.output()
    assert lines[:2] == ["caf\ufffd \ufffd", "\U0001f600"]
    assert [len(line) for line in lines[2:5]] == [262_144, 262_144, 75_712]
    assert lines[5:] == ["no end"]


def test_without_folding_every_update_arrives(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        literal("print('1%\\r2%\\r3%')\n"),
        settings=settings_in(tmp_path, suppress_carriage_return=False),
    )
    run.execute()
    assert run.output() == ["1%", "2%", "3%"]
