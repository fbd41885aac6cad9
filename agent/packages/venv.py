"""Virtual environments as we write them ourselves: a dozen files and links, in about two milliseconds.

A *layer* is a folder of installed packages that is built once and read by many. An environment is *thin*: it has its
own empty `site-packages`, where whatever the task installs at run time lands and is searched first, and one `.pth` file
that appends the layer's `site-packages` through `site.addsitedir`, so that `.pth` files of the layer (editable
installs, namespace packages) count as well. `importlib.metadata` and `pip list` follow `sys.path` and see both.
pip refuses to touch what lies outside the environment it runs in ("outside environment"), so an upgrade of a
layered package is an install into the thin environment that shadows it. `uv pip` looks at the environment's own
folder only: it does not list the layer's packages, and installs what it needs beside them, with the same effect.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.packages.interpreter import Interpreter

LAYER_HOOK = "shared-layers.pth"
_SHEBANG_LIMIT = 127  # the kernel reads no more of a first line (BINPRM_BUF_SIZE)
_OWN_FILES = frozenset({"pyvenv.cfg", "lib64", "layer.json", ".lock", ".gitignore", "CACHEDIR.TAG"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFiles:
    """What of a layer lies outside its `site-packages`, relative to its folder.

    `scripts` name their interpreter by `prefix`, the path the layer was built at; `programs` do not; `data` is what
    lies elsewhere.
    """

    prefix: str
    scripts: tuple[str, ...]
    programs: tuple[str, ...]
    data: tuple[str, ...]


def write_environment(
    folder: str,
    interpreter: Interpreter,
    *,
    site_folders: Sequence[str] = (),
    system_site_packages: bool = False,
    pip_wheel: str | None = None,
) -> None:
    """An environment at `folder` that has the packages of `site_folders`, and pip from a wheel where there is one."""
    site_packages = f"{folder}/{interpreter.site_packages}"
    os.makedirs(site_packages)
    os.mkdir(f"{folder}/bin")
    os.symlink("lib", f"{folder}/lib64")
    os.symlink(interpreter.executable, f"{folder}/bin/python")
    for name in ("python3", f"python{interpreter.short}"):
        os.symlink("python", f"{folder}/bin/{name}")
    _write(f"{folder}/pyvenv.cfg", _configuration(interpreter, system_site_packages=system_site_packages))
    _write(f"{folder}/bin/activate", _ACTIVATE.replace("@FOLDER@", _quoted(folder)))
    hook = [f"import site; site.addsitedir({path!r})" for path in site_folders]
    if pip_wheel is not None:
        hook.append(pip_wheel)
        for name in ("pip", "pip3"):
            _write_program(f"{folder}/bin/{name}", _PIP.replace("@SHEBANG@", shebang(f"{folder}/bin/python")))
    if hook:
        _write(f"{site_packages}/{LAYER_HOOK}", "\n".join(hook) + "\n")


def _configuration(interpreter: Interpreter, *, system_site_packages: bool) -> str:
    return (
        f"home = {os.path.dirname(interpreter.executable)}\n"
        f"include-system-site-packages = {'true' if system_site_packages else 'false'}\n"
        f"version = {interpreter.version}\n"
        f"executable = {interpreter.executable}\n"
    )


def pip_wheel_for(interpreter: Interpreter, fallback: Interpreter) -> str | None:
    """A wheel of pip that comes with one of these interpreters; it runs as it is, from the zip file."""
    for each in (interpreter, fallback):
        library = f"{each.prefix}/lib/python{each.short}/ensurepip/_bundled"
        for folder in (library, "/usr/share/python-wheels"):
            try:
                wheels = sorted(name for name in os.listdir(folder) if re.match(r"pip-[\d.]+-py3.*\.whl$", name))
            except OSError:
                continue
            if wheels:
                return f"{folder}/{wheels[-1]}"
    return None


def files_of(folder: str, prefix: str, site_packages: str) -> LayerFiles:
    """Look through a freshly installed prefix for what an environment on top of it has to show."""
    scripts: list[str] = []
    programs: list[str] = []
    data: list[str] = []
    marker = f"{prefix}/bin/python".encode()
    for path in _files_below(folder):
        if path.startswith(f"{site_packages}/") or path in _OWN_FILES or path.startswith("lib64/"):
            continue
        if not path.startswith("bin/"):
            data.append(path)
        elif not os.path.basename(path).startswith(("python", "activate")):
            (scripts if marker in _first_lines(f"{folder}/{path}") else programs).append(path)
    return LayerFiles(prefix=prefix, scripts=tuple(scripts), programs=tuple(programs), data=tuple(data))


def add_programs(folder: str, layer: str, files: LayerFiles) -> None:
    """Give an environment the programs and data files of a layer; scripts get its own interpreter."""
    for path in files.scripts:
        with open(f"{layer}/{path}", "rb") as file:
            text = file.read()
        _write_program(f"{folder}/{path}", with_interpreter(text, files.prefix, folder))
    made = {folder, f"{folder}/bin"}
    for path in (*files.programs, *files.data):
        target = f"{folder}/{path}"
        if (parent := os.path.dirname(target)) not in made:
            os.makedirs(parent, exist_ok=True)
            made.add(parent)
        if os.path.lexists(target):
            os.unlink(target)
        os.symlink(f"{layer}/{path}", target)


def with_interpreter(script: bytes, prefix: str, folder: str) -> bytes:
    """A console script that was written for the environment at `prefix`, for the one at `folder`.

    Installers write `#!<python>`, or where that is too long for the kernel a `/bin/sh` line that execs it; both
    forms are replaced by the one that fits.
    """
    old = re.escape(f"{prefix}/bin/").encode()
    plain = re.compile(rb"\A#!" + old + rb"(python[\w.]*)([^\n]*)\n")
    trampoline = re.compile(rb"\A#! ?/bin/sh\n'''exec' \"?'?" + old + rb"(python[\w.]*)[^\n]*\n' '''\n")
    for pattern in (plain, trampoline):
        if match := pattern.match(script):
            return shebang(f"{folder}/bin/{match[1].decode()}").encode() + script[match.end() :]
    return script.replace(f"{prefix}/bin/".encode(), f"{folder}/bin/".encode())


def shebang(python: str) -> str:
    """The first line(s) of a script for this interpreter, whatever the length of its path."""
    if len(python) + 3 <= _SHEBANG_LIMIT and " " not in python:
        return f"#!{python}\n"
    return f"#!/bin/sh\n'''exec' {_quoted(python)} \"$0\" \"$@\"\n' '''\n"


def _quoted(path: str) -> str:
    from shlex import quote

    return quote(path)


def _first_lines(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        return b""
    return b"\n".join(head.split(b"\n", 3)[:2]) if head.startswith(b"#!") else b""


def _files_below(folder: str, relative: str = "") -> Iterable[str]:
    with os.scandir(f"{folder}/{relative}" if relative else folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = f"{relative}/{entry.name}" if relative else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(folder, path)
        else:
            yield path


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _write_program(path: str, text: str | bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755)
    with os.fdopen(fd, "wb") as file:
        file.write(text.encode() if isinstance(text, str) else text)


_PIP = """@SHEBANG@import sys
from pip._internal.cli.main import main
sys.exit(main())
"""

_ACTIVATE = """# source this file
if [ -n "${_OLD_VENV_PATH:-}" ]; then PATH="$_OLD_VENV_PATH"; fi
_OLD_VENV_PATH="$PATH"
VIRTUAL_ENV=@FOLDER@
PATH="$VIRTUAL_ENV/bin:$PATH"
unset PYTHONHOME
export VIRTUAL_ENV PATH
deactivate() {
    PATH="$_OLD_VENV_PATH"
    export PATH
    unset VIRTUAL_ENV _OLD_VENV_PATH
    unset -f deactivate
}
hash -r 2>/dev/null || true
"""
