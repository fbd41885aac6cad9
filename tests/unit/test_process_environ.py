"""Environments of the task's process, composed as values."""

from __future__ import annotations

from typing import Any

import pytest

from agent.process import environ


def composed(**changes: Any) -> dict[str, str]:
    given: dict[str, Any] = {
        "configured": {},
        "section": {},
        "given": {},
        "identity": {"CLEARML_TASK_ID": "t"},
        "python_path": (),
        "env_root": "/run/env",
    }
    base = changes.pop("base", {"PATH": "/usr/bin", "HOME": "/home/x", "LANG": "en_US.UTF-8"})
    return environ.for_task(base, **(given | changes))


@pytest.mark.parametrize(
    "name",
    [
        "CLEARML_AGENT_GIT_USER",
        "CLEARML_AGENT_GIT_PASS",
        "TRAINS_AGENT_GIT_PASS",
        "CLEARML_API_SECRET_KEY",
        "CLEARML_API_ACCESS_KEY",
        "CLEARML_AGENT__AGENT__GIT_PASS",
        "NOTIFY_SOCKET",
        "SUPERVISOR_SERVER_URL",
        "CREDENTIALS_DIRECTORY",
        "VIRTUAL_ENV",
        "PYTHONHOME",
        "PYTHONPATH",
        "UV_PYTHON_DOWNLOADS",
    ],
)
def test_what_is_the_agents_own_reaches_no_child(name: str) -> None:
    assert environ.inherited({name: "x", "HOME": "/h"}, agent_bin=None) == {"HOME": "/h"}


def test_the_agents_programs_leave_the_path() -> None:
    kept = environ.inherited({"PATH": "/opt/agent/bin:/usr/bin:/opt/agent/bin/"}, agent_bin="/opt/agent/bin")
    assert kept["PATH"] == "/usr/bin"


def test_an_agent_in_no_environment_keeps_the_path() -> None:
    assert environ.inherited({"PATH": "/usr/bin"}, agent_bin=None)["PATH"] == "/usr/bin"


def test_git_commands_do_not_inherit_somebody_elses_repository() -> None:
    assert environ.for_commands({"GIT_DIR": "/x", "GIT_SSH_COMMAND": "ssh"}, {"HTTPS_PROXY": "p"}) == {
        "GIT_SSH_COMMAND": "ssh",
        "HTTPS_PROXY": "p",
    }


def test_layers_are_laid_in_the_order_of_trust() -> None:
    result = composed(
        base={"A": "host", "B": "host", "C": "host", "D": "host", "CLEARML_TASK_ID": "host"},
        configured={"B": "configured", "C": "configured", "D": "configured"},
        section={"C": "task", "D": "task", "CLEARML_TASK_ID": "task"},
        given={"D": "agent"},
    )
    assert [result[name] for name in "ABCD"] == ["host", "configured", "task", "agent"]
    assert result["CLEARML_TASK_ID"] == "t"


def test_a_task_cannot_give_itself_another_gpu() -> None:
    result = composed(section={"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, given={"CUDA_VISIBLE_DEVICES": "2"})
    assert result["CUDA_VISIBLE_DEVICES"] == "2"
    assert result["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_identity_has_its_old_twin() -> None:
    assert composed()["TRAINS_TASK_ID"] == "t"


def test_the_environments_programs_come_first() -> None:
    result = composed()
    assert result["PATH"] == "/run/env/bin:/usr/bin"
    assert result["VIRTUAL_ENV"] == "/run/env"


def test_python_finds_the_scripts_folders_and_what_the_operator_adds() -> None:
    result = composed(configured={"PYTHONPATH": "/site"}, python_path=("/code/src", "/code"))
    assert result["PYTHONPATH"] == "/code/src:/code:/site"


def test_output_is_utf8_even_where_the_locale_is_not() -> None:
    assert composed(base={"LANG": "C"})["PYTHONIOENCODING"] == "utf-8"
    assert "PYTHONIOENCODING" not in composed()


def test_the_environment_section_of_a_task() -> None:
    section = {
        "HF_HOME": {"section": "Environment", "name": "HF_HOME", "value": "/cache"},
        "N": {"value": 3},
        "a=b": {"value": "x"},
        "NONE": {"value": None},
    }
    assert environ.task_section({"Environment": section}) == {"HF_HOME": "/cache", "N": "3"}
    assert environ.task_section({}) == {}
