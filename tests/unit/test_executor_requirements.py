"""Which packages a task wants, line by line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.config import defaults
from agent.errors import SetupFailed
from agent.executor.checkout import Source
from agent.executor.entry import Entry
from agent.executor.places import Places
from agent.executor.requirements import requirements_for
from agent.executor.requirements_file import logical_lines, read_text
from agent.executor.wanted import Found, Kind, Requirement, Wanted, normalised, plan_for
from agent.models import Script

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "libs/mine").mkdir(parents=True)
    (tmp_path / "libs/mine/pyproject.toml").write_text("[project]\n")
    (tmp_path / "src/deep").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/x-1.0-py3-none-any.whl").write_text("")
    return tmp_path


def read(root: Path, text: str) -> Wanted:
    found = Found()
    read_text(text, Places(folders=(str(root),), root=str(root)), found)
    return found.wanted(origin="task")


def one(root: Path, text: str) -> Requirement:
    (requirement,) = read(root, text).requirements
    return requirement


def test_comments_blanks_and_continuations() -> None:
    text = "\ufeff# Python 3.10.4\n\nnumpy==1.2 # why\nx \\\n  == 3\n  # indented\ngit+https://h/r#egg=y\n"
    assert logical_lines(text) == ["numpy==1.2", "x   == 3", "git+https://h/r#egg=y"]


@pytest.mark.parametrize(
    "line", ["numpy", "numpy == 1.2", "a[b,c]>=1,<2; python_version > '3.8'", "Zope.Interface~=5.0"]
)
def test_requirements_of_an_index(root: Path, line: str) -> None:
    requirement = one(root, line)
    assert requirement.kind is Kind.INDEX
    assert requirement.text == line
    assert requirement.lasting


def test_names_have_one_spelling(root: Path) -> None:
    assert one(root, "Zope.Interface==1").name == "zope-interface"
    assert normalised("A__b-.C") == "a-b-c"


@pytest.mark.parametrize(
    ("line", "kind", "lasting"),
    [
        ("x @ https://host/x-1.0-py3-none-any.whl", Kind.URL, True),
        ("https://host/x-1.0.tar.gz", Kind.URL, True),
        (f"x @ git+https://host/r.git@{COMMIT}", Kind.VCS, True),
        ("x @ git+https://host/r.git@main", Kind.VCS, False),
        (f"git+ssh://git@host/r.git@{COMMIT}#egg=x", Kind.VCS, True),
        ("git+https://host/r.git#egg=x", Kind.VCS, False),
        ("./libs/mine", Kind.PATH, False),
        ("libs/mine[extra]", Kind.PATH, False),
        ("file:libs/mine", Kind.PATH, False),
        ("wheels/x-1.0-py3-none-any.whl", Kind.PATH, False),
        ("-e libs/mine", Kind.PATH, False),
        (f"-e git+https://host/r.git@{COMMIT}#egg=x", Kind.VCS, False),
    ],
)
def test_where_a_requirement_comes_from(root: Path, line: str, kind: Kind, lasting: bool) -> None:
    requirement = one(root, line)
    assert (requirement.kind, requirement.lasting) == (kind, lasting)
    assert requirement.recorded == line


def test_paths_become_absolute(root: Path) -> None:
    assert one(root, "libs/mine[extra] ; python_version > '3'").text == (
        f"{root}/libs/mine[extra] ; python_version > '3'"
    )
    assert one(root, "-e ./libs/mine").text == f"--editable {root}/libs/mine"
    assert one(root, f"mine @ file://{root}/libs/mine").text == f"mine @ file://{root}/libs/mine"


def test_a_path_that_is_not_in_the_repository_is_an_error(root: Path) -> None:
    with pytest.raises(SetupFailed, match=r"'\./libs/other', which is not in the task's repository"):
        read(root, "./libs/other")
    with pytest.raises(SetupFailed):
        read(root, "-r missing.txt")
    with pytest.raises(SetupFailed):
        read(root, "-e ../outside")


def test_a_path_of_another_machine_is_left_out_with_a_warning(root: Path) -> None:
    wanted = read(root, "mine @ file:///home/somebody/mine\nsix\n")
    assert [each.name for each in wanted.requirements] == ["six"]
    assert "/home/somebody/mine is not on this host" in wanted.warnings[0]


def test_files_are_read_relative_to_the_file_that_names_them(root: Path) -> None:
    (root / "base").mkdir()
    (root / "base/req.txt").write_text("-r more.txt\nsix\n-c limits.txt\n")
    (root / "base/more.txt").write_text("idna\n--extra-index-url https://index/simple\n")
    (root / "base/limits.txt").write_text("urllib3<2\n")
    wanted = read(root, "-r base/req.txt\n")
    assert [each.name for each in wanted.requirements] == ["idna", "six"]
    assert wanted.constraints == ("urllib3<2",)
    assert wanted.extra_indexes == ("https://index/simple",)


def test_files_that_include_each_other_are_read_once(root: Path) -> None:
    (root / "a.txt").write_text("-r b.txt\nsix\n")
    (root / "b.txt").write_text("-r a.txt\n")
    assert one(root, "-r a.txt").name == "six"


def test_index_options_hold_for_this_task_only_and_never_replace_the_default(root: Path) -> None:
    wanted = read(root, "-i https://a/simple\n--extra-index-url=https://b/simple\n-f wheels\n--pre\n--no-binary x\n")
    assert wanted.extra_indexes == ("https://a/simple", "https://b/simple")
    assert wanted.find_links == (f"{root}/wheels",)
    assert wanted.flags == ("--pre", "--no-binary", "x")


@pytest.mark.parametrize("line", ["--no-index", "--trusted-host evil.com", "--target /etc", "--prefix=/usr", "--user"])
def test_options_that_are_not_the_tasks_to_set_are_left_out(root: Path, line: str) -> None:
    wanted = read(root, f"{line}\nsix")
    assert wanted.flags == ()
    assert [each.text for each in wanted.requirements] == ["six"]
    assert len(wanted.warnings) == 1


def test_hashes_stay_and_other_options_of_a_line_go(root: Path) -> None:
    assert one(root, "six==1.0 --hash=sha256:abc").text == "six==1.0 --hash=sha256:abc"
    wanted = read(root, "six==1.0 --global-option=--evil --config-settings x=y\n")
    assert wanted.requirements[0].text == "six==1.0"
    assert wanted.warnings


def test_a_password_in_a_git_url_becomes_a_credential(root: Path) -> None:
    wanted = read(root, "x @ git+https://me:s3cr3t@host:8443/r.git@main\n")
    assert wanted.requirements[0].text == "x @ git+https://host:8443/r.git@main"
    assert wanted.credentials[0].password == "s3cr3t"
    assert wanted.credentials[0].host == "host"


def test_the_user_of_an_ssh_url_is_no_secret(root: Path) -> None:
    assert one(root, "git+ssh://git@host/r.git").text == "git+ssh://git@host/r.git"


def test_of_several_mentions_of_the_sdk_the_last_one_counts(root: Path) -> None:
    texts = [each.text for each in read(root, "clearml==1.0\nsix\nsix\nclearml>=1.5\n").requirements]
    assert texts == ["six", "clearml>=1.5"]


def test_rounds_of_a_plan(root: Path) -> None:
    settings = replace(
        defaults({}).agent.package_manager,
        priority_packages=("Cython", "numpy"),
        post_packages=("horovod",),
        post_optional_packages=("nice-to-have",),
        extra_index_url=("https://c/simple",),
        extra_pip_install_flags=("--no-deps",),
    )
    plan = plan_for(read(root, "six\nnumpy==2\nhorovod\nNice_to.have\npygobject\n-i https://a/simple"), settings)
    assert plan.needed == ("numpy==2", "six")
    assert plan.after == ("horovod",)
    assert plan.optional == ("Nice_to.have", "pygobject")
    assert plan.extra_indexes == ("https://a/simple", "https://c/simple")
    assert plan.flags == ("--no-deps",)


class Notes:
    """A console that keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


class Place:
    """As much of a workspace as the step looks at."""

    def __init__(self, **package_manager: Any) -> None:
        base = defaults({})
        manager = replace(base.agent.package_manager, **package_manager)
        self.settings = replace(base, agent=replace(base.agent, package_manager=manager))
        self.console = Notes()


def wanted_by(root: Path, recorded: dict[str, str | None], **package_manager: Any) -> Wanted:
    entry = Entry(folder=str(root / "src"), file=f"{root}/src/deep/x.py")
    place: Any = Place(**package_manager)
    return requirements_for(Script(requirements=recorded), Source(root=str(root)), entry, place)


@pytest.fixture
def with_files(root: Path) -> Path:
    (root / "requirements.txt").write_text("top\n")
    (root / "src/requirements.txt").write_text("middle\n")
    (root / "src/deep/requirements.txt").write_text("deep\n")
    return root


def names(wanted: Wanted) -> list[str]:
    return [each.name for each in wanted.requirements]


def test_recorded_packages_win_over_the_repository(with_files: Path) -> None:
    wanted = wanted_by(with_files, {"pip": "recorded"})
    assert (names(wanted), wanted.origin) == (["recorded"], "task")


@pytest.mark.parametrize("recorded", [{}, {"pip": None}, {"pip": ""}, {"pip": " \n"}])
def test_without_recorded_packages_every_file_on_the_way_counts(
    with_files: Path, recorded: dict[str, str | None]
) -> None:
    wanted = wanted_by(with_files, recorded)
    assert (names(wanted), wanted.origin) == (["top", "middle", "deep"], "repository")


def test_without_any_nothing_is_wanted(root: Path) -> None:
    wanted = wanted_by(root, {"pip": ""})
    assert (names(wanted), wanted.origin) == ([], "none")


def test_a_comment_alone_is_a_record_of_no_packages(with_files: Path) -> None:
    wanted = wanted_by(with_files, {"pip": "# nothing needed\n"})
    assert (names(wanted), wanted.origin) == ([], "task")


def test_the_repository_can_be_forced(with_files: Path) -> None:
    assert names(wanted_by(with_files, {"pip": "recorded"}, force_repo_requirements_txt=True))[0] == "top"


def test_the_original_can_be_forced(with_files: Path) -> None:
    recorded: dict[str, str | None] = {"pip": "frozen==1", "org_pip": "original"}
    assert names(wanted_by(with_files, recorded, force_original_requirements=True)) == ["original"]
    assert names(wanted_by(with_files, {"pip": "frozen==1"}, force_original_requirements=True)) == ["frozen"]
