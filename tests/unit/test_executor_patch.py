"""A recorded diff is told from a recorded script by its structure."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.executor import patch

DIFFS = [
    "diff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n",
    "\n\ndiff --git a/x b/x\nnew file mode 100644\n",
    "diff --cc x\nindex 1,2..3\n",
    "diff -u x y\n--- x\n+++ y\n@@ -1 +1 @@\n",
    "Submodule lib 1234567..89abcde:\ndiff --git a/lib/x b/lib/x\n",
    "Submodule lib contains modified content\ndiff --git a/lib/x b/lib/x\n",
    "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n",
    "\x1b[1mdiff --git a/x b/x\x1b[m\n\x1b[1mindex 1..2\x1b[m\n",
    "diff --git a/x b/x\r\nindex 1..2\r\n",
]
SCRIPTS = [
    "print(1)\n",
    "diff = 1\nprint(diff)\n",
    "diff --help\n",
    '"""A diff:\ndiff --git a/x b/x\n"""\n',
    "#!/bin/bash\ndiff --git a/x b/x\n",
    "from clearml import Task\n",
    "train.py --- Python\n1 print(1)   1 print(2)\n",
    "--- a comment\n",
    "submodule = 3\n",
]


@pytest.mark.parametrize("text", DIFFS)
def test_a_diff_is_recognised(text: str) -> None:
    assert patch.is_diff(text)


@pytest.mark.parametrize("text", SCRIPTS)
def test_a_script_is_not_taken_for_a_diff(text: str) -> None:
    assert not patch.is_diff(text)


@pytest.mark.parametrize(
    "injected",
    [
        'from clearml import Task\n(__name__ != "__main__") or Task.init()\n',
        "try: from allegroai import Task\nexcept ImportError: from clearml import Task\n"
        '(__name__ != "__main__") or Task.init()\n',
    ],
)
def test_lines_of_the_sdk_move_behind_future_imports(tmp_path: Path, injected: str) -> None:
    path = tmp_path / "x.py"
    path.write_text(f'{injected}"""Doc."""\nfrom __future__ import (\n    annotations,\n)\nprint(1)\n')
    patch._settle_init_lines(str(path))
    assert path.read_text() == f'"""Doc."""\nfrom __future__ import (\n    annotations,\n)\n{injected}print(1)\n'
    compile(path.read_text(), "x", "exec")


def test_scripts_without_future_imports_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    text = 'from clearml import Task\r\n(__name__ != "__main__") or Task.init()\r\nprint("from __future__")\r\n'
    path.write_bytes(text.encode())
    patch._settle_init_lines(str(path))
    assert path.read_bytes() == text.encode()
