"""uv, called as a command.

plan + host settings ──▶ argument list, environment, requirement files      (pure)
install ──▶ `uv pip install`, once for each round of the plan
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from agent.config.schema import AgentSettings
from agent.packages import pipconf
from agent.packages.base import Host, Plan, Prefix
from agent.packages.faults import failure
from agent.packages.interpreter import remembered
from agent.process.run import CommandFailed

_INSTALL_SECONDS = 4 * 3600.0


class Uv:
    """The installer `uv`, from the agent's own environment unless the configuration names another one."""

    name = "uv"

    def __init__(self, agent: AgentSettings, host: Host) -> None:
        self._settings = agent.package_manager
        self._host = host
        self._program = find(self._settings.uv_binary, host.commands.environ)

    def refusal(self) -> str | None:
        if self._program is not None:
            return None
        return "there is no program uv beside the agent's Python or on the PATH (pip install uv)"

    def identity(self) -> str:
        def ask() -> str:
            return " ".join(self._host.commands.run([self._path, "--version"]).text.split()[:2])

        return str(remembered(self._host.facts, "uv", self._path, ask))

    def surrounding(self) -> tuple[str, ...]:
        environ = self._host.commands.environ
        variables = [f"{name}={value}" for name, value in sorted(environ.items()) if name.startswith(("UV_", "PIP_"))]
        files = [f"{file.path}\n{file.text}" for file in (*pipconf.config_files(environ), *_own_files(environ))]
        return (*variables, *files, f"best-match={self._settings.uv_unsafe_best_match}")

    def install(self, plan: Plan, prefix: Prefix) -> None:
        environ = self._environ(plan)
        needed = [*plan.needed]
        if needed:
            self._round("the task's packages", needed, plan, prefix, environ)
        for line in plan.after:
            self._round(f"{line} (agent.package_manager.post_packages)", [line], plan, prefix, environ)
        for line in plan.optional:
            try:
                self._pip_install([line], plan, prefix, environ)
            except CommandFailed as error:
                self._host.commands.show(f"optional package {line} was not installed: {error.hint or error.message}")

    def freeze(self, prefix: Prefix) -> tuple[str, ...]:
        command = [self._path, "pip", "freeze", "--quiet", "--python", prefix.python]
        return tuple(self._host.commands.run(command, environ=_CALM).text.splitlines())

    @property
    def _path(self) -> str:
        return self._program or "uv"

    def _round(self, what: str, lines: Sequence[str], plan: Plan, prefix: Prefix, environ: Mapping[str, str]) -> None:
        try:
            self._pip_install(lines, plan, prefix, environ)
        except CommandFailed as error:
            raise failure(error, f"cannot install {what}") from error

    def _pip_install(self, lines: Sequence[str], plan: Plan, prefix: Prefix, environ: Mapping[str, str]) -> None:
        wanted = _file(self._host.scratch, "requirements.txt", lines)
        limits = _file(self._host.scratch, "constraints.txt", plan.constraints) if plan.constraints else None
        argv = install_command(self._path, prefix.python, wanted, limits, plan)
        self._host.commands.run(argv, environ=environ, deadline_seconds=_INSTALL_SECONDS)

    def _environ(self, plan: Plan) -> dict[str, str]:
        host = self._host.commands.environ
        mapped = pipconf.for_uv(pipconf.settings(pipconf.config_files(host), host), host)
        return install_environ(
            plan, mapped, host, best_match=self._settings.uv_unsafe_best_match, may_link=os.geteuid() != 0
        ) | dict(self._host.git_environ)


#: uv neither draws bars nor fetches interpreters for us.
_CALM = {"UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}


def install_command(uv: str, python: str, requirements: str, constraints: str | None, plan: Plan) -> list[str]:
    """The argument list of one `uv pip install`. No URL is in it: they may carry passwords, and lists can be read."""
    return [
        uv,
        "pip",
        "install",
        "--python",
        python,
        *(("--constraint", constraints) if constraints else ()),
        *(("--upgrade",) if plan.upgrade else ()),
        *plan.flags,
        "--requirement",
        requirements,
    ]


def install_environ(
    plan: Plan, mapped: Mapping[str, str], host: Mapping[str, str], *, best_match: bool, may_link: bool
) -> dict[str, str]:
    """The variables of one `uv pip install`, laid over those of the host.

    Of several indexes uv by default asks only the first that knows a name, which leaves a pin unresolvable that the
    next index has; pip compares all of them. `unsafe-first-match` takes the first *version* that fits in the order of
    indexes, extra ones first, so a private name is still never looked up elsewhere while the private index has it.
    A file that is linked from uv's cache could be changed there through the link by a task that runs as root, so root
    gets copies (reflinks are made by the file system where it can).
    """
    indexes = [*plan.extra_indexes, *_words(host.get("UV_INDEX") or mapped.get("UV_INDEX"))]
    indexes += _words(host.get("UV_EXTRA_INDEX_URL")) if "UV_INDEX" not in host else []
    links = [*plan.find_links, *_words(host.get("UV_FIND_LINKS") or mapped.get("UV_FIND_LINKS"), ",")]
    chosen = {**mapped, **_CALM, "VIRTUAL_ENV": "", "CONDA_PREFIX": ""}
    chosen["UV_LINK_MODE"] = "hardlink" if may_link else "copy"
    if indexes:
        chosen["UV_INDEX"] = " ".join(dict.fromkeys(indexes))
        chosen["UV_INDEX_STRATEGY"] = "unsafe-best-match" if best_match else "unsafe-first-match"
    if links:
        chosen["UV_FIND_LINKS"] = ",".join(dict.fromkeys(links))
    operators = ("UV_LINK_MODE", "UV_INDEX_STRATEGY")
    return {name: value for name, value in chosen.items() if not (name in operators and host.get(name))}


def find(configured: str, environ: Mapping[str, str]) -> str | None:
    """uv's program: as configured, else beside the agent's interpreter, else on the PATH."""
    if configured:
        path = os.path.expanduser(configured)
        return path if os.access(path, os.X_OK) else None
    folders = [os.path.dirname(sys.executable), f"{sys.prefix}/bin", *environ.get("PATH", os.defpath).split(":")]
    return next((f"{folder}/uv" for folder in folders if folder and os.access(f"{folder}/uv", os.X_OK)), None)


def _own_files(environ: Mapping[str, str]) -> tuple[pipconf.ConfigFile, ...]:
    home = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME') or os.path.expanduser('~')}/.config"
    found = []
    for path in ("/etc/uv/uv.toml", f"{home}/uv/uv.toml", environ.get("UV_CONFIG_FILE", "")):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                found.append(pipconf.ConfigFile(path=path, text=file.read()))
        except OSError:
            continue
    return tuple(found)


def _words(text: str | None, separator: str | None = None) -> list[str]:
    return [word for word in (text or "").split(separator) if word]


def _file(folder: str, name: str, lines: Sequence[str]) -> str:
    path = f"{folder}/{name}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))
    return path
