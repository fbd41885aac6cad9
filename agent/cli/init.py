"""`clearml-agent init`: makes a `clearml.conf` out of credentials that are pasted, typed or given as options.

What is secret is read without echo and shown nowhere; the credentials are tried before anything is written; the file is
its user's only and holds just what differs from the defaults.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TextIO

import click

from agent import config
from agent.api.client import open_client
from agent.cli.group import HELP, AgentCommand, Invocation
from agent.config import hocon
from agent.config.hosts import derived
from agent.config.keys import expanded
from agent.config.loading import FILE_VARIABLES, USER_FILES
from agent.config.schema import ApiSettings, Json
from agent.errors import AgentError, ConfigError, CredentialsRefused, ServerUnreachable

LOCAL_SERVER = "http://localhost:8008"
TRIES = 3

_PASTE = """\
Paste the credentials that the server's settings page shows. They are not echoed.
Or press Enter to type them one by one."""
_HEADER = """\
# Written by `clearml-agent init`. Only what differs from the defaults is here; every key is in docs/configuration.md.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What goes into the file."""

    api_server: str = ""
    web_server: str = ""
    files_server: str = ""
    access_key: str = ""
    secret_key: str = ""
    git_user: str = ""
    git_pass: str = ""
    output_uri: str = ""
    extra_index_urls: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        return bool(self.api_server and self.access_key and self.secret_key)


@click.command("init", cls=AgentCommand, context_settings=HELP, short_help="Write ~/clearml.conf, asking questions.")
@click.option("--api-server", metavar="URL", default="", help="Address of the API server, such as http://host:8008.")
@click.option("--web-server", metavar="URL", default="", help="Address of the web page; derived without it.")
@click.option("--files-server", metavar="URL", default="", help="Address of the file server; derived without it.")
@click.option("--access-key", metavar="KEY", default="", help="Access key; the secret key is asked for or pasted.")
@click.option("--git-user", metavar="USER", default="", help="User for https repositories.")
@click.option("--output-uri", metavar="URI", default="", help="Where tasks store their models by default.")
@click.option(
    "--from-file",
    type=click.File(encoding="utf-8"),
    metavar="FILE",
    help="Read the credentials as the server's page shows them from FILE (- is standard input); ask nothing.",
)
@click.option("--no-verify", is_flag=True, help="Write the file without logging in first.")
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    api_server: str,
    web_server: str,
    files_server: str,
    access_key: str,
    git_user: str,
    output_uri: str,
    from_file: TextIO | None,
    no_verify: bool,
) -> int:
    """Write a configuration file with the credentials that the server's settings page gives out.

    The credentials are pasted, or typed one by one; secrets are not echoed. Without a terminal they are read from
    standard input, and CLEARML_API_SECRET_KEY and CLEARML_AGENT_GIT_PASS are taken from the environment.
    """
    target = target_file(invocation.config_file, os.environ)
    given = Answers(
        api_server=api_server,
        web_server=web_server,
        files_server=files_server,
        access_key=access_key,
        secret_key=os.environ.get("CLEARML_API_SECRET_KEY", ""),
        git_user=git_user,
        git_pass=os.environ.get("CLEARML_AGENT_GIT_PASS", ""),
        output_uri=output_uri,
    )
    verify = (lambda answers: None) if no_verify else log_in
    if from_file or not sys.stdin.isatty():
        pasted = from_file if from_file else sys.stdin
        answers = without_questions(given, "" if given.is_complete and not from_file else pasted.read(), verify)
    else:
        answers = ask(given, verify)
    write_configuration(target, answers)
    click.echo(f"Wrote {target}")
    return 0


def target_file(chosen: str | None, env: Mapping[str, str]) -> str:
    """Where to write. Raises ConfigError if this host is configured already."""
    named = chosen or next((env[name] for name in FILE_VARIABLES if env.get(name)), "")
    candidates = [expanded(name, env) for name in ([named] if named else USER_FILES)]
    for file in candidates:
        if os.path.isfile(file) and os.path.getsize(file):
            raise ConfigError(f"{file} exists already", hint="Edit it, or move it away and run this again.")
    return candidates[-1]


def read_pasted(text: str, given: Answers) -> Answers:
    """`given`, completed by what the pasted text says; options win over it."""
    section = hocon.parse(text, source="the pasted text") if text.strip() else {}
    api = section.get("api", section)
    if not isinstance(api, dict):
        raise ConfigError("the pasted text has no section api { }")
    credentials = api.get("credentials")
    keys: Json = {**(credentials if isinstance(credentials, dict) else {}), **api}
    names = ("api_server", "web_server", "files_server", "access_key", "secret_key")
    found: Json = {name: getattr(given, name) or str(keys.get(name) or "") for name in names}
    return replace(given, **found)


def without_questions(given: Answers, text: str, verify: Callable[[Answers], None]) -> Answers:
    """The answers where nobody can be asked. Raises ConfigError for what is missing."""
    answers = with_derived_hosts(read_pasted(text, given))
    missing = [name for name in ("api_server", "access_key", "secret_key") if not getattr(answers, name)]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} missing",
            hint="Paste what the server's settings page shows into standard input, or set CLEARML_API_SECRET_KEY.",
        )
    verify(answers)
    return answers


def ask(given: Answers, verify: Callable[[Answers], None]) -> Answers:
    """Ask a person for what was not given, until the server takes the credentials."""
    answers = given
    if not answers.is_complete:
        answers = read_pasted(_read_block(sys.stdin, _PASTE), answers)
    for tries_left in reversed(range(TRIES)):
        answers = _ask_for_server(answers)
        try:
            verify(answers)
            break
        except (CredentialsRefused, ServerUnreachable) as error:
            click.echo(f"That did not work: {error.message}", err=True)
            if not tries_left:
                raise
            answers = replace(answers, access_key="", secret_key="")
    answers = replace(
        answers,
        git_user=answers.git_user or _prompt("Git user for https repositories (empty: none)"),
        output_uri=answers.output_uri or _prompt("Default output URI of tasks (empty: none)"),
    )
    if answers.git_user and not answers.git_pass:
        answers = replace(answers, git_pass=_prompt("Git password or token", is_secret=True))
    urls = _prompt("More package indexes, separated by blanks (empty: none)", is_secret=True)
    return replace(answers, extra_index_urls=tuple(urls.split()))


def with_derived_hosts(answers: Answers) -> Answers:
    """The web page's and the file server's addresses filled in from the API server's."""
    return replace(
        answers,
        web_server=answers.web_server or derived(answers.api_server, "web"),
        files_server=answers.files_server or derived(answers.api_server, "files"),
    )


def log_in(answers: Answers) -> None:
    """Log in once. Raises CredentialsRefused or ServerUnreachable."""
    client = open_client(_api_settings(answers))
    try:
        _ = client.claims
    finally:
        client.close()


def configuration_text(answers: Answers) -> str:
    """The file: HOCON, with every text quoted as JSON does."""
    api = {
        "api_server": answers.api_server,
        "web_server": answers.web_server,
        "files_server": answers.files_server,
    }
    lines = [_HEADER + "api {", *(f"    {name}: {_quoted(value)}" for name, value in api.items() if value)]
    lines += ["    credentials {", f"        access_key: {_quoted(answers.access_key)}"]
    lines += [f"        secret_key: {_quoted(answers.secret_key)}", "    }", "}"]
    if answers.git_user or answers.git_pass or answers.extra_index_urls:
        lines.append("agent {")
        if answers.git_user:
            lines.append(f"    git_user: {_quoted(answers.git_user)}")
        if answers.git_pass:
            lines.append(f"    git_pass: {_quoted(answers.git_pass)}")
        if answers.extra_index_urls:
            lines.append(f"    package_manager.extra_index_url: {_quoted(answers.extra_index_urls)}")
        lines.append("}")
    if answers.output_uri:
        lines.append(f"sdk.development.default_output_uri: {_quoted(answers.output_uri)}")
    return "\n".join(lines) + "\n"


def write_configuration(target: str, answers: Answers) -> None:
    """Write the file for its owner only, whole or not at all."""
    temporary = f"{target}.{os.getpid()}.new"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(configuration_text(answers))
        os.replace(temporary, target)
    except OSError as error:
        raise AgentError(f"cannot write {target}: {error.strerror}") from error


def _api_settings(answers: Answers) -> ApiSettings:
    return replace(
        config.defaults(os.environ).api,
        api_server=answers.api_server.rstrip("/"),
        access_key=answers.access_key,
        secret_key=answers.secret_key,
        auth_token="",
    )


def _quoted(value: object) -> str:
    """A value as JSON, in the part of it that every reader of HOCON understands."""
    return json.dumps(value, ensure_ascii=False)


def _ask_for_server(answers: Answers) -> Answers:
    api_server = _prompt("API server", default=answers.api_server or LOCAL_SERVER)
    answers = with_derived_hosts(replace(answers, api_server=_with_scheme(api_server)))
    answers = replace(
        answers,
        web_server=_with_scheme(_prompt("Web page", default=answers.web_server)),
        files_server=_with_scheme(_prompt("File server", default=answers.files_server)),
    )
    return replace(
        answers,
        access_key=answers.access_key or _prompt("Access key"),
        secret_key=answers.secret_key or _prompt("Secret key", is_secret=True),
    )


def _with_scheme(address: str) -> str:
    return f"http://{address}" if address and "://" not in address else address


def _prompt(question: str, *, default: str = "", is_secret: bool = False) -> str:
    answer: str = click.prompt(question, default=default, hide_input=is_secret, show_default=bool(default))
    return answer.strip()


def _read_block(stream: TextIO, question: str) -> str:
    """Lines up to the brace that closes the first one, or an empty line, read without echo."""
    lines: list[str] = []
    depth = 0
    with _no_echo(stream):
        click.echo(question)
        while line := stream.readline():
            depth += line.count("{") - line.count("}")
            lines.append(line)
            if depth <= 0 and ("}" in line or not line.strip()):
                break
    return "".join(lines)


@contextlib.contextmanager
def _no_echo(stream: TextIO) -> Iterator[None]:
    import termios

    before = termios.tcgetattr(stream)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(stream, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(stream, termios.TCSAFLUSH, before)  # the end of what was pasted answers no question
