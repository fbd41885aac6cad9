"""Which installer is used is decided once, and a refusal says why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.config import defaults
from agent.config.schema import AgentSettings
from agent.errors import SetupFailed
from agent.packages import pick
from agent.packages.base import Host
from agent.process.run import Commands
from agent.process.stop import StopSignal


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with StopSignal() as stop:
        commands = Commands(environ={"PATH": "/usr/bin:/bin"}, cwd=str(tmp_path), stop=stop)
        yield Host(commands=commands, facts=str(tmp_path / "facts"), scratch=str(tmp_path))


def settings(**package_manager: Any) -> AgentSettings:
    base = defaults({}).agent
    return replace(base, package_manager=replace(base.package_manager, **package_manager))


def test_the_first_that_works_is_taken(host: Host) -> None:
    assert pick("uv|pip", settings(), host).name == "uv"
    assert pick("pip", settings(), host).name == "pip"
    assert pick("uv|pip", settings(uv_binary="/nowhere/uv"), host).name == "pip"


def test_a_refusal_names_the_reason(host: Host) -> None:
    with pytest.raises(SetupFailed, match=r"uv: there is no program uv") as refused:
        pick("uv", settings(uv_binary="/nowhere/uv"), host)
    assert refused.value.infrastructure


@pytest.mark.parametrize("name", ["conda", "poetry"])
def test_known_installers_that_are_not_here_say_so(host: Host, name: str) -> None:
    with pytest.raises(SetupFailed, match=f"package manager {name} is asked for"):
        pick(name, settings(), host)


def test_an_unknown_name_lists_the_known_ones(host: Host) -> None:
    with pytest.raises(SetupFailed, match="uv, pip"):
        pick("yarn", settings(), host)
