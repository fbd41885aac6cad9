"""`clearml-apiserver`: options, environment and file become a `ServerConfig`; errors become one line and an exit
code."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .server import Running

PREFIX = "CLEARML_APISERVER"
DEFAULT_DATA = "~/.clearml/server"
LEVELS = ("debug", "info", "warning", "error")
KEYS = ("host", "port", "files_port", "data", "database_url", "log_level", "json_logs")


def _from_file(context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """Options of the configuration file are defaults: the command line and the environment win over them."""
    if path is not None:
        context.default_map = _read(path)
    return path


def _read(path: Path) -> dict[str, Any]:
    import difflib

    from pyhocon import ConfigFactory
    from pyhocon.exceptions import ConfigException
    from pyparsing import ParseBaseException

    try:
        values = ConfigFactory.parse_file(str(path)).as_plain_ordered_dict()
    except (ConfigException, ParseBaseException, OSError) as error:
        raise _Failure(f"cannot read {path}: {error}") from error
    settings = {str(key).strip('"').replace("-", "_"): value for key, value in values.items()}
    for key in settings:
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, 1)
            raise _Failure(f"{path}: unknown key {key}" + (f", did you mean {close[0]}?" if close else ""))
    return settings


class _Failure(click.ClickException):
    """A bad configuration file, in click's clothes because it is read while options are."""

    exit_code = 3


@click.command(context_settings={"auto_envvar_prefix": PREFIX, "help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_from_file,
    help="HOCON file with the same keys as these options.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8008, show_default=True, help="API port; 0: any free one."
)
@click.option(
    "--files-port",
    type=click.IntRange(0, 65535),
    default=8081,
    show_default=True,
    help="File server port; 0: any free one.",
)
@click.option("--data", default=DEFAULT_DATA, show_default=True, help="Directory for everything that is kept.")
@click.option("--database-url", default="", help="SQLAlchemy URL instead of SQLite in the data directory.")
@click.option("--log-level", type=click.Choice(LEVELS, case_sensitive=False), default="info", show_default=True)
@click.option("--json-logs", is_flag=True, help="Log JSON lines.")
def command(**options: Any) -> None:
    """Run the embedded ClearML-compatible API server and file server.

    Every option has a twin in the environment, e.g. CLEARML_APISERVER_PORT. The first start creates credentials and a
    clearml.conf in the data directory that the agent and the SDK read.

    Exit codes: 0 success, 1 other error, 2 usage, 3 configuration, 9 address in use.
    """
    gc.disable()  # collecting while thousands of classes are being made is a fifth of the start
    from . import errors, logs
    from .config import ServerConfig
    from .server import run

    gc.freeze()
    gc.enable()
    logs.set_up(options["log_level"], as_json=options["json_logs"])
    config = ServerConfig(**{**options, "data": Path(options["data"]).expanduser().absolute()})
    try:
        run(config, on_ready=_tell)
    except errors.StartupError as error:
        click.echo(f"clearml-apiserver: {error}", err=True)
        sys.exit(error.exit_code)


def _tell(running: Running) -> None:
    """Where it is; whoever waits for these lines may connect."""
    click.echo(f"API server:  {running.addresses.api}")
    click.echo(f"File server: {running.addresses.files}")
    click.echo(f"Credentials: {running.client_config}")
    sys.stdout.flush()


def main() -> None:
    """The console script."""
    command(prog_name="clearml-apiserver")
