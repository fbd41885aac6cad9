"""Tasks from a literal script to their outcome, through the executor as a process of its own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from support.executor import TASK_ID, literal, make_run, settings_in
from support.repositories import make_repository

PYTHON = f"python3.{sys.version_info[1]}"


def test_a_literal_script_runs_to_its_end(tmp_path: Path) -> None:
    run = make_run(tmp_path, literal("import sys\nprint('hello')\nprint('error', file=sys.stderr)\n"))
    outcome = run.execute()
    assert outcome["phase"] == "run"
    assert (outcome["exit_code"], outcome["signal"], outcome["error"], outcome["stopped"]) == (0, None, "", False)
    assert sorted(run.output()) == ["error", "hello"]
    assert set(outcome["timings"]) == {"prepare", "checkout", "patch", "requirements", "environment", "run"}
    assert outcome["finished_at_ms"] >= run.records()[-1].at_ms


def test_the_console_says_what_happens_and_in_the_words_others_look_for(tmp_path: Path) -> None:
    run = make_run(tmp_path, literal("print('user')\n"))
    run.execute()
    texts = [record.text for record in run.records()]
    for marker in (
        f"Running task id [{TASK_ID}]:",
        "Environment setup completed successfully",
        "Starting Task Execution:",
    ):
        assert texts.index(marker) < texts.index("user")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise SystemExit(3)", (3, None)),
        ("raise SystemExit(254)", (254, None)),
        ("1/0", (1, None)),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", (None, 9)),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", (None, 15)),
    ],
)
def test_exit_codes_and_signals_are_told_apart(tmp_path: Path, code: str, expected: tuple[int, int]) -> None:
    outcome = make_run(tmp_path, literal(code)).execute()
    assert (outcome["exit_code"], outcome["signal"]) == expected
    assert outcome["phase"] == "run"


def test_the_user_process_is_written_down_before_it_starts(tmp_path: Path) -> None:
    code = f"import json; u = json.load(open('{tmp_path}/runs/{TASK_ID}.1/user.json'))\n"
    code += "import os; print(u['pid'] == os.getpid() == u['pgid'] == os.getpgid(0), u['start_ticks'] == "
    code += "int(open('/proc/self/stat').read().rpartition(')')[2].split()[19]), u['cwd'] == os.getcwd())\n"
    run = make_run(tmp_path, literal(code))
    run.execute()
    assert run.output() == ["True True True"]
    assert run.json("user.json")["argv"][1:] == ["-u", "main.py"]


def test_what_the_runner_wrote_first_stays_first(tmp_path: Path) -> None:
    run = make_run(tmp_path, literal("print(1)\n"))
    (run.folder / "console/000000.log").write_text("1\ti\tpulled from a queue\n")
    run.execute()
    assert run.records()[0].text == "pulled from a queue"
    assert (run.folder / "console/000001.log").exists()


def environment_of(run_environ: dict[str, str], tmp_path: Path, **options: object) -> dict[str, str]:
    run = make_run(tmp_path, literal("import os, json; print(json.dumps(dict(os.environ)))\n"), **options)  # type: ignore[arg-type]
    run.execute(environ=run_environ)
    found: dict[str, str] = json.loads(run.output()[0])
    return found


def test_the_task_knows_who_it_is_and_none_of_the_agents_secrets(tmp_path: Path) -> None:
    host = {
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "CLEARML_AGENT_GIT_PASS": "secret",
        "CLEARML_API_SECRET_KEY": "secret",
        "VIRTUAL_ENV": sys.prefix,
        "NOTIFY_SOCKET": "/run/x",
        "SUPERVISOR_ENABLED": "1",
        "MINE": "kept",
    }
    found = environment_of(
        host,
        tmp_path,
        environment={"CUDA_VISIBLE_DEVICES": "1", "NVIDIA_VISIBLE_DEVICES": "1"},
        log_level="DEBUG",
        settings=settings_in(tmp_path, enable_task_env=True),
        task={"hyperparams": {"Environment": {"HF_HOME": {"name": "HF_HOME", "value": "/cache"}}}},
    )
    assert "secret" not in "".join(found.values())
    assert found["CLEARML_TASK_ID"] == found["TRAINS_TASK_ID"] == TASK_ID
    assert found["CLEARML_LOG_LEVEL"] == "DEBUG"
    assert found["CLEARML_LOG_TASK_TO_BACKEND"] == "0"
    assert found["CLEARML_WORKER_ID"] == "host:cpu"
    assert (found["MINE"], found["HF_HOME"], found["CUDA_VISIBLE_DEVICES"]) == ("kept", "/cache", "1")
    assert found["VIRTUAL_ENV"].endswith("/workspace/env")
    assert found["PATH"].split(":")[0] == f"{found['VIRTUAL_ENV']}/bin"
    assert os.path.dirname(sys.executable) not in found["PATH"].split(":")
    assert "NOTIFY_SOCKET" not in found
    configuration = Path(found["CLEARML_CONFIG_FILE"])
    assert configuration.stat().st_mode & 0o777 == 0o600
    assert set(json.loads(configuration.read_text())) >= {"api"}
    assert "git_pass" not in configuration.read_text()


def test_the_umask_of_the_agent_is_not_the_tasks(tmp_path: Path) -> None:
    run = make_run(tmp_path, literal("import os; open('x', 'w'); print(oct(os.stat('x').st_mode & 0o777))\n"))
    before = os.umask(0o077)
    try:
        run.execute()
    finally:
        os.umask(before)
    assert run.output() == ["0o644"]


def test_a_shell_task_runs_with_the_shell_that_was_recorded(tmp_path: Path) -> None:
    script = {"binary": "bash", "entry_point": "run.sh 'a b'", "diff": 'echo "$0|$1|$BASH_VERSION" | cut -c1-12\n'}
    run = make_run(tmp_path, script)
    assert run.execute()["exit_code"] == 0
    assert run.output()[0].startswith("run.sh|a b|")


def test_a_binary_that_is_not_there_is_named(tmp_path: Path) -> None:
    outcome = make_run(tmp_path, {"binary": "there-is-none", "entry_point": "x.rb", "diff": "puts 1\n"}).execute()
    assert outcome["phase"] == "environment"
    assert "there-is-none" in outcome["error"]
    assert outcome["infrastructure"] is False


def test_a_module_runs_with_arguments_and_variables(tmp_path: Path) -> None:
    repository = make_repository(
        tmp_path / "repo",
        {"src/pkg/__init__.py": "", "src/pkg/train.py": "import sys; print(__name__, sys.argv[1:])\n"},
    )
    run = make_run(
        tmp_path,
        {"binary": PYTHON, "repository": str(repository.folder), "branch": "main", "working_dir": "src",
         "entry_point": "-m pkg.train --task $CLEARML_TASK_ID '$UNKNOWN'"},
    )  # fmt: skip
    assert run.execute()["exit_code"] == 0
    assert run.output() == [f"__main__ ['--task', '{TASK_ID}', '$UNKNOWN']"]


def test_a_task_with_nothing_to_run_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"binary": PYTHON})
    outcome = run.execute()
    assert outcome["phase"] == "patch"
    assert "nothing to run" in outcome["error"]
    assert "nothing to run" in run.notices("e")
    assert not (run.folder / "user.json").exists()


def test_a_run_directory_that_cannot_be_read_still_gets_an_outcome(tmp_path: Path) -> None:
    run = make_run(tmp_path, literal("print(1)\n"))
    (run.folder / "setup.json").write_text("{")
    outcome = run.execute()
    assert (outcome["phase"], outcome["infrastructure"]) == ("prepare", True)
    assert "cannot be read" in outcome["error"]


def test_a_repeated_start_in_the_same_directory_begins_afresh(tmp_path: Path) -> None:
    run = make_run(tmp_path, literal("import os; print(os.listdir('.')); open('left', 'w')\n"))
    run.execute()
    assert run.execute()["exit_code"] == 0
    assert run.output() == ["['main.py']", "['main.py']"]


def test_optimised_interpreters_are_passed_on(tmp_path: Path) -> None:
    run = make_run(tmp_path, literal("import sys; print(sys.flags.optimize)\n"), optimize=2)
    run.execute()
    assert run.output() == ["2"]


def test_another_python_version_is_used_where_the_host_has_it(tmp_path: Path) -> None:
    fake = tmp_path / "bin/python3.99"
    fake.parent.mkdir()
    pretend = "sed 's/sys.version_info\\[:3\\]/(3, 99, 1)/'"
    fake.write_text(
        f'#!/bin/sh\nif [ "$1" = -c ]; then exec {sys.executable} -c "$(printf %s "$2" | {pretend})"; fi\n'
        f'exec {sys.executable} "$@"\n'
    )
    fake.chmod(0o755)
    run = make_run(tmp_path, literal("print(1)\n", binary="python3.99"))
    run.execute(environ={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"})
    assert run.json("environment.json")["python_version"] == "3.99.1"
    assert run.notices("w") == ""


def test_a_python_version_that_is_missing_is_a_warning(tmp_path: Path) -> None:
    run = make_run(tmp_path, literal("print('ran')\n", binary="python3.77"))
    assert run.execute()["exit_code"] == 0
    assert "Python 3.77 was asked for" in run.notices("w")
    assert run.output() == ["ran"]
