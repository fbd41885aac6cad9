"""Where a repository can be fetched from: pure functions from the recorded URL and the configured credentials.

A URL is parsed before git sees it, so that nothing that git would take for an option, a helper program (`ext::`) or
another protocol gets through, and a password in it moves into a credential. The recorded URL is tried as recorded
first; the rewritings that `clearml.conf` knows (`force_git_ssh_protocol`, `translate_ssh`) are further candidates, not
replacements, because a rewriting that fails is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agent.config.schema import AgentSettings
from agent.errors import SetupFailed

SCHEMES = frozenset({"file", "http", "https", "ssh"})
_URL = (
    r"^(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://(?:(?P<user>[^/?#]*)@)?(?P<host>\[[^\]]+\]|[^/?#:@]*)(?::(?P<port>\d*))?"
    r"(?P<path>/.*)?$"
)
_SCP = r"^(?:(?P<user>[^/:@]+)@)?(?P<host>\[[^\]]+\]|[^/:@]+):(?P<path>(?!:).+)$"
_HOST = r"\[[0-9A-Fa-f:.]+(?:%\w+)?\]|\w[\w.-]*"
_PORT_IN_PATH = r"^(\d{2,5})/(.+)$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """User and password for a host (empty: any), or for URLs that begin with `prefix`."""

    user: str
    password: str
    host: str = ""
    prefix: str = ""

    def to_json(self) -> dict[str, str]:
        return {"host": self.host, "prefix": self.prefix, "user": self.user, "password": self.password}


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A repository's address in parts. `user` is kept for ssh only, where it is no secret; `scp` is the short form."""

    scheme: str
    host: str = ""
    port: str = ""
    user: str = ""
    path: str = ""
    scp: bool = False

    @property
    def url(self) -> str:
        """The address as git takes it, without a password."""
        if self.scheme == "file":
            return self.path
        who = f"{self.user}@" if self.user else ""
        if self.scp:
            return f"{who}{self.host}:{self.path}"
        port = f":{self.port}" if self.port else ""
        return f"{self.scheme}://{who}{self.host}{port}{self.path}"

    @property
    def name(self) -> str:
        """The last part of the path, for folders and messages."""
        last = self.path.rstrip("/").rpartition("/")[2].rpartition(":")[2].removesuffix(".git")
        return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-") or "repository"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to reach a repository; `why` says what was done to the recorded URL."""

    remote: Remote
    why: str


def parse(url: str) -> tuple[Remote, Credential | None]:
    """The recorded URL in parts, and the user and password that were in it."""
    if not url or url.startswith("-") or any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in url):
        raise SetupFailed(f"the repository URL {url!r} is not one that git may be given")
    if url.startswith("/"):
        return Remote(scheme="file", path=url), None
    if match := re.match(_URL, url):
        return _from_url(url, match)
    if (match := re.match(_SCP, url)) and _is_fit(match["host"], match["user"] or "") and match["path"][0] != "-":
        return Remote(scheme="ssh", host=match["host"], user=match["user"] or "", path=match["path"], scp=True), None
    raise SetupFailed(
        f"cannot read the repository URL {hide_userinfo(url)!r}",
        hint="Forms that are understood: https://host/path, ssh://user@host/path, user@host:path, file:///path, /path.",
    )


def _from_url(url: str, match: re.Match[str]) -> tuple[Remote, Credential | None]:
    scheme, host, path = match["scheme"].lower(), match["host"], match["path"] or ""
    if scheme not in SCHEMES:
        raise SetupFailed(f"the repository URL {hide_userinfo(url)!r} uses the protocol {scheme}, which is not allowed")
    if scheme == "file":
        from urllib.parse import unquote

        return parse(unquote(path))
    if not host or not path.strip("/"):
        raise SetupFailed(f"the repository URL {hide_userinfo(url)!r} names no {'repository' if host else 'host'}")
    userinfo = match["user"] or ""
    user = userinfo.partition(":")[0] if scheme == "ssh" else ""
    if not _is_fit(host, user):
        raise SetupFailed(f"the repository URL {hide_userinfo(url)!r} is not one that git may be given")
    if scheme == "ssh":
        return Remote(scheme=scheme, host=host, port=match["port"] or "", user=user, path=path), None
    credential = _embedded(userinfo, host) if userinfo else None
    return Remote(scheme=scheme, host=host, port=match["port"] or "", path=path), credential


def _is_fit(host: str, user: str) -> bool:
    """Whether they are what a host and a user of ssh are called, and nothing that git or ssh would take for more."""
    return bool(re.fullmatch(_HOST, host)) and not user.startswith("-") and not re.search(r"[\s=]", user)


def _embedded(userinfo: str, host: str) -> Credential:
    from urllib.parse import unquote

    user, _, password = userinfo.partition(":")
    return Credential(user=unquote(user), password=unquote(password), host=host)


def hide_userinfo(text: str) -> str:
    """A text with whatever stands between `://` and `@` in it hidden."""
    return re.sub(r"(?<=://)[^/@\s]+(?=@)", "****", text)


def configured(agent: AgentSettings) -> tuple[Credential, ...]:
    """The credentials of `agent.git.extra_credentials` and `agent.git_user`, the special before the general."""
    found = [Credential(user=each.user, password=each.password, host=each.host) for each in agent.extra_git_credentials]
    if agent.git_user and agent.git_pass:
        prefix = agent.git_host if agent.git_host_match_prefix and "://" in agent.git_host else ""
        found.append(
            Credential(
                user=agent.git_user, password=agent.git_pass, host="" if prefix else agent.git_host, prefix=prefix
            )
        )
    return tuple(found)


def credentials_for(embedded: Credential | None, agent: AgentSettings) -> tuple[Credential, ...]:
    """All credentials of a run in order of preference. A user name alone (it may be a token) comes last."""
    known = configured(agent)
    if embedded is None:
        return known
    return (embedded, *known) if embedded.password else (*known, embedded)


def candidates(recorded: Remote, credentials: Sequence[Credential], agent: AgentSettings) -> tuple[Candidate, ...]:
    """The ways to reach a repository in the order to try them."""
    first = Candidate(remote=recorded, why="as recorded")
    if recorded.scheme in ("http", "https") and agent.force_git_ssh_protocol:
        if agent.git_host in ("", recorded.host):
            return Candidate(remote=_as_ssh(recorded, agent), why="agent.force_git_ssh_protocol"), first
        return (first,)
    if recorded.scheme != "ssh":
        return (first,)
    others = []
    if recorded.scp and (match := re.match(_PORT_IN_PATH, recorded.path)):
        with_port = Remote(scheme="ssh", host=recorded.host, port=match[1], user=recorded.user, path=f"/{match[2]}")
        others.append(Candidate(remote=with_port, why="with the number in the path taken for a port"))
    if agent.translate_ssh and any(_fits(each, recorded.host) for each in credentials):
        others.append(Candidate(remote=_as_https(recorded, agent), why="agent.translate_ssh"))
    return (first, *others)


def _fits(credential: Credential, host: str) -> bool:
    if credential.prefix:
        return f"://{host}" in credential.prefix
    return credential.host in ("", host)


def _as_ssh(remote: Remote, agent: AgentSettings) -> Remote:
    port = str(agent.force_git_ssh_port or "")
    return Remote(scheme="ssh", host=remote.host, port=port, user=agent.force_git_ssh_user or "git", path=remote.path)


def _as_https(remote: Remote, agent: AgentSettings) -> Remote:
    path = remote.path
    if remote.scp and (match := re.match(_PORT_IN_PATH, path)):
        path = match[2]
    scheme = agent.translate_ssl_replacement_scheme or "https"
    return Remote(scheme=scheme, host=remote.host, path="/" + path.lstrip("/").removeprefix("~/"))


def instead_of(recorded: Remote, used: Remote) -> tuple[tuple[str, str], ...]:
    """git settings that make submodules of the same host take the road that worked for the repository itself."""
    if used == recorded or "file" in (used.scheme, recorded.scheme):
        return ()
    key = f"url.{_host_part(used)}.insteadOf"
    return tuple((key, form) for form in _host_forms(recorded))


def rewritings(
    urls: Sequence[str], credentials: Sequence[Credential], agent: AgentSettings
) -> tuple[tuple[str, str], ...]:
    """The same for repositories that an installer fetches: it knows one road only, so it gets the configured one."""
    found: list[tuple[str, str]] = []
    for url in urls:
        try:
            recorded, _ = parse(url)
        except SetupFailed:
            continue
        roads = candidates(recorded, credentials, agent)
        rewritten = [road for road in roads if road.why.startswith("agent.")]
        if rewritten:
            found += instead_of(recorded, rewritten[0].remote)
    return tuple(dict.fromkeys(found))


def _host_part(remote: Remote) -> str:
    who = f"{remote.user}@" if remote.user else ""
    if remote.scp:
        return f"{who}{remote.host}:"
    port = f":{remote.port}" if remote.port else ""
    return f"{remote.scheme}://{who}{remote.host}{port}/"


def _host_forms(remote: Remote) -> tuple[str, ...]:
    who = f"{remote.user}@" if remote.user else ""
    if remote.scheme == "ssh":
        port = f":{remote.port}" if remote.port else ""
        return f"ssh://{who}{remote.host}{port}/", f"{who}{remote.host}:"
    return (_host_part(remote),)
