"""Task objects as nobody should send them: a good one, with some of its fields replaced, removed or nested."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TASK_ID = "0123456789abcdef0123456789abcdef"
SCRIPT = {
    "binary": "python3",
    "repository": "https://git.example.com/ml/net.git",
    "branch": "main",
    "tag": "",
    "version_num": "0123456789abcdef0123456789abcdef01234567",
    "entry_point": "train.py --fold 2",
    "working_dir": ".",
    "diff": "print('hello')\n",
    "requirements": {"pip": "six==1.16.0\nidna\n", "conda": None},
}
VALID: dict[str, Any] = {
    "id": TASK_ID,
    "name": "a task",
    "status": "queued",
    "status_message": "",
    "type": "training",
    "project": "p1",
    "script": SCRIPT,
    "hyperparams": {"Environment": {"LEVEL": {"section": "Environment", "name": "LEVEL", "value": "7"}}, "Args": {}},
    "execution": {"queue": "q1"},
    "runtime": {"_abort_callback_timeout": 3},
    "container": {"image": "", "arguments": ""},
}

EVIL_TEXTS = (
    "", " ", "\0", "a\0b", "\ud800", "\udcff", "\x1b[2J", "a\nb", "-", "--", "--help", "-c", "-m", "-m -x", "-u x.py",
    "..", "../..", "../../x.py", "/", "/etc/passwd", "~", "~root/x", "a:..", ":", "x.py:../..", "file:///", "file://",
    "ext::sh -c touch% x", "fd::17", "transport::x", "ssh://-oProxyCommand=x/y", "host:-x", "https://-x/y", "a@b:c",
    "git+ext::sh -c x", "git+https://-x/y", "git+ssh://-oProxyCommand=x/y@-z", "git+https://h/r@--x",
    "-r ../../etc/passwd", "-r /dev/zero", "-e .", "-e ../..", "--pre -r/etc/passwd", "--no-binary --index-url=x",
    "--index-url", "--extra-index-url https://a/s --trusted-host b", "x --global-option=y", "-c \\", "a \\",
    "name @ file:///etc/passwd", "x ; os_name == 'z'", "'", '"', "a 'b", "${HOME}", "$(touch x)", "`touch x`",
    "python; rm -rf x", "../x", "bash", "\u2028", "\r", "\t", "NaN", "x" * 5000, "é", "\ufeff", ".git/config",
    "diff --git a/../../x b/../../x\n--- a/../../x\n+++ b/../../x\n@@ -0,0 +1 @@\n+x\n",
)  # fmt: skip
_SCALARS = st.one_of(
    st.sampled_from(EVIL_TEXTS),
    st.text(max_size=20),
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -1, 2**63, float("nan"), float("inf"), -1e308]),
    st.floats(),
)
_NAMES = st.sampled_from(EVIL_TEXTS) | st.text()
JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=8,
)


def paths_in(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where in nested objects something stands."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*path, name)
            yield from paths_in(inner, (*path, name))


def deep(levels: int) -> Any:
    """A list in a list in a list."""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def with_change(task: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The task with one field replaced; a field that has become unreachable stays as it is."""
    changed = copy.deepcopy(task)
    place: Any = changed
    for name in path[:-1]:
        place = place.get(name) if isinstance(place, dict) else None
    if isinstance(place, dict):
        place[path[-1]] = value
    return changed


@st.composite
def bad_tasks(draw: st.DrawFn) -> dict[str, Any]:
    """A task with up to four fields replaced by anything, or gone."""
    task = copy.deepcopy(VALID)
    for path in draw(st.lists(st.sampled_from(list(paths_in(VALID))), min_size=1, max_size=4)):
        if draw(st.booleans()) or len(path) == 1:
            task = with_change(task, path, draw(JSON))
        else:
            task = with_change(task, path, draw(st.sampled_from(EVIL_TEXTS)))
    if draw(st.integers(0, 9)) == 0:
        task = with_change(task, ("hyperparams", "Deep"), deep(draw(st.sampled_from([50, 101, 900]))))
    return task


def examples(number: int) -> settings:
    """So many examples, times GPUFLEET_FUZZ where it is set (`make faults`)."""
    factor = int(os.environ.get("GPUFLEET_FUZZ") or 1)
    return settings(max_examples=number * factor, suppress_health_check=[HealthCheck.function_scoped_fixture])
