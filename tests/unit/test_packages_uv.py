"""The commands and variables that uv and pip get."""

from __future__ import annotations

from agent.packages import pip, uv
from agent.packages.base import Plan
from agent.packages.faults import failure
from agent.process.run import CommandFailed


def test_no_url_is_in_the_argument_list_of_uv() -> None:
    plan = Plan(needed=("x",), extra_indexes=("https://me:secret@host/simple",), flags=("--pre",), upgrade=True)
    assert uv.install_command("/uv", "/env/bin/python", "r.txt", "c.txt", plan) == [
        "/uv", "pip", "install", "--python", "/env/bin/python", "--constraint", "c.txt", "--upgrade", "--pre",
        "--requirement", "r.txt",
    ]  # fmt: skip


def test_indexes_of_the_task_come_before_those_of_the_host() -> None:
    plan = Plan(extra_indexes=("https://task",), find_links=("/task",))
    mapped = {"UV_INDEX": "https://host", "UV_FIND_LINKS": "/host,/more", "UV_DEFAULT_INDEX": "https://default"}
    environ = uv.install_environ(plan, mapped, {}, best_match=False, may_link=True)
    assert environ["UV_INDEX"] == "https://task https://host"
    assert environ["UV_FIND_LINKS"] == "/task,/host,/more"
    assert environ["UV_DEFAULT_INDEX"] == "https://default"
    assert environ["UV_INDEX_STRATEGY"] == "unsafe-first-match"
    assert uv.install_environ(plan, mapped, {}, best_match=True, may_link=True)["UV_INDEX_STRATEGY"] == (
        "unsafe-best-match"
    )


def test_one_index_needs_no_strategy() -> None:
    assert "UV_INDEX_STRATEGY" not in uv.install_environ(Plan(), {}, {}, best_match=False, may_link=True)


def test_root_gets_copies_instead_of_links_into_the_cache() -> None:
    assert uv.install_environ(Plan(), {}, {}, best_match=False, may_link=False)["UV_LINK_MODE"] == "copy"
    assert uv.install_environ(Plan(), {}, {}, best_match=False, may_link=True)["UV_LINK_MODE"] == "hardlink"


def test_what_the_operator_told_uv_stays() -> None:
    host = {"UV_LINK_MODE": "symlink", "UV_INDEX_STRATEGY": "first-index", "UV_INDEX": "https://mine"}
    environ = uv.install_environ(Plan(extra_indexes=("https://task",)), {}, host, best_match=True, may_link=True)
    assert "UV_LINK_MODE" not in environ
    assert "UV_INDEX_STRATEGY" not in environ
    assert environ["UV_INDEX"] == "https://task https://mine"


def test_the_agents_environment_is_not_uvs() -> None:
    environ = uv.install_environ(Plan(), {}, {}, best_match=False, may_link=True)
    assert (environ["VIRTUAL_ENV"], environ["UV_PYTHON_DOWNLOADS"]) == ("", "never")


def test_the_argument_list_of_pip() -> None:
    assert pip.install_command("/env/bin/python", "r.txt", Plan(flags=("--no-deps",))) == [
        "/env/bin/python", "-m", "pip", "install", "--no-deps", "--requirement", "r.txt",
    ]  # fmt: skip


def failed(output: str, returncode: int | None = 1) -> bool:
    return failure(CommandFailed("uv", output=output, returncode=returncode), "cannot install").infrastructure


def test_whose_fault_a_failure_is() -> None:
    assert failed("error: Failed to fetch: `https://index/simple/six/`\n  dns error")
    assert failed("error: No space left on device (os error 28)")
    assert failed("", returncode=None)
    assert not failed("No solution found when resolving dependencies: there is no version of six==99")
    assert not failed("error: Failed to build `horovod`: fatal error: mpi.h: No such file or directory")
