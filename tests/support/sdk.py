"""Scripts with the real SDK, each in a process and a home of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.reference_agent import loopback_only

_SCRIPTS = Path(__file__).parent / "sdk_scripts"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptRun:
    """What became of a script. `result` is the JSON behind the word RESULT in its output."""

    code: int
    output: str
    result: Any


def run_script(
    name: str, *arguments: str, config: Path, home: Path, env: Mapping[str, str] | None = None, timeout: float = 100
) -> ScriptRun:
    """Run one of our scripts in the folder `home`, to its end.

    It is copied there first: in our own repository the SDK would report that repository instead of the script.
    """
    home.mkdir(parents=True, exist_ok=True)
    script = shutil.copy(_SCRIPTS / f"{name}.py", home)
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env={
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "CLEARML_CONFIG_FILE": str(config),
            "CLEARML_SUPPRESS_UPDATE_MESSAGE": "1",
            **loopback_only(),
            **(env or {}),
        },
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        check=False,
    )
    output = done.stdout.decode("utf-8", "replace")
    results = [line.removeprefix("RESULT ") for line in output.splitlines() if line.startswith("RESULT ")]
    return ScriptRun(code=done.returncode, output=output, result=json.loads(results[-1]) if results else None)
