"""`config` and `list`, and the exit codes that every command shares."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.cli import environment, run_cli, server_variables, stub_server
from support.http_stub import http_stub

CONFIG = """
api { api_server: "http://127.0.0.1:9", credentials { access_key: AK, secret_key: "api-secret" } }
agent { git_pass: "git-secret", package_manager.extra_index_url: ["https://u:url-secret@host/simple"] }
environment { ANYTHING: "env-secret" }
files { f { path: "/x", contents: "file-secret" } }
"""
WORKER = {
    "id": "host:gpu0",
    "tags": ["closed until 2026-01-05T08:00+00:00"],
    "queues": [{"id": f"{1:032x}", "name": "default"}],
    "task": {"id": "t1", "name": "train: it"},
    "last_activity_time": "2026-01-01T00:00:00+00:00",
}
NEEDS_SERVER = [("list",), ("daemon",), ("daemon", "--status"), ("execute", "--id", "x")]


def configured(home: Path, text: str = CONFIG) -> Path:
    file = home / "clearml.conf"
    file.write_text(text)
    file.chmod(0o600)
    return home


def test_config_prints_what_counts_with_secrets_masked(tmp_path: Path) -> None:
    result = run_cli(configured(tmp_path), "config", CLEARML_WORKER_NAME="me")
    assert (result.returncode, result.stderr) == (0, "")
    lines = dict(line.split(" = ", 1) for line in result.stdout.splitlines())
    assert lines["api.api_server"] == "http://127.0.0.1:9"
    assert lines["api.credentials.access_key"] == "AK"
    assert lines["api.credentials.secret_key"] == "***"
    assert lines["agent.git_pass"] == "***"
    assert lines["agent.git_user"] == ""
    assert lines["agent.worker_name"] == "me"
    assert lines["agent.package_manager.extra_index_url"] == '["https://***@host/simple"]'
    assert lines["agent.venvs_cache.max_entries"] == "10"
    assert lines["environment.ANYTHING"] == "***"
    assert lines["files.f.contents"] == "***"
    assert "-secret" not in result.stdout


def test_config_is_json_on_request(tmp_path: Path) -> None:
    tree = json.loads(run_cli(configured(tmp_path), "config", "--json").stdout)
    assert tree["api"]["credentials"] == {"access_key": "AK", "secret_key": "***"}
    assert tree["api"]["auth"]["token_expiration_threshold_sec"] == 43200


def test_config_without_a_configuration_shows_the_defaults_and_says_so(tmp_path: Path) -> None:
    result = run_cli(tmp_path, "config")
    assert result.returncode == 0
    assert "no configuration file" in result.stderr
    assert "api.api_server = \n" in result.stdout


def test_list_prints_the_workers_as_yaml_to_whoever_is_no_terminal(tmp_path: Path) -> None:
    with http_stub(stub_server([WORKER])) as url:
        result = run_cli(tmp_path, "list", **server_variables(url))
    assert (result.returncode, result.stderr) == (0, "")
    (worker,) = yaml.safe_load(result.stdout)["workers"]
    assert worker.items() >= WORKER.items()
    assert {name: worker[name] for name in worker.keys() - WORKER.keys()} == {
        "state": "running, closed",
        "state_until": "2026-01-05T08:00+00:00",
        "state_why": None,
        "gpus": {"names": ["0"], "count": 1, "usage_percent": None, "memory_used_mib": None, "memory_total_mib": None},
    }


def test_list_prints_the_same_as_json_on_request(tmp_path: Path) -> None:
    with http_stub(stub_server([WORKER])) as url:
        as_yaml, as_json = (run_cli(tmp_path, "list", form, **server_variables(url)) for form in ("--yaml", "--json"))
    assert json.loads(as_json.stdout) == yaml.safe_load(as_yaml.stdout)


def test_list_prints_tables_on_request(tmp_path: Path) -> None:
    with http_stub(stub_server([WORKER], queues=["default", "other"])) as url:
        result = run_cli(tmp_path, "list", "--table", **server_variables(url))
    assert (result.returncode, result.stderr) == (0, "")
    workers, queues = (paragraph.splitlines() for paragraph in result.stdout.split("\n\n"))
    assert workers[1].startswith("host:gpu0  running, closed until ")
    assert [line.split()[0] for line in queues] == ["Queue", "default", "other"]


def test_list_prints_tables_to_a_terminal(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    try:
        with http_stub(stub_server([WORKER])) as url:
            subprocess.run(
                [sys.executable, "-m", "agent.cli", "list"],
                env=environment(tmp_path, **server_variables(url)),
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                timeout=30,
                check=True,
            )
        assert os.read(ours, 4096).startswith(b"Worker ")
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("arguments", NEEDS_SERVER)
def test_missing_configuration_is_exit_code_3(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = run_cli(tmp_path, *arguments)
    assert result.returncode == 3
    assert result.stderr.startswith("clearml_agent: ERROR: no configuration found: looked for ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", NEEDS_SERVER)
def test_server_that_is_not_there_is_exit_code_4(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = run_cli(tmp_path, *arguments, **server_variables("http://127.0.0.1:9"))
    assert result.returncode == 4
    assert "http://127.0.0.1:9" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", NEEDS_SERVER)
def test_refused_credentials_are_exit_code_5(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with http_stub(stub_server(secret="another")) as url:
        result = run_cli(tmp_path, *arguments, **server_variables(url))
    assert result.returncode == 5
    assert "refused the credentials" in result.stderr
    assert "Traceback" not in result.stderr
    assert "the-secret" not in result.stderr


@pytest.mark.parametrize("arguments", [("daemon",), ("daemon", "--detached")])
def test_state_directory_that_cannot_be_used_is_exit_code_3(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    variables = {**server_variables("http://127.0.0.1:9"), "STATE_DIRECTORY": f"{tmp_path}/file"}
    result = run_cli(tmp_path, *arguments, **variables)
    assert result.returncode == 3
    assert result.stderr.startswith(f"clearml_agent: ERROR: cannot use {tmp_path}/file/")


@pytest.mark.parametrize("command", ["daemon", "execute --id x"])
@pytest.mark.parametrize("spec", ["x", "0,0"])
def test_bad_gpu_specification_is_exit_code_7(command: str, spec: str, tmp_path: Path) -> None:
    result = run_cli(tmp_path, *command.split(), "--gpus", spec, **server_variables("http://127.0.0.1:9"))
    assert result.returncode == 7
    assert result.stderr.startswith(f"clearml_agent: ERROR: --gpus {spec}: ")


def test_debug_shows_where_and_still_no_secret(tmp_path: Path) -> None:
    with http_stub(stub_server(secret="another")) as url:
        result = run_cli(tmp_path, "--debug", "list", **server_variables(url))
    assert result.returncode == 5
    assert "Traceback" in result.stderr
    assert "the-secret" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("execute", "--id", "x", "--disable-monitoring", "--full-monitoring"),
        ("execute", "--id", "x", "--clone", "--require-queue"),
        ("execute",),
        ("list", "--json", "--yaml"),
        ("list", "--table", "--json"),
        ("daemon", "--detached", "--foreground"),
        ("daemon", "--log-level", "loud"),
        ("daemon", "--polling-interval", "often"),
    ],
)
def test_contradictions_are_exit_code_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = run_cli(tmp_path, *arguments, **server_variables("http://127.0.0.1:9"))
    assert result.returncode == 2
    assert result.stderr.startswith("clearml_agent: ERROR: ")
