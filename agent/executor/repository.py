"""A repository in `workspace/code`, at the recorded commit, tag or branch, from the host's mirror of it.

The network is asked only when it has to be: a commit that the mirror knows is checked out without a word to the
server, a branch always asks. The working copy is assembled here instead of by `git clone`, because that is four small
files and a hard link per pack, whatever the size of the repository; git itself then fills the work tree.
"""

from __future__ import annotations

import contextlib
import os
import re
import time

from agent.errors import SetupFailed
from agent.executor import mirror as mirrors
from agent.executor.checkout import Source
from agent.executor.git import Git, failure, open_git, refuse_option
from agent.executor.mirror import Mirror
from agent.executor.remotes import Candidate, Remote, candidates, credentials_for, instead_of, parse
from agent.executor.workspace import Workspace
from agent.models import Script
from agent.process.run import CommandFailed
from agent.process.trouble import BROKEN_COPY, trouble_in

_FULL_ID = r"[0-9a-f]{40}|[0-9a-f]{64}"
_SOME_ID = r"[0-9a-fA-F]{7,64}"


def check_out(script: Script, workspace: Workspace) -> Source:
    """Fetch what is missing, fill `workspace/code`, bring the submodules along."""
    started = time.monotonic()
    agent = workspace.settings.agent
    for what, value in (("commit", script.version_num), ("tag", script.tag), ("branch", script.branch)):
        refuse_option(what, value)
    recorded, embedded = parse(script.repository)
    credentials = credentials_for(embedded, agent)
    git = open_git(workspace.commands, credentials, credentials_path=workspace.credentials_path)
    roads = candidates(recorded, credentials, agent)
    root = os.path.expanduser(agent.vcs_cache.path) if agent.vcs_cache.enabled else f"{workspace.root}/mirror"
    mirror = mirrors.open_mirror(mirrors.path_for(root, recorded), git)
    commit, road = _find_commit(script, mirror, roads, workspace)
    _working_copy(mirror, workspace.code, commit, recorded)
    _submodules(workspace, git.with_settings(instead_of(recorded, road.remote)))
    how = "" if road is roads[0] else f" over {road.remote.url} ({road.why})"
    workspace.console.info(f"repository {recorded.url}{how} at commit {commit} in {time.monotonic() - started:.2f} s")
    _warn_about_large_files(workspace)
    return Source(root=workspace.code, commit=commit, git=git)


def _find_commit(
    script: Script, mirror: Mirror, roads: tuple[Candidate, ...], workspace: Workspace
) -> tuple[str, Candidate]:
    """The id of the wanted commit, fetched where the mirror does not have it; commit before tag before branch."""
    wanted = script.version_num
    if re.fullmatch(_SOME_ID, wanted) and (known := mirror.resolve(wanted)):
        return known, roads[0]
    if workspace.setup.standalone:
        return _standalone(script, mirror), roads[0]
    workspace.console.info(f"fetching {roads[0].remote.url}")
    road = _fetch(mirror, roads, workspace)
    if wanted:
        found = mirror.resolve(wanted, *_names("tag", wanted), *_names("branch", wanted))
        if found is None and re.fullmatch(_FULL_ID, wanted):
            found = _fetch_unreachable(mirror, road, wanted, workspace)
        return found or _refuse(f"commit {wanted}", road.remote, _hint_for_commit(script)), road
    if script.tag:
        found = mirror.resolve(*_names("tag", script.tag))
        return found or _refuse(f"tag {script.tag}", road.remote, ""), road
    if script.branch:
        found = mirror.resolve(*_names("branch", script.branch))
        return found or _refuse(f"branch {script.branch}", road.remote, ""), road
    return _default_branch(mirror, road), road


def _names(kind: str, name: str) -> tuple[str, ...]:
    """A branch may have been recorded the way a clone sees it, with its remote in front."""
    if kind == "tag":
        return (f"refs/tags/{name.removeprefix('refs/tags/')}",)
    plain = name.removeprefix("refs/heads/")
    return f"refs/heads/{plain}", f"refs/heads/{plain.removeprefix('origin/')}"


def _standalone(script: Script, mirror: Mirror) -> str:
    names = [script.version_num] if script.version_num else []
    names += _names("tag", script.tag) if script.tag else ()
    names += _names("branch", script.branch) if script.branch else ("refs/heads/master", "refs/heads/main")
    if (found := mirror.resolve(*names)) is None:
        raise SetupFailed(
            "the repository is not on this host, and standalone mode fetches nothing",
            hint=f"Looked for {' or '.join(names)} in {mirror.path}.",
        )
    return found


def _fetch(mirror: Mirror, roads: tuple[Candidate, ...], workspace: Workspace, *extra: str) -> Candidate:
    def say_waiting() -> None:
        workspace.console.info("waiting for another agent that is fetching the same repository")

    try:
        return mirrors.fetch(mirror, roads, extra=extra, wait_note=say_waiting)
    except SetupFailed as error:
        is_broken = _is_broken(error)
        if not is_broken and (not workspace.settings.agent.vcs_cache.clone_on_pull_fail or extra):
            raise
        why = "it is broken" if is_broken else "agent.vcs_cache.clone_on_pull_fail"
        workspace.console.warning(f"fetching into the mirror failed; starting it anew ({why})")
        _put_aside(mirror)
        return mirrors.fetch(mirrors.open_mirror(mirror.path, mirror.git), roads, extra=extra, wait_note=say_waiting)


def _is_broken(error: SetupFailed) -> bool:
    trouble = trouble_in(error.details)
    return trouble is not None and trouble.what == BROKEN_COPY


def _put_aside(mirror: Mirror) -> None:
    os.rename(mirror.path, f"{mirror.path}.broken.{os.getpid()}")


def _fetch_unreachable(mirror: Mirror, road: Candidate, commit: str, workspace: Workspace) -> str | None:
    """A commit on no branch (force-pushed away): many servers still hand it out by its id."""
    with contextlib.suppress(SetupFailed):
        _fetch(mirror, (road,), workspace, f"{commit}:refs/kept/{commit}")
    return mirror.resolve(commit)


def _hint_for_commit(script: Script) -> str:
    branch = f" (recorded on branch {script.branch})" if script.branch else ""
    return f"Was it pushed{branch}, or force-pushed away, or does it exist only in a fork?"


def _refuse(what: str, remote: Remote, hint: str) -> str:
    raise SetupFailed(f"{remote.url} has no {what}", hint=hint)


def _default_branch(mirror: Mirror, road: Candidate) -> str:
    with contextlib.suppress(CommandFailed):
        told = mirror.git.run("ls-remote", "--symref", "--", road.remote.url, "HEAD", cwd=mirror.path).text
        for line in told.splitlines():
            if line.startswith("ref: ") and (found := mirror.resolve(line[5:].split("\t")[0])):
                return found
    return mirror.resolve("refs/heads/master", "refs/heads/main") or _refuse("default branch", road.remote, "")


def _working_copy(mirror: Mirror, folder: str, commit: str, recorded: Remote) -> None:
    """A repository in `folder` that shares the mirror's packs, with `origin` as recorded, at `commit`."""
    for part in ("objects/pack", "objects/info", "refs/heads", "refs/tags", "info"):
        os.makedirs(f"{folder}/.git/{part}")
    _share_objects(mirror, f"{folder}/.git/objects")
    _write(f"{folder}/.git/packed-refs", _as_clone_sees(mirror.refs()))
    _write(f"{folder}/.git/HEAD", f"{commit}\n")
    _write(f"{folder}/.git/config", _config(recorded.url))
    try:
        mirror.git.run("-c", "checkout.workers=0", "reset", "--hard", "--quiet", commit, cwd=folder)
    except CommandFailed as error:
        found = failure(error, f"git cannot check out commit {commit}", folder=folder)
        if _is_broken(found):
            _put_aside(mirror)  # for the sake of the next run: this one has a half-filled work tree
        raise found from error


def _share_objects(mirror: Mirror, objects: str) -> None:
    """Hard links stay valid whatever happens to the mirror; where there can be none, git is pointed to it."""
    try:
        for name in mirror.packs():
            os.link(f"{mirror.path}/objects/{name}", f"{objects}/{name}")
    except OSError:
        _write(f"{objects}/info/alternates", f"{mirror.path}/objects\n")


def _as_clone_sees(refs: str) -> str:
    lines = (line for line in refs.splitlines() if not line.partition(" ")[2].startswith("refs/kept/"))
    return "".join(f"{line.replace(' refs/heads/', ' refs/remotes/origin/', 1)}\n" for line in lines)


def _config(url: str) -> str:
    escaped = url.replace("\\", "\\\\").replace('"', '\\"')
    return (
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n"
        f'[remote "origin"]\n\turl = "{escaped}"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n'
    )


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _submodules(workspace: Workspace, git: Git) -> None:
    if not os.path.exists(f"{workspace.code}/.gitmodules"):
        return
    try:
        git.run("submodule", "--quiet", "update", "--init", "--recursive", "--jobs", "4", cwd=workspace.code)
    except CommandFailed as error:
        raise failure(error, "a submodule of the repository cannot be fetched") from error


def _warn_about_large_files(workspace: Workspace) -> None:
    with contextlib.suppress(OSError):
        path = f"{workspace.code}/.gitattributes"
        if os.path.islink(path):  # git does not follow it either
            return
        with open(path, encoding="utf-8", errors="replace") as file:
            if "filter=lfs" not in file.read():
                return
        from shutil import which

        if which("git-lfs", path=workspace.commands.environ.get("PATH")) is None:
            workspace.console.warning("the repository uses git LFS, which this host has not: large files are pointers")
