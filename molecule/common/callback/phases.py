"""Writes down what each playbook of a scenario came to, one JSON object a line, for molecule/run.py to read."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: phases
type: aggregate
short_description: A line of JSON per playbook
description: Appends to the file that the environment names in GPUFLEET_PHASES; does nothing without it.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """One line at the end of each run of ansible-playbook."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "phases"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self._playbook = Path(playbook._file_name).stem
        self._started = time.time()

    def v2_playbook_on_stats(self, stats: Any) -> None:
        line = {
            "playbook": self._playbook,
            "check_mode": bool(context.CLIARGS.get("check")),
            "seconds": time.time() - self._started,
            "hosts": {host: stats.summarize(host) for host in sorted(stats.processed)},
        }
        if path := os.environ.get("GPUFLEET_PHASES"):
            with open(path, "a") as file:
                file.write(f"{json.dumps(line)}\n")
