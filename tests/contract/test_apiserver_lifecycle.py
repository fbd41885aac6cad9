"""Starting, stopping and restarting `clearml-apiserver`, its options, and the files it keeps."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from pyhocon import ConfigFactory
from support.apiserver import ServerProcess


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command, for starts that fail."""
    command = [sys.executable, "-m", "apiserver", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})}, check=False
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_the_first_start_writes_a_configuration_that_works(data: Path) -> None:
    with ServerProcess(data) as server:
        conf = ConfigFactory.parse_file(str(server.conf_path))
        assert conf["api.api_server"] == server.api
        assert conf["api.files_server"] == server.files
        credentials = (conf["api.credentials.access_key"], conf["api.credentials.secret_key"])
        reply = requests.get(f"{conf['api.api_server']}/auth.login", auth=credentials, timeout=10)
        assert reply.status_code == 200
        assert len(credentials[0]) == 30
        assert len(credentials[1]) >= 50
        assert credentials[1][0].isalnum()


def test_what_it_keeps_is_for_its_owner_alone_and_has_no_secret_in_the_database(data: Path) -> None:
    with ServerProcess(data) as server:
        server.new_task()
        secret = server.secret_key
        assert mode(data) == 0o700
        assert {path.name: mode(path) for path in data.iterdir() if path.is_file() and mode(path) & 0o077} == {}
    stored = b"".join(path.read_bytes() for path in data.iterdir() if path.name.startswith("server.db"))
    assert secret.encode() not in stored
    assert not (data / "server.db-wal").exists() or (data / "server.db-wal").stat().st_size == 0


def test_the_configuration_stays_as_it_is_over_a_restart_and_follows_the_ports(data: Path) -> None:
    with ServerProcess(data) as server:
        first = server.conf_path.read_text()
        server.restart()
        assert server.conf_path.read_text() == first
        key = server.access_key
    with ServerProcess(data) as server:
        assert server.conf_path.read_text() != first
        assert server.access_key == key
        assert server.call("users.get_current_user")


@pytest.mark.parametrize("damage", ["gone", "other credentials"])
def test_new_credentials_are_minted_when_the_old_ones_are_lost(data: Path, damage: str) -> None:
    with ServerProcess(data) as server:
        key = server.access_key
        server.stop()
        if damage == "gone":
            server.conf_path.unlink()
        else:
            server.conf_path.write_text(server.conf_path.read_text().replace(server.secret_key, "x" * 60))
        server.restart()
        assert server.access_key != key
        assert server.call("users.get_current_user")


def test_a_stop_is_clean(data: Path) -> None:
    with ServerProcess(data) as server:
        assert server.stop() == 0
        assert "Traceback" not in server.log


def test_an_address_in_use_is_one_clear_line_and_exit_code_9(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        failed = run("--data", str(data), "--port", port, "--files-port", "0")
    assert failed.returncode == 9
    assert f"127.0.0.1:{port} is in use" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_data_directory_serves_one_server(data: Path) -> None:
    with ServerProcess(data):
        failed = run("--data", str(data), "--port", "0", "--files-port", "0")
    assert failed.returncode == 1
    assert "another server uses" in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--port", "many"), 2, "--port"),
        (("--nothing",), 2, "--nothing"),
        (("--host", "no.such.host.invalid", "--port", "0"), 3, "cannot listen on"),
        (("--data", "/dev/null/x", "--port", "0"), 3, "cannot use data directory"),
        (("--database-url", "nonsense", "--port", "0"), 3, "cannot use the database URL"),
        (("--database-url", "nosuchdb://host/name", "--port", "0"), 3, "cannot use the database URL"),
    ],
)
def test_bad_options_have_exit_codes_and_no_traceback(
    data: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    failed = run("--data", str(data), "--files-port", "0", *arguments)
    assert failed.returncode == code
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_file_gives_defaults_that_environment_and_options_override(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "server.conf"
    file.write_text(f'data = "{tmp_path / "from-file"}"\njson-logs = true\nlog_level = debug\nport = 1\n')
    env = {"CLEARML_APISERVER_LOG_LEVEL": "info"}
    with ServerProcess(data, env=env, arguments=("--config", str(file))) as server:
        assert server.conf_path.parent == data
        server.stop()
        assert '"level": "info"' in server.log
        assert '"level": "debug"' not in server.log


@pytest.mark.parametrize(("text", "message"), [("prot = 1\n", "did you mean port"), ("port = {", "cannot read")])
def test_a_file_with_a_mistake_is_refused_with_exit_code_3(data: Path, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "server.conf"
    file.write_text(text)
    failed = run("--data", str(data), "--config", str(file))
    assert failed.returncode == 3
    assert message in failed.stderr


def test_the_files_of_tasks_and_the_database_are_on_different_ports_of_one_process(data: Path) -> None:
    with ServerProcess(data) as server:
        assert server.api != server.files
        assert requests.get(f"{server.files}/", timeout=10).status_code in {200, 401}
        assert requests.get(f"{server.files}/health", timeout=10).status_code == 200
