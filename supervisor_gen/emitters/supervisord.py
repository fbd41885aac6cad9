"""supervisord programs: a file per agent with one `[program:]`, which is its own group (docs/decisions/0007).

TERM leaves a running task alone, and nothing but the agent itself is signalled, as under systemd. There are no device
rules here, and no CPU affinity: supervisord has neither.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from agent.errors import ConfigError
from supervisor_gen.emitters.base import (
    Written,
    has_own_user,
    header_for,
    options_for,
    queues_in,
    visible_devices,
)
from supervisor_gen.model import File, Files, HostPlan, PlannedAgent, Site

FOLDER = "etc/supervisor/conf.d"
_FILE = re.compile(rf"{FOLDER}/clearml-agent-([^/]+)\.conf")
_FENCE = ("user=", "environment=")
#: Of an agent that an operator holds (`supervisor_gen.holds`), wherever the root of the host is: supervisord puts the
#: folder of the program's file in place of %(here)s.
_HOLDS = "%(here)s/../../../var/lib/gpufleet/held"


class Supervisord:
    """Programs for a supervisord that includes `conf.d/*.conf`."""

    patterns = (f"{FOLDER}/clearml-agent-*.conf",)

    def files_for(self, plan: HostPlan, site: Site, *, also: Sequence[str] = ()) -> Files:
        return {
            f"{FOLDER}/clearml-agent-{agent.name}.conf": File(program_text(agent, plan.host, site), 0o600)
            for agent in plan.agents
        }

    def owner(self, path: str) -> str:
        found = _FILE.fullmatch(path)
        return found[1] if found else ""

    def concerns_all(self, path: str) -> bool:
        return False

    def fence_in(self, path: str, files: Files) -> tuple[str, ...]:
        file = files.get(path)
        lines = [line for line in file.text.splitlines() if line.startswith(_FENCE)] if file else []
        return tuple(re.sub(r".*(CUDA_VISIBLE_DEVICES=\"[^\"]*\").*", r"\1", line) for line in lines)

    def written(self, agent: str, files: Files) -> Written:
        file = files.get(f"{FOLDER}/clearml-agent-{agent}.conf")
        lines = dict(line.partition("=")[::2] for line in file.text.splitlines()) if file else {}
        version = re.search(r'GPUFLEET_VERSION="([^"]*)"', lines.get("environment", ""))
        options = shlex.split(lines.get("command", "").replace("%%", "%"))
        return Written(version=version[1] if version else "", queues=queues_in(options))


def program_text(agent: PlannedAgent, host: str, site: Site) -> str:
    """The section of one agent.

    Codes 2, 3, 5 and 7 (docs/cli.md) need a person, so they end it like a success; where they come at once, supervisord
    tries ten times. An agent that has come further backs off by itself.
    """
    settings = agent.settings
    command = [site.program, "--config-file", settings.config_file, "daemon", "--foreground", *options_for(agent)]
    environment = {
        "CLEARML_WORKER_ID": f"{host}:{agent.name}",
        "STATE_DIRECTORY": site.state_dir,
        "GPUFLEET_VERSION": site.version,
        **(_account(settings.user, site) if has_own_user(settings) else {}),
        **visible_devices(agent),
        **dict(sorted(settings.environment.items())),
    }
    variables = [
        f'CLEARML_AGENT_HOLD_FILE="{_HOLDS}/{agent.name}"',
        *(f"{name}={_value(agent, name, value)}" for name, value in environment.items()),
    ]
    lines = [
        f"[program:{agent.name}]",
        f"command={_line(agent, shlex.join(command))}",
        "environment=" + ",".join(variables),
        "directory=/",
        *([f"user={settings.user}"] if has_own_user(settings) else []),
        "autostart=true",
        "autorestart=unexpected",
        "exitcodes=0,2,3,5,7",
        "startsecs=1",
        "startretries=10",
        f"stopsignal={site.stop_signal}",
        "stopwaitsecs=30",
        "stopasgroup=false",
        "killasgroup=false",
        f"stdout_logfile={site.log_dir}/{agent.name}.log".replace("%", "%%"),
        "stdout_logfile_maxbytes=20MB",
        "stdout_logfile_backups=5",
        "redirect_stderr=true",
    ]
    return header_for(agent) + "\n".join(lines) + "\n"


def _account(user: str, site: Site) -> dict[str, str]:
    """What supervisord leaves as its own starter's, whomever a program runs as; a task's `~` is where caches are."""
    return {"HOME": site.state_dir, "LOGNAME": user, "USER": user}


def _line(agent: PlannedAgent, text: str) -> str:
    """A value of the file: `%` doubled; what the file would take for a comment cannot be written at all."""
    if re.search(r"\s[;#]", text):
        raise ConfigError(f"{agent.place}: supervisord cannot be told of a blank before ';' or '#': {text}")
    return text.replace("%", "%%")


def _value(agent: PlannedAgent, name: str, value: str) -> str:
    """A value of `environment=`, which knows quotes, nothing that would escape one, and takes all off the ends."""
    if ('"' in value and "'" in value) or value != value.strip("'\""):
        raise ConfigError(
            f"{agent.place}: supervisord cannot be told of a quote at an end, or of both kinds: environment.{name}"
        )
    if re.search(r"\s[;#]", value):
        raise ConfigError(f"{agent.place}: supervisord cannot be told of a blank before ';' or '#': environment.{name}")
    quote = "'" if '"' in value else '"'
    return quote + value.replace("%", "%%") + quote
