"""Layers, variables, and what is said about files that are wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config import defaults, load
from agent.config.schema import Settings
from agent.errors import ConfigError

SERVER = 'api { api_server: "http://localhost:8008", credentials { access_key: A, secret_key: "s3cret" } }\n'

Load = Callable[..., Settings]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def load_at_home(home: Path) -> Load:
    def read(*, path: str | None = None, needs_server: bool = True, **env: str) -> Settings:
        return load(path, {"HOME": str(home), **env}, needs_server=needs_server)

    return read


def write(file: Path, text: str, mode: int = 0o600) -> Path:
    file.write_text(text)
    file.chmod(mode)
    return file


def test_both_files_at_home_are_read_and_the_newer_name_wins(home: Path, load_at_home: Load) -> None:
    write(home / "trains.conf", SERVER + "agent { worker_name: old, git_user: me }")
    write(home / "clearml.conf", "agent.worker_name: new")
    settings = load_at_home()
    assert (settings.agent.worker_name, settings.agent.git_user) == ("new", "me")
    assert settings.sources == (str(home / "trains.conf"), str(home / "clearml.conf"))


@pytest.mark.parametrize("how", ["option", "CLEARML_CONFIG_FILE", "TRAINS_CONFIG_FILE"])
def test_named_file_is_the_only_one_read(how: str, home: Path, load_at_home: Load) -> None:
    write(home / "clearml.conf", "agent.git_user: somebody")
    file = write(home / "other.conf", SERVER)
    settings = load_at_home(path=str(file)) if how == "option" else load_at_home(**{how: str(file)})
    assert settings.agent.git_user == ""
    assert settings.sources == (str(file),)


def test_option_is_stronger_than_variable(home: Path, load_at_home: Load) -> None:
    file = write(home / "a.conf", SERVER)
    assert load_at_home(path=str(file), CLEARML_CONFIG_FILE="/nowhere.conf").sources == (str(file),)


def test_folder_of_sections_is_below_the_files(home: Path, load_at_home: Load) -> None:
    (home / "conf" / "agent").mkdir(parents=True)
    write(home / "conf" / "agent.conf", "git_user: folder, git_host: folder.example.com")
    write(home / "conf" / "agent" / "vcs_cache.conf", "enabled: no")
    write(home / "clearml.conf", SERVER + "agent.git_user: file")
    settings = load_at_home(CLEARML_CONFIG_PATH=str(home / "conf"))
    assert (settings.agent.git_user, settings.agent.git_host) == ("file", "folder.example.com")
    assert not settings.agent.vcs_cache.enabled


def test_dynamic_variables_set_any_section_and_hold_hocon(load_at_home: Load, home: Path) -> None:
    write(home / "clearml.conf", SERVER)
    settings = load_at_home(
        CLEARML_AGENT__AGENT__VENVS_CACHE__MAX_ENTRIES="20",
        CLEARML_AGENT__AGENT__PACKAGE_MANAGER__EXTRA_INDEX_URL="[one, two]",
        CLEARML_AGENT__SDK__AWS="{ s3 { region: eu } }",
        CLEARML_AGENT__AGENT__GIT_USER="",
    )
    assert settings.agent.venvs_cache.max_entries == 20
    assert settings.agent.package_manager.extra_index_url == ("one", "two")
    assert settings.tree["sdk"] == {"aws": {"s3": {"region": "eu"}}}


def test_fixed_variables_are_the_strongest_and_the_first_name_wins(home: Path, load_at_home: Load) -> None:
    write(home / "clearml.conf", SERVER)
    settings = load_at_home(
        CLEARML_AGENT__AGENT__WORKER_ID="dynamic", CLEARML_WORKER_ID="fixed", TRAINS_WORKER_ID="old"
    )
    assert settings.agent.worker_id == "fixed"


@pytest.mark.parametrize("name", ["CLEARML_CPU_ONLY", "TRAINS_CPU_ONLY", "CPU_ONLY"])
@pytest.mark.parametrize(("text", "value"), [("1", True), ("Yes", True), ("off", False), ("", False)])
def test_cpu_only_is_read_from_its_variables(name: str, text: str, value: bool) -> None:
    assert defaults({name: text}).agent.cpu_only is value


def test_polling_has_a_floor_in_files_and_none_in_its_variable(
    home: Path, load_at_home: Load, caplog: pytest.LogCaptureFixture
) -> None:
    write(home / "clearml.conf", SERVER + "agent.polling_interval_sec: 1")
    assert load_at_home().agent.polling_interval_seconds == 5
    assert "polling_interval_sec is raised to 5" in caplog.text
    assert load_at_home(CLEARML_AGENT_QUEUE_POLL_FREQ_SEC="0.5").agent.polling_interval_seconds == 0.5


def test_state_directory_is_the_first_one_systemd_names(load_at_home: Load, home: Path) -> None:
    write(home / "clearml.conf", SERVER + "agent.state_dir: ~/here")
    assert load_at_home().agent.state_dir == str(home / "here")
    assert load_at_home(STATE_DIRECTORY="/var/lib/a:/var/lib/b").agent.state_dir == "/var/lib/a"


def test_paths_know_home_and_variables(home: Path) -> None:
    env = {"HOME": str(home), "DISK": "/disk", "CLEARML_AGENT_VENV_CACHE_PATH": "$DISK/${NAME}/x", "NAME": "n"}
    assert defaults(env).agent.venvs_cache.path == "/disk/n/x"
    assert defaults(env).agent.vcs_cache.path == str(home / ".clearml/vcs-cache")


def test_empty_cache_path_stays_empty(home: Path, load_at_home: Load) -> None:
    write(home / "clearml.conf", SERVER + 'agent.venvs_cache.path: ""')
    assert load_at_home().agent.venvs_cache.path == ""


@pytest.mark.parametrize(
    ("text", "web", "files"),
    [
        ("http://localhost:8008", "http://localhost:8080", "http://localhost:8081"),
        ("https://api.example.com/", "https://app.example.com", "https://files.example.com"),
        ("https://demoapi.example.com", "https://demoapp.example.com", "https://demofiles.example.com"),
        ("https://one.example.com", "", ""),
    ],
)
def test_other_servers_are_derived_from_the_api_server(text: str, web: str, files: str) -> None:
    api = defaults({"CLEARML_API_HOST": text}).api
    assert (api.api_server, api.web_server, api.files_server) == (text.rstrip("/"), web, files)


def test_old_name_of_the_api_server_is_understood(home: Path, load_at_home: Load) -> None:
    write(home / "clearml.conf", 'api { host: "http://h:8008", credentials { access_key: a, secret_key: b } }')
    assert load_at_home().api.api_server == "http://h:8008"


def test_storage_variables_go_to_the_sdk(home: Path, load_at_home: Load) -> None:
    write(home / "clearml.conf", SERVER + "sdk.azure.storage.containers: [{ account_name: first }]")
    sdk = load_at_home(
        AWS_ACCESS_KEY_ID="id", AWS_SECRET_ACCESS_KEY="secret", AZURE_STORAGE_ACCOUNT="acc", AZURE_STORAGE_KEY="key"
    ).tree["sdk"]
    assert sdk["aws"]["s3"] == {"key": "id", "secret": "secret"}
    assert [entry["account_name"] for entry in sdk["azure"]["storage"]["containers"]] == ["first", "acc"]


def test_environment_section_holds_texts(home: Path, load_at_home: Load) -> None:
    write(home / "clearml.conf", SERVER + "environment { A: 1, B: true, C: text, D: null }")
    assert load_at_home().environment == {"A": "1", "B": "true", "C": "text", "D": ""}


def test_files_section_is_read_with_octal_mode(home: Path, load_at_home: Load) -> None:
    write(home / "clearml.conf", SERVER + 'files { key { path: "~/k", contents: x, mode: "0o640", overwrite: false } }')
    (entry,) = load_at_home().files
    assert (entry.name, entry.path, entry.mode, entry.overwrite) == ("key", str(home / "k"), 0o640, False)


def test_missing_configuration_names_the_places(home: Path, load_at_home: Load) -> None:
    with pytest.raises(ConfigError) as raised:
        load_at_home()
    assert str(home / "clearml.conf") in raised.value.message
    assert "CLEARML_API_HOST" in raised.value.message
    assert "clearml-agent init" in raised.value.hint
    assert raised.value.exit_code == 3


def test_there_are_no_built_in_server_and_credentials(load_at_home: Load) -> None:
    settings = load_at_home(needs_server=False)
    assert (settings.api.api_server, settings.api.access_key, settings.api.secret_key) == ("", "", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agent.git_user: x", "api.api_server is not set in"),
        ('api.api_server: "http://h"', "no credentials for http://h"),
    ],
)
def test_incomplete_configuration_says_what_is_missing(text: str, message: str, home: Path, load_at_home: Load) -> None:
    write(home / "clearml.conf", text)
    with pytest.raises(ConfigError, match=message):
        load_at_home()


def test_token_is_enough(load_at_home: Load) -> None:
    assert load_at_home(CLEARML_API_HOST="http://h", CLEARML_AUTH_TOKEN="t").api.auth_token == "t"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agent.venvs_cache.max_entries: many", "agent.venvs_cache.max_entries is 'many', expected a whole number"),
        ("agent.vcs_cache.enabled: perhaps", "agent.vcs_cache.enabled is 'perhaps', expected true or false"),
        ("agent.stop_grace_sec: -1", "agent.stop_grace_sec is -1, expected a number, zero or more"),
        ("agent.package_manager.type: npm", "is 'npm', expected uv or pip or conda or poetry"),
        ("agent.package_manager.post_packages { a: 1 }", "expected a list of texts"),
        ("agent.git.extra_credentials: [x]", "expected a list of objects with host, user and pass"),
        ("agent.git_pass: [1]", r"agent.git_pass is \*\*\*, expected a text"),
        ("agent: 5", "agent is 5, expected a section"),
        ("agent.vcs_cache: false", "agent.vcs_cache is False, expected a section"),
        ("environment { A { B: 1 } }", "environment.A is not a single value"),
        ("files { a { contents: x } }", "files.a has no path"),
        ('files { a { path: x, mode: "rw" } }', "files.a.mode is 'rw', expected octal"),
        ("api { ", "line 2"),
    ],
)
def test_wrong_value_names_file_key_and_expectation(text: str, message: str, home: Path, load_at_home: Load) -> None:
    file = write(home / "clearml.conf", SERVER + text)
    with pytest.raises(ConfigError, match=message) as raised:
        load_at_home()
    assert raised.value.message.startswith(str(file))


def test_wrong_variable_is_named(load_at_home: Load) -> None:
    with pytest.raises(ConfigError, match=r"^CLEARML_CPU_ONLY: agent\.cpu_only is 'maybe', expected true or false"):
        load_at_home(CLEARML_CPU_ONLY="maybe")


def test_unreadable_files_are_named(home: Path, load_at_home: Load) -> None:
    with pytest.raises(ConfigError, match=r"/nowhere/x\.conf: no such file"):
        load_at_home(path="/nowhere/x.conf")
    (home / "clearml.conf").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match=r"clearml\.conf: not UTF-8 text \(byte 3\)"):
        load_at_home()


def test_unknown_key_is_a_warning_with_a_guess_and_stays_in_the_tree(
    home: Path, load_at_home: Load, caplog: pytest.LogCaptureFixture
) -> None:
    write(home / "clearml.conf", SERVER + "agent { vcs_cach { enabled: true }, venvs_cache.maxentries: 1 }\nagnt { }")
    settings = load_at_home()
    assert "agent.vcs_cach is not a key the agent knows; did you mean vcs_cache?" in caplog.text
    assert "agent.venvs_cache.maxentries is not a key the agent knows; did you mean max_entries?" in caplog.text
    assert "agnt is not a key the agent knows; did you mean agent?" in caplog.text
    assert settings.tree["agent"]["vcs_cach"] == {"enabled": True}


def test_free_sections_have_no_unknown_keys(home: Path, load_at_home: Load, caplog: pytest.LogCaptureFixture) -> None:
    write(home / "clearml.conf", SERVER + "sdk { a { b: 1 } }\nlogging { x: 1 }\nagent.snug { y: 1 }")
    load_at_home()
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("mode", "text", "warnings"), [(0o644, SERVER, 1), (0o640, SERVER, 0), (0o644, "api.api_server: x", 0)]
)
def test_secrets_that_everybody_may_read_are_one_warning(
    mode: int, text: str, warnings: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "clearml.conf", text, mode)
    load(str(file), {}, needs_server=False)
    assert caplog.text.count(f"chmod 600 {file}") == warnings
    assert "s3cret" not in caplog.text


def test_reading_a_plain_file_needs_no_full_parser(
    home: Path, load_at_home: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home / "clearml.conf", SERVER)
    monkeypatch.setitem(__import__("sys").modules, "pyhocon", None)
    assert load_at_home().api.access_key == "A"


def test_nothing_is_logged_for_the_defaults(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        defaults()
    assert caplog.text == ""
