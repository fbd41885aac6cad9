"""Repositories from files, over HTTP and over ssh; commits, branches, tags; submodules; uncommitted changes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.executor import Run, make_run, settings_in
from support.repositories import GitServer, Repository, make_repository, ssh_server

PRINT = "import pathlib; print(pathlib.Path('data.txt').read_text())\n"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "git/net.git", {"main.py": PRINT, "data.txt": "one"})


def script(url: object, **more: Any) -> dict[str, Any]:
    return {"repository": str(url), "branch": "main", "entry_point": "main.py", **more}


def run_of(state: Path, url: object, *, attempt: int = 1, settings: Any = None, **more: Any) -> Run:
    run = make_run(state, script(url, **more), attempt=attempt, settings=settings)
    run.execute()
    return run


def failure(run: Run) -> dict[str, Any]:
    outcome = run.outcome()
    assert outcome["exit_code"] is None, run.notices()
    assert f"{outcome['phase']}: {outcome['error'].splitlines()[0]}" in run.notices("e")
    return outcome


# What is checked out


def test_a_branch_is_followed_and_a_commit_is_kept(tmp_path: Path, repository: Repository) -> None:
    first = repository.git("rev-parse", "HEAD")
    assert run_of(tmp_path, repository.folder).output() == ["one"]
    second = repository.commit({"data.txt": "two"})
    run = run_of(tmp_path, repository.folder, attempt=2)
    assert run.output() == ["two"]
    assert run.json("environment.json")["commit"] == second
    assert run.json("environment.json")["repository_changed"] is True
    run = run_of(tmp_path, repository.folder, attempt=3, version_num=first)
    assert run.output() == ["one"]
    assert run.json("environment.json")["repository_changed"] is False


def test_commit_comes_before_tag_and_tag_before_branch(tmp_path: Path, repository: Repository) -> None:
    first = repository.git("rev-parse", "HEAD")
    repository.commit({"data.txt": "two"})
    repository.git("tag", "-a", "v2", "-m", "annotated")
    repository.commit({"data.txt": "three"})
    assert run_of(tmp_path, repository.folder, tag="v2").output() == ["two"]
    assert run_of(tmp_path, repository.folder, tag="v2", version_num=first, attempt=2).output() == ["one"]


def test_without_a_branch_the_default_branch_is_taken(tmp_path: Path, repository: Repository) -> None:
    repository.git("checkout", "-q", "-b", "trunk")
    repository.commit({"data.txt": "trunk"})
    assert run_of(tmp_path, repository.folder, branch="").output() == ["trunk"]


@pytest.mark.parametrize("branch", ["feature/x", "origin/feature/x", "refs/heads/feature/x"])
def test_branches_with_slashes_in_all_their_spellings(tmp_path: Path, repository: Repository, branch: str) -> None:
    repository.git("checkout", "-q", "-b", "feature/x")
    repository.commit({"data.txt": "feature"})
    repository.git("checkout", "-q", "main")
    assert run_of(tmp_path, repository.folder, branch=branch).output() == ["feature"]


def test_a_branch_that_became_a_folder_of_branches(tmp_path: Path, repository: Repository) -> None:
    repository.git("branch", "topic")
    run_of(tmp_path, repository.folder)
    repository.git("branch", "-D", "topic")
    repository.git("checkout", "-q", "-b", "topic/one")
    repository.commit({"data.txt": "below"})
    assert run_of(tmp_path, repository.folder, branch="topic/one", attempt=2).output() == ["below"]


def test_a_short_commit_id_is_understood(tmp_path: Path, repository: Repository) -> None:
    first = repository.git("rev-parse", "--short", "HEAD")
    repository.commit({"data.txt": "two"})
    assert run_of(tmp_path, repository.folder, version_num=first).output() == ["one"]


def test_a_known_commit_needs_no_server(tmp_path: Path, repository: Repository) -> None:
    commit = repository.git("rev-parse", "HEAD")
    run_of(tmp_path, repository.folder, version_num=commit)
    shutil.rmtree(repository.folder)
    assert run_of(tmp_path, repository.folder, version_num=commit, attempt=2).output() == ["one"]


def test_a_commit_that_was_forced_away_is_fetched_by_its_id(tmp_path: Path, repository: Repository) -> None:
    repository.git("config", "uploadpack.allowAnySHA1InWant", "true")
    lost = repository.commit({"data.txt": "lost"})
    repository.git("reset", "-q", "--hard", "HEAD~1")
    assert run_of(tmp_path, repository.folder, version_num=lost).output() == ["lost"]


def test_the_working_copy_is_a_repository_like_any_other(tmp_path: Path, repository: Repository) -> None:
    repository.git("branch", "other")
    repository.git("tag", "v1")
    run = run_of(tmp_path, repository.folder)
    copy = Repository(folder=run.workspace / "code")
    assert copy.git("remote", "get-url", "origin") == str(repository.folder)
    assert copy.git("status", "--porcelain") == ""
    assert copy.git("describe", "--tags") == "v1"
    assert copy.git("branch", "-r").split() == ["origin/main", "origin/other"]
    copy.git("fsck", "--full")
    copy.git("fetch", "-q", "origin")
    shutil.rmtree(tmp_path / "vcs-cache")
    copy.git("fsck", "--full")
    assert copy.git("log", "--format=%s") == "the first commit"


def test_what_a_task_does_to_its_copy_stays_there(tmp_path: Path, repository: Repository) -> None:
    code = (
        "import subprocess\n"
        "for command in ('git checkout -q --orphan x', 'git gc -q --prune=now', 'git tag mine'):\n"
        "    subprocess.run(command.split(), check=False)\n"
        "print(open('data.txt').read())\n"
        "open('data.txt', 'w').write('evil')\n"
    )
    repository.commit({"main.py": code})
    assert run_of(tmp_path, repository.folder).output()[-1] == "one"
    run = run_of(tmp_path, repository.folder, attempt=2)
    assert run.output()[-1] == "one"


def test_many_fetches_leave_a_tidy_mirror(tmp_path: Path, repository: Repository) -> None:
    settings = settings_in(tmp_path)
    for number in range(40):
        repository.commit({"data.txt": str(number)})
        if number % 8 == 0:
            run_of(tmp_path, repository.folder, attempt=number + 1, settings=settings)
    (mirror,) = (tmp_path / "vcs-cache").glob("net.*.git")
    subprocess.run(["git", "fsck", "--full"], cwd=mirror, check=True, capture_output=True)
    assert not list(mirror.glob("objects/[0-9a-f][0-9a-f]"))


def test_what_a_killed_git_left_does_not_stop_the_next_one(tmp_path: Path, repository: Repository) -> None:
    run_of(tmp_path, repository.folder)
    (mirror,) = (tmp_path / "vcs-cache").glob("net.*.git")
    (mirror / "packed-refs.lock").write_text("")
    (mirror / "refs/heads").mkdir(exist_ok=True)
    (mirror / "refs/heads/main.lock").write_text("")
    (mirror / "objects/pack/tmp_pack_x").write_text("")
    repository.commit({"data.txt": "two"})
    assert run_of(tmp_path, repository.folder, attempt=2).output() == ["two"]
    assert not (mirror / "objects/pack/tmp_pack_x").exists()


def test_an_executor_killed_while_it_fetched_leaves_a_usable_mirror(tmp_path: Path, repository: Repository) -> None:
    big = {f"files/{n}.bin": os.urandom(100_000) for n in range(40)}
    repository.commit(big)
    run = make_run(tmp_path, script(repository.folder))
    with run.start().ended_in_any_case():
        assert run.process is not None
        mirrors = tmp_path / "vcs-cache"
        while not list(mirrors.glob("*/objects/pack/tmp_*")) and run.process.poll() is None:
            pass
        os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait(10)
    assert run_of(tmp_path, repository.folder, attempt=2).output() == ["one"]


def test_two_executors_at_once_share_a_mirror(tmp_path: Path, repository: Repository) -> None:
    runs = [make_run(tmp_path, script(repository.folder), attempt=number) for number in (1, 2, 3)]
    for run in runs:
        run.start()
    for run in runs:
        with run.ended_in_any_case():
            assert run.wait()["exit_code"] == 0
            assert run.output() == ["one"]


def test_no_cache_means_no_cache(tmp_path: Path, repository: Repository) -> None:
    settings = settings_in(tmp_path, vcs_cache={"enabled": False})
    assert run_of(tmp_path, repository.folder, settings=settings).output() == ["one"]
    assert not (tmp_path / "vcs-cache").exists()


def test_standalone_mode_fetches_nothing(tmp_path: Path, repository: Repository) -> None:
    run = make_run(tmp_path, script(repository.folder), standalone=True)
    outcome = run.execute()
    assert "standalone mode fetches nothing" in outcome["error"]
    run_of(tmp_path, repository.folder, attempt=2)
    repository.commit({"data.txt": "two"})
    run = make_run(tmp_path, script(repository.folder), standalone=True, attempt=3)
    run.execute()
    assert run.output() == ["one"]


# What cannot be checked out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"version_num": "0" * 40}, "has no commit 0000"),
        ({"branch": "nowhere"}, "has no branch nowhere"),
        ({"tag": "v99"}, "has no tag v99"),
        ({"version_num": "--upload-pack=x"}, "not a name that git may be given"),
        ({"branch": "-x"}, "not a name that git may be given"),
        ({"entry_point": "missing.py"}, "is not in the repository"),
        ({"working_dir": "../../.."}, "leads out of its working copy"),
        ({"entry_point": "../../../../etc/passwd"}, "leads out of its working copy"),
    ],
)
def test_what_the_repository_does_not_have_is_the_tasks_fault(
    tmp_path: Path, repository: Repository, more: dict[str, str], words: str
) -> None:
    outcome = failure(run_of(tmp_path, repository.folder, **more))
    assert outcome["phase"] in ("checkout", "patch")
    assert outcome["infrastructure"] is False
    assert words in outcome["error"]


def test_a_missing_repository_is_the_tasks_fault(tmp_path: Path) -> None:
    outcome = failure(run_of(tmp_path, tmp_path / "nowhere.git"))
    assert outcome["infrastructure"] is False
    assert "nowhere.git" in outcome["error"]


def test_helper_programs_are_not_run(tmp_path: Path) -> None:
    outcome = failure(run_of(tmp_path, f"ext::sh -c touch% {tmp_path}/evil"))
    assert not (tmp_path / "evil").exists()
    assert outcome["infrastructure"] is False


def test_nobodys_git_configuration_is_touched(tmp_path: Path, repository: Repository) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[user]\n\tname = me\n")
    run = make_run(tmp_path, script(repository.folder))
    run.execute(environ={**os.environ, "HOME": str(home)})
    assert (home / ".gitconfig").read_text() == "[user]\n\tname = me\n"


def test_hooks_of_whoever_configured_them_do_not_run(tmp_path: Path, repository: Repository) -> None:
    home = tmp_path / "home"
    (home / "hooks").mkdir(parents=True)
    hook = home / "hooks/post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\n")
    hook.chmod(0o755)
    (home / ".gitconfig").write_text(f"[core]\n\thooksPath = {home}/hooks\n")
    make_run(tmp_path, script(repository.folder)).execute(environ={**os.environ, "HOME": str(home)})
    assert not (tmp_path / "hooked").exists()


# HTTP


@pytest.fixture
def server(tmp_path: Path, repository: Repository) -> Iterator[GitServer]:
    with GitServer(root=tmp_path / "git", password="p@ss $`w`\"'").running() as running:
        yield running


def test_configured_credentials_are_used_and_never_shown(tmp_path: Path, server: GitServer) -> None:
    settings = settings_in(tmp_path, git_user="me", git_pass=server.password)
    run = run_of(tmp_path, server.url("net.git"), settings=settings)
    assert run.output() == ["one"]
    assert server.password not in run.notices()
    copy = Repository(folder=run.workspace / "code")
    assert copy.git("remote", "get-url", "origin") == server.url("net.git")


def test_a_password_in_the_url_works_and_is_never_shown(tmp_path: Path, server: GitServer) -> None:
    server.password = "s3cr3t-token"
    run = run_of(tmp_path, server.url("net.git", userinfo="me:s3cr3t-token"))
    assert run.output() == ["one"]
    copy = Repository(folder=run.workspace / "code")
    assert copy.git("remote", "get-url", "origin") == server.url("net.git")
    for path in (run.folder / "console").iterdir():
        assert "s3cr3t" not in path.read_text()
    for path in (run.workspace / "code/.git").rglob("*"):
        assert not path.is_file() or b"s3cr3t" not in path.read_bytes()


def test_wrong_credentials_are_no_trouble_that_passes_and_are_not_shown(tmp_path: Path, server: GitServer) -> None:
    outcome = failure(run_of(tmp_path, server.url("net.git", userinfo="me:wrong-password")))
    assert outcome["infrastructure"] is False
    assert "Authentication failed" in outcome["error"]
    assert "wrong-password" not in json.dumps(outcome)


def test_no_credentials_end_at_once_instead_of_asking(tmp_path: Path, server: GitServer) -> None:
    outcome = failure(run_of(tmp_path, server.url("net.git")))
    assert outcome["infrastructure"] is False
    assert outcome["timings"]["checkout"] < 10


def test_credentials_of_another_host_are_not_sent(tmp_path: Path, server: GitServer) -> None:
    settings = settings_in(tmp_path, git_user="me", git_pass=server.password, git_host="github.com")
    assert failure(run_of(tmp_path, server.url("net.git"), settings=settings))["infrastructure"] is False


def test_a_server_in_trouble_is_trouble_of_the_infrastructure(tmp_path: Path, server: GitServer) -> None:
    server.broken = True
    outcome = failure(run_of(tmp_path, server.url("net.git")))
    assert (outcome["phase"], outcome["infrastructure"]) == ("checkout", True)


def test_a_repository_the_server_does_not_have_is_the_tasks_fault(tmp_path: Path, server: GitServer) -> None:
    server.password = ""
    assert failure(run_of(tmp_path, server.url("other.git")))["infrastructure"] is False


def test_a_known_commit_asks_the_server_nothing(tmp_path: Path, server: GitServer, repository: Repository) -> None:
    server.password = ""
    commit = repository.git("rev-parse", "HEAD")
    run_of(tmp_path, server.url("net.git"), version_num=commit)
    server.requests.clear()
    run_of(tmp_path, server.url("net.git"), version_num=commit, attempt=2)
    assert server.requests == []


# ssh


def test_ssh_urls_in_both_forms(tmp_path: Path, repository: Repository) -> None:
    with ssh_server(tmp_path / "ssh") as server:
        environ = {**os.environ, "GIT_SSH_COMMAND": server.command}
        run = make_run(tmp_path, script(server.url(repository.folder)))
        run.execute(environ=environ)
        assert run.output() == ["one"], run.notices()
        short = f"{server.user}@127.0.0.1:{repository.folder}"
        environ["GIT_SSH_COMMAND"] = f"{server.command} -p {server.port}"
        run = make_run(tmp_path, script(short), attempt=2)
        run.execute(environ=environ)
        assert run.output() == ["one"], run.notices()


def test_an_unknown_host_key_is_refused_with_the_words_of_ssh(tmp_path: Path, repository: Repository) -> None:
    with ssh_server(tmp_path / "ssh") as server:
        server.known_hosts.write_text("")
        run = make_run(tmp_path, script(server.url(repository.folder)))
        run.execute(environ={**os.environ, "GIT_SSH_COMMAND": server.command})
        outcome = failure(run)
    assert outcome["infrastructure"] is True
    assert "Host key verification failed" in outcome["error"]


def test_where_ssh_fails_the_password_of_the_host_is_tried_and_remembered(
    tmp_path: Path, repository: Repository, server: GitServer
) -> None:
    # Nothing answers ssh on that port; the translated URL is https, which the test points back to its own server.
    settings = settings_in(tmp_path, git_user="me", git_pass=server.password)
    environ = {
        **os.environ,
        "HOME": str(tmp_path),
        "GIT_SSH_COMMAND": f"sh -c 'echo tried >> {tmp_path}/ssh-log; exit 255'",
    }
    (tmp_path / ".gitconfig").write_text(f'[url "http://127.0.0.1:{server.port}/"]\n\tinsteadOf = https://git.test/\n')
    tries = []
    for attempt in (1, 2):
        run = make_run(tmp_path, script("git@git.test:net.git"), settings=settings, attempt=attempt)
        run.execute(environ=environ)
        assert run.output() == ["one"], run.notices()
        assert "https://git.test/net.git (agent.translate_ssh)" in run.notices()
        tries.append((tmp_path / "ssh-log").read_text())
    assert tries[0] == tries[1]
    copy = Repository(folder=run.workspace / "code")
    assert copy.git("config", "remote.origin.url") == "git@git.test:net.git"


# Submodules


def test_submodules_come_along_at_any_depth(tmp_path: Path, repository: Repository) -> None:
    inner = make_repository(tmp_path / "git/inner.git", {"inner.txt": "inner"})
    middle = make_repository(tmp_path / "git/middle.git")
    middle.git("submodule", "--quiet", "add", str(inner.folder), "inner")
    middle.commit({})
    repository.git("submodule", "--quiet", "add", "../middle.git", "libs/middle")
    repository.commit({"main.py": "print(open('libs/middle/inner/inner.txt').read())\n"})
    assert run_of(tmp_path, f"file://{repository.folder}").output() == ["inner"]


def test_a_submodule_that_cannot_be_fetched_is_an_error(tmp_path: Path, repository: Repository) -> None:
    inner = make_repository(tmp_path / "git/inner.git", {"inner.txt": "inner"})
    repository.git("submodule", "--quiet", "add", str(inner.folder), "inner")
    repository.commit({})
    shutil.rmtree(inner.folder)
    outcome = failure(run_of(tmp_path, repository.folder))
    assert "submodule" in outcome["error"]


# Uncommitted changes


EVERYTHING = """
import json, os
read = lambda name: open(name, 'rb').read()
print(json.dumps({
    'text': read('text.txt').decode(), 'crlf': read('crlf.txt').decode(), 'binary': list(read('binary.bin')[:3]),
    'old': os.path.exists('old name.txt'), 'new': read('new name.txt').decode()[-4:],
    'mode': os.access('tool.sh', os.X_OK), 'gone': os.path.exists('gone.txt'),
    'no newline': read('no-newline.txt').decode(), 'name': read('\u00fcn\u00ef.txt').decode(),
    'added': read('added/file.txt').decode(),
}))
"""


def test_a_diff_with_everything_in_it(tmp_path: Path, repository: Repository) -> None:
    base: dict[str, str | bytes] = {
        "text.txt": "a\nb\nc\n",
        "crlf.txt": "a\r\nb\r\n",
        "binary.bin": bytes(range(256)),
        "old name.txt": "moved\n" * 10,
        "tool.sh": "echo tool\n",
        "gone.txt": "x\n",
        "no-newline.txt": "x",
        "\u00fcn\u00ef.txt": "\u00e4\n",
        "main.py": EVERYTHING,
    }
    repository.commit(base)
    repository.write(
        {
            "text.txt": "a\nB\nc\nd\n",
            "crlf.txt": "a\r\nB\r\n",
            "binary.bin": bytes(reversed(range(256))),
            "no-newline.txt": "y",
            "\u00fcn\u00ef.txt": "\u00f6\n",
            "added/file.txt": "new\n",
        }
    )
    repository.git("mv", "old name.txt", "new name.txt")
    with (repository.folder / "new name.txt").open("a") as file:
        file.write("end\n")
    (repository.folder / "tool.sh").chmod(0o755)
    (repository.folder / "gone.txt").unlink()
    repository.git("add", "--all")
    run = run_of(tmp_path, repository.folder, diff=repository.diff("--binary"))
    assert run.output(), run.notices()
    assert json.loads(run.output()[0]) == {
        "text": "a\nB\nc\nd\n",
        "crlf": "a\r\nB\r\n",
        "binary": [255, 254, 253],
        "old": False,
        "new": "end\n",
        "mode": True,
        "gone": False,
        "no newline": "y",
        "name": "\u00f6\n",
        "added": "new\n",
    }


@pytest.mark.parametrize(
    "options", [("-U0",), ("--color=always",), ("--no-prefix", "--src-prefix=a/", "--dst-prefix=b/")]
)
def test_diffs_of_other_makings(tmp_path: Path, repository: Repository, options: tuple[str, ...]) -> None:
    repository.write({"data.txt": "changed"})
    diff = repository.diff(*options)
    assert run_of(tmp_path, repository.folder, diff=diff.rstrip("\n")).output() == ["changed"]


def test_a_diff_whose_line_ends_were_lost_still_applies(tmp_path: Path, repository: Repository) -> None:
    repository.commit({"x.py": "a = 1\r\nb = 2\r\nc = 3\r\n", "main.py": "import x; print(x.b)\n"})
    repository.write({"x.py": "a = 1\r\nb = 20\r\nc = 3\r\n"})
    assert run_of(tmp_path, repository.folder, diff=repository.diff().replace("\r", "")).output() == ["20"]


def test_changes_that_the_sdk_adds_to_files_that_are_not_there(tmp_path: Path, repository: Repository) -> None:
    diff = (
        "diff --git a/notes.txt b/notes.txt\n--- a/notes.txt\n+++ b/notes.txt\n@@ -0,0 +1,1 @@\n+clearml\n"
        "diff --git a/main.py b/main.py\n--- a/main.py\n+++ b/main.py\n@@ -0,0 +1,2 @@\n"
        "+print(open('notes.txt').read().strip())\n+\n"
    )
    assert run_of(tmp_path, repository.folder, diff=diff).output() == ["clearml", "one"]


def test_a_diff_inside_a_submodule(tmp_path: Path, repository: Repository) -> None:
    inner = make_repository(tmp_path / "git/inner.git", {"inner.txt": "inner\n"})
    repository.git("submodule", "--quiet", "add", str(inner.folder), "inner")
    repository.commit({"main.py": "print(open('inner/inner.txt').read().strip())\n"})
    repository.write({"inner/inner.txt": "changed\n"})
    diff = repository.diff()
    assert diff.startswith("Submodule inner contains modified content")
    assert run_of(tmp_path, repository.folder, diff=diff).output() == ["changed"]


def test_a_diff_for_another_commit_is_merged_where_it_can_be(tmp_path: Path, repository: Repository) -> None:
    lines = [f"line {n}\n" for n in range(30)]
    repository.commit({"data.txt": "".join(lines)})
    changed = lines.copy()
    changed[15] = "line 15 changed\n"
    repository.write({"data.txt": "".join(changed)})
    diff = repository.diff()
    repository.git("checkout", "-q", ".")
    moved = ["first\n"] * 40 + [line if n != 14 else "line 14 too\n" for n, line in enumerate(lines)]
    repository.commit({"data.txt": "".join(moved), "main.py": "print('changed' in open('data.txt').read())\n"})
    outcome = run_of(tmp_path, repository.folder, diff=diff).outcome()
    # git merges what does not touch; here the neighbouring line was changed as well, and that is for people to decide.
    assert outcome["phase"] == "patch"


def test_a_diff_that_does_not_apply_shows_the_file_and_the_hunk(tmp_path: Path, repository: Repository) -> None:
    diff = (
        "diff --git a/data.txt b/data.txt\n--- a/data.txt\n+++ b/data.txt\n@@ -1 +1 @@\n"
        "-something else\n\\ No newline at end of file\n+changed\n\\ No newline at end of file\n"
    )
    outcome = failure(run_of(tmp_path, repository.folder, diff=diff))
    assert (outcome["phase"], outcome["infrastructure"]) == ("patch", False)
    assert "patch failed: data.txt:1" in outcome["error"]
    assert "-something else" in outcome["error"]


def test_a_diff_cannot_write_outside_the_working_copy(tmp_path: Path, repository: Repository) -> None:
    diff = (
        "diff --git a/../../../evil b/../../../evil\nnew file mode 100644\n--- /dev/null\n+++ b/../../../evil\n"
        "@@ -0,0 +1 @@\n+evil\n"
    )
    failure(run_of(tmp_path, repository.folder, diff=diff))
    assert not list(tmp_path.rglob("evil"))


def test_a_diff_cannot_write_through_a_link_of_the_repository(tmp_path: Path, repository: Repository) -> None:
    (tmp_path / "outside").mkdir()
    (repository.folder / "link").symlink_to(tmp_path / "outside")
    repository.commit({})
    for attempt, before in enumerate(("new file mode 100644\n--- /dev/null\n", "--- a/link/evil\n")):
        diff = f"diff --git a/link/evil b/link/evil\n{before}+++ b/link/evil\n@@ -0,0 +1 @@\n+evil\n"
        failure(run_of(tmp_path, repository.folder, diff=diff, attempt=attempt))
    assert list((tmp_path / "outside").iterdir()) == []


# Literal scripts


def test_a_recorded_script_wins_over_the_file_in_the_repository(tmp_path: Path, repository: Repository) -> None:
    run = run_of(tmp_path, repository.folder, diff="print('recorded', open('data.txt').read())\n")
    assert run.output() == ["recorded one"]


def test_a_recorded_script_replaces_a_link_and_does_not_follow_it(tmp_path: Path, repository: Repository) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text("print('outside')\n")
    (repository.folder / "linked.py").symlink_to(outside)
    repository.commit({})
    run = run_of(tmp_path, repository.folder, entry_point="linked.py", diff="print('recorded')\n")
    assert run.output() == ["recorded"]
    assert outside.read_text() == "print('outside')\n"


def test_output_of_an_external_diff_tool_is_not_run_as_a_script(tmp_path: Path, repository: Repository) -> None:
    outcome = failure(run_of(tmp_path, repository.folder, diff="main.py --- Python\n1 import x    1 import y\n"))
    assert outcome["phase"] == "patch"
    assert "external diff tool" in outcome["error"]


def test_a_diff_without_a_repository_says_so(tmp_path: Path) -> None:
    diff = "diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+b\n"
    outcome = failure(run_of(tmp_path, "", diff=diff))
    assert "no repository" in outcome["error"]
