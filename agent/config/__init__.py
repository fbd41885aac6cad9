"""Configuration: `reference.conf` holds every default, `load` lays files and the environment over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.config.schema import Settings


def load(path: str | None, env: Mapping[str, str], *, needs_server: bool = True) -> Settings:
    """Read the configuration of this host; see `agent.config.loading.load_settings`."""
    from agent.config.loading import load_settings

    return load_settings(path, env, needs_server=needs_server)


def defaults(env: Mapping[str, str] | None = None) -> Settings:
    """The settings of `reference.conf` and the variables in `env` (none by default), without any file. For tests."""
    from agent.config.loading import settings_from

    return settings_from((), env or {})
