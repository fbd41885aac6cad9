"""The Python environment of a run: a layer from the cache (or built for this run alone) under a thin fresh one.

interpreter ─┐
installer ───┼─▶ key ─▶ layer (hit, or built) ─▶ workspace/env/ ─▶ the task
wanted ──────┘
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agent.errors import SetupFailed
from agent.executor.wanted import Kind, Wanted, plan_for
from agent.executor.workspace import Workspace
from agent.packages import interpreter as interpreters
from agent.packages import pick, venv
from agent.packages.base import Host, PackageManager, Plan, Prefix
from agent.packages.interpreter import Interpreter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.executor.cache import Built, Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A ready environment: its folder, its interpreter, what is installed, and how that came about."""

    folder: str
    interpreter: Interpreter
    frozen: tuple[str, ...]
    cache: str

    @property
    def python(self) -> str:
        return f"{self.folder}/bin/python"


@contextlib.contextmanager
def open_environment(wanted: Wanted, workspace: Workspace) -> Iterator[Environment]:
    """The environment for what is wanted; its layer cannot be removed while this is open."""
    interpreter = _interpreter(workspace)
    with _layer(wanted, interpreter, workspace) as (layer, cache):
        venv.write_environment(
            workspace.env,
            interpreter,
            site_folders=[f"{layer.folder}/{interpreter.site_packages}"] if layer else [],
            system_site_packages=_sees_system(workspace),
            pip_wheel=venv.pip_wheel_for(interpreter, interpreters.own()),
        )
        if layer is not None:
            venv.add_programs(workspace.env, layer.folder, layer.files)
        frozen = layer.frozen if layer else ()
        yield Environment(folder=workspace.env, interpreter=interpreter, frozen=frozen, cache=cache)


def _interpreter(workspace: Workspace) -> Interpreter:
    agent = workspace.settings.agent
    choice = interpreters.choose(
        workspace.task.script.binary,
        commands=workspace.commands,
        facts=workspace.facts,
        python_binary=_given_interpreter(agent.skip_pip_venv_install) or agent.python_binary,
        ignore_version=agent.ignore_requested_python_version,
    )
    if choice.warning:
        workspace.console.warning(choice.warning)
    return choice.interpreter


def _given_interpreter(skip: str) -> str:
    """CLEARML_AGENT_SKIP_PIP_VENV_INSTALL is a switch or the path of an interpreter."""
    return skip if "/" in skip else ""


def _sees_system(workspace: Workspace) -> bool:
    agent = workspace.settings.agent
    skips = agent.skip_python_env_install or agent.skip_pip_venv_install or workspace.setup.standalone
    return bool(skips) or agent.package_manager.system_site_packages


@contextlib.contextmanager
def _layer(wanted: Wanted, interpreter: Interpreter, workspace: Workspace) -> Iterator[tuple[Layer | None, str]]:
    """The packages, and how they were come by ("hit", "miss" or "none")."""
    settings = workspace.settings.agent
    plan = plan_for(wanted, settings.package_manager)
    if plan.is_empty:
        if wanted.origin == "none":
            workspace.console.info("no packages are recorded and the repository lists none")
        yield None, "none"
        return
    if settings.skip_python_env_install:
        workspace.console.info("installing no packages (CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL)")
        yield None, "none"
        return
    from agent.executor.cache import LayerCache

    manager = pick(_wanted_managers(settings.package_manager.type), settings, _host(wanted, workspace))
    builder = _Builder(manager, plan, wanted, interpreter, workspace)
    if not settings.venvs_cache.path or not wanted.is_lasting:
        yield builder.private(_why_private(wanted)), "none"
        return
    key = _key(manager, plan, wanted, interpreter, workspace)
    started = time.monotonic()
    cache = LayerCache(settings.venvs_cache, stop=workspace.stop, note=workspace.console.info)
    with cache.open(key, builder.shared(key)) as layer:
        if not layer.is_new:
            workspace.console.info(
                f"environment reused: key {key[:8]} ({_counted(layer.frozen)}) in {time.monotonic() - started:.2f} s"
            )
        yield layer, "miss" if layer.is_new else "hit"


def _wanted_managers(configured_type: str) -> str:
    return "uv|pip" if configured_type in ("", "uv") else configured_type


def _host(wanted: Wanted, workspace: Workspace) -> Host:
    environ = {}
    if any(each.kind is Kind.VCS for each in wanted.requirements):
        from agent.executor.git import as_environment, open_git
        from agent.executor.remotes import configured, rewritings

        agent = workspace.settings.agent
        credentials = (*wanted.credentials, *configured(agent))
        git = open_git(workspace.commands, credentials, credentials_path=workspace.credentials_path)
        urls = [each.text.partition("git+")[2] for each in wanted.requirements if each.kind is Kind.VCS]
        environ = as_environment(git.with_settings(rewritings(urls, credentials, agent)))
    return Host(commands=workspace.commands, facts=workspace.facts, scratch=workspace.scratch, git_environ=environ)


def _key(manager: PackageManager, plan: Plan, wanted: Wanted, interpreter: Interpreter, workspace: Workspace) -> str:
    """Everything that decides what ends up in a layer, and nothing else."""
    from agent.executor.cache import key_for

    return key_for(
        [interpreter.prefix, interpreter.version, interpreter.implementation, interpreter.abi, interpreter.platform],
        manager.identity(),
        manager.surrounding(),
        sorted(" ".join(line.split()) for line in plan.needed),
        [list(plan.after), list(plan.optional), sorted(plan.constraints)],
        [list(plan.extra_indexes), list(plan.find_links), list(plan.flags), plan.upgrade],
        _sees_system(workspace),
    )


def _why_private(wanted: Wanted) -> str:
    changing = next((each.text for each in wanted.requirements if not each.lasting), "")
    return f"{changing!r} may change from run to run" if changing else "the environment cache is off"


def _counted(frozen: tuple[str, ...]) -> str:
    return f"{len(frozen)} package{'' if len(frozen) == 1 else 's'}"


class _Builder:
    """Builds a layer, shared or for this run alone."""

    def __init__(
        self,
        manager: PackageManager,
        plan: Plan,
        wanted: Wanted,
        interpreter: Interpreter,
        workspace: Workspace,
    ) -> None:
        self._manager = manager
        self._plan = plan
        self._wanted = wanted
        self._interpreter = interpreter
        self._workspace = workspace

    def shared(self, key: str) -> Callable[[str], Built]:
        """What a cache is to call when it has nothing under that key."""

        def build(folder: str) -> Built:
            self._workspace.console.info(f"no environment with key {key[:8]} on this host: building it")
            return self.build(folder)

        return build

    def private(self, why: str) -> Layer:
        self._workspace.console.info(f"environment built for this run alone: {why}")
        folder = f"{self._workspace.root}/layer"
        built = self.build(folder)
        from agent.executor.cache import Layer

        return Layer(folder=folder, frozen=built.frozen, files=built.files, is_new=True)

    def build(self, folder: str) -> Built:
        if self._workspace.setup.standalone:
            raise SetupFailed(
                "the task's packages are not in the environment cache, and standalone mode installs nothing"
            )
        console, started = self._workspace.console, time.monotonic()
        venv.write_environment(folder, self._interpreter, system_site_packages=_sees_system(self._workspace))
        prefix = Prefix(folder=folder, interpreter=self._interpreter)
        self._manager.install(self._plan, prefix)
        frozen = self._as_recorded(self._manager.freeze(prefix))
        _strip(folder, prefix)
        from agent.executor.cache import Built

        files = venv.files_of(folder, folder, self._interpreter.site_packages)
        console.info(
            f"environment built with {self._manager.identity()} for Python {self._interpreter.version}: "
            f"{_counted(frozen)} in {time.monotonic() - started:.2f} s"
        )
        return Built(frozen=frozen, files=files)

    def _as_recorded(self, frozen: tuple[str, ...]) -> tuple[str, ...]:
        """Packages from the checkout are listed the way they were asked for: their path is gone after this run."""
        kept = [line for line in frozen if self._workspace.run_dir not in line]
        local = [each.recorded for each in self._wanted.requirements if each.kind is Kind.PATH]
        return (*kept, *local)


def _strip(folder: str, prefix: Prefix) -> None:
    """A layer is packages, not an environment: what would let it be started directly goes."""
    for name in os.listdir(f"{folder}/bin"):
        path = f"{folder}/bin/{name}"
        if os.path.islink(path) and name.startswith("python"):
            os.unlink(path)
    for path in (f"{folder}/pyvenv.cfg", f"{folder}/bin/activate", f"{prefix.site_packages}/{venv.LAYER_HOOK}"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
