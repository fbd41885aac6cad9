"""What of the code is to be run: the recorded entry point and working directory, in all the forms they come in.

    entry_point             working_dir    meaning
    train.py --fold 2       src            file and arguments, relative to the working directory
    -m pkg.train --fold 2   .              a module and its arguments
    -m run train.py         src:train.py   the same, and a literal script goes into src/train.py
    train.py:src            (empty)        the old form: file, then directory
    notebook.ipynb          .              converted to a script first

Pure except for looking which files exist.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from agent.errors import SetupFailed
from agent.models import Script

_SHELL_ENDINGS = (".sh", ".bash", ".zsh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The thing to run: a `file` (absolute) or, for `-m` and `-c`, None; `arguments` go behind it.

    `option` is "-m" or "-c" with its operand first in `arguments`. `folder` is the working directory.
    """

    folder: str
    file: str | None
    option: str = ""
    arguments: tuple[str, ...] = ()

    @property
    def is_shell_script(self) -> bool:
        return self.file is not None and self.file.endswith(_SHELL_ENDINGS)


def entry_for(script: Script, root: str, *, literal: bool = False) -> Entry:
    """The entry of a task whose code lies in `root`; with `literal` its file is about to be written there."""
    text, where = script.entry_point, script.working_dir
    option = next((each for each in ("-m", "-c") if text == each or text.startswith(each + " ")), "")
    named = ""
    if option and ":" in where:
        where, _, named = where.partition(":")
    elif not option and where == "." and ":" in text and not os.path.exists(inside(root, text)):
        text, _, where = text.partition(":")
    folder = really_inside(root, inside(root, where or ".", what="working directory"), what="working directory")
    if not literal and not os.path.isdir(folder):
        raise SetupFailed(f"the working directory {where!r} of the task is not in its repository")
    if option:
        return _module(option, text, folder, root, named, literal=literal)
    return _file(script, text, folder, root, literal=literal)


def _module(option: str, text: str, folder: str, root: str, named: str, *, literal: bool) -> Entry:
    words = _split(text)[1:]
    if not words:
        raise SetupFailed(f"the entry point {text!r} names nothing to run")
    file = _beneath(folder, named, root, literal=literal) if named else None
    if literal and file is None:
        file = f"{folder}/{_default_name(Script())}"
    return Entry(folder=folder, file=file, option=option, arguments=tuple(words))


def _file(script: Script, text: str, folder: str, root: str, *, literal: bool) -> Entry:
    text = text or (_default_name(script) if literal else "")
    if not text:
        raise SetupFailed("the task records no entry point and no script: there is nothing to run")
    whole = _beneath(folder, text, root, literal=literal)
    if os.path.isfile(whole):
        return Entry(folder=folder, file=whole)
    words = _split(text)
    if not words:
        raise SetupFailed("the task records no entry point and no script: there is nothing to run")
    first = _beneath(folder, words[0], root, literal=literal)
    if not literal and not os.path.isfile(first):
        raise SetupFailed(
            f"the entry point {words[0]!r} is not in {_shown(folder, root)}",
            hint="Was it committed, or is it part of the recorded diff? Untracked files are not recorded.",
        )
    return Entry(folder=folder, file=first, arguments=tuple(words[1:]))


def _beneath(folder: str, name: str, root: str, *, literal: bool) -> str:
    """A file named from the working directory; it may lie beside it, but not outside the working copy."""
    if os.path.isabs(name):
        raise SetupFailed(
            f"the entry point {name!r} is an absolute path", hint="It must be relative to the working directory."
        )
    path = inside(root, os.path.relpath(os.path.join(folder, name), root))
    return really_inside(root, path, is_replaced=literal)


def _shown(folder: str, root: str) -> str:
    relative = os.path.relpath(folder, root)
    return "the repository" if relative == "." else f"{relative!r} of the repository"


def inside(root: str, relative: str, *, what: str = "path") -> str:
    """`root/relative`, refused where the words of it lead out of `root`."""
    path = os.path.normpath(os.path.join(root, relative))
    if os.path.isabs(relative) or (path != root and not path.startswith(root + os.sep)):
        raise SetupFailed(f"the {what} {relative!r} of the task leads out of its working copy")
    return path


def really_inside(root: str, path: str, *, what: str = "entry point", is_replaced: bool = False) -> str:
    """`path`, refused where a symbolic link on the way to it, or it itself, leads out of `root`.

    With `is_replaced` it may be such a link itself, since something else is about to take its place.
    """
    top = os.path.realpath(root)
    for part in (os.path.dirname(path), *(() if is_replaced else (path,))):
        real = os.path.realpath(part)
        if path != root and real != top and not real.startswith(top + os.sep):
            raise SetupFailed(
                f"the {what} {os.path.relpath(path, root)!r} of the task leads out of its working copy",
                hint="A symbolic link of the repository points outside.",
            )
    return path


def _default_name(script: Script) -> str:
    shell = os.path.basename(script.binary).startswith(("bash", "zsh", "sh"))
    return "untitled.sh" if shell else "untitled.py"


def _split(text: str) -> list[str]:
    from shlex import split

    try:
        return split(text)
    except ValueError as error:
        raise SetupFailed(f"the entry point {text!r} cannot be split into words ({error})") from error
