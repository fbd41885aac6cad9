"""Where a repository can be fetched from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.config import defaults
from agent.config.schema import AgentSettings, GitCredential
from agent.errors import SetupFailed
from agent.executor import remotes
from agent.executor.remotes import Credential, candidates, credentials_for, parse


def agent(**changes: Any) -> AgentSettings:
    return replace(defaults({}).agent, **changes)


def roads(url: str, **changes: Any) -> list[str]:
    settings = agent(**changes)
    remote, embedded = parse(url)
    return [road.remote.url for road in candidates(remote, credentials_for(embedded, settings), settings)]


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example.com/ml/net.git",
        "http://git.example.com:8080/ml/net",
        "ssh://git@git.example.com:2222/ml/net.git",
        "ssh://git.example.com/ml/net.git",
        "git@git.example.com:ml/net.git",
        "git.example.com:ml/net.git",
        "git@git.example.com:2222/ml/net.git",
        "https://[::1]:8443/ml/net",
        "/srv/git/net.git",
    ],
)
def test_every_form_survives_parsing(url: str) -> None:
    assert parse(url)[0].url == url


@pytest.mark.parametrize(
    "url",
    [
        "--upload-pack=touch x",
        "-x",
        "ext::sh -c touch% x",
        "git://host/x",
        "ftp://host/x",
        "https:///x",
        "https://host",
        "https://-oProxyCommand=x/y",
        "ssh://-oProxyCommand=x/y",
        "ssh://-l@host/y",
        "-oProxyCommand=x:y",
        "host:-x",
        "fd::17",
        "https://host/x\ny",
        "relative/path",
        "",
    ],
)
def test_what_git_could_misunderstand_is_refused(url: str) -> None:
    with pytest.raises(SetupFailed):
        parse(url)


def test_a_password_in_the_url_becomes_a_credential() -> None:
    remote, credential = parse("https://me:s%40cret@git.example.com/ml/net.git")
    assert remote.url == "https://git.example.com/ml/net.git"
    assert credential == Credential(user="me", password="s@cret", host="git.example.com")


def test_a_refusal_does_not_show_the_password() -> None:
    with pytest.raises(SetupFailed) as refused:
        parse("ftp://me:secret@host/x")
    assert "secret" not in str(refused.value)


def test_file_urls_are_paths() -> None:
    assert parse("file:///srv/my%20repo")[0].url == "/srv/my repo"


def test_the_recorded_url_is_tried_first() -> None:
    assert roads("git@github.com:ml/net.git", git_user="u", git_pass="p") == [
        "git@github.com:ml/net.git",
        "https://github.com/ml/net.git",
    ]


def test_ssh_is_not_translated_without_credentials_for_the_host() -> None:
    assert roads("git@github.com:ml/net.git", git_user="u", git_pass="p", git_host="gitlab.com") == [
        "git@github.com:ml/net.git"
    ]
    assert roads("git@github.com:ml/net.git") == ["git@github.com:ml/net.git"]
    assert roads("git@github.com:ml/net.git", git_user="u", git_pass="p", translate_ssh=False) == [
        "git@github.com:ml/net.git"
    ]


def test_a_port_of_ssh_is_not_taken_along_to_https() -> None:
    assert roads("ssh://git@host:2222/ml/net.git", git_user="u", git_pass="p")[-1] == "https://host/ml/net.git"


def test_a_number_in_a_short_form_may_be_a_path_or_a_port() -> None:
    assert roads("git@host:2222/ml/net.git", git_user="u", git_pass="p") == [
        "git@host:2222/ml/net.git",
        "ssh://git@host:2222/ml/net.git",
        "https://host/ml/net.git",
    ]


def test_forcing_ssh_rewrites_https_and_keeps_the_recorded_url_as_a_second_try() -> None:
    assert roads("https://host:8443/ml/net.git", force_git_ssh_protocol=True) == [
        "ssh://git@host/ml/net.git",
        "https://host:8443/ml/net.git",
    ]
    assert roads("https://host/x", force_git_ssh_protocol=True, force_git_ssh_port=2222, force_git_ssh_user="me") == [
        "ssh://me@host:2222/x",
        "https://host/x",
    ]
    assert roads("https://host/x", force_git_ssh_protocol=True, git_host="other") == ["https://host/x"]


def test_special_credentials_come_before_the_general_pair() -> None:
    settings = agent(
        git_user="u", git_pass="p", extra_git_credentials=(GitCredential(host="a.com", user="x", password="y"),)
    )
    assert [each.user for each in credentials_for(None, settings)] == ["x", "u"]
    embedded = Credential(user="me", password="secret", host="a.com")
    assert [each.user for each in credentials_for(embedded, settings)] == ["me", "x", "u"]


def test_a_user_name_alone_does_not_push_a_configured_password_aside() -> None:
    settings = agent(git_user="u", git_pass="p")
    assert [each.user for each in credentials_for(Credential(user="me", password="", host="h"), settings)] == [
        "u",
        "me",
    ]


def test_submodules_take_the_road_that_worked() -> None:
    recorded, used = parse("git@host:ml/net.git")[0], parse("https://host/ml/net.git")[0]
    assert remotes.instead_of(recorded, used) == (
        ("url.https://host/.insteadOf", "ssh://git@host/"),
        ("url.https://host/.insteadOf", "git@host:"),
    )
    assert remotes.instead_of(recorded, recorded) == ()


def test_requirements_from_git_take_the_configured_road() -> None:
    settings = agent(git_user="u", git_pass="p")
    urls = ["ssh://git@host/ml/net.git@main", "https://other/x.git", ""]
    assert remotes.rewritings(urls, credentials_for(None, settings), settings) == (
        ("url.https://host/.insteadOf", "ssh://git@host/"),
        ("url.https://host/.insteadOf", "git@host:"),
    )
    forced = agent(force_git_ssh_protocol=True)
    assert remotes.rewritings(["https://other/x.git"], (), forced) == (
        ("url.ssh://git@other/.insteadOf", "https://other/"),
    )
