"""`init`: nothing secret is shown, nothing wrong is written, nothing existing is touched."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.cli import environment, run_cli, stub_server
from support.http_stub import http_stub

from agent.cli.init import Answers, configuration_text, read_pasted, with_derived_hosts
from agent.config import load
from agent.errors import ConfigError


def pasted(url: str, secret: str = "the-secret") -> str:
    return f"""api {{
  # Somebody's workspace
  web_server: {url}/web
  api_server: {url}
  files_server: {url}/files
  credentials {{
    "access_key" = "KEY"
    "secret_key" = "{secret}"
  }}
}}
"""


def test_pasted_credentials_make_a_private_file_that_loads(tmp_path: Path) -> None:
    with http_stub(stub_server()) as url:
        result = run_cli(tmp_path, "init", "--git-user", "me", text=pasted(url), CLEARML_AGENT_GIT_PASS="git-secret")
    assert (result.returncode, result.stdout) == (0, f"Wrote {tmp_path}/clearml.conf\n")
    file = tmp_path / "clearml.conf"
    assert file.stat().st_mode & 0o777 == 0o600
    settings = load(None, {"HOME": str(tmp_path)})
    assert (settings.api.api_server, settings.api.access_key, settings.api.secret_key) == (url, "KEY", "the-secret")
    assert (settings.agent.git_user, settings.agent.git_pass) == ("me", "git-secret")
    assert [path.name for path in tmp_path.iterdir()] == ["clearml.conf"]


def test_credentials_may_come_from_a_file_or_options_and_environment(tmp_path: Path) -> None:
    with http_stub(stub_server()) as url:
        (tmp_path / "page.txt").write_text(pasted(url))
        first = run_cli(tmp_path, "--config-file", f"{tmp_path}/a.conf", "init", "--from-file", f"{tmp_path}/page.txt")
        second = run_cli(
            tmp_path,
            "init",
            "--api-server",
            url,
            "--access-key",
            "KEY",
            CLEARML_CONFIG_FILE=f"{tmp_path}/b.conf",
            CLEARML_API_SECRET_KEY="the-secret",
        )
    assert (first.returncode, second.returncode) == (0, 0)
    for name in ("a.conf", "b.conf"):
        assert load(str(tmp_path / name), {}).api.secret_key == "the-secret"


def test_refused_credentials_are_not_written(tmp_path: Path) -> None:
    with http_stub(stub_server(secret="another")) as url:
        result = run_cli(tmp_path, "init", text=pasted(url))
    assert result.returncode == 5
    assert "the-secret" not in result.stdout + result.stderr
    assert list(tmp_path.iterdir()) == []


def test_login_can_be_left_out(tmp_path: Path) -> None:
    assert run_cli(tmp_path, "init", "--no-verify", text=pasted("http://127.0.0.1:9")).returncode == 0
    assert (tmp_path / "clearml.conf").exists()


@pytest.mark.parametrize("name", ["clearml.conf", "trains.conf"])
def test_existing_configuration_is_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("a: 1")
    result = run_cli(tmp_path, "init", text="api {}")
    assert result.returncode == 3
    assert f"{tmp_path}/{name} exists already" in result.stderr
    assert (tmp_path / name).read_text() == "a: 1"


def test_empty_file_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "clearml.conf").touch(mode=0o644)
    assert run_cli(tmp_path, "init", "--no-verify", text=pasted("http://h:8008")).returncode == 0
    assert (tmp_path / "clearml.conf").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "api_server and access_key and secret_key missing"),
        ("api { api_server: http://h }", "access_key and secret_key missing"),
        ("api {", "the pasted text, line"),
    ],
)
def test_incomplete_paste_says_what_is_missing(text: str, message: str, tmp_path: Path) -> None:
    result = run_cli(tmp_path, "init", text=text)
    assert result.returncode == 3
    assert message in result.stderr


def test_options_win_over_what_was_pasted() -> None:
    answers = read_pasted(pasted("http://pasted"), Answers(api_server="http://given"))
    assert (answers.api_server, answers.access_key) == ("http://given", "KEY")
    with pytest.raises(ConfigError, match="no section api"):
        read_pasted("api: 1", Answers())


def test_other_hosts_are_offered_by_convention() -> None:
    answers = with_derived_hosts(Answers(api_server="http://host:8008", files_server="http://own"))
    assert (answers.web_server, answers.files_server) == ("http://host:8080", "http://own")


def test_any_text_can_be_written(tmp_path: Path) -> None:
    secret = 'q"uo\\te $x ${y} # { ü'
    file = tmp_path / "c.conf"
    file.write_text(
        configuration_text(
            Answers(
                api_server="http://h:8008",
                access_key="a",
                secret_key=secret,
                git_user="u",
                git_pass=secret,
                output_uri="s3://b",
                extra_index_urls=("https://u:p@h/simple",),
            )
        )
    )
    settings = load(str(file), {})
    assert settings.api.secret_key == secret
    assert settings.agent.git_pass == secret
    assert settings.agent.package_manager.extra_index_url == ("https://u:p@h/simple",)
    assert settings.tree["sdk"] == {"development": {"default_output_uri": "s3://b"}}


class Terminal:
    """`clearml-agent init` on a terminal of its own: everything that the person would see is in `seen`."""

    def __init__(self, home: Path) -> None:
        self._master, slave = pty.openpty()
        command = [sys.executable, "-m", "agent.cli", "init"]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment(home), start_new_session=True
        )
        os.close(slave)
        self.seen = ""
        self._answered = 0

    def answer(self, question: str, text: str, *, seconds: float = 20) -> None:
        """Wait for the question, then type."""
        self._read_until(question, seconds)
        os.write(self._master, (text + "\n").encode())

    def expect(self, text: str, *, seconds: float = 20) -> None:
        self._read_until(text, seconds)

    def end(self, *, seconds: float = 20) -> int:
        self._read_until(None, seconds)
        return self.process.wait(seconds)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _read_until(self, text: str | None, seconds: float) -> None:
        """Read up to `text`, behind what was answered last; without `text`, all there is."""
        deadline = time.monotonic() + seconds
        while text is None or text not in self.seen[self._answered :]:
            assert time.monotonic() < deadline, self.seen
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    chunk = os.read(self._master, 4096)
                except OSError:  # the other side has closed its terminal
                    return
                if not chunk:
                    return
                self.seen += chunk.decode()
        self._answered = self.seen.index(text, self._answered) + len(text)


def test_person_who_mistypes_is_asked_again_and_no_secret_is_echoed(tmp_path: Path) -> None:
    with http_stub(stub_server()) as url, Terminal(tmp_path) as terminal:
        terminal.answer("one by one.", pasted(url, secret="wrong-secret"))
        for question in ("API server", "Web page", "File server"):
            terminal.answer(question, "")
        terminal.expect("That did not work")
        for question in ("API server", "Web page", "File server"):
            terminal.answer(question, "")
        terminal.answer("Access key", "KEY")
        terminal.answer("Secret key", "the-secret")
        terminal.answer("Git user", "me")
        terminal.answer("Default output URI", "")
        terminal.answer("Git password or token", "git-secret")
        terminal.answer("More package indexes", "https://u:url-secret@h/simple")
        assert terminal.end() == 0, terminal.seen
    assert "secret" not in terminal.seen
    settings = load(None, {"HOME": str(tmp_path)})
    assert (settings.api.secret_key, settings.agent.git_pass) == ("the-secret", "git-secret")
