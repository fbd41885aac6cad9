"""Settings as values: there and back through JSON, what a task gets to see, what must not be seen."""

from __future__ import annotations

import json

import pytest

from agent.config import defaults, hocon
from agent.config.loading import Layer, settings_from
from agent.config.schema import Settings, sdk_config, secrets_of
from agent.errors import ConfigError

TEXT = """
api { api_server: "https://api.example.com", credentials { access_key: KEY, secret_key: "api-secret" }
      http { max_req_size: 1000 } }
agent { git_user: me, git_pass: "git-secret", git.extra_credentials: [{ host: h, user: u, pass: "extra-secret" }] }
sdk { aws.s3 { key: "AKIA", secret: "aws-secret" }, azure.storage.containers: [{ account_key: "azure-secret" }] }
logging { level: 1 }
environment { DB_PASSWORD: "db-secret", PATH_LIKE: "/visible", PIN: 1234, USE_TOKEN: true }
files { a { path: "/x", contents: ["one", "two"], target_format: json } }
"""


@pytest.fixture
def settings() -> Settings:
    return settings_from((Layer("test.conf", hocon.parse(TEXT, source="test.conf")),), {"HOME": "/home/me"})


def test_settings_survive_json(settings: Settings) -> None:
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_defaults_survive_json() -> None:
    assert Settings.from_json(json.loads(json.dumps(defaults().to_json()))) == defaults()


def test_missing_field_is_a_configuration_error(settings: Settings) -> None:
    data = settings.to_json()
    del data["agent"]["vcs_cache"]["path"]
    with pytest.raises(ConfigError, match="lacks path of VcsCacheSettings"):
        Settings.from_json(data)


def test_task_gets_api_sdk_and_logging_and_no_git_credentials(settings: Settings) -> None:
    config = sdk_config(settings)
    assert set(config) == {"api", "sdk", "logging"}
    assert config["api"]["credentials"] == {"access_key": "KEY", "secret_key": "api-secret"}
    assert config["api"]["web_server"] == "https://app.example.com"
    assert config["api"]["http"] == {"max_req_size": 1000}
    assert config["sdk"] == settings.tree["sdk"]
    assert "git-secret" not in json.dumps(config)
    assert "extra-secret" not in json.dumps(config)


def test_task_configuration_means_the_same_to_the_parser_of_the_sdk(settings: Settings) -> None:
    text = json.dumps(sdk_config(settings), ensure_ascii=False)
    assert hocon.read_with_pyhocon(text, source="test") == sdk_config(settings)


def test_task_configuration_holds_no_default_of_ours_and_no_empty_address() -> None:
    api = sdk_config(defaults({"CLEARML_API_HOST": "http://127.0.0.1:5000"}))["api"]
    assert set(api) == {"api_server", "web_server", "verify_certificate", "credentials"}
    assert api["web_server"] == "http://127.0.0.1:5000"


def test_every_secret_is_known_to_the_redactor(settings: Settings) -> None:
    assert set(secrets_of(settings)) == {
        "api-secret",
        "git-secret",
        "extra-secret",
        "aws-secret",
        "azure-secret",
        "db-secret",
    }


def test_secrets_come_longest_first_so_that_no_part_of_one_is_left(settings: Settings) -> None:
    lengths = [len(secret) for secret in secrets_of(settings)]
    assert lengths == sorted(lengths, reverse=True)


def test_secrets_are_not_in_the_representation(settings: Settings) -> None:
    assert [secret for secret in secrets_of(settings) if secret in repr(settings)] == []
