"""The server on PostgreSQL instead of SQLite: a real one, with a password, that only this test talks to."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.agent import agent_on, console_of, create_script, wait_for_status
from support.apiserver import ServerProcess

BACKUP = Path(__file__).parents[2] / "ansible/roles/apiserver/files/clearml-apiserver-backup"
PASSWORD = "hunter2/for:postgres"
URL_PASSWORD = "hunter2%2Ffor%3Apostgres"


class Cluster:
    """A PostgreSQL server on a free port of loopback; it refuses to be root's, so then it is the user postgres'."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def run(self, name: str, *words: str, user: str | None = None) -> str:
        """One of its programs, as the user of the cluster."""
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        environ = {"PATH": os.environ["PATH"], "PGPASSWORD": PASSWORD, "LC_ALL": "C.UTF-8"}
        command = [self._programs / name, *words]
        done = subprocess.run(
            command, cwd="/", env=environ, capture_output=True, text=True, check=False, timeout=60, **identity
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def client(self, name: str, *words: str) -> str:
        return self.run(name, "-h", "127.0.0.1", "-p", str(self.port), "-U", "clearml", *words)

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://clearml:{URL_PASSWORD}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
            shutil.chown(secret, "postgres")
        data = str(self.folder / "data")
        self.run("initdb", "-D", data, "-U", "clearml", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync")
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self.run("pg_ctl", "-D", data, "-o", options, "-l", str(self.folder / "log"), "-w", "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        cluster = Cluster(Path(folder))
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


def _server(cluster: Cluster, database: str, data: Path) -> ServerProcess:
    return ServerProcess(data, env={"CLEARML_APISERVER_DATABASE_URL": cluster.url(database)})


def test_tasks_run_and_are_there_after_a_restart_and_after_a_restored_back_up(cluster: Cluster, tmp_path: Path) -> None:
    cluster.client("createdb", "first")
    with _server(cluster, "first", tmp_path / "server") as server:
        with agent_on(server, tmp_path / "agent", "default"):
            task = create_script(server, "print('on', 'postgres')", queue="default")
            wait_for_status(server, task, "completed")
        waiting = create_script(server, "print('later')", queue="default")
    assert not (tmp_path / "server/server.db").exists()
    with _server(cluster, "first", tmp_path / "server") as server:
        assert "on postgres" in console_of(server, task)
        [backup] = _backed_up(cluster, tmp_path)
    cluster.client("createdb", "second")
    cluster.client("pg_restore", "--no-owner", "--dbname=second", str(backup / "database.dump"))
    with _server(cluster, "second", tmp_path / "restored") as server:
        found = {each["id"]: each["status"] for each in server.call("tasks.get_all")["tasks"]}
        assert found == {task: "completed", waiting: "queued"}
        with agent_on(server, tmp_path / "other", "default"):
            wait_for_status(server, waiting, "completed")


def _backed_up(cluster: Cluster, folder: Path) -> list[Path]:
    """What the script of the role `apiserver` makes of a server that runs."""
    configuration = folder / "apiserver.conf"
    settings = {"data": str(folder / "server"), "database_url": cluster.url("first")}
    configuration.write_text(json.dumps(settings))
    backups = Path(tempfile.mkdtemp(dir=cluster.folder))
    words = ["/usr/bin/python3", BACKUP, configuration, backups, "7"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    shutil.copymode("/usr", backups)
    for path in backups.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # the restoring program is another user's
    return sorted(path for path in backups.iterdir() if (path / "clearml.conf").exists())


def test_a_database_that_is_not_there_is_told_without_its_password(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="database") as error:
        _server(cluster, "nowhere", tmp_path / "server").start()
    assert "hunter2" not in str(error.value)
