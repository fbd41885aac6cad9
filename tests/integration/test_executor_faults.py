"""Whose failure it is: the real executor, real git, uv and pip, and a real cause for each row of docs/retries.md."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from support.disks import needs_root, small_disk
from support.executor import Run, literal, make_run, settings_in
from support.faulty_http import CLOSED, CUT, answering, hanging, nobody
from support.repositories import Repository, make_repository
from support.wheels import make_wheel

NOTHING = "pass\n"
SECRET = "s3cr3t-t0ken"


def end_of(run: Run, **environ: str) -> dict[str, Any]:
    """Run it, and check what is true of every failure before the first line: people are told, once and plainly."""
    outcome = run.execute(environ={**os.environ, **environ})
    told = run.notices()
    assert outcome["exit_code"] is None, told
    last = run.records()[-1]
    assert (last.kind, last.text.startswith(f"{outcome['phase']}: ")) == ("e", True), told
    assert "Traceback" not in told
    assert SECRET not in told + str(outcome)
    assert len(last.text.split(". ")) >= 2, f"nothing is said about what to do: {last.text}"
    return {**outcome, "told": last.text}


def git_task(state: Path, port: int, **more: Any) -> Run:
    url = f"http://me:{SECRET}@127.0.0.1:{port}/team/code.git"
    return make_run(state, {"repository": url, "branch": "main", "entry_point": "main.py"}, **more)


# --- git

Server = Callable[[], AbstractContextManager[int]]

#: (what the server does, infrastructure, words for people)
GIT_SERVERS: dict[str, tuple[Server, bool, str]] = {
    "away": (nobody, True, "its server cannot be reached"),
    "hangs": (hanging, True, "its server does not answer in time"),
    "closes": (lambda: answering(CLOSED), True, "the connection to its server broke off"),
    "cut off": (lambda: answering(CUT), True, "the connection to its server broke off"),
    "500": (lambda: answering(500), True, "its server is in trouble"),
    "503": (lambda: answering(503), True, "its server is in trouble"),
    "429": (lambda: answering(429), True, "its server is in trouble"),
    "401": (lambda: answering(401, {"WWW-Authenticate": 'Basic realm="git"'}), False, "refuses our credentials"),
    "403": (lambda: answering(403), False, "refuses our credentials"),
    "404": (lambda: answering(404), False, "there is nothing at this address"),
    "410": (lambda: answering(410), False, "there is nothing at this address"),
}


@pytest.mark.parametrize("how", GIT_SERVERS)
def test_a_git_server(how: str, tmp_path: Path) -> None:
    server, infrastructure, words = GIT_SERVERS[how]
    with server() as port:
        outcome = end_of(git_task(tmp_path, port), GIT_HTTP_LOW_SPEED_TIME="1")
        assert f"cannot fetch the repository http://127.0.0.1:{port}/team/code.git: " in outcome["told"]
    assert words in outcome["told"]
    assert (outcome["phase"], outcome["infrastructure"]) == ("checkout", infrastructure)


def test_a_git_server_whose_name_is_unknown(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"repository": "https://git.nowhere.invalid/x.git", "entry_point": "main.py"})
    outcome = end_of(run)
    assert outcome["infrastructure"] is True
    assert "the name of its server cannot be resolved" in outcome["told"]


def test_an_ssh_server_that_is_away(tmp_path: Path) -> None:
    with nobody() as port:
        run = make_run(tmp_path, {"repository": f"ssh://git@127.0.0.1:{port}/x.git", "entry_point": "main.py"})
        outcome = end_of(run)
    assert outcome["infrastructure"] is True
    assert "its server cannot be reached" in outcome["told"]


def test_a_bundle_of_ca_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    with answering(200) as port:
        run = make_run(tmp_path, {"repository": f"https://127.0.0.1:{port}/x.git", "entry_point": "main.py"})
        outcome = end_of(run, GIT_SSL_CAINFO=str(tmp_path / "there-is-none.pem"))
    assert outcome["infrastructure"] is True
    assert "the identity of its server cannot be verified" in outcome["told"]


def test_a_host_without_git(tmp_path: Path) -> None:
    with nobody() as port:
        outcome = end_of(git_task(tmp_path, port), PATH=str(tmp_path))
    assert outcome["infrastructure"] is True
    assert "git cannot be started on this host" in outcome["told"]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "git/code.git", {"main.py": "print('ran')\n", "data.bin": os.urandom(200_000)})


def from_files(state: Path, repository: Repository, attempt: int = 1, **more: Any) -> Run:
    script = {"repository": str(repository.folder), "branch": "main", "entry_point": "main.py", **more}
    return make_run(state, script, attempt=attempt)


def test_a_commit_that_the_repository_does_not_have(tmp_path: Path, repository: Repository) -> None:
    assert end_of(from_files(tmp_path, repository, version_num="0" * 40))["infrastructure"] is False


def _without_head(mirror: Path) -> None:
    (mirror / "HEAD").write_text("")


def _with_a_broken_config(mirror: Path) -> None:
    (mirror / "config").write_text("[core\n")


def _with_broken_packs(mirror: Path) -> None:
    for pack in (mirror / "objects/pack").iterdir():
        pack.chmod(0o600)
        pack.write_bytes(b"\0" * pack.stat().st_size)


def _with_missing_packs(mirror: Path) -> None:
    shutil.rmtree(mirror / "objects/pack")


@pytest.mark.parametrize(
    "harm",
    [_without_head, _with_a_broken_config, _with_broken_packs, _with_missing_packs],
    ids=lambda harm: harm.__name__,
)
def test_a_mirror_in_the_cache_that_is_broken(
    tmp_path: Path, repository: Repository, harm: Callable[[Path], None]
) -> None:
    assert from_files(tmp_path, repository).execute()["exit_code"] == 0
    [mirror] = tmp_path.glob("vcs-cache/*.git")
    harm(mirror)
    run = from_files(tmp_path, repository, attempt=2)
    assert run.execute()["exit_code"] == 0, run.notices()
    assert run.output() == ["ran"]


def test_a_mirror_whose_data_is_broken_is_the_hosts_failure_and_not_used_again(
    tmp_path: Path, repository: Repository
) -> None:
    commit = repository.git("rev-parse", "HEAD")
    assert from_files(tmp_path, repository).execute()["exit_code"] == 0
    for pack in tmp_path.glob("vcs-cache/*.git/objects/pack/*.pack"):
        content = pack.read_bytes()
        pack.chmod(0o600)
        middle = len(content) // 2
        pack.write_bytes(content[:middle] + bytes(1000) + content[middle + 1000 :])
    assert end_of(from_files(tmp_path, repository, 2, version_num=commit))["infrastructure"] is True
    again = from_files(tmp_path, repository, 3, version_num=commit)
    assert again.execute()["exit_code"] == 0, again.notices()


# --- packages


class Index:
    """Settings for uv and pip to ask one index, soon tired of waiting."""

    def __init__(self, port: int, state: Path) -> None:
        url = f"http://me:{SECRET}@127.0.0.1:{port}/simple"
        self.environ = {
            "PIP_INDEX_URL": url,
            "UV_INDEX_URL": url,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_RETRIES": "0",
            "PIP_TIMEOUT": "1",
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_FIND_LINKS": "",
            "UV_HTTP_RETRIES": "0",
            "UV_HTTP_TIMEOUT": "1",
            "UV_CACHE_DIR": str(state / "uv-cache"),
            "XDG_CONFIG_HOME": str(state / "no-config"),
        }


INDEXES: dict[str, tuple[Server, bool, str]] = {
    "away": (nobody, True, "its server cannot be reached"),
    "hangs": (hanging, True, "its server does not answer in time"),
    "closes": (lambda: answering(CLOSED), True, "the connection to its server broke off"),
    "500": (lambda: answering(500), True, "its server is in trouble"),
    "503": (lambda: answering(503), True, "its server is in trouble"),
    "401": (lambda: answering(401), False, "refuses our credentials"),
    "403": (lambda: answering(403), False, "refuses our credentials"),
    "no such package": (lambda: answering(404), False, "no version of a package fits"),
}


@pytest.mark.parametrize("manager", ["uv", "pip"])
@pytest.mark.parametrize("how", INDEXES)
def test_a_package_index(how: str, manager: str, tmp_path: Path) -> None:
    server, infrastructure, words = INDEXES[how]
    settings = settings_in(tmp_path, package_manager={"type": manager, "pip_version": ()})
    with server() as port:
        # a name full of words that would tell trouble, were they not a name
        run = make_run(tmp_path, literal(NOTHING, requirements=["tls-proxy-certificate"]), settings=settings)
        outcome = end_of(run, **Index(port, tmp_path).environ)
    assert words in outcome["told"], run.notices()
    assert (outcome["phase"], outcome["infrastructure"]) == ("environment", infrastructure)


@pytest.mark.parametrize("manager", ["uv", "pip"])
def test_a_package_whose_build_fails_with_words_of_trouble(manager: str, tmp_path: Path) -> None:
    backend = "raise SystemExit('connection refused, timed out by the tls proxy: permission denied')\n"
    project = "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
    repository = make_repository(
        tmp_path / "git/x.git", {"main.py": "", "pyproject.toml": project, "backend.py": backend}
    )
    settings = settings_in(tmp_path, package_manager={"type": manager, "pip_version": ()})
    script = {"repository": str(repository.folder), "branch": "main", "entry_point": "main.py"}
    run = make_run(tmp_path, {**script, "requirements": {"pip": "."}}, settings=settings)
    with answering(404) as port:
        outcome = end_of(run, **Index(port, tmp_path).environ)
    assert outcome["infrastructure"] is False
    assert "a package could not be built" in outcome["told"]


def test_a_python_that_is_not_there_is_replaced_and_that_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path, literal("print('ran')\n", binary="python3.99"))
    assert run.execute()["exit_code"] == 0
    assert "Python 3.99 was asked for" in run.notices("w")


def test_an_interpreter_of_the_configuration_that_is_not_there(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, python_binary="/nowhere/python")
    outcome = end_of(make_run(tmp_path, literal(NOTHING), settings=settings))
    assert outcome["infrastructure"] is True


# --- the host


@needs_root
def test_no_space_for_the_workspace(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "git/x.git", {"main.py": "", "large.bin": os.urandom(3_000_000)})
    with small_disk(tmp_path / "disk", "2m") as disk:
        settings = settings_in(
            disk, vcs_cache={"path": str(tmp_path / "vcs")}, venvs_cache={"path": str(tmp_path / "v")}
        )
        script = {"repository": str(repository.folder), "branch": "main", "entry_point": "main.py"}
        outcome = end_of(make_run(disk, script, settings=settings))
    assert (outcome["phase"], outcome["infrastructure"]) == ("checkout", True)
    assert "the disk is full" in outcome["told"]


@needs_root
def test_no_space_for_the_cache_of_repositories(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "git/x.git", {"main.py": "", "large.bin": os.urandom(3_000_000)})
    with small_disk(tmp_path / "disk", "1m") as disk:
        settings = settings_in(tmp_path, vcs_cache={"path": str(disk)})
        script = {"repository": str(repository.folder), "branch": "main", "entry_point": "main.py"}
        outcome = end_of(make_run(tmp_path, script, settings=settings))
    assert outcome["infrastructure"] is True
    assert "the disk is full" in outcome["told"]


@needs_root
@pytest.mark.parametrize("manager", ["uv", "pip"])
def test_no_space_for_the_cache_of_environments(manager: str, tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels", "heavy", files={"heavy.py": "#" + os.urandom(2_000_000).hex()})
    with small_disk(tmp_path / "disk", "2m") as disk:
        settings = settings_in(
            tmp_path, package_manager={"type": manager, "pip_version": ()}, venvs_cache={"path": str(disk / "v")}
        )
        run = make_run(tmp_path, literal(NOTHING, requirements=["heavy"]), settings=settings)
        with answering(404) as port:
            environ = Index(port, tmp_path).environ | {"PIP_FIND_LINKS": str(tmp_path / "wheels")}
            outcome = end_of(run, **environ | {"UV_FIND_LINKS": str(tmp_path / "wheels"), "PIP_NO_CACHE_DIR": "1"})
    assert outcome["infrastructure"] is True
    assert "the disk is full" in outcome["told"]


@needs_root
def test_a_disk_that_the_task_itself_has_filled_keeps_nobody_from_hearing_its_end(tmp_path: Path) -> None:
    code = "import os, sys\ntry:\n    open('x', 'wb').write(bytes(9_000_000))\nexcept OSError:\n    sys.exit(9)\n"
    with small_disk(tmp_path / "disk", "2m") as disk:
        settings = settings_in(disk, venvs_cache={"path": str(tmp_path / "v")})
        run = make_run(disk, literal(code), settings=settings)
        run.execute()
        assert run.outcome()["exit_code"] == 9


@needs_root
def test_a_state_folder_that_may_not_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(folder)], check=True)
    try:
        settings = settings_in(tmp_path, vcs_cache={"path": str(folder / "vcs")})
        with nobody() as port:
            outcome = end_of(git_task(tmp_path, port, settings=settings))
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert outcome["infrastructure"] is True
    assert "the disk cannot be written or read" in outcome["told"]


def test_a_cache_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = settings_in(tmp_path, vcs_cache={"path": str(tmp_path / "file/vcs")})
    with nobody() as port:
        outcome = end_of(git_task(tmp_path, port, settings=settings))
    assert outcome["infrastructure"] is True
    assert str(tmp_path / "file/vcs") in outcome["told"]


def test_a_program_that_cannot_be_started_is_the_tasks_failure_and_not_a_success(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "runner"
    program.write_text("#!/nowhere/shell\n")
    program.chmod(0o755)
    run = make_run(tmp_path, {"binary": "runner", "entry_point": "x.rb", "diff": "puts 1\n"})
    outcome = end_of(run, PATH=f"{folder}:{os.environ['PATH']}")
    assert (outcome["phase"], outcome["infrastructure"]) == ("run", False)
