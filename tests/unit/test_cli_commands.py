"""`config` and `list`, and the exit codes that every command shares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from support.cli import run_cli, server_variables, stub_server
from support.http_stub import http_stub

CONFIG = """
api { api_server: "http://127.0.0.1:9", credentials { access_key: AK, secret_key: "api-secret" } }
agent { git_pass: "git-secret", package_manager.extra_index_url: ["https://u:url-secret@host/simple"] }
environment { ANYTHING: "env-secret" }
files { f { path: "/x", contents: "file-secret" } }
"""
WORKER = {
    "id": "host:gpu0",
    "queues": [{"id": "1", "name": "default"}],
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


def test_list_prints_the_workers_as_yaml(tmp_path: Path) -> None:
    with http_stub(stub_server([WORKER])) as url:
        result = run_cli(tmp_path, "list", **server_variables(url))
    assert (result.returncode, result.stderr) == (0, "")
    assert yaml.safe_load(result.stdout) == {"workers": [WORKER]}


def test_list_prints_json_on_request(tmp_path: Path) -> None:
    with http_stub(stub_server([WORKER])) as url:
        result = run_cli(tmp_path, "list", "--json", **server_variables(url))
    assert json.loads(result.stdout) == {"workers": [WORKER]}


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
        ("daemon", "--detached", "--foreground"),
        ("daemon", "--log-level", "loud"),
        ("daemon", "--polling-interval", "often"),
    ],
)
def test_contradictions_are_exit_code_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = run_cli(tmp_path, *arguments, **server_variables("http://127.0.0.1:9"))
    assert result.returncode == 2
    assert result.stderr.startswith("clearml_agent: ERROR: ")
