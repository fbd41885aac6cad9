"""Settings for tests: the defaults of `reference.conf`, with a server and a state directory of the test's own."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from agent.config import defaults
from agent.config.schema import Settings


@lru_cache(maxsize=1)
def _defaults() -> Settings:
    return defaults()


def settings_for(
    url: str = "http://127.0.0.1:9",
    *,
    key: str = "KEY",
    secret: str = "SECRET",
    files: str = "",
    state: Path | None = None,
    **agent: Any,
) -> Settings:
    """`agent` replaces fields of `AgentSettings`; all caches go below `state`.

    Faults that tests make on purpose, and their small disks, do not cordon the agent; `health=` is for those that do.
    """
    settings = _defaults()
    calm = replace(settings.agent.health, least_free_disk_gb=0.0, failures_in_a_row=0)
    api = replace(settings.api, api_server=url, files_server=files, access_key=key, secret_key=secret)
    own = replace(settings.agent, **{"worker_name": "testhost", "health": calm, **agent})
    if state is not None:
        own = replace(
            own,
            state_dir=str(state),
            vcs_cache=replace(own.vcs_cache, path=str(state / "vcs")),
            venvs_cache=replace(own.venvs_cache, path=str(state / "venvs")),
        )
    return replace(settings, api=api, agent=own)
