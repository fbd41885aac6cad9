"""What was not committed: the recorded diff, or a whole script in its place.

A text is told apart by its structure and not by its first word, since a script may begin with `diff = ...` and a diff
may come in colours. A diff is applied the way git itself would, then ever more leniently, and a failure names the file
and shows the hunk. A script is written under its recorded name and replaces what the repository has there: the
recorded code is the one that was asked for.
"""

from __future__ import annotations

import errno
import os
import re

from agent.errors import SetupFailed
from agent.executor.checkout import Source
from agent.executor.entry import Entry, entry_for, inside, really_inside
from agent.executor.workspace import Workspace
from agent.models import Script
from agent.process.run import CommandFailed, tail

_COLOURS = r"\x1b\[[0-9;]*[mK]"
_FIRST_LINES = (
    r"\A\ufeff?\s*(?:"
    r"diff --(?:git|cc|combined) \S"
    r"|diff (?:-\S+ )*\S+ \S+\r?\n(?:---|\+\+\+|index |new |old |deleted |similarity |Binary )"
    r"|[Ss]ubmodule \S+ (?:[0-9a-f]{4,}\.{2,3}[0-9a-f]{4,}|contains |\(|[0-9a-f]{4,})"
    r"|Index: \S.*\r?\n=====*"
    r"|--- \S.*\r?\n\+\+\+ \S.*\r?\n@@ -"
    r")"
)
_FAILED_AT = r"(?m)patch failed: (.+):(\d+)$"
_HUNK = r"(?m)^@@ -(\d+)(?:,(\d+))? \+"
_NEVER_THERE = r"(?m)^--- (?:a/)?(?!/dev/null)/?([^\t\n\r]+)\r?\n\+\+\+ [^\n]+\n@@ -0,0 "
#: From what git would do to what still cannot put a line in the wrong place; three-way comes last, it may leave marks.
_ATTEMPTS: tuple[tuple[tuple[str, ...], str], ...] = (
    ((), ""),
    (("--unidiff-zero",), "without context lines"),
    (("--unidiff-zero", "--ignore-space-change"), "with differences in white space ignored"),
    (("--3way",), "by a three-way merge"),
)
#: Errors of a path that say something of its words and nothing of the host.
_NAMES_AT_FAULT = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ})
#: What is longer is not looked into: reading ten megabytes as Python takes longer, and a gigabyte.
_LONGEST_READ = 1024 * 1024
_INJECTED = (
    r"\A(?:from (?:clearml|trains|allegroai) import Task\r?\n"
    r"|try: from allegroai import Task\r?\nexcept ImportError: from clearml import Task\r?\n)"
    r"\(__name__ != \"__main__\"\) or Task\.init\(\)\r?\n"
)


def is_diff(text: str) -> bool:
    """Whether a recorded "diff" is one; if not, it is the whole script."""
    return re.match(_FIRST_LINES, _plain(text)) is not None


def _plain(text: str) -> str:
    return re.sub(_COLOURS, "", text) if "\x1b[" in text else text


def apply_changes(script: Script, source: Source, workspace: Workspace) -> Entry:
    """Bring the code to the state it was recorded in, and answer what of it is to be run."""
    recorded = script.diff
    if not recorded.strip():
        entry = entry_for(script, source.root)
    elif is_diff(recorded):
        _apply(_plain(recorded), source, workspace)
        entry = entry_for(script, source.root)
    else:
        entry = _write_script(script, source, workspace)
    if entry.file is not None:
        _settle_init_lines(entry.file)
    return entry


def _apply(diff: str, source: Source, workspace: Workspace) -> None:
    if source.git is None:
        raise SetupFailed(
            "the task records a diff but no repository to apply it to",
            hint="Tasks recorded outside a repository carry the whole script in that place.",
        )
    patch = _bytes_of(diff if diff.endswith("\n") else diff + "\n")
    errors: list[str] = []
    for options, how in _ATTEMPTS:
        if "--unidiff-zero" in options:
            _create_missing(diff, source.root)
        try:
            source.git.run("apply", "--whitespace=nowarn", *options, "-", cwd=source.root, stdin=patch)
        except CommandFailed as error:
            errors.append(error.output)
            continue
        workspace.console.info(f"uncommitted changes applied{' ' + how if how else ''}")
        return
    raise SetupFailed(
        "the recorded diff does not apply to the checkout",
        hint="\n".join(part for part in (tail(errors[0], 12), _failing_hunk(diff, errors[0])) if part),
    )


def _create_missing(diff: str, root: str) -> None:
    """The SDK appends changes to files that need not exist (`--- a/requirements.txt`, `@@ -0,0 +1`)."""
    for name in re.findall(_NEVER_THERE, diff):
        path = inside(root, name)
        if _is_gits(path, root):
            continue  # git refuses it, too
        if not os.path.lexists(path) and _is_really_below(os.path.dirname(path), root):
            with open(path, "x", encoding="utf-8"):
                pass


def _is_really_below(folder: str, root: str) -> bool:
    """Whether a folder exists and no link on the way to it leads out of `root`."""
    real, top = os.path.realpath(folder), os.path.realpath(root)
    return os.path.isdir(real) and (real == top or real.startswith(top + os.sep))


def _failing_hunk(diff: str, errors: str) -> str:
    match = re.search(_FAILED_AT, errors)
    if match is None:
        return ""
    path, line = match[1], int(match[2])
    start = max(diff.find(f"+++ b/{path}"), diff.find(f"--- a/{path}"))
    if start < 0:
        return ""
    for hunk in re.compile(_HUNK).finditer(diff, start):
        first, count = int(hunk[1]), int(hunk[2] or 1)
        if first <= line <= first + count:
            end = re.search(r"^(?:@@ |diff )", diff[hunk.end() :], re.MULTILINE)
            text = diff[hunk.start() : hunk.end() + end.start() if end else len(diff)]
            return f"The hunk of {path}:\n{tail(text, 30)}"
    return ""


def _write_script(script: Script, source: Source, workspace: Workspace) -> Entry:
    entry = entry_for(script, source.root, literal=True)
    if entry.file is None:
        raise SetupFailed("the task carries a script, but its entry point names no file for it")
    if source.git is not None and os.path.isfile(entry.file):
        _doubt_external_diff(script.diff, entry.file)
        workspace.console.info(f"the recorded script takes the place of {os.path.relpath(entry.file, source.root)}")
    if _is_gits(entry.file, source.root):
        raise SetupFailed(f"the script {script.entry_point!r} would take the place of a file of git itself")
    try:
        _replace(really_inside(source.root, os.path.dirname(entry.file)), entry.file, _bytes_of(script.diff))
    except OSError as error:
        if error.errno not in _NAMES_AT_FAULT:
            raise
        raise SetupFailed(f"the script cannot be written as {script.entry_point!r}: {error.strerror}") from error
    return entry


def _replace(folder: str, path: str, data: bytes) -> None:
    os.makedirs(folder, exist_ok=True)
    if os.path.lexists(path):
        os.unlink(path)
    with open(path, "xb") as file:  # follows no link
        file.write(data)


def _is_gits(path: str, root: str) -> bool:
    """Whether a path is that of git's own files; in any letter case, as some file systems have it."""
    return ".git" in os.path.relpath(path, root).lower().split(os.sep)


def _bytes_of(text: str) -> bytes:
    """The bytes that were recorded: the SDK keeps those that are no UTF-8 as single surrogates."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def _doubt_external_diff(text: str, path: str) -> None:
    """An external diff tool's output is neither a diff nor a script; running it would fail in a strange way."""
    if not path.endswith(".py") or len(text) > _LONGEST_READ:
        return
    try:
        compile(text, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise SetupFailed(
            f"what the task records as uncommitted changes is neither a git diff nor a Python script ({error})",
            hint="Was it made with an external diff tool (git config diff.external, GIT_EXTERNAL_DIFF)?",
        ) from error
    except (RecursionError, MemoryError, OverflowError):
        return  # Python will say so itself


def _settle_init_lines(path: str) -> None:
    """Two lines that the SDK puts first belong behind `from __future__` imports, which Python wants first."""
    if not path.endswith(".py"):
        return
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read()
    except (OSError, ValueError):
        return
    match = re.match(_INJECTED, text) if "from __future__" in text else None
    if match is None:
        return
    rest = text[match.end() :]
    lines = rest.splitlines(keepends=True)
    if (last := _last_future_line(rest)) > 0:
        moved = "".join([*lines[:last], match[0], *lines[last:]])
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(moved)


def _last_future_line(text: str) -> int:
    import ast

    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return 0
    ends = [n.end_lineno or 0 for n in body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    return max(ends, default=0)
