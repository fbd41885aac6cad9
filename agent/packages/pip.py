"""pip, called as a module of the environment it installs into.

    plan + settings ──▶ argument list, environment, requirement files      (pure)
    install ──▶ `python -m pip install`, once for each round of the plan

pip reads its own configuration, so nothing has to be translated. It comes from the wheel that ships with the
interpreter, unpacked for the time of the installation (from the archive it would be compiled anew by every command);
`agent.package_manager.pip_version` may ask for another one, which is then installed first and takes its place.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from agent.config.schema import AgentSettings
from agent.packages import interpreter as interpreters
from agent.packages import pipconf, venv
from agent.packages.base import Host, Plan, Prefix
from agent.packages.faults import failure
from agent.process.run import CommandFailed

_INSTALL_SECONDS = 4 * 3600.0
_CALM = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_PROGRESS_BAR": "off", "NO_COLOR": "1",
         "VIRTUAL_ENV": "", "PIP_REQUIRE_VIRTUALENV": "", "PIP_USER": "", "PIP_TARGET": ""}  # fmt: skip


class Pip:
    """The installer `pip`."""

    name = "pip"

    def __init__(self, agent: AgentSettings, host: Host) -> None:
        self._settings = agent.package_manager
        self._host = host

    def refusal(self) -> str | None:
        mine = interpreters.own()
        if venv.pip_wheel_for(mine, mine) is not None:
            return None
        return "no wheel of pip comes with this host's Python (install python3-venv)"

    def identity(self) -> str:
        mine = interpreters.own()
        wheel = os.path.basename(venv.pip_wheel_for(mine, mine) or "")
        return f"pip {wheel} {' '.join(self._settings.pip_version)}".rstrip()

    def surrounding(self) -> tuple[str, ...]:
        environ = self._host.commands.environ
        variables = [f"{name}={value}" for name, value in sorted(environ.items()) if name.startswith("PIP_")]
        return (*variables, *(f"{file.path}\n{file.text}" for file in pipconf.config_files(environ)))

    def install(self, plan: Plan, prefix: Prefix) -> None:
        self._bring_pip(prefix)
        if self._settings.pip_version:
            self._round("the configured pip version", self._own_version(), Plan(), prefix)
        if plan.needed:
            self._round("the task's packages", plan.needed, plan, prefix)
        for line in plan.after:
            self._round(f"{line} (agent.package_manager.post_packages)", [line], plan, prefix)
        for line in plan.optional:
            try:
                self._pip_install([line], plan, prefix)
            except CommandFailed as error:
                self._host.commands.show(f"optional package {line} was not installed: {error.hint or error.message}")

    def freeze(self, prefix: Prefix) -> tuple[str, ...]:
        command = [prefix.python, "-m", "pip", "freeze", "--quiet"]
        return tuple(self._host.commands.run(command, environ=_CALM).text.splitlines())

    @property
    def _log(self) -> str:
        return f"{self._host.scratch}/pip.log"

    def _bring_pip(self, prefix: Prefix) -> None:
        import zipfile

        wheel = venv.pip_wheel_for(prefix.interpreter, interpreters.own()) or ""
        folder = f"{self._host.scratch}/{os.path.basename(wheel)}.d"
        if not os.path.isdir(folder):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
        with open(f"{prefix.site_packages}/{venv.LAYER_HOOK}", "w", encoding="utf-8") as file:
            file.write(f"{folder}\n")

    def _own_version(self) -> list[str]:
        """`pip_version` entries are specifiers with an optional marker: `<22.3 ; python_version < '3.12'`."""
        return [f"pip{entry}" for entry in self._settings.pip_version if entry.strip()]

    def _round(self, what: str, lines: Sequence[str], plan: Plan, prefix: Prefix) -> None:
        try:
            self._pip_install(lines, plan, prefix)
        except CommandFailed as error:
            raise failure(error, f"cannot install {what}", log=_unfetched(self._log)) from error

    def _pip_install(self, lines: Sequence[str], plan: Plan, prefix: Prefix) -> None:
        options = [f"--extra-index-url {url}" for url in plan.extra_indexes]
        options += [f"--find-links {place}" for place in plan.find_links]
        options += [f"--constraint {_file(self._host.scratch, 'constraints.txt', plan.constraints)}"] * bool(
            plan.constraints
        )
        wanted = _file(self._host.scratch, "requirements.txt", [*options, *lines])
        argv = install_command(prefix.python, wanted, plan)
        environ = {"PIP_LOG": self._log, **_CALM, **self._host.git_environ}
        self._host.commands.run(argv, environ=environ, deadline_seconds=_INSTALL_SECONDS)


def install_command(python: str, requirements: str, plan: Plan) -> list[str]:
    """The argument list of one `pip install`; URLs are in the requirement file, where no process list shows them."""
    return [
        python,
        "-m",
        "pip",
        "install",
        *(("--upgrade",) if plan.upgrade else ()),
        *plan.flags,
        "--requirement",
        requirements,
    ]


def _unfetched(log: str) -> str:
    """The lines about pages of an index that pip has told its log file only: to people it says there is no version.

    That a page is not there is no news: it is asked for in every index.
    """
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            return "".join(line for line in file if "Could not fetch URL" in line and " 404 " not in line)
    except OSError:
        return ""


def _file(folder: str, name: str, lines: Sequence[str]) -> str:
    path = f"{folder}/{name}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))
    return path
