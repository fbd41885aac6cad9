"""Who is told about changed files: systemd or supervisord; or nobody, when an image is prepared below a root."""

from __future__ import annotations

from pathlib import Path

from supervisor_gen.model import Site
from supervisor_gen.supervisors.base import Supervisor
from supervisor_gen.supervisors.supervisord import Supervisord
from supervisor_gen.supervisors.systemd import Systemd

#: Places that agents cannot see, by format: ProtectHome= and the private /tmp of the template.
HIDDEN = {"systemd": ("/home", "/root", "/run/user", "/tmp", "/var/tmp"), "supervisord": ()}  # noqa: S108


def supervisor_for(format_: str, *, root: Path, configuration: str | None, site: Site) -> Supervisor | None:
    """The supervisor to talk to. A supervisord that is named by its configuration may be one below a root."""
    if format_ == "supervisord" and (configuration or root == Path("/")):
        return Supervisord(configuration, site)
    return Systemd() if format_ == "systemd" and root == Path("/") else None
