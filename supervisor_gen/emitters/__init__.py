"""How a plan is written down, by the names of `--format`."""

from __future__ import annotations

from supervisor_gen.emitters.base import Emitter
from supervisor_gen.emitters.supervisord import Supervisord
from supervisor_gen.emitters.systemd import Systemd

EMITTERS: dict[str, Emitter] = {"systemd": Systemd(), "supervisord": Supervisord()}

__all__ = ["EMITTERS", "Emitter"]
