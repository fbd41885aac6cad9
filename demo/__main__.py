"""`python -m demo run | up | task`: what `make demo` and `make up` call."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from demo.agents import QUICK, TRAINING, running_agents, visible_gpus
from demo.api import Account, Api, ApiError
from demo.processes import end_all, marked, wait_until
from demo.repository import served_repository
from demo.results import Result, result_of, table_of
from demo.server import Server, StartFailed, program, running_server
from demo.state import Place, StateBusy, claimed_place
from demo.tasks import HELLO, PROJECT, DemoTask, create, demo_tasks, literal, project_named
from demo.watch import TooSlow, follow

Say = Callable[[str], object]

CHECKOUT = Path(__file__).resolve().parent.parent
ONE_DAY_SECONDS = 24 * 3600.0
COLOURS = ("cyan", "green", "yellow")

state_option = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=CHECKOUT / "demo-state",
    help="Where everything is kept.  [default: demo-state in the checkout]",
)


@click.group()
def main() -> None:
    """A whole fleet on this machine, to look at."""


@main.command()
@state_option
@click.option("--timeout", default=150.0, help="Seconds that the tasks may take (a first run downloads packages).")
@click.option("--json", "as_json", is_flag=True, help="Print nothing but a summary in JSON.")
def run(state: Path, timeout: float, as_json: bool) -> None:
    """Three tasks through a server and two agents; then everything is shut down."""
    say: Say = (lambda _text: None) if as_json else click.echo
    started = time.monotonic()
    with _stopping_on_signals(), _place(state, kind="demo", keep=False) as place:
        with _fleet(place, say) as fleet, served_repository(place) as repository:
            results = _work(fleet, demo_tasks(repository), timeout, say)
        say("shutting down")
        left = _left_running(place)
    seconds = time.monotonic() - started
    good = not left and all(result.good for result in results)
    if as_json:
        tasks = [asdict(result) for result in results]
        click.echo(json.dumps({"ok": good, "seconds": round(seconds, 1), "tasks": tasks, "left_running": left}))
    else:
        click.echo(f"\n{table_of(results)}\n")
        for result in results:
            for fault in result.faults:
                click.secho(f"{result.task}: {fault}", fg="red")
        for pid in left:
            click.echo(f"process {pid} was still running and had to be ended", err=True)
        click.echo(f"{'all as it should be' if good else 'NOT as it should be'}, {seconds:.1f} s in all")
    sys.exit(0 if good else 1)


@main.command()
@state_option
def up(state: Path) -> None:
    """The same fleet, and it stays until Ctrl-C. What it stores is still there the next time."""
    with _stopping_on_signals(), _place(state, kind="up", keep=True) as place:
        with _fleet(place, click.echo) as fleet, contextlib.suppress(KeyboardInterrupt):
            _print_invitation(fleet)
            signal.pause()
        click.echo("\nshutting down")
        for pid in _left_running(place):
            click.echo(f"process {pid} was still running and had to be ended", err=True)


@main.command()
@click.option("--queue", default=QUICK, show_default=True, help="Where to put it.")
@click.option(
    "--config-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="CLEARML_CONFIG_FILE",
    required=True,
    help="The clearml.conf that the server wrote.  [env: CLEARML_CONFIG_FILE]",
)
@click.option("--draft", is_flag=True, help="Only make the task, and print its id.")
@click.argument("script", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
def task(*, queue: str, config_file: Path, draft: bool, script: Path | None) -> None:
    """Enqueue a SCRIPT (or one that says hello), show its console, and end as it ended."""
    text, name = (script.read_text(), script.name) if script else (HELLO, "hello.py")
    try:
        api = Api(Account.from_file(config_file))
        identity = create(api, name, literal(text, name), project=project_named(api, PROJECT))
        if draft:
            click.echo(identity)
            return
        api("tasks.enqueue", task=identity, queue_name=queue)
        click.echo(f"task {identity} is in queue {queue}", err=True)
        ended = follow(api, [identity], lambda _task, _level, line: click.echo(line), seconds=ONE_DAY_SECONDS)[identity]
    except (ApiError, OSError, TooSlow) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{ended.status}, {ended.reason}", err=True)
    sys.exit(0 if ended.status == "completed" else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A server and its agents, running."""

    place: Place
    server: Server


@contextlib.contextmanager
def _fleet(place: Place, say: Say) -> Iterator[Fleet]:
    with running_server(place) as server:
        say(f"API server   {server.account.api_server}")
        with running_agents(visible_gpus(), place, server) as workers:
            for worker, queues in workers.items():
                say(f"agent        {worker} for {', '.join(queues)}")
            yield Fleet(place=place, server=server)


def _work(fleet: Fleet, tasks: tuple[DemoTask, ...], timeout: float, say: Say) -> tuple[Result, ...]:
    api = fleet.server.api
    project = project_named(api, PROJECT)
    enqueued: dict[str, tuple[DemoTask, float]] = {}
    for wanted in tasks:
        identity = create(api, wanted.name, wanted.script, project=project)
        enqueued[identity] = (wanted, time.time())
        api("tasks.enqueue", task=identity, queue_name=wanted.queue)
    colours = dict(zip(enqueued, COLOURS, strict=False))

    def show(identity: str, level: str, line: str) -> None:
        prefix = click.style(f"{enqueued[identity][0].name:>10} | ", fg=colours[identity])
        say(prefix + (line if level == "debug" else click.style(line, dim=True)))

    ended = follow(api, list(enqueued), show, seconds=timeout)
    return tuple(result_of(api, wanted, began, ended[identity]) for identity, (wanted, began) in enqueued.items())


def _print_invitation(fleet: Fleet) -> None:
    server = fleet.server
    project = project_named(server.api, PROJECT)
    drafts = server.api("tasks.get_all", name="^hello$", project=[project], status=["created"], only_fields=["id"])
    known = [str(task["id"]) for task in drafts["tasks"]]
    draft = known[0] if known else create(server.api, "hello", literal(HELLO, "hello.py"), project=project)
    click.echo(f"web page     {server.account.api_server}/ui (sign in with the access key and the secret key)")
    click.echo(f"credentials  {server.configuration}")
    click.echo(f"logs         {fleet.place.root / 'log'}")
    click.echo(
        f"""
To try, in another terminal:

  cd {shlex.quote(str(CHECKOUT))}
  export CLEARML_CONFIG_FILE={shlex.quote(str(server.configuration))}
  {_called("clearml-agent")} list
  {_called("python")} -m demo task --queue {TRAINING}
  {_called("clearml-agent")} execute --id {draft} --clone

Ctrl-C ends it all."""
    )


def _called(name: str) -> str:
    """A program of our environment as one calls it from the checkout."""
    path = program(name)
    return shlex.quote(str(path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path))


@contextlib.contextmanager
def _place(state: Path, *, kind: str, keep: bool) -> Iterator[Place]:
    try:
        with claimed_place(state, kind=kind, keep=keep) as place:
            try:
                yield place
            finally:
                end_all(place.mark, grace_seconds=5)
    except (StartFailed, StateBusy, TooSlow, ApiError, subprocess.CalledProcessError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo("interrupted; everything that was started has been ended", err=True)
        sys.exit(130)


@contextlib.contextmanager
def _stopping_on_signals() -> Iterator[None]:
    """TERM and HUP (a closed terminal) end us like Ctrl-C does."""

    def interrupt(_number: int, _frame: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # once is enough: the shutdown has deadlines of its own
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    yield


def _left_running(place: Place) -> list[int]:
    """What is still there after the shutdown; it is given a moment to disappear, and then made to."""
    wait_until(lambda: not marked(place.mark), seconds=2)
    return end_all(place.mark, grace_seconds=5)


if __name__ == "__main__":
    os.umask(0o077)
    main(prog_name="python -m demo")
