"""Which Python a task gets: the version it asks for, where the host has it.

Facts about an interpreter that is not ours cost a start of it, so they are kept in a file under the identity of
the program (real path, inode, size, time of change). Programs that are scripts (the shims of pyenv and its like)
stand for another interpreter tomorrow, so they are asked every time, and only when no real program was found.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from agent.errors import SetupFailed
from agent.process.run import CommandFailed, Commands

_NAME = r"^python(\d+(?:\.\d+){0,2})?$"

#: Runs on any Python from 2.7 on; what `own` computes in this process, of another one.
_PROBE = """
import json, os, sys
try:
    from _imp import extension_suffixes as suffixes
except ImportError:
    suffixes = lambda: [""]
program = os.path.realpath(sys.executable)
base = getattr(sys, "base_prefix", sys.prefix)
if base != sys.prefix:
    other = os.path.join(base, "bin", "python%d.%d" % sys.version_info[:2])
    program = os.path.realpath(other) if os.path.exists(other) else program
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
except (ValueError, OSError, AttributeError):
    libc = ""
print(json.dumps({
    "executable": program, "version": "%d.%d.%d" % sys.version_info[:3],
    "implementation": getattr(sys, "implementation", None) and sys.implementation.name or "cpython",
    "abi": (suffixes() or [""])[0], "platform": "%s-%s-%s" % (sys.platform, os.uname()[4], libc.replace(" ", "")),
    "prefix": base,
}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """An interpreter that environments can be built on: never one inside a virtual environment itself."""

    executable: str
    version: str
    implementation: str
    abi: str
    platform: str
    prefix: str

    @property
    def short(self) -> str:
        """Major and minor version."""
        return ".".join(self.version.split(".")[:2])

    @property
    def site_packages(self) -> str:
        """Where packages lie in an environment of this interpreter, relative to it."""
        name = "python" if self.implementation == "cpython" else self.implementation
        thread = "t" if ".cpython-" in self.abi and re.search(r"\.cpython-\d+t", self.abi) else ""
        return f"lib/{name}{self.short}{thread}/site-packages"


def own() -> Interpreter:
    """The interpreter this agent is built on, described without starting anything."""
    from _imp import extension_suffixes

    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        libc = ""
    base = getattr(sys, "_base_executable", None) or sys.executable
    return Interpreter(
        executable=os.path.realpath(base),
        version="{}.{}.{}".format(*sys.version_info[:3]),
        implementation=sys.implementation.name,
        abi=(extension_suffixes() or [""])[0],
        platform=f"{sys.platform}-{os.uname().machine}-{libc.replace(' ', '')}",
        prefix=sys.base_prefix,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An interpreter, and a warning where it is not the one that was asked for."""

    interpreter: Interpreter
    warning: str = ""


def choose(
    binary: str, *, commands: Commands, facts: str, python_binary: str = "", ignore_version: bool = False
) -> Choice:
    """The interpreter for a task that records `binary` ("python3.10", "/usr/bin/python3", "python").

    `python_binary` is the operator's choice and wins. A version that the host does not have is a warning and the
    agent's own interpreter.
    """
    search = _Search(commands, facts)
    if python_binary:
        found = search.named(python_binary)
        if found is None:
            raise SetupFailed(
                f"agent.python_binary is {python_binary!r}, and there is no such interpreter on this host",
                hint="Whoever operates this host has to correct its clearml.conf or install that Python.",
                infrastructure=True,
            )
        return Choice(interpreter=found)
    wanted = requested_version(binary)
    if os.path.isabs(binary) and not ignore_version and (found := search.named(binary)) is not None:
        return Choice(interpreter=found)
    mine = own()
    if ignore_version or matches(mine.version, wanted):
        return Choice(interpreter=mine)
    if (found := search.version(wanted)) is not None:
        return Choice(interpreter=found)
    return Choice(
        interpreter=mine,
        warning=f"Python {wanted} was asked for ({binary}) and is not on this host: using Python {mine.version}",
    )


def requested_version(binary: str) -> str:
    """The version in the name of a recorded interpreter ("3.10"); empty where it names none."""
    match = re.match(_NAME, os.path.basename(binary.strip()))
    return (match[1] or "") if match else ""


def matches(version: str, wanted: str) -> bool:
    """Whether "3.10.13" will do for "3.10"; an empty wish is fulfilled by any Python 3."""
    return not wanted or version == wanted or version.startswith(wanted + ".")


class _Search:
    def __init__(self, commands: Commands, facts: str) -> None:
        self._commands = commands
        self._facts = facts

    def named(self, name: str) -> Interpreter | None:
        """The interpreter under a path or a program name."""
        name = os.path.expanduser(name)
        return next(self._alive([name] if "/" in name else self._on_path([name])), None)

    def version(self, wanted: str) -> Interpreter | None:
        """An interpreter of that version: programs first, shims last."""
        short = ".".join(wanted.split(".")[:2])
        names = list(dict.fromkeys([f"python{wanted}", f"python{short}", "python3", "python"]))
        paths = [*self._on_path(names), *_well_known(short)]
        real = [path for path in paths if not _is_script(path)]
        scripts = [path for path in paths if _is_script(path) and os.path.basename(path) in names[:2]]
        return next((each for each in self._alive([*real, *scripts]) if matches(each.version, wanted)), None)

    def _on_path(self, names: Iterable[str]) -> list[str]:
        folders = self._commands.environ.get("PATH", os.defpath).split(":")
        paths = (f"{folder}/{name}" for name in names for folder in folders if folder)
        return [path for path in paths if os.access(path, os.X_OK) and os.path.isfile(path)]

    def _alive(self, paths: Iterable[str]) -> Iterator[Interpreter]:
        for path in paths:
            if (found := self._facts_of(path)) is not None:
                yield found

    def _facts_of(self, path: str) -> Interpreter | None:
        try:
            if _is_script(path):
                return self._ask(path)
            return Interpreter(**remembered(self._facts, "python", path, lambda: asdict(self._ask_or_fail(path))))
        except (OSError, TypeError, CommandFailed):
            return None

    def _ask(self, path: str) -> Interpreter | None:
        done = self._commands.run([path, "-c", _PROBE], deadline_seconds=30, check=False)
        if done.returncode != 0:
            return None
        try:
            return Interpreter(**json.loads(done.text.strip().splitlines()[-1]))
        except (ValueError, TypeError, IndexError):
            return None

    def _ask_or_fail(self, path: str) -> Interpreter:
        if (found := self._ask(path)) is None:
            raise CommandFailed(f"{path} does not answer like a Python interpreter")
        return found


def _well_known(short: str) -> list[str]:
    """Where pyenv and uv keep interpreters that are not on the PATH."""
    places = (
        ("~/.pyenv/versions", f"{short}."),
        ("~/.local/share/uv/python", f"cpython-{short}."),
    )
    found = []
    for place, start in places:
        try:
            names = sorted(os.listdir(os.path.expanduser(place)), reverse=True)
        except OSError:
            continue
        found += [f"{os.path.expanduser(place)}/{name}/bin/python{short}" for name in names if name.startswith(start)]
    return [path for path in found if os.access(path, os.X_OK)]


def _is_script(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def remembered(folder: str, kind: str, path: str, ask: Any) -> Any:
    """What `ask` says about the program at `path`, asked once for as long as that file stays the same."""
    from _blake2 import blake2b

    real = os.path.realpath(path)
    there = os.stat(real)
    identity = [real, there.st_ino, there.st_size, there.st_mtime_ns]
    name = f"{folder}/{kind}-{blake2b(real.encode(), digest_size=8).hexdigest()}.json"
    try:
        with open(name, encoding="utf-8") as file:
            known = json.load(file)
        if known["identity"] == identity:
            return known["facts"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    facts = ask()
    os.makedirs(folder, mode=0o700, exist_ok=True)
    temporary = f"{name}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"identity": identity, "facts": facts}, file)
    os.rename(temporary, name)
    return facts
