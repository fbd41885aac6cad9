"""The direction of imports, read from the source, and what the light processes really load, read from a run."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

#: What everything in the agent may use; these import nothing of ours but each other.
COMMON = {"models", "states", "steps", "errors", "logs", "journal", "files", "hours", "schedule", "table", "wire"}

#: Who may import whom, besides itself and COMMON. A room that is missing here fails the test below.
ARROWS: dict[str, set[str]] = {
    "cli": {"worker", "runner", "runtimes", "executor", "packages", "process", "api", "config", "gpu"},
    "worker": {"runner", "runtimes", "process", "api", "config", "gpu"},
    "runner": {"runtimes", "process", "api", "config", "gpu"},
    "runtimes": {"process", "config"},
    "executor": {"packages", "process", "config"},
    "packages": {"process", "config"},
    "process": set(),
    "api": {"config"},
    "config": set(),
    "gpu": set(),
    "models": set(),
    "states": set(),
    "steps": set(),
    "errors": set(),
    "logs": set(),
    "files": set(),
    "journal": set(),
    "hours": set(),
    "schedule": set(),
    "table": set(),
    "wire": set(),
}

#: What the generator may use of the agent: its GPUs, and nothing above them.
FOR_THE_GENERATOR = {"gpu", "config", "errors", "files", "hours", "table"}

#: Heavy to import: an idle daemon and an executor that is started per task must do without.
HEAVY = {
    *("click", "pyhocon", "pyparsing", "requests", "urllib3", "git", "docker", "pydantic", "pynvml"),
    *("urllib.request", "importlib.metadata", "multiprocessing", "unittest", "sqlalchemy", "uv", "pytest"),
}


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, file)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _absolute(node: ast.ImportFrom, file: Path) -> str:
    if not node.level:
        return node.module or ""
    parents = file.relative_to(ROOT).parts[: -node.level]
    return ".".join([*parents, *filter(None, [node.module])])


def _modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def _room(file: Path) -> str:
    return file.relative_to(ROOT / "agent").parts[0].removesuffix(".py")


def _rooms_used(file: Path) -> set[str]:
    dotted = (name.split(".") for name in _imports(file))
    return {parts[1] for parts in dotted if parts[0] == "agent" and len(parts) > 1}


def test_every_room_of_the_agent_has_its_arrows_written_down() -> None:
    rooms = {_room(file) for file in _modules("agent")} - {"__init__"}
    assert rooms <= ARROWS.keys()


@pytest.mark.parametrize("room", sorted(ARROWS))
def test_imports_of_a_room_point_in_the_allowed_direction(room: str) -> None:
    allowed = ARROWS[room] | COMMON | {room}
    wrong = {
        str(file.relative_to(ROOT)): sorted(used)
        for file in _modules("agent")
        if _room(file) == room and (used := _rooms_used(file) - allowed - {"__version__"})
    }
    assert not wrong


def test_arrows_have_no_cycle() -> None:
    above: set[str] = set()

    def visit(room: str, path: tuple[str, ...]) -> None:
        assert room not in path, f"cycle: {' -> '.join((*path, room))}"
        if room not in above:
            for below in ARROWS[room]:
                visit(below, (*path, room))
            above.add(room)

    for room in ARROWS:
        visit(room, ())


@pytest.mark.parametrize(
    ("package", "others"),
    [
        ("apiserver", {"agent", "supervisor_gen"}),
        ("agent", {"apiserver", "supervisor_gen"}),
        ("supervisor_gen", {"apiserver"}),
    ],
)
def test_packages_know_nothing_of_each_other(package: str, others: set[str]) -> None:
    for file in _modules(package):
        assert not others & {name.split(".")[0] for name in _imports(file)}, file


def test_generator_uses_the_gpus_of_the_agent_and_nothing_above_them() -> None:
    for file in _modules("supervisor_gen"):
        assert _rooms_used(file) - {"__version__"} <= FOR_THE_GENERATOR, file
        of_config = {name for name in _imports(file) if name.startswith("agent.config.")}
        assert {name.split(".")[2] for name in of_config} <= {"hocon"}, file


def test_only_one_module_imports_the_gpu_binding() -> None:
    users = {
        file.name
        for file in [*_modules("agent"), *_modules("supervisor_gen")]
        if "pynvml" in {name.split(".")[0] for name in _imports(file)}
    }
    assert users <= {"nvml.py"}


def test_product_imports_nothing_of_demo_benchmarks_and_tests() -> None:
    for package in ("agent", "apiserver", "supervisor_gen"):
        for file in _modules(package):
            assert not {name.split(".")[0] for name in _imports(file)} & {"demo", "benchmarks", "support", "tests"}, (
                file
            )


def _loaded_by(module: str) -> set[str]:
    """The modules in memory after importing one, in a fresh interpreter."""
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}"]
    return set(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


@pytest.mark.parametrize("module", ["agent.worker.__main__", "agent.executor.__main__"])
def test_light_process_loads_nothing_heavy(module: str) -> None:
    loaded = _loaded_by(module)
    assert module in loaded
    assert not HEAVY & loaded
    if module.startswith("agent.executor"):
        assert not {"asyncio", "psutil", "agent.api", "agent.runner"} & loaded


def test_executor_loads_what_reads_requirements_only_for_a_task_that_has_some() -> None:
    loaded = _loaded_by("agent.executor.lifecycle")
    readers = {f"agent.executor.{name}" for name in ("requirements_file", "requirement_line", "places")}
    assert "agent.executor.requirements" in loaded
    assert not readers & loaded


def test_daemon_loads_what_asks_gpus_only_on_a_host_that_has_some() -> None:
    loaded = _loaded_by("agent.worker.assembly")
    askers = {f"agent.gpu.{name}" for name in ("nvml", "inventory", "peers", "condition", "checkup", "stats")}
    assert "agent.worker.assembly" in loaded
    assert not askers & loaded


def test_command_line_loads_neither_configuration_parser_nor_server_client_for_its_help() -> None:
    assert not {"pyhocon", "requests", "agent.worker", "agent.runner", "agent.executor"} & _loaded_by("agent.cli")
